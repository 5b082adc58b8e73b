"""StepPlayer: play, pause, step, rewind, branch and scrub a run, with a thumbnail of every step."""

from collections.abc import Iterator

import traitlets

from colorlab.runs.run import Run
from colorlab_widgets.page import PageView
from colorlab_widgets.pictures import encode_png, small
from colorlab_widgets.view import View
from colorlab_widgets.view_model import LOOK_AHEAD, ViewModel

__all__ = ["StepPlayer"]

_THUMBNAIL_PX = 104
_FRAME_PX = 384


class PlayerPage(PageView):
    """The player in the page; events play, pause, take_step, rewind, branch, and look with a step."""

    script = "player"
    step = traitlets.Int(-1, help="The moment looked at; `num_steps` for the finished picture, -1 for none").tag(
        sync=True
    )
    num_steps = traitlets.Int(help="Of the whole run").tag(sync=True)
    steps_taken = traitlets.Int(help="Of the run").tag(sync=True)
    is_running = traitlets.Bool(help="Whether steps are being taken").tag(sync=True)
    is_changed = traitlets.Bool(help="Whether going on makes a branch").tag(sync=True)
    frames = traitlets.List(help="PNG of the clean picture predicted at each step, the finished one last").tag(
        sync=True
    )
    num_steps_set = traitlets.Int(help="That the run's settings ask for; 0 without a run").tag(sync=True)
    shortened = traitlets.Unicode(help="Why the run has fewer steps than are set; empty where it has all").tag(
        sync=True
    )
    is_frame_shown = traitlets.Bool(help="Whether the frame of the step is shown large, too").tag(sync=True)


class StepPlayer(View):
    """The steps of the run looked at.

    Args:
        model: the view-model.
        with_picture: whether the picture of the step is shown above the buttons; the Studio shows it elsewhere.
    """

    def __init__(self, model: ViewModel, *, with_picture: bool = True) -> None:
        super().__init__(model)
        self._framed: Run | None = None
        self._frames: list[bytes] = []
        self._height_px = _FRAME_PX if with_picture else _THUMBNAIL_PX
        verbs = {name: getattr(model, name) for name in ("play", "pause", "take_step", "branch")}
        self.page = PlayerPage(
            {**verbs, "look": model.look_at, "rewind": lambda: model.rewind(model.step + 1)},
            is_frame_shown=with_picture,
        )
        self.children = [self.page]
        self.follow(("step", "num_steps", "steps_taken", "is_running", "run", "conditioning", "settings"), self._update)
        self.follow(("run", "steps_taken", "is_running"), self._ask_frames)

    def _update(self) -> None:
        """Bring the page to where the model is."""
        model = self.model
        with self.showing, self.page.hold_sync():
            self.page.num_steps = model.num_steps
            self.page.num_steps_set = 0 if model.run is None else model.run.settings.num_inference_steps
            self.page.shortened = _shortened(model.run)
            self.page.steps_taken = model.steps_taken
            self.page.step = model.step
            self.page.is_running = model.is_running
            self.page.is_changed = model.is_changed

    def _ask_frames(self) -> None:
        """Have the frames that are missing made when nothing else is to be done."""
        run = self.model.run
        if run is None:
            self._framed, self._frames, self.page.frames = None, [], []
        elif not self.model.is_running:
            self.model.worker.submit("thumbnails", lambda: self._make_frames(run), urgency=LOOK_AHEAD)

    def _make_frames(self, run: Run) -> Iterator[None]:
        """Decode the steps of a run that have no frame yet, one in each slice."""
        taken, end = run.step_index, run.num_steps
        wanted = [*range(taken), *([end] if run.is_finished else [])]
        if run is not self._framed or len(self._frames) > len(wanted):
            self._framed, self._frames = run, []
        for step in wanted[len(self._frames) :]:
            self._frames.append(encode_png(small(run.preview(step), self._height_px)))
            yield
        if self._framed is run:
            self.page.frames = list(self._frames)

    def close(self) -> None:
        """Stop following the model, and let the run go."""
        self._framed = None
        super().close()


def _shortened(run: Run | None) -> str:
    """Say why a run has fewer steps than its settings, as one that begins at a picture."""
    if run is None or run.num_steps >= run.settings.num_inference_steps:
        return ""
    number = f"{run.num_steps} of {run.settings.num_inference_steps}"
    return f"{number}, as strength {run.settings.strength:g} leaves the first ones out"
