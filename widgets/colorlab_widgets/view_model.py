"""ViewModel: everything the views show and change, without a page: traits, and verbs that enqueue work.

Views observe traits and call verbs. A verb returns at once; the worker's thread does the work and sets the traits that
say so, so that observers run in either thread.
"""

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import traitlets

from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError
from colorlab.methods.base import ConditioningWarning
from colorlab.runs.run import Run
from colorlab.runs.tree import Tree
from colorlab.settings import Settings, Value
from colorlab.strokes import Strokes
from colorlab_widgets.frame_pace import FramePace
from colorlab_widgets.memory import return_freed_memory
from colorlab_widgets.old_runs import prune_oldest
from colorlab_widgets.pictures import as_shown
from colorlab_widgets.worker import Worker

__all__ = ["LOOK", "LOOK_AHEAD", "RUN", "ViewModel", "in_words"]

RUN = "run"
"""The kind of job that samples; `ViewModel.is_running` tells whether there is one."""

LOOK = 2
"""Urgency of a question about what is shown: answered between two steps of a run."""

LOOK_AHEAD = -1
"""Urgency of work that nobody waits for, such as thumbnails."""

_FROM_THE_START = ("num_inference_steps", "timestep_spacing", "seed")

Answer = TypeVar("Answer")


class ViewModel(traitlets.HasTraits):
    """What is colored, how, all runs of it, the moment looked at and the place selected.

    The tree keeps the newest 40 runs, and beyond them every run that has a name of its own or a branch: each holds all
    its states, and whoever tries out a hundred words in an afternoon should not fill the memory with them.

    Args:
        colorizer: the loaded model.
        picture: what to color: a `Conditioning`, or just the picture (path, PIL image or array).
        settings: how to sample; the model's own by default.
    """

    colorizer = traitlets.Instance(Colorizer, help="The loaded model, tuned or not; the next run is of it")
    conditioning = traitlets.Instance(Conditioning, help="What the user gives; the next run is of it. Written by views")
    strokes = traitlets.Instance(Strokes, help="Those of `conditioning`; setting them replaces it. Written by views")
    masks = traitlets.Dict(help="Name to (H, W) bool of `conditioning`; replaced, never changed. Written by views")
    settings = traitlets.Instance(Settings, help="How the next run samples. Written by views")
    image_size = traitlets.Tuple(help="(height, width) in pixels of the picture that is colored. Written by the model")

    tree = traitlets.Instance(Tree, help="All runs of this work")
    tree_version = traitlets.Int(help="Counts changes of the tree: runs, names, progress. Written by the model")
    run = traitlets.Instance(Run, allow_none=True, help="The run looked at; None before the first")
    step = traitlets.Int(-1, help="The moment looked at: a step, or `num_steps` for the finished picture; -1 for none")
    steps_taken = traitlets.Int(help="Steps that `run` has taken")
    num_steps = traitlets.Int(help="Steps of the whole `run`")
    picture = traitlets.Instance(np.ndarray, help="What is shown, (H, W, 3) uint8. Written by the model")
    is_preview = traitlets.Bool(help="Whether `picture` is a quick preview and not a moment of `run`")

    is_live = traitlets.Bool(help="Whether the picture follows every change, as a preview. Written by views")
    is_held = traitlets.Bool(help="Whether a pointer is down on a stroke or slider: no full run yet. Written by views")

    pixel = traitlets.Tuple(allow_none=True, default_value=None, help="Selected (x, y) of the picture, or None")
    region = traitlets.Any(allow_none=True, help="Selected mask (H, W) or stroke, or None")
    word = traitlets.Unicode(help="Selected word, of the prompt or not; empty for none")
    occurrence = traitlets.Int(help="Which one, if the word comes several times")
    token = traitlets.Int(allow_none=True, default_value=None, help="Selected token of the context, or None")
    site = traitlets.Unicode(allow_none=True, default_value=None, help="Attention layer by path; None for all")
    head = traitlets.Int(allow_none=True, default_value=None, help="Index of the head; None for their mean")
    guidance_pass = traitlets.Unicode("cond", help="Network call of a step that is looked at")
    direction = traitlets.Enum(("from", "to"), "from", help="Whether the place looks, or is looked at")

    is_busy = traitlets.Bool(help="Whether the worker has something to do")
    is_running = traitlets.Bool(help="Whether it samples")
    activity = traitlets.Unicode(help="What it does, in words; empty when idle")
    progress = traitlets.Float(help="Share of the steps taken, [0, 1]")
    error = traitlets.Unicode(help="What went wrong last, in one sentence; empty when nothing did")
    notice = traitlets.Unicode(help="What of the conditioning does not reach the model; empty when everything does")

    def __init__(self, colorizer: Colorizer, picture: Any, settings: Settings | None = None) -> None:
        conditioning = picture if isinstance(picture, Conditioning) else Conditioning(gray=picture)
        super().__init__(
            colorizer=colorizer,
            conditioning=conditioning,
            settings=settings or colorizer.settings,
            tree=Tree(),
            picture=as_shown(conditioning),
        )
        # One entry for each step that was asked for and not taken.
        self._steps_asked: deque[None] = deque()
        self._noting = threading.RLock()
        self.worker = Worker(changed=self._note_work, failed=self._fail, rested=return_freed_memory)
        self._take_conditioning()

    # What the user gives.

    @traitlets.observe("conditioning")
    def _take_conditioning(self, change: Any = None) -> None:
        """Keep strokes, masks and size in step with the conditioning."""
        self.image_size = self.conditioning.size or self.colorizer.method.working_size(None)
        self.strokes = self.conditioning.strokes
        self.masks = dict(self.conditioning.masks)

    @traitlets.observe("strokes")
    def _take_strokes(self, change: Any) -> None:
        """Put new strokes into the conditioning."""
        if change.new != self.conditioning.strokes:
            self.conditioning = self.conditioning.replace(strokes=change.new)

    @traitlets.observe("masks")
    def _take_masks(self, change: Any) -> None:
        """Put new masks into the conditioning."""
        known = self.conditioning.masks
        if list(change.new) != list(known) or any(change.new[name] is not known[name] for name in known):
            self.conditioning = self.conditioning.replace(masks=change.new)

    @traitlets.observe("pixel", "region", "word")
    def _select_one(self, change: Any) -> None:
        """Let the newest selection take the place of the one before: a pixel, a region or a word."""
        if change.new is None or (isinstance(change.new, str) and not change.new):
            return
        for name, nothing in (("pixel", None), ("region", None), ("word", "")):
            if name != change.name:
                setattr(self, name, nothing)

    def set_mechanism(self, name: str, **parameters: Value) -> None:
        """Set parameters of one mechanism, its switch `is_on` among them, for the next run.

        Raises:
            RangeError: there is no such mechanism or parameter, or the value is out of range.
        """
        settings = self.settings.with_mechanism(name, **parameters)
        self.colorizer.method.mechanism(name).in_force(settings)
        self.settings = settings

    @property
    def is_changed(self) -> bool:
        """Whether the next run would differ from the one looked at."""
        run = self.run
        if run is None or run.method is not self.colorizer.method:
            return True
        return run.settings != self.settings or run.conditioning != self.conditioning

    # Sampling.

    def colorize(self) -> None:
        """Start a new run with what is given now and take all its steps; a run under way is stopped, and kept."""
        conditioning, settings = self.conditioning, self.settings
        self._sample(lambda: self.colorizer.start(conditioning, settings, tree=self.tree))

    def apply(self) -> None:
        """Make what is given now the picture, at the least cost: decoded anew if that is all, else a new run."""
        run = self.run
        if run is not None and self.changes_decoding_only:
            self.branch(run.num_steps)
        else:
            self.colorize()

    @property
    def changes_decoding_only(self) -> bool:
        """Whether a finished run is looked at, and what was changed since acts when it is decoded and not before."""
        run, method = self.run, self.colorizer.method
        if run is None or not run.is_finished or run.conditioning != self.conditioning or run.method is not method:
            return False
        if run.settings.replace(mechanisms={}) != self.settings.replace(mechanisms={}):
            return False
        old, new = run.settings, self.settings
        changed = [part for part in method.mechanisms if part.in_force(old) != part.in_force(new)]
        return bool(changed) and all(part.phase == "decode" for part in changed)

    def branch(self, step: int | None = None) -> None:
        """Branch the run looked at, at a step (the one looked at by default), with what is given now, and finish it."""
        run, conditioning, settings = self.run, self.conditioning, self.settings
        if run is not None:
            at = min(max(self.step, 0) if step is None else step, run.step_index)
            self._sample(lambda: run.branch(at, conditioning=conditioning, settings=settings))

    def play(self) -> None:
        """Go on to the end; as a branch from here if something was changed, as a new run if there is none."""
        self._sample(self._run_to_go_on)

    def take_step(self) -> None:
        """Take one more step, as `play` takes all; quick clicks add up."""
        self._steps_asked.append(None)
        self._sample(self._run_to_go_on, is_stepping=True)

    def pause(self) -> None:
        """Stop sampling within one step; the run keeps what it has and can go on."""
        self._steps_asked.clear()
        self.worker.stop(RUN)

    def stop(self) -> None:
        """Stop everything the worker does, within one step."""
        self._steps_asked.clear()
        self.worker.stop()

    def rewind(self, step: int) -> None:
        """Forget the steps of the run looked at from `step` on; taken again they give the same bits."""
        run = self.run
        if run is not None:

            def forget() -> None:
                run.rewind(min(max(step, 0), run.step_index))
                self._show_run(run, run.step_index - 1)

            self.pause()
            self.worker.submit(RUN, forget)

    # Looking.

    def look_at(self, step: int) -> None:
        """Show a moment of the run: a step that was taken, or `num_steps` for the finished picture."""
        run = self.run
        if run is not None:
            self.ask("picture", lambda: self._show_run(run, step), lambda _: None)

    def go_to(self, run: Run) -> None:
        """Look at another run of the tree; what is given becomes what that run was given, and the model is its own."""
        self.pause()
        self.run = run
        if run.method is not self.colorizer.method:
            self.colorizer = Colorizer(run.method, settings=self.colorizer.settings, card=self.colorizer.card)
        self.conditioning, self.settings = run.conditioning, run.settings
        self.look_at(run.num_steps if run.is_finished else run.step_index - 1)

    def rename(self, run: Run, name: str) -> None:
        """Give a run another name; a name that cannot be is told in `error`."""
        with self._told():
            self.tree.name(run, name.strip())
            self.tree_version += 1

    def prune(self, run: Run) -> None:
        """Take a run and everything branched from it out of the tree; another run is looked at if it was this one."""
        with self._told():
            pruned = self.tree.prune(run)
            self.tree_version += 1
            if self.run in pruned:
                self.pause()
                left = self.tree.runs
                if left:
                    self.go_to(left[-1])
                else:
                    self.run, self.picture, self.step, self.steps_taken = None, as_shown(self.conditioning), -1, 0

    def ask(
        self,
        kind: str,
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        failed: Callable[[str], None] | None = None,
        urgency: int = LOOK,
    ) -> None:
        """Ask the model something; the newest question of a kind is answered, those it overtook are dropped.

        Args:
            kind: whose question it is: "attention", "trajectory" ...
            question: called in the worker's thread.
            then: given the answer, in the same thread.
            failed: given one sentence instead, where it cannot be answered; `error` by default.
            urgency: higher is served first.
        """

        def job() -> None:
            then(question())

        def tell(problem: BaseException) -> None:
            (failed or self._tell)(in_words(problem))

        self.worker.submit(kind, job, urgency=urgency, failed=tell)

    def close(self) -> None:
        """End the worker; the runs stay usable."""
        self.worker.close()
        self.unobserve_all()

    # In the worker's thread.

    def _sample(self, source: Callable[[], Run], *, is_stepping: bool = False) -> None:
        """Enqueue the steps of the run that `source` gives: all of them, or as many as were asked for one by one."""

        def job() -> Iterator[None]:
            with warnings.catch_warnings():
                # Told in `notice`, where it is looked for; a warning would land in some cell.
                warnings.simplefilter("ignore", ConditioningWarning)
                run = source()
            self.notice = " ".join(run.segments[-1].prepared.notes)
            self._show_run(run, run.step_index - 1, with_picture=False)
            pace = FramePace()
            try:
                while not run.is_finished and (not is_stepping or self._steps_asked):
                    if is_stepping:
                        self._steps_asked.popleft()
                    run.step()
                    if pace.is_due:
                        # What a preview shows is better than what the run has in mind so early.
                        is_early = self.is_preview and 2 * run.step_index < run.num_steps
                        with pace.frame():
                            self._show_run(run, run.step_index - 1, with_picture=not is_early)
                    yield
            finally:
                # A run that is broken off shows how far it came; the picture of that is left to a preview that follows.
                if self.run is run:
                    self._show_run(run, run.num_steps, with_picture=not (self.is_live and self.is_changed))
            self.tree_version += prune_oldest(self.tree, run)

        self.error = ""
        if not is_stepping:
            self._steps_asked.clear()
        # Steps that were asked for are kept in the queue, so that nothing is lost of a job that is broken off.
        self.worker.stop(RUN)
        self.worker.submit(RUN, job)

    def _run_to_go_on(self) -> Run:
        """Return the run looked at; a branch of it where something was changed, a new one where it cannot go on."""
        run = self.run
        if run is None or (self.is_changed and (run.is_finished or self._starts_anew(run))):
            return self.colorizer.start(self.conditioning, self.settings, tree=self.tree)
        return run.branch(conditioning=self.conditioning, settings=self.settings) if self.is_changed else run

    def _starts_anew(self, run: Run) -> bool:
        """Return whether something was changed that holds from the first step on or not at all."""
        if run.method is not self.colorizer.method:
            return True
        return any(getattr(run.settings, name) != getattr(self.settings, name) for name in _FROM_THE_START)

    def _show_run(self, run: Run, step: int, *, with_picture: bool = True) -> None:
        """Set every trait that tells where a run is and which moment is looked at."""
        if self.run is not None and self.run is not run:
            self.run.forget_pictures()
        is_end = step >= run.num_steps and run.is_finished
        step = run.num_steps if is_end else min(step, run.step_index - 1)
        # Looking at another moment changes nothing in the tree, which has many rows to draw.
        has_moved = run is not self.run or run.step_index != self.steps_taken
        picture = run.preview(step) if with_picture and step >= 0 else None
        self.num_steps, self.steps_taken = run.num_steps, run.step_index
        self.progress = run.step_index / run.num_steps
        self.run = run
        self.step = step
        # A preview stays until there is something to take its place.
        self.is_preview = self.is_preview and not with_picture
        if picture is not None and picture is not self.picture:
            self.picture = picture
        elif step < 0 and with_picture:
            self.picture = as_shown(run.conditioning)
        if has_moved:
            self.tree_version += 1

    def _note_work(self) -> None:
        """Say what the worker does."""
        kinds: tuple[str, ...] | None = None
        # Two threads tell this, and observers enqueue more: the last word is what is true by then, not what was
        # read first.
        with self._noting:
            while kinds != (kinds := self.worker.busy_kinds):
                self.is_running = RUN in kinds
                self.activity = ", ".join(kinds)
                self.is_busy = bool(kinds)

    def _fail(self, problem: BaseException) -> None:
        """Tell the user about a job that raised."""
        self._tell(in_words(problem))

    def _tell(self, sentence: str) -> None:
        """Show a sentence where errors are shown."""
        self.error = sentence

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Tell what colorlab refuses, instead of raising it into a callback that nobody reads."""
        try:
            yield
        except ColorlabError as problem:
            self._tell(in_words(problem))


def in_words(problem: BaseException) -> str:
    """Return one sentence about an error: colorlab's own as they are, others with their type."""
    text = str(problem).strip()
    if isinstance(problem, ColorlabError) and text:
        return text
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__
