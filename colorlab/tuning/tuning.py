"""Tuning: DiffColor's optimisation on one picture, which can be stepped, paused, rolled back, killed and resumed."""

import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import resize_image, to_uint8
from colorlab.methods.adaptation import CONTRASTIVE, EMBEDDING, RECONSTRUCTION, Adaptation
from colorlab.methods.base import users_stacklevel
from colorlab.methods.diffcolor import DiffColor
from colorlab.methods.identifiers import Rewriting, check_context, rewrite
from colorlab.settings import Settings
from colorlab.tuning.budget import Budget, measure_budget
from colorlab.tuning.checkpoints import Checkpoints
from colorlab.tuning.files import TuningFile
from colorlab.tuning.optimizer import Moments, adam_step, clip_gradients
from colorlab.tuning.pictures import TuningWarning, check_reconstruction, paint_prior
from colorlab.tuning.plan import STAGES, TuningPlan, find_plan
from colorlab.tuning.stages import Stage
from colorlab.tuning.state import TuningState
from colorlab.tuning.weights import tracked
from colorlab.tuning.wiring import Wiring

__all__ = ["Tuning"]

_THUMBNAIL_PX = 96


class Tuning:
    """The optimisation of a model on one gray picture, in three stages.

    `for state in tuning` takes one iteration at a time and may be left at any moment, also by Ctrl-C; it goes on where
    the tuning stands. Every state is a value: nothing that is interrupted leaves half an iteration.

    Args:
        method: the model before tuning.
        conditioning: the gray picture, and the context as prompt: what it shows, without colors.
        settings: seed, and parameters of mechanisms; those of `contrastive_tuning` count before the preset's.
        plan: a preset's name, or a `TuningPlan`.
        nouns: which words of the context are objects; found by their articles by default.

    Raises:
        RangeError: there is no gray picture, or the context is empty, names colors, or has no noun where stage 2 is
            planned.
        StateError: the model has no CLIP to compare with.
        MissingExtraError: peft is not installed and low-rank tuning is asked for.
    """

    def __init__(
        self,
        method: DiffColor,
        conditioning: Conditioning,
        settings: Settings,
        plan: str | TuningPlan = "notebook",
        *,
        nouns: Sequence[str] = (),
    ) -> None:
        self.method, self.conditioning, self.plan = method, conditioning, find_plan(plan)
        self.nouns = tuple(nouns)
        given = settings.mechanisms.get(method.tuning.name, {})
        self.settings = settings.with_mechanism(method.tuning.name, **{**self.plan.mechanism, **given})
        check_context(conditioning.prompt, nouns=self.nouns)
        self.rewriting: Rewriting | None = None
        if self.plan.num_steps[EMBEDDING]:
            self.rewriting = rewrite(conditioning.prompt, method.components, nouns=self.nouns)
        self._wiring = Wiring(method, conditioning, self.settings, self.plan, self.rewriting)
        self._paused = threading.Event()
        self._lock = threading.RLock()
        self._file: TuningFile | None = None
        self._stage: Stage | None = None
        self.checkpoints = Checkpoints(self.plan.max_checkpoint_bytes)
        self.state = self._beginning_of(self._first_stage(), TuningState(None))
        self.checkpoints.keep(self.state)

    # Where the tuning stands.

    @property
    def stage(self) -> str | None:
        """The present stage; None when all are done."""
        return self.state.stage

    @property
    def is_finished(self) -> bool:
        """Whether all stages are done."""
        return self.state.stage is None

    @property
    def is_paused(self) -> bool:
        """Whether `pause` was called and `resume` was not."""
        return self._paused.is_set()

    @property
    def num_iterations(self) -> int:
        """Iterations done, of all stages."""
        return self.state.number

    @property
    def texts(self) -> tuple[str, ...]:
        """What stage 1 compares with: the context as it is pulled to, then the anti-color prompts."""
        return self._wiring.judge.texts

    @property
    def thumbnails(self) -> dict[int, np.ndarray]:
        """Small pictures of stage 1 by the number of iterations done, (H, W, 3) uint8; `state` has those of stage 2."""
        rows = self.state.rows
        return {number: one for number, one in self.state.thumbnails if rows[number - 1]["stage"] == CONTRASTIVE}

    @cached_property
    def budget(self) -> Budget:
        """Steps, minutes and memory of every stage on this device; measured once, one iteration for each."""
        return measure_budget(self._wiring)

    @property
    def adaptation(self) -> Adaptation:
        """What was tuned so far; the value for `colorizer.with_adaptation`, and to save."""
        state = self.state
        tensors = dict(state.results)
        if state.stage is not None and state.iteration:
            tensors |= self._wiring.named_results(state.stage, state.weights)
        return Adaptation(tensors, self._wiring.info(state.rows))

    def curves(self, stage: str | None = None, *, names: Sequence[str] = ()) -> Exhibit:
        """Show the numbers of a stage, one curve for each.

        Args:
            stage: in `STAGES`; the present one, or the last one when all are done, by default.
            names: which numbers; all of them by default.

        Raises:
            StateError: nothing of it was done yet.
            RangeError: the stage has no number of this name.
        """
        stage = stage or self.stage or self.state.rows[-1]["stage"]
        rows = [row for row in self.state.rows if row["stage"] == stage]
        if not rows:
            raise StateError(f"The stage {stage!r} has no iteration yet; its curves begin with the first.")
        known = [name for name in rows[0] if name not in ("stage", "iteration", "timestep")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise RangeError(f"The stage {stage!r} has no number {unknown[0]!r}; it has {', '.join(known)}.")
        names = list(names) or known
        return Exhibit(
            np.array([[row[name] for row in rows] for name in names], dtype=np.float64),
            ("number", "iteration"),
            "",
            f"Stage {stage!r} of {self.conditioning.prompt!r}, {len(rows)} iterations.",
            provenance={"query": "tuning", "stage": stage, "labels": names, "seed": self.settings.seed},
            kind="curves",
        )

    # Going on and back.

    def step(self) -> TuningState:
        """Do one iteration, and what a stage does at its end if it was the last; return the new state.

        Raises:
            StateError: all stages are done.
        """
        for _ in self.slices():
            pass
        return self.state

    def slices(self) -> Iterator[None]:
        """Do what `step` does in slices that take one iteration or one step of a picture; it may be left after each.

        A stage's end that is left begins anew with the next step; the iteration before it is kept.

        Raises:
            StateError: all stages are done.
        """
        with self._lock:
            state = self.state
            if state.stage is None:
                raise StateError("All stages are done; roll_back(number) to go on earlier, or tune anew.")
            if state.iteration < self.plan.num_steps[state.stage] and not self._is_settled(state):
                self.state = state = self._iterated(state)
                if others := self.checkpoints.forget_other_ways(state):
                    message = (
                        "This iteration came out otherwise than before the roll back, so the checkpoints after "
                        f"{', '.join(map(str, others))} iterations are of another way and were forgotten."
                    )
                    warnings.warn(message, TuningWarning, stacklevel=users_stacklevel())
                if state.iteration < self.plan.num_steps[str(state.stage)] and not self._is_settled(state):
                    if state.iteration % self.plan.checkpoint_every == 0:
                        self._keep()
                    return
                yield
            self.state = yield from self._closing(state)
            self._keep()

    def __iter__(self) -> Iterator[TuningState]:
        while not self.is_finished and not self.is_paused:
            yield self.step()

    def finish(self, *, progress: bool = True) -> "Tuning":
        """Do all that remains, with a bar for each stage, and return the tuning; a pause ends it earlier."""
        while not self.is_finished and not self.is_paused:
            stage = str(self.stage)
            total = self.plan.num_steps[stage]
            with tqdm(total=total, initial=self.state.iteration, desc=stage, disable=not progress) as bar:
                while self.stage == stage and not self.is_paused:
                    before = self.num_iterations
                    self.step()
                    bar.update(self.num_iterations - before)
        return self

    def pause(self) -> None:
        """End `finish` or a loop after the present iteration; from any thread."""
        self._paused.set()

    def resume(self) -> "Tuning":
        """Allow to go on after a pause; the next loop or `finish` does."""
        self._paused.clear()
        return self

    def roll_back(self, number: int) -> "Tuning":
        """Go to a checkpoint, back or forward; the present state becomes one, and those after it stay.

        Gone on from there with nothing changed, the same numbers come again.

        Args:
            number: of iterations done, one of `checkpoints.numbers`.

        Raises:
            RangeError: there is no such checkpoint.
        """
        with self._lock:
            found = self.checkpoints.at(number)
            if self.state.number not in self.checkpoints.numbers:
                self.checkpoints.keep(self.state, also=number)
            self.state, self._stage = found, None
            self.write()
        return self

    # Keeping.

    def save(self, path: str | Path) -> Path:
        """Write the tuning with its checkpoints; `colorizer.resume_tuning(path)` goes on with it.

        Raises:
            RunFileError: it cannot be written; a file that is there stays as it was.
        """
        with self._lock:
            return TuningFile(Path(path)).write(self)

    def autosave(self, path: str | Path) -> "Tuning":
        """Write the tuning now, and again with every checkpoint and at the end of every stage.

        Raises:
            RunFileError: it cannot be written now.

        Warns:
            TuningWarning: it could not be written later on (a full disk); it stays in memory and is tried again.
        """
        with self._lock:
            self._file = TuningFile(Path(path))
            self._file.write(self)
        return self

    def write(self) -> None:
        """Write the tuning as it stands into the file of `autosave`; without one this does nothing.

        Warns:
            TuningWarning: it could not be written.
        """
        with self._lock:
            if self._file is not None:
                self._file.try_to_write(self)

    def _keep(self) -> None:
        """Keep the present state as a checkpoint, and in the file."""
        self.checkpoints.keep(self.state)
        self.write()

    # Inside.

    def _first_stage(self) -> str | None:
        """Return the first stage that has iterations."""
        return next((name for name in STAGES if self.plan.num_steps[name]), None)

    def _present(self, state: TuningState) -> Stage:
        """Return the object of the present stage, made once."""
        if self._stage is None or self._stage.name != state.stage:
            self._stage = self._wiring.stage(str(state.stage), state.results, state.kept)
        return self._stage

    def _beginning_of(self, name: str | None, state: TuningState) -> TuningState:
        """Return the state at the beginning of a stage."""
        self._stage = None
        if name is None:
            return replace(state, stage=None, iteration=0, weights={}, moments=Moments())
        weights = self._wiring.stage(name, state.results, state.kept).initial()
        return replace(state, stage=name, iteration=0, weights=weights, moments=Moments())

    def _iterated(self, state: TuningState) -> TuningState:
        """Return the state after one more iteration."""
        stage = self._present(state)
        with self.method.lock, tracked(state.weights) as leaves:
            outcome = stage.evaluate(leaves, state.iteration)
            found = torch.autograd.grad(outcome.loss, list(leaves.values()))
        gradients, norm = clip_gradients(dict(zip(leaves, found, strict=True)), self.plan.max_grad_norm)
        weights, moments = adam_step(state.weights, gradients, state.moments, learning_rate=stage.learning_rate)
        row = {"stage": stage.name, "iteration": state.iteration, "loss": float(outcome.loss.detach())}
        following = replace(
            state,
            iteration=state.iteration + 1,
            weights=weights,
            moments=moments,
            rows=(*state.rows, {**row, **outcome.numbers, "gradient": norm}),
        )
        if state.iteration % self.plan.thumbnail_every:
            return following
        with self.method.lock:
            picture = _thumbnail(stage.picture(weights, outcome))
        return replace(following, thumbnails=(*state.thumbnails, (following.number, picture)))

    def _is_settled(self, state: TuningState) -> bool:
        """Return whether the margin of stage 1 has stopped rising."""
        if state.stage != CONTRASTIVE:
            return False
        patience = int(self._wiring.values["patience"])
        margins = [row["margin"] for row in state.rows if row["stage"] == CONTRASTIVE]
        return len(margins) > patience and max(margins[-patience:]) <= max(margins[:-patience])

    def _closing(self, state: TuningState) -> Generator[None, None, TuningState]:
        """Return the state after a stage's end: its results, and the beginning of the next one."""
        name = str(state.stage)
        results = {**state.results, **self._wiring.named_results(name, state.weights)}
        kept = dict(state.weights) if name == CONTRASTIVE else state.kept
        adaptation = Adaptation(results, self._wiring.info(state.rows))
        sampling = self._wiring.sampling
        if name == CONTRASTIVE:
            painted = yield from paint_prior(
                self.method, adaptation, self.conditioning, sampling, strength=self.plan.prior_strength
            )
            results["picture/generated"] = torch.from_numpy(painted.generated)
            results["picture/aligned"] = torch.from_numpy(painted.aligned)
        rows = state.rows
        if name == RECONSTRUCTION:
            found = yield from check_reconstruction(self.method, adaptation, self.conditioning, sampling)
            rows = (*rows[:-1], {**rows[-1], **found})
        following = [other for other in STAGES[STAGES.index(name) + 1 :] if self.plan.num_steps[other]]
        closed = replace(state, results=results, kept=kept, rows=rows)
        return self._beginning_of(following[0] if following else None, closed)

    def __repr__(self) -> str:
        stage = self.stage
        where = "finished" if stage is None else f"{stage} {self.state.iteration} of {self.plan.num_steps[stage]}"
        return f"Tuning of {self.method.model_name} on {self.conditioning.prompt!r}: {where}; {self.checkpoints!r}"

    def restored(self, state: TuningState, checkpoints: Sequence[TuningState]) -> "Tuning":
        """Take over states that a file holds, and return the tuning; see `resuming.resume`."""
        self.checkpoints = Checkpoints(self.plan.max_checkpoint_bytes)
        for kept in checkpoints:
            self.checkpoints.keep(kept)
        self.state, self._stage = state, None
        return self


def _thumbnail(image: torch.Tensor) -> np.ndarray:
    """Return a small picture, (H, W, 3) uint8."""
    height, width = image.shape[-2:]
    scale = min(1.0, _THUMBNAIL_PX / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small: Any = to_uint8(resize_image(image.cpu(), size))
    return np.array(small)
