"""TuningModel: a tuning on the picture of a view-model: traits, and verbs that enqueue its work in the same worker.

It tunes in slices of one iteration, behind everything else that is asked: pictures can be looked at and colored
meanwhile, and a stop acts within one slice.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import traitlets

from colorlab.colorizer import Colorizer
from colorlab.exhibits import Exhibit
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.identifiers import Rewriting
from colorlab.tuning import PRESETS, Tuning, TuningWarning
from colorlab.tuning.budget import Budget
from colorlab.tuning.embedding_exhibits import EmbeddingMove, measure_move
from colorlab.tuning.exhibits import walk_eta_sheet
from colorlab_widgets.view_model import LOOK_AHEAD, ViewModel, in_words
from colorlab_widgets.worker import Job

__all__ = ["TUNING", "TuningModel"]

TUNING = "tuning"
"""The kind of job that tunes."""

_SHEET = "eta sheet"
_URGENCY = LOOK_AHEAD - 1
_NOTE_INTERVAL_S = 0.2


class TuningModel(traitlets.HasTraits):
    """What is tuned, how, and where it stands. A finished tuning is put into force, and the target is colored by it.

    Args:
        model: the view-model: its picture is tuned on, with its settings, and its colorizer becomes the tuned one.
    """

    context = traitlets.Unicode(help="What the picture shows, without colors. Written by views")
    target = traitlets.Unicode(help="The context with colors; empty for the picture of the tuning. Written by views")
    preset = traitlets.Unicode(help="Name of the next tuning's plan, in `PRESETS`. Written by views")
    path = traitlets.Unicode(help="File that the tuning is kept in; empty for none. Written by views")

    tuning = traitlets.Instance(Tuning, allow_none=True, help="None before the first")
    budget = traitlets.Instance(Budget, allow_none=True, help="What `tuning` takes, as measured; None until it is")
    version = traitlets.Int(help="Counts changes of the tuning: iterations, checkpoints. Written by the model")
    is_busy = traitlets.Bool(help="Whether the worker measures, tunes, or goes back")
    is_painting = traitlets.Bool(help="Whether the worker makes the eta sheet")
    problem = traitlets.Unicode(help="What went wrong last, in one sentence; empty when nothing did")
    notice = traitlets.Unicode(help="What the user should know of the tuning; empty for nothing")
    sheet = traitlets.Instance(Exhibit, allow_none=True, help="The eta sheet made last")

    def __init__(self, model: ViewModel) -> None:
        prompt = model.conditioning.prompt
        is_on_gpu = model.colorizer.device.type != "cpu"
        super().__init__(context=prompt, preset="paper" if is_on_gpu else "notebook")
        self.model = model
        # Seconds and number of the iterations that were taken here, by stage.
        self._taken: dict[str, tuple[float, int]] = {}
        # After how many iterations `notice` came: it holds as long as these are not taken back.
        self._noticed_at = 0
        self._noted_s = 0.0
        self._is_open = True
        model.observe(self._note_work, ["activity"])

    # Where it stands.

    @property
    def num_planned(self) -> int:
        """Iterations of all stages as planned; a stage may end earlier."""
        return 0 if self.tuning is None else sum(self.tuning.plan.num_steps.values())

    @property
    def share(self) -> float:
        """How much of the plan is done, [0, 1]."""
        tuning = self.tuning
        if tuning is None or tuning.is_finished:
            return float(tuning is not None)
        names = list(tuning.plan.num_steps)
        before = sum(tuning.plan.num_steps[name] for name in names[: names.index(str(tuning.stage))])
        return (before + tuning.state.iteration) / max(self.num_planned, 1)

    @property
    def remaining_s(self) -> float:
        """Seconds that the iterations still to come will take: by those taken here, else by the budget."""
        tuning, budget = self.tuning, self.budget
        if tuning is None or budget is None or tuning.is_finished:
            return 0.0
        names = list(tuning.plan.num_steps)
        left = {name: tuning.plan.num_steps[name] for name in names[names.index(str(tuning.stage)) :]}
        left[str(tuning.stage)] -= tuning.state.iteration
        total = 0.0
        for name, number in left.items():
            seconds, count = self._taken.get(name, (0.0, 0))
            measured = budget[name].seconds if name in budget else 0.0
            total += number * (seconds / count if count else measured)
        return total

    @property
    def is_of_what_is_given(self) -> bool:
        """Whether the next tuning would be the same as this one."""
        tuning = self.tuning
        if tuning is None:
            return False
        given, settings, plan = self.model.conditioning, self.model.settings, PRESETS.get(self.preset)
        if plan is None or tuning.plan != plan or tuning.conditioning.prompt != self.context:
            return False
        name = tuning.method.tuning.name
        parameters = {**plan.mechanism, **settings.mechanisms.get(name, {})}
        same_settings = tuning.settings.seed == settings.seed and dict(tuning.settings.mechanisms[name]) == parameters
        return same_settings and tuning.conditioning.content_hash("gray") == given.content_hash("gray")

    @property
    def rewriting(self) -> Rewriting | None:
        """The context that targets are laid on: the tuning's, else that of the model in force; None without one."""
        adaptation = self.model.colorizer.method.adaptation
        if self.tuning is not None:
            return self.tuning.rewriting
        return None if adaptation is None else adaptation.rewriting

    @property
    def move(self) -> EmbeddingMove | None:
        """How far the embedding of that context was moved; None before it was found."""
        adaptation = self.model.colorizer.method.adaptation
        if self.tuning is not None:
            adaptation = Adaptation(self.tuning.state.results)
        return None if adaptation is None or adaptation.optimized is None else measure_move(adaptation)

    @property
    def is_in_force(self) -> bool:
        """Whether the next run is of a tuned model."""
        return self.model.colorizer.method.adaptation is not None

    # What the user does.

    def prepare(self) -> None:
        """Make a tuning of what is given, and measure what it takes; nothing is tuned yet."""
        given, settings = self.model.conditioning.replace(prompt=self.context), self.model.settings
        preset, path = self.preset, self.path

        def make() -> Iterator[None]:
            tuning = self._plain().tune(given, settings, preset=preset)
            yield
            self._take(tuning, path)

        self.notice = ""
        self._submit(make)

    def open(self) -> None:
        """Go back to the tuning that the file holds; the picture becomes its own."""
        path = self.path

        def read() -> Iterator[None]:
            tuning = self._plain().resume_tuning(path)
            yield
            self._take(tuning, path)
            self.context = tuning.conditioning.prompt
            if not self.is_of_what_is_given:
                self.model.conditioning = tuning.conditioning

        self.notice = ""
        self._submit(read)

    def go_on(self) -> None:
        """Tune until all stages are done or it is stopped, then put the result into force and color the target."""
        tuning = self.tuning
        if tuning is not None and not tuning.is_finished:
            self._submit(lambda: self._tune(tuning))

    def stop(self) -> None:
        """Stop within one iteration, or one step of a picture; what is done stays."""
        self.model.worker.stop(TUNING, _SHEET)

    def roll_back(self, number: int) -> None:
        """Go to the checkpoint after so many iterations; the others stay."""
        tuning = self.tuning

        def go_back() -> None:
            if tuning is not None:
                with self._listening():
                    tuning.roll_back(number)
                if number < self._noticed_at:
                    self.notice = ""
                self._note()

        self.stop()
        self._submit(go_back)

    def use(self) -> None:
        """Let the next runs be of the model as it is tuned so far."""
        self._ask(self._tuned, self._put_in_force)

    def use_plain(self) -> None:
        """Let the next runs be of the model as it was before any tuning."""
        self._ask(self._plain, self._put_in_force)

    def color(self) -> None:
        """Color the target by the model as it is tuned so far; no more tuning is needed for that."""

        def then(tuned: Colorizer) -> None:
            self._put_in_force(tuned)
            self._color_target()

        self._ask(self._tuned, then)

    def make_sheet(self) -> None:
        """Make the pictures of the target at several places of the embedding path."""
        given = self.model.conditioning.replace(prompt=self.target)
        settings = self.model.settings

        def walk() -> Iterator[None]:
            self.sheet = yield from walk_eta_sheet(self._tuned().method, given, settings)

        self._begin(_SHEET, walk)

    def close(self) -> None:
        """Follow the view-model no more, and let the tuning go; closing twice does nothing."""
        if self._is_open:
            self._is_open = False
            self.model.unobserve(self._note_work, ["activity"])
            self.unobserve_all()
            self.tuning = self.sheet = None

    # In the worker's thread.

    def _plain(self) -> Colorizer:
        """Return the model before tuning."""
        return self.model.colorizer.without_adaptation()

    def _tuned(self) -> Colorizer:
        """Return the model as it is tuned so far; the one in force where it is that."""
        now, tuning = self.model.colorizer, self.tuning
        if tuning is None or not tuning.num_iterations:
            return now
        adaptation, in_force = tuning.adaptation, now.method.adaptation
        if in_force is not None and in_force.content_hash == adaptation.content_hash:
            return now
        return now.with_adaptation(adaptation)

    def _put_in_force(self, colorizer: Colorizer) -> None:
        """Let the next runs be of a model."""
        self.model.colorizer = colorizer
        self._note()

    def _take(self, tuning: Tuning, path: str) -> None:
        """Make a tuning the one that is shown, and measure what it takes."""
        if path:
            tuning.autosave(Path(path))
        self.budget, self._taken, self.sheet = tuning.budget, {}, None
        self.tuning = tuning
        self._note()

    def _tune(self, tuning: Tuning) -> Iterator[None]:
        """Tune in slices, and tell what comes of it; the file, if any, holds what was done, also when it is stopped."""
        try:
            while not tuning.is_finished:
                stage = tuning.stage
                yield from self._step(tuning)
                if tuning.stage != stage:
                    self._note()
                yield
        finally:
            with self._listening():
                tuning.write()
            self._note()
        self._put_in_force(self._tuned())
        self._color_target()

    def _step(self, tuning: Tuning) -> Iterator[None]:
        """Take one iteration, and what a stage does at its end, in slices."""
        stage, number, began_s = str(tuning.stage), tuning.num_iterations, time.monotonic()
        with closing(tuning.slices()) as slices:
            while True:
                with self._listening(tuning):
                    is_over = next(slices, self) is self
                if tuning.num_iterations > number:
                    seconds, count = self._taken.get(stage, (0.0, 0))
                    self._taken[stage] = (seconds + time.monotonic() - began_s, count + 1)
                    number = tuning.num_iterations
                    is_last = tuning.state.iteration >= tuning.plan.num_steps[stage]
                    if is_last or time.monotonic() - self._noted_s >= _NOTE_INTERVAL_S:
                        self._note()
                if is_over:
                    return
                yield

    @contextmanager
    def _listening(self, tuning: Tuning | None = None) -> Iterator[None]:
        """Tell warnings of the tuning where it is shown; others go where they would have gone."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for one in caught:
            if issubclass(one.category, TuningWarning):
                self.notice, self._noticed_at = str(one.message), 0 if tuning is None else tuning.num_iterations
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)

    def _color_target(self) -> None:
        """Color the target text, or the picture of the tuning where there is none."""
        model, words = self.model, self.target.strip() or self.context
        adaptation = model.colorizer.method.adaptation
        if adaptation is not None and adaptation.optimized is not None and self.target.strip():
            # Refused here, beside the words, and not where errors of runs are told.
            model.colorizer.method.align_target(words)
        model.conditioning = model.conditioning.replace(prompt=words)
        model.colorize()

    # Inside.

    def _submit(self, job: Job) -> None:
        """Enqueue work on the tuning."""
        self._begin(TUNING, job)

    def _ask(self, question: Callable[[], Colorizer], then: Callable[[Colorizer], None]) -> None:
        """Have a model made, before everything else; what fails is told here."""
        self.problem = ""
        self.model.ask("adaptation", question, then, failed=self._tell)

    def _begin(self, kind: str, job: Job) -> None:
        """Enqueue a job whose failure is told here."""
        self.problem = ""
        self.model.worker.submit(kind, job, urgency=_URGENCY, failed=lambda problem: self._tell(in_words(problem)))

    def _note(self) -> None:
        """Tell that the tuning has changed."""
        if not self.model.is_running:
            self.model.progress = self.share
        self._noted_s = time.monotonic()
        self.version += 1

    def _note_work(self, change: Any = None) -> None:
        """Say what the worker does of this."""
        kinds = self.model.worker.busy_kinds
        self.is_busy, self.is_painting = TUNING in kinds, _SHEET in kinds

    def _tell(self, sentence: str) -> None:
        """Show a sentence beside the controls."""
        self.problem = sentence
