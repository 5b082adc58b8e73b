"""Run: one path of states for one picture, which can be stepped, watched, rewound and branched."""

import threading
from collections.abc import Iterator, Sequence
from typing import Unpack

import numpy as np
import torch
from tqdm.auto import tqdm

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import to_uint8
from colorlab.mechanisms.base import MechanismInForce
from colorlab.methods.base import Method
from colorlab.networks.environment import environment_of
from colorlab.runs.cost import Cost, CostMeter, edges_bytes
from colorlab.runs.edits import Edit, edit_tuple
from colorlab.runs.explaining import explain_call
from colorlab.runs.keeping import Keeping
from colorlab.runs.pictures import Decoded, PictureShelf
from colorlab.runs.queries import RunQueries
from colorlab.runs.segments import (
    Segment,
    changes_between,
    check_continues,
    decode_picture,
    initial_state,
    make_segment,
    take_step,
    timesteps_of,
)
from colorlab.runs.shortcuts import Shortcuts, apply_shortcuts
from colorlab.runs.tree import Tree
from colorlab.sampling.records import StepRecord
from colorlab.sampling.state import State
from colorlab.settings import Settings

__all__ = ["Run"]


class Run(RunQueries, Keeping):
    """One path of states for one picture.

    `for state in run` takes one step at a time and may be left at any moment; it goes on where the run stands. What has
    been computed never changes: `branch` makes another run that shares its beginning. Use `Run.start`, or
    `Colorizer.start`, to make the first one. Safe to use from several threads; runs of one model take turns by steps.

    Args:
        method: the loaded model.
        segments: what is in force from which step; the first starts at 0, `first_step` rises.
        initial: state 0.
        edges: records and states of the steps already taken.
        tree: where the run lives.
        sample_index: which sample of the seed.
        meter: the cost so far.
        num_shared: how many of the edges are another run's too; all of them by default.
    """

    def __init__(
        self,
        method: Method,
        segments: Sequence[Segment],
        initial: State,
        *,
        edges: Sequence[tuple[StepRecord, State]] = (),
        tree: Tree,
        sample_index: int = 0,
        meter: CostMeter | None = None,
        num_shared: int | None = None,
    ) -> None:
        self.method = method
        self.segments = tuple(segments)
        self.sample_index = sample_index
        self.tree = tree
        self.timesteps = timesteps_of(method, self.segments[-1].settings)
        self._initial = initial
        # Record and state are one entry, so that an interrupt cannot leave one without the other.
        self._edges = list(edges)
        self.num_shared = len(self._edges) if num_shared is None else num_shared
        self._pictures = PictureShelf()
        self.meter = meter or CostMeter(method)
        self._lock = threading.RLock()

    @classmethod
    def start(
        cls,
        method: Method,
        conditioning: Conditioning,
        settings: Settings,
        *,
        sample_index: int = 0,
        tree: Tree | None = None,
        name: str | None = None,
    ) -> "Run":
        """Encode the conditioning and return a run at step 0; nothing is sampled yet."""
        meter = CostMeter(method)
        tree = Tree() if tree is None else tree
        segment = make_segment(method, 0, conditioning, settings, tree=tree, meter=meter)
        initial = initial_state(method, segment, sample_index=sample_index)
        run = cls(method, [segment], initial, tree=tree, sample_index=sample_index, meter=meter)
        tree.add(run, name=name)
        return run

    # Where the run stands.

    @property
    def states(self) -> tuple[State, ...]:
        """States 0 to the present one."""
        return (self._initial, *(state for _, state in self.edges))

    @property
    def records(self) -> tuple[StepRecord, ...]:
        """Records of the steps taken; number k lies between states k and k + 1."""
        return tuple(record for record, _ in self.edges)

    @property
    def edges(self) -> tuple[tuple[StepRecord, State], ...]:
        """Every step taken, as one moment saw it: the record, and the state after it."""
        return tuple(self._edges)

    @property
    def state(self) -> State:
        """The present state."""
        return self._edges[-1][1] if self._edges else self._initial

    @property
    def step_index(self) -> int:
        """Number of steps taken, which is the index of the next one."""
        return len(self._edges)

    @property
    def num_steps(self) -> int:
        """Number of steps of the whole run."""
        return len(self.timesteps)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step_index >= self.num_steps

    @property
    def conditioning(self) -> Conditioning:
        """What the user gave, as it is in force at the end."""
        return self.segments[-1].conditioning

    @property
    def settings(self) -> Settings:
        """How to sample, as it is in force at the end."""
        return self.segments[-1].settings

    def segment_at(self, step: int) -> Segment:
        """Return what is in force at a step; the number of steps means the decoding of the picture."""
        return next(segment for segment in reversed(self.segments) if segment.first_step <= step)

    @property
    def name(self) -> str:
        """Name in the tree; a run that was pruned has none."""
        return self.tree.name_of(self) if self in self.tree else "(pruned)"

    @property
    def progress(self) -> str:
        """Say how far the run is."""
        return f"step {self.step_index} of {self.num_steps}"

    @property
    def subject(self) -> str:
        """Say what makes this run different from others at a glance: prompt, edits, strokes, masks and seed."""
        return f"{self.conditioning.subject}, seed {self.settings.seed}"

    def changes_from(self, other: "Run", step: int) -> tuple[str, ...]:
        """Say what is in force at a step here and not in another run, but for what `subject` tells apart.

        Strokes, masks and text edits are told where `subject` has the same words for both.

        Args:
            other: to compare with, such as the parent.
            step: the number of steps means the decoding.

        Returns:
            One text for each setting, mechanism and picture, such as "guidance_scale=7.0", and one for the edits.
        """
        return changes_between(other.segment_at(step), self.segment_at(step))

    def __repr__(self) -> str:
        return f"Run {self.name!r}: {self.method.model_name}, {self.progress}, {self.subject}"

    # Going on and back.

    def step(self) -> State:
        """Take one step and return the new state.

        Raises:
            StateError: all steps are taken.
        """
        state = self._advance()
        if state is None:
            raise StateError(
                f"All {self.num_steps} steps are taken; rewind(step) or branch(step=...) to go on earlier."
            )
        return state

    def __iter__(self) -> Iterator[State]:
        while (state := self._advance()) is not None:
            yield state

    def finish(self, *, progress: bool = True) -> "Run":
        """Take the remaining steps and return the run.

        An interrupt (Ctrl-C) is passed on; the steps taken until then stay, and the run can be finished later.

        Args:
            progress: whether to show a bar.
        """
        remaining = self.num_steps - self.step_index
        with tqdm(total=remaining, desc=self.name, unit="step", disable=not progress or not remaining) as bar:
            for _ in self:
                bar.update()
        return self

    def rewind(self, step: int) -> "Run":
        """Forget every step after state `step` and return the run; taken again, they give the same bits.

        Branches keep what they share with the forgotten part.

        Raises:
            RangeError: there is no such state.
        """
        with self._lock:
            self._check_state(step)
            del self._edges[step:]
            self.num_shared = min(self.num_shared, step)
            self._pictures.forget_from(step)
        self.tree.changed()
        return self

    def branch(
        self,
        step: int | None = None,
        *,
        conditioning: Conditioning | None = None,
        settings: Settings | None = None,
        edits: Sequence[Edit] | None = None,
        name: str | None = None,
        **shortcuts: Unpack[Shortcuts],
    ) -> "Run":
        """Make a run that shares this one up to a state and goes on from there in another way.

        What is changed holds to the end, changes that this run makes later included. With nothing changed the branch
        takes the path of this run, bit for bit.

        Args:
            step: state to go on from; the present one by default. The number of steps changes the decoding alone.
            conditioning: what to color from then on; as here by default.
            settings: how to sample from then on; as here by default.
            edits: interventions from then on; as here by default, () for none.
            name: in the tree.
            shortcuts: single fields of conditioning and settings, for instance `prompt="a red car"`.

        Returns:
            A new run of the same tree that stands at `step`; nothing is sampled yet.

        Raises:
            RangeError: there is no such state yet, or the change cannot be made in the middle of a run.
        """
        with self._lock:
            step = self.step_index if step is None else step
            self._check_state(step)
            edges = self._edges[:step]
        meter, segments, initial = CostMeter(self.method), self.segments, self._initial
        if shortcuts or (conditioning, settings, edits) != (None, None, None):
            old = self.segment_at(step)
            conditioning = old.conditioning if conditioning is None else conditioning
            settings = old.settings if settings is None else settings
            conditioning, settings = apply_shortcuts(conditioning, settings, **shortcuts)
            edits = old.edits if edits is None else edit_tuple(edits)
            new = make_segment(self.method, step, conditioning, settings, edits=edits, tree=self.tree, meter=meter)
            segments = (*(segment for segment in self.segments if segment.first_step < step), new)
            initial = self._initial_of(new) if step == 0 else self._initial
            if step > 0:
                check_continues(self.method, step, old, new)
        run = Run(
            self.method, segments, initial, edges=edges, tree=self.tree, sample_index=self.sample_index, meter=meter
        )
        self.tree.add(run, parent=self, step_index=step, name=name)
        return run

    # Looking.

    @property
    def image(self) -> np.ndarray:
        """The finished picture, (H, W, 3) uint8, read-only; steps that are missing are taken first."""
        if not self.is_finished:
            self.finish()
        return self.decoded(self.num_steps).image

    def preview(self, step: int | None = None) -> np.ndarray:
        """Show the clean picture that the model had in mind at a step.

        Args:
            step: a step that was taken; the last one by default. The number of steps means the finished picture.

        Returns:
            (H, W, 3) uint8, read-only: the predicted clean latents, decoded and finished like the picture itself.

        Raises:
            StateError: the step was not taken yet.
        """
        if step is None:
            step = self.step_index if self.is_finished else self.step_index - 1
        return self.decoded(step).image

    def decoded(self, step: int) -> Decoded:
        """Return the picture of `preview(step)` with the environment in which it was decoded; decoded once."""
        if not (step == self.num_steps and self.is_finished):
            self._check_record(step)
        with self._lock:
            return self._pictures.get(step, lambda: self._decode(step))

    def clean_latents(self, step: int) -> torch.Tensor:
        """Return the clean latents (1, C, h, w) predicted at a step; for the number of steps the last state's."""
        return self.state.latents if step == self.num_steps else self._edges[step][0].pred_original_sample

    def explain(self, step: int | None = None) -> dict[str, Exhibit]:
        """Let every mechanism show what it did.

        Args:
            step: a step that was taken; None for what happens once, before and after the steps (prepare and decode).

        Returns:
            The exhibits, named "mechanism.exhibit".

        Raises:
            StateError: the step was not taken yet.
        """
        self._check_record(self.step_index - 1 if step is None else step)
        return explain_call(self, step)

    @property
    def mechanisms(self) -> dict[str, MechanismInForce]:
        """Every mechanism of the method by name, with its parameters in force."""
        return {mechanism.name: mechanism.state(self.settings) for mechanism in self.method.mechanisms}

    @property
    def cost(self) -> Cost:
        """Network calls, seconds and bytes by phase; a branch counts what is its own."""
        predict = edges_bytes(self.edges[self.num_shared :])
        prepare = self.segments[-1].prepared.num_bytes
        return self.meter.cost({"prepare": prepare, "predict": predict, "decode": self._pictures.num_bytes})

    # Inside.

    def _initial_of(self, segment: Segment) -> State:
        """Return state 0 under a segment; this run's own where it is equal, so that branches share it."""
        fresh = initial_state(self.method, segment, sample_index=self.sample_index)
        return self._initial if fresh.equals(self._initial) else fresh

    def _advance(self) -> State | None:
        """Take one step and return the new state; None if there is none left to take."""
        with self._lock:
            if self.is_finished:
                return None
            state, segment = self.state, self.segment_at(self.step_index)
            if self.step_index and segment.settings.solver != self.segment_at(self.step_index - 1).settings.solver:
                # What one solver remembers means nothing to another.
                state = state.without_history()
            with self.meter.measure("predict"):
                edge = take_step(self.method, segment, state, timesteps=self.timesteps, sample_index=self.sample_index)
            self._edges.append(edge)
        self.tree.changed()
        return edge[1]

    def _decode(self, step: int) -> Decoded:
        """Compute what `decoded` keeps."""
        segment = self.segment_at(step)
        with self.meter.measure("decode"):
            environment = environment_of(self.method.vae)
            return Decoded(to_uint8(decode_picture(self.method, segment, self.clean_latents(step))), environment)

    def _check_state(self, step: int) -> None:
        """Raise unless state `step` exists."""
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= self.step_index:
            raise RangeError(f"step is {step!r}, but this run has states 0 to {self.step_index} of {self.num_steps}.")

    def _check_record(self, step: int) -> None:
        """Raise unless the step was taken."""
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < self.step_index:
            taken = f"steps 0 to {self.step_index - 1}" if self.step_index else "no step"
            raise StateError(
                f"step is {step!r}, but this run has taken {taken} of {self.num_steps}; step() or finish() it."
            )
