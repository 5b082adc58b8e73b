"""Segment: a stretch of a run under one Conditioning, one Settings and one tuple of edits."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.methods.base import Method, Prepared
from colorlab.networks.environment import environment_of
from colorlab.runs.cost import CostMeter
from colorlab.sampling.loop import first_state, sample_step
from colorlab.sampling.noise import initial_noise
from colorlab.sampling.records import StepRecord
from colorlab.sampling.schedules import SolverName, TimestepSpacing
from colorlab.sampling.solvers import find_solver
from colorlab.sampling.state import State
from colorlab.settings import Settings

__all__ = [
    "Edit",
    "Segment",
    "check_continues",
    "initial_state",
    "make_segment",
    "predict_step",
    "take_step",
    "timesteps_of",
]


@runtime_checkable
class Edit(Protocol):
    """A user's intervention on the inside of the networks, carried by a branch."""

    def applied(self, method: Method, step_index: int) -> AbstractContextManager[None]:
        """Change the networks for the prediction of one step, and restore them on the way out, whatever happens."""
        ...


@dataclass(frozen=True, eq=False)
class Segment:
    """What is in force from one step of a run until the next segment.

    Args:
        first_step: index of the first step it governs; the number of steps when it governs the decoding alone.
        conditioning: what the user gave.
        settings: how to sample.
        prepared: the conditioning, encoded.
        edits: applied in this order around every prediction.
    """

    first_step: int
    conditioning: Conditioning
    settings: Settings
    prepared: Prepared
    edits: tuple[Edit, ...] = ()


def timesteps_of(method: Method, settings: Settings) -> torch.Tensor:
    """Return the timesteps that `settings` ask for, noisiest first."""
    return method.schedule.timesteps(
        settings.num_inference_steps,
        cast(TimestepSpacing, settings.timestep_spacing),
        solver=cast(SolverName, settings.solver),
        as_published=settings.as_published,
    )


def initial_state(method: Method, segment: Segment, *, sample_index: int = 0) -> State:
    """Return the state a run starts from: pure noise, a function of the seed and the sample alone."""
    shape = (1, *segment.prepared.latent_shape)
    return first_state(
        initial_noise(segment.settings.seed, sample_index, shape),
        schedule=method.schedule,
        timesteps=timesteps_of(method, segment.settings),
    )


def take_step(
    method: Method, segment: Segment, state: State, *, timesteps: torch.Tensor, sample_index: int = 0
) -> tuple[StepRecord, State]:
    """Take one step: predict, guide, solve. Equal arguments give equal bits.

    The caller holds the lock of the method.
    """
    settings, environment = segment.settings, environment_of(method.unet)
    with torch.no_grad():
        following, record = sample_step(
            state,
            predict=lambda latents, timestep: predict_step(method, segment, state),
            guide=lambda predictions: method.guide(predictions, settings),
            solver=find_solver(settings.solver),
            schedule=method.schedule,
            timesteps=timesteps,
            eta=settings.eta,
            seed=settings.seed,
            sample_index=sample_index,
        )
    return replace(record, environment=environment), following


def predict_step(method: Method, segment: Segment, state: State) -> dict[str, torch.Tensor]:
    """Ask the networks about a state, edits applied: the one call that a step makes and that a replay repeats.

    The caller holds the lock of the method.

    Raises:
        StateError: no step comes after the state.
    """
    if state.timestep is None:
        raise StateError("All steps are done, so there is nothing left to predict; go back to an earlier state.")
    with _edited(segment.edits, method, state.step_index), torch.no_grad():
        return method.predict(segment.prepared, state.latents, state.timestep, segment.settings)


def make_segment(
    method: Method,
    first_step: int,
    conditioning: Conditioning,
    settings: Settings,
    *,
    edits: tuple[Edit, ...] = (),
    meter: CostMeter,
) -> Segment:
    """Encode a conditioning, and tell the user what of it does not reach the model."""
    with meter.measure("prepare"), torch.no_grad():
        prepared = method.prepare(conditioning, settings)
    method.warn(prepared.notes)
    return Segment(first_step, conditioning, settings, prepared, edits)


def check_continues(method: Method, step: int, old: Segment, new: Segment) -> None:
    """Check that a run that came to a step under one segment can go on from there under another.

    Raises:
        RangeError: the change can not be made in the middle of a run.
    """
    if not torch.equal(timesteps_of(method, new.settings), timesteps_of(method, old.settings)):
        raise RangeError(
            f"The new settings visit other timesteps than the first {step} steps did (number, spacing, solver); "
            "branch at step 0 to change them."
        )
    if new.settings.seed != old.settings.seed and new.settings.eta == 0:
        raise RangeError(
            f"The seed decides the noise a run starts from, and with eta=0 nothing after that; branch at step 0 "
            f"instead of {step}, or set eta."
        )
    if new.prepared.latent_shape != old.prepared.latent_shape:
        raise RangeError(
            f"The new picture has latents of shape {new.prepared.latent_shape}, the run {old.prepared.latent_shape}; "
            "branch at step 0 to change the picture's shape."
        )


@contextmanager
def _edited(edits: Sequence[Edit], method: Method, step_index: int) -> Iterator[None]:
    """Apply edits in order for one prediction."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied(method, step_index))
        yield
