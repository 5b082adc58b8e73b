"""TuningView: DiffColor's tuning on the Studio's picture: what it takes, how it goes, and colors by words after it."""

from typing import Any

import ipywidgets

from colorlab.errors import ColorlabError
from colorlab.tuning import PRESETS, STAGES
from colorlab_widgets.eta_sliders import EtaSliders
from colorlab_widgets.page import Chips, Curves, Gallery
from colorlab_widgets.pictures import small
from colorlab_widgets.tuning_charts import (
    STAGE_WORDS,
    aligned_table,
    budget_table,
    charts_of,
    checkpoint_pictures,
    duration,
)
from colorlab_widgets.tuning_model import TuningModel
from colorlab_widgets.view import View, button, caption, heading, row, tell_label
from colorlab_widgets.view_model import ViewModel, in_words

__all__ = ["TuningView"]

_PRESET_WORDS = {
    "smoke": "smoke: 3 iterations each, to see it work",
    "notebook": "notebook: minutes on a CPU, small models",
    "paper": "paper: 3000 iterations, for a GPU",
}


_SHEET_CARD_PX = 110
_SHEET_PX = 220
_MOVED_WORDS = (
    "e_opt: embedding of the context as stage 2 tuned it to the picture; T(c'): what the text encoder gave before. The "
    "farther apart, the more the path from one to the other changes"
)


