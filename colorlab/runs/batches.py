"""Several states in one network call: what seeds, sweeps and ablations are made of. A run itself is one picture."""

from collections.abc import Iterator, Sequence

import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.methods.base import Method
from colorlab.runs.segments import Segment, predict_step
from colorlab.sampling.loop import Predict, sample_step
from colorlab.sampling.records import StepRecord
from colorlab.sampling.solvers import find_solver
from colorlab.sampling.state import State

__all__ = ["in_batches", "predict_states", "take_steps"]


def in_batches(items: Sequence[object], batch_size: int) -> Iterator[range]:
    """Yield the positions of items in batches.

    Raises:
        RangeError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise RangeError(f"batch_size is {batch_size}, but at least 1 is expected.")
    for start in range(0, len(items), batch_size):
        yield range(start, min(start + batch_size, len(items)))


def predict_states(method: Method, segment: Segment, states: Sequence[State]) -> list[dict[str, torch.Tensor]]:
    """Ask the networks about several moments of one step in one call, under one conditioning, edits applied.

    The caller holds the lock of the method. A batch of other make-up sums in another order, so that a prediction
    agrees with that of the state alone within about 1e-6 of its size in float32, not bit for bit.

    Args:
        method: the model.
        segment: what is in force; its edits see the rows of all states.
        states: of one picture each, all at one step.

    Returns:
        For each state the prediction (1, C, h, w) of every guidance pass.

    Raises:
        ShapeError: there is no state, or they are of several pictures or steps.
    """
    if len({(state.step_index, state.timestep, state.latents.shape) for state in states}) != 1:
        raise ShapeError(f"{len(states)} states came, but at least one, all of one shape at one step, are expected.")
    first = states[0]
    together = State(first.step_index, first.timestep, torch.cat([state.latents for state in states]))
    predictions = predict_step(method, segment, together)
    parts = {name: prediction.split(len(first.latents)) for name, prediction in predictions.items()}
    return [{name: split[index] for name, split in parts.items()} for index in range(len(states))]


def take_steps(
    method: Method,
    segment: Segment,
    states: Sequence[State],
    *,
    timesteps: torch.Tensor,
    seeds: Sequence[int] | None = None,
    sample_index: int = 0,
) -> list[tuple[StepRecord, State]]:
    """Take the same step from several states with one network call; `take_step` for each, within rounding.

    The caller holds the lock of the method.

    Args:
        method: the model.
        segment: what is in force; its edits see the rows of all states.
        states: as for `predict_states`.
        timesteps: (number of steps,) the whole list of the run.
        seeds: of the noise that eta > 0 adds, one for each state; None for that of the settings.
        sample_index: which sample of the seeds.
    """
    settings = segment.settings
    seeds = [settings.seed] * len(states) if seeds is None else seeds
    edges = []
    for state, predictions, seed in zip(states, predict_states(method, segment, states), seeds, strict=True):
        following, record = sample_step(
            state,
            predict=_known(predictions),
            guide=lambda named: method.guide(named, settings),
            solver=find_solver(settings.solver),
            schedule=method.schedule,
            timesteps=timesteps,
            eta=settings.eta,
            seed=seed,
            sample_index=sample_index,
        )
        edges.append((record, following))
    return edges


def _known(predictions: dict[str, torch.Tensor]) -> Predict:
    """Return a prediction that was made already."""
    return lambda latents, timestep: predictions