class TuningView(View):
    """Tune the model on the picture, in three stages that can be stopped, resumed and rolled back.

    First what it will take is measured and shown; then it is started. When all stages are done the tuned model is that
    of the next runs, and the target text is colored; other targets take seconds.

    Args:
        model: the view-model; the picture is tuned on with its `settings`, and its `colorizer` becomes the tuned one.

    Attributes:
        tuning: the model of the tuning, with its verbs.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.add_class("colorlab-tuning")
        self.tuning = TuningModel(model)
        self._numbers: list[int] = []
        self._stage: str | None = None
        self._shown_checkpoints: Any = None
        self._was_finished = False
        self._make_fields()
        self._make_buttons()
        self.budget = ipywidgets.HTML()
        self.progress = ipywidgets.FloatProgress(0.0, min=0.0, max=1.0, layout=ipywidgets.Layout(width="150px"))
        self.where, self.problem, self.notice = caption(), caption(), caption()
        self.problem.add_class("colorlab-wrong")
        self.notice.add_class("colorlab-warned")
        self.stages = Chips(
            {"select": self._choose_stage}, description="Stages of the tuning", tooltip="Show the curves of stage"
        )
        self.curves = Curves(description="Curves of the stage")
        self.checkpoints = Gallery({"select": self._choose}, description="Checkpoints, by iterations done", card_px=68)
        self.kept = caption()
        self.table = ipywidgets.HTML()
        self.in_force, self.misfit, self.moved = caption(), caption(), caption()
        self.misfit.add_class("colorlab-wrong")
        self.moved.tooltip = _MOVED_WORDS
        self.sheet = Gallery(
            {"select": self._choose_eta}, description="The target at several places of the path", card_px=_SHEET_CARD_PX
        )
        self.sheet.add_class("colorlab-smooth")
        self.sheet_caption = caption()
        self._put_together()
        self._follow_tuning()

    # Controls.

    def _make_fields(self) -> None:
        """Make what is written and chosen."""
        tuning = self.tuning
        self.context = _text("context", "a photo of a ball", "What the picture shows, with articles, without colors")
        self.target = _text(
            "target", "a photo of a red ball", "The context with colors; may be given after tuning, too"
        )
        self.path = _text("file", "ball.tuning", "Keep the tuning in this .tuning file; empty keeps it in memory alone")
        self.path.layout.flex = "1 1 150px"
        self.preset = ipywidgets.Dropdown(
            options=[(_PRESET_WORDS[name], name) for name in PRESETS],
            description="preset",
            layout=ipywidgets.Layout(flex="1 1 280px"),
        )
        self.preset.style.description_width = "50px"
        self.preset.tooltip = "How long each of the three stages goes"
        tell_label(self.preset)
        self.etas = EtaSliders(self.model)
        for name in ("context", "target", "path", "preset"):
            control = getattr(self, name)
            control.value = getattr(tuning, name)
            control.observe(lambda change, name=name: tuning.set_trait(name, change.new.strip()), "value")

    def _make_buttons(self) -> None:
        """Make what is pressed."""
        tuning = self.tuning
        self.prepare = button("Prepare", "", tuning.prepare, "balance-scale", "primary")
        self.open = button("Open", "Go on with the tuning that the file holds", tuning.open, "folder-open-o")
        self.go_on = button("Start", "", tuning.go_on, "play")
        self.stop = button("Stop", "Stop within one iteration; what is done stays", tuning.stop, "stop")
        self.roll_back = button("Roll back", "Go to the chosen checkpoint; the others stay", self._roll_back, "undo")
        self.color = button(
            "Color the target",
            "Start a run of the target by the model as it is tuned so far; seconds, no more tuning",
            tuning.color,
            "paint-brush",
        )
        self.plain = button(
            "Plain model", "Let the next runs be of the model before any tuning", tuning.use_plain, "times"
        )
        self.make_sheet = button(
            "Eta sheet",
            "Six pictures on the way from the tuned picture to the target, with their CLIP margins",
            tuning.make_sheet,
            "th",
        )

    def _put_together(self) -> None:
        """Lay the parts out."""
        self.setup = ipywidgets.VBox([row(self.context), row(self.preset, self.path), row(self.prepare, self.open)])
        details = ipywidgets.VBox(
            [
                self.budget,
                self.stages,
                self.curves,
                heading("Checkpoints"),
                self.checkpoints,
                row(self.roll_back, self.kept),
            ]
        )
        self.details = ipywidgets.Accordion([details], titles=["Budget, curves and checkpoints"], selected_index=0)
        self.course = ipywidgets.VBox([row(self.go_on, self.stop, self.progress), self.where, self.details])
        self.result = ipywidgets.VBox(
            [
                heading("Color by words"),
                row(self.target),
                self.table,
                self.moved,
                self.misfit,
                self.etas,
                row(self.color, self.plain, self.make_sheet),
                self.in_force,
                self.sheet,
                self.sheet_caption,
            ]
        )
        for part in (self.setup, self.course, details, self.result):
            part.add_class("colorlab-studio")
        self.course.layout.display = self.sheet.layout.display = "none"
        self.children = [self.setup, self.problem, self.notice, self.course, self.result]
        self.layout.align_items = "stretch"

    def _follow_tuning(self) -> None:
        """Show every change of the tuning; the tuning's model is this view's own and goes with it."""
        tuning = self.tuning
        pairs = (
            (("problem", "notice"), self._show_words),
            (("context", "path", "preset", "tuning", "budget", "version", "is_busy", "is_painting"), self._show_state),
            (("tuning", "version"), self._show_course),
            (("target", "tuning", "version"), self._show_target),
            (("sheet",), self._show_sheet),
        )
        for names, update in pairs:
            tuning.observe(lambda change, update=update: update(), list(names))
            update()
        tuning.observe(lambda change: setattr(self.context, "value", change.new), "context")
        self.follow(("colorizer", "conditioning", "settings"), self._show_state)
        self.follow(("colorizer",), self._show_target)

    # What the user does.

    def _choose_stage(self, index: int) -> None:
        """Show the curves of one stage; of the newest where none is chosen."""
        self._stage = STAGES[index] if 0 <= index < len(STAGES) else None
        self._show_course()

    def _choose(self, index: int) -> None:
        """Choose a checkpoint."""
        self.checkpoints.selected = index
        self._show_state()

    def _choose_eta(self, index: int) -> None:
        """Let the next run go as far on the path as a picture of the sheet."""
        exhibit = self.tuning.sheet
        if exhibit is not None and index >= 0:
            self.sheet.selected = index
            self.model.set_mechanism("embedding_path", eta=float(exhibit.provenance["places"][index]), token_etas=())

    def _roll_back(self) -> None:
        """Go back to the chosen checkpoint."""
        index = self.checkpoints.selected
        if 0 <= index < len(self._numbers):
            self.tuning.roll_back(self._numbers[index])

    # What is shown.

    def _show_words(self) -> None:
        """Show what went wrong, and what the user should know."""
        self.problem.value, self.notice.value = self.tuning.problem, self.tuning.notice
        for line in (self.problem, self.notice):
            line.layout.display = None if line.value else "none"

    def _show_state(self) -> None:
        """Bring buttons, bar and words to where the tuning stands."""
        model, tuning = self.tuning, self.tuning.tuning
        is_busy, number = model.is_busy, 0 if tuning is None else tuning.num_iterations
        is_finished = tuning is not None and tuning.is_finished
        is_under_way = number > 0 and not is_finished
        self.course.layout.display = "none" if tuning is None else None
        self.prepare.disabled = is_busy or not self.context.value.strip() or model.is_of_what_is_given
        self.prepare.button_style = "" if self.prepare.disabled else "warning" if is_under_way else "primary"
        self.prepare.description = "Prepare anew" if number else "Prepare"
        dropped = " The tuning under way is dropped." * (is_under_way and not model.path)
        self.prepare.tooltip = f"Measure what a tuning of this picture takes; nothing is tuned yet.{dropped}"
        self.open.disabled = is_busy or not self.path.value.strip()
        self.go_on.disabled = tuning is None or is_finished or is_busy
        self.go_on.description = "Resume" if number else "Start"
        self.go_on.tooltip = "Tune on to the end of the last stage, then color the target"
        self.go_on.button_style = "" if self.go_on.disabled else "primary"
        self.stop.disabled = not (is_busy or model.is_painting)
        self.stop.button_style = "" if self.stop.disabled else "danger"
        self.roll_back.disabled = not 0 <= self.checkpoints.selected < len(self._numbers)
        self.color.disabled = self.make_sheet.disabled = not (number or model.is_in_force)
        self.plain.disabled = not model.is_in_force
        if is_finished != self._was_finished:
            # Who is done tuning colors by words, with the picture in sight.
            self._was_finished, self.details.selected_index = is_finished, None if is_finished else 0
        self._show_in_force()
        self.progress.value = model.share
        self.progress.bar_style = "success" if is_finished else "info" if is_busy else ""
        self.where.value = self._where()
        table = "" if model.budget is None else budget_table(model.budget)
        if self.budget.value != table:
            self.budget.value = table

    def _show_in_force(self) -> None:
        """Say of which model the next run is."""
        adaptation = self.model.colorizer.method.adaptation
        told = "plain model"
        if adaptation is not None:
            stages = ", ".join(STAGE_WORDS[stage] for stage in adaptation.stages)
            told = f"model tuned on {adaptation.context!r}, stages: {stages}"
        self.in_force.value = f"The next run is of the {told}."
        self.in_force.tooltip = "" if adaptation is None else repr(adaptation)

    def _where(self) -> str:
        """Say where the tuning stands."""
        model, tuning = self.tuning, self.tuning.tuning
        if tuning is None:
            return ""
        of_what = "" if model.is_of_what_is_given else f" It is of {tuning.conditioning.prompt!r}."
        if tuning.is_finished:
            last = tuning.state.rows[-1]
            told = f" The picture of stage 1 is reproduced to {last['psnr']:.1f} dB" if "psnr" in last else ""
            told += f", LPIPS {last['lpips']:.2f}." if "lpips" in last else "." * bool(told)
            return f"All stages are done.{told}{of_what}"
        stage = str(tuning.stage)
        done, planned = tuning.state.iteration, tuning.plan.num_steps[stage]
        left = f"about {duration(model.remaining_s)} left"
        if model.is_busy:
            doing = "painting and checking" if done >= planned else "tuning"
        else:
            doing = "stopped" if tuning.num_iterations else "ready to start"
        return f"Stage {STAGE_WORDS[stage]}: {done} of {planned}, {doing}, {left}.{of_what}"

    def _show_course(self) -> None:
        """Show the curves of the stage, and the checkpoints."""
        tuning = self.tuning.tuning
        if tuning is None:
            return
        seen = {row["stage"] for row in tuning.state.rows}
        newest = next((name for name in reversed(STAGES) if name in seen), STAGES[0])
        shown = self._stage if self._stage in seen else newest
        self.stages.words = [STAGE_WORDS[name] for name in STAGES]
        self.stages.selected = STAGES.index(shown)
        self.curves.charts = charts_of(tuning, shown)
        numbers = tuning.checkpoints.numbers
        if self._shown_checkpoints != (tuning, numbers):
            chosen = self._numbers[self.checkpoints.selected] if self.checkpoints.selected >= 0 else None
            self._shown_checkpoints = (tuning, numbers)
            pictures = checkpoint_pictures(tuning)
            self._numbers = [number for number, *_ in pictures]
            self.checkpoints.show([(name, tooltip, picture) for _, name, tooltip, picture in pictures])
            self.checkpoints.selected = self._numbers.index(chosen) if chosen in self._numbers else -1
            self.kept.value = f"{tuning.checkpoints!r}."
            self._show_state()

    def _show_target(self) -> None:
        """Lay the target onto the context with what stage 2 moved, or say why it does not fit."""
        rewriting, move, target = self.tuning.rewriting, self.tuning.move, self.tuning.target
        aligned, table, misfit = None, "", ""
        if rewriting is not None and target:
            try:
                aligned = rewriting.align(target, self.model.colorizer.method.components)
                table = aligned_table(aligned, move)
            except ColorlabError as problem:
                misfit = in_words(problem)
        self.etas.lay_out(aligned)
        moved = "" if move is None or aligned is None else str(move)
        for part, value in ((self.table, table), (self.misfit, misfit), (self.moved, moved)):
            if part.value != value:
                part.value = value
            part.layout.display = None if value else "none"

    def _show_sheet(self) -> None:
        """Show the eta sheet: below each picture its eta and its CLIP margin."""
        exhibit = self.tuning.sheet
        self.sheet.layout.display = "none" if exhibit is None else None
        self.sheet_caption.value = "" if exhibit is None else f"eta, CLIP margin. {exhibit.caption}"
        if exhibit is not None:
            self.sheet.selected = -1
            told = zip(exhibit.pictures.items(), exhibit.array.tolist(), strict=True)
            self.sheet.show(
                [
                    (
                        f"{name}, {margin:.2f}",
                        f"{name}: CLIP margin {margin:.3f}. Choose it for the next run",
                        small(picture, _SHEET_PX),
                    )
                    for (name, picture), margin in told
                ]
            )

    def close(self) -> None:
        """Stop following the models, and let the tuning go."""
        self.tuning.close()
        self._shown_checkpoints = None
        super().close()


def _text(label: str, placeholder: str, tooltip: str) -> ipywidgets.Text:
    """Make a text field that grows with its row."""
    layout = ipywidgets.Layout(flex="1 1 240px", width="auto")
    made = ipywidgets.Text(description=label, placeholder=placeholder, continuous_update=False, layout=layout)
    made.tooltip, made.style.description_width = f"{tooltip}; Enter to take it", "50px"
    tell_label(made)
    return made
