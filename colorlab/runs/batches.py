"""Several states in one network call: what seeds, sweeps and ablations are made of. A run itself is one picture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.methods.base import Method, Prepared
from colorlab.networks.patching import Patch, PatchCall, PatchPlace
from colorlab.runs.edits import EditCall
from colorlab.runs.segments import Segment, ask_networks, enter_step, with_memory
from colorlab.sampling.loop import Predict, sample_step
from colorlab.sampling.records import Predictions, StepRecord
from colorlab.sampling.solvers import find_solver
from colorlab.sampling.state import State

__all__ = ["collate", "in_batches", "make_up", "predict_states", "take_steps"]


def in_batches(items: Sequence[object], batch_size: int) -> Iterator[range]:
    """Yield the positions of items in batches.

    Raises:
        RangeError: `batch_size` is below 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise RangeError(f"batch_size is {batch_size!r}, but an integer of at least 1 is expected.")
    for start in range(0, len(items), batch_size):
        yield range(start, min(start + batch_size, len(items)))


def predict_states(
    method: Method,
    segment: Segment | Sequence[Segment],
    states: Sequence[State],
    *,
    watch: AbstractContextManager[Any] | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Ask the networks about several moments of one step in one call, edits applied.

    The caller holds the lock of the method. A batch of other make-up sums in another order, so that a prediction
    agrees with that of the state alone within about 1e-6 of its size in float32, not bit for bit. States that cannot
    share a call (strokes that count for different steps, steered guidance) get one each.

    Args:
        method: the model.
        segment: what is in force for all, its edits then see the rows of all states; or one for each state, of equal
            settings: conditionings and edits may differ.
        states: of one picture each, all at one step.
        watch: entered around the one call of the networks alone, see `predict_step`.

    Returns:
        For each state the prediction (1, C, h, w) of every guidance pass.

    Raises:
        ShapeError: there is no state, or they are of several pictures or steps.
        RangeError: the segments differ in number from the states, or in their settings.
    """
    return _predict(method, segment, states, watch)[1]


def take_steps(
    method: Method,
    segment: Segment | Sequence[Segment],
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
        segment: what is in force, as for `predict_states`.
        states: as for `predict_states`.
        timesteps: (number of steps,) the whole list of the run.
        seeds: of the noise that eta > 0 adds, one for each state; None for that of the settings.
        sample_index: which sample of the seeds.
    """
    settings = (segment if isinstance(segment, Segment) else segment[0]).settings
    seeds = [settings.seed] * len(states) if seeds is None else seeds
    entering, predicted = _predict(method, segment, states)
    edges = []
    for state, predictions, seed in zip(entering, predicted, seeds, strict=True):
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
        edges.append((record, with_memory(method, settings, state, following)))
    return edges


def collate(prepared: Sequence[Any]) -> Any:
    """Put prepared conditionings of one latent shape side by side along the batch axis.

    Args:
        prepared: at least one, all made by one method.

    Returns:
        One of the same class; each tensor, in tuples and mappings too, is the concatenation of theirs. Tensors of one
        axis are no batches, and are those of the first.
    """
    changes: dict[str, Any] = {}
    for field in fields(prepared[0]):
        parts = [getattr(one, field.name) for one in prepared]
        first = parts[0]
        if isinstance(first, torch.Tensor) and first.ndim > 1:
            changes[field.name] = torch.cat(parts)
        elif isinstance(first, Mapping):
            changes[field.name] = {key: torch.cat([part[key] for part in parts]) for key in first}
        elif isinstance(first, tuple) and first and isinstance(first[0], torch.Tensor):
            changes[field.name] = tuple(torch.cat(layer) for layer in zip(*parts, strict=True))
    return replace(prepared[0], **changes)


def make_up(prepared: Prepared) -> tuple[Any, ...]:
    """Describe everything of a prepared conditioning that has to be equal within a batch: shapes, and plain values."""

    def describe(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return tuple(value.shape)
        if isinstance(value, Mapping):
            return tuple((name, describe(part)) for name, part in value.items())
        return tuple(map(describe, value)) if isinstance(value, tuple) else value

    return tuple(describe(getattr(prepared, field.name)) for field in fields(prepared) if field.name != "notes")


def _predict(
    method: Method,
    segment: Segment | Sequence[Segment],
    states: Sequence[State],
    watch: AbstractContextManager[Any] | None = None,
) -> tuple[list[State], list[dict[str, torch.Tensor]]]:
    """Return the states that enter the step, and the predictions; one call, or one each where they cannot share it."""
    if len({(state.step_index, state.timestep, state.latents.shape) for state in states}) != 1:
        raise ShapeError(f"{len(states)} states came, but at least one, all of one shape at one step, are expected.")
    segments = [segment] if isinstance(segment, Segment) else list(segment)
    timestep = states[0].timestep
    if timestep is None:
        raise StateError("All steps are done, so there is nothing left to predict; go back to an earlier state.")
    with torch.no_grad():
        if all(one is segments[0] for one in segments):
            call, entering, patches = _enter_together(method, segments[0], states)
        elif len({make_up(one.prepared) for one in segments}) == 1:
            call, entering, patches = _enter_apart(method, segments, states)
        else:
            return _predict_each(method, segments, states, watch)
        latents = torch.cat([state.latents for state in entering])
        predictions = ask_networks(call, patches, latents, timestep, watch)
    if len(states) == 1:
        return entering, [predictions]
    if isinstance(predictions, Predictions) and predictions.steer is not None:
        # Steering follows a loss over the whole batch, which is not that of each picture.
        return _predict_each(method, segments * len(states) if len(segments) == 1 else segments, states, watch)
    parts = {name: prediction.split(len(states[0].latents)) for name, prediction in predictions.items()}
    return entering, [{name: split[index] for name, split in parts.items()} for index in range(len(states))]


def _predict_each(
    method: Method,
    segments: Sequence[Segment],
    states: Sequence[State],
    watch: AbstractContextManager[Any] | None = None,
) -> tuple[list[State], list[dict[str, torch.Tensor]]]:
    """Do the work of `_predict` with one call for each state."""
    if watch is not None:
        raise StateError(f"These {len(states)} states cannot share a call, which is to be watched; ask one at a time.")
    single = [_predict(method, segment, [state]) for segment, state in zip(segments, states, strict=True)]
    return [entering for (entering,), _ in single], [predictions for _, (predictions,) in single]


def _enter_together(
    method: Method, segment: Segment, states: Sequence[State]
) -> tuple[EditCall, list[State], list[Patch]]:
    """Enter a step with all states at once, under one segment."""
    history = tuple(torch.cat(parts) for parts in zip(*(state.history for state in states), strict=True))
    together = replace(states[0], latents=torch.cat([state.latents for state in states]), history=history)
    call, entering, patches = enter_step(method, segment, together)
    latents = entering.latents.split(len(states[0].latents))
    return call, [replace(state, latents=part) for state, part in zip(states, latents, strict=True)], patches


def _enter_apart(
    method: Method, segments: Sequence[Segment], states: Sequence[State]
) -> tuple[EditCall, list[State], list[Patch]]:
    """Enter a step with each state under its own segment."""
    if len(segments) != len(states) or any(segment.settings != segments[0].settings for segment in segments):
        raise RangeError(
            f"{len(segments)} segments came for {len(states)} states, but one for each, all of equal settings, are "
            "expected."
        )
    calls, entering, patches = [], [], []
    for segment, state in zip(segments, states, strict=True):
        call, enters, own = enter_step(method, segment, state)
        calls.append(call)
        entering.append(enters)
        patches.append(own)
    prepared = calls[0].prepared
    if any(call.prepared is not prepared for call in calls):
        prepared = collate([call.prepared for call in calls])
    return replace(calls[0], prepared=prepared), entering, _side_by_side(patches, calls[0].guidance_passes)


def _side_by_side(patches: Sequence[Sequence[Patch]], guidance_passes: Sequence[str]) -> list[Patch]:
    """Join lists of patches, each for one row of a batch, into patches of the whole batch; the order stays."""
    by_place: dict[tuple[str, PatchPlace, str], list[list[Patch]]] = {}
    for row, own in enumerate(patches):
        for patch in own:
            for name in guidance_passes if patch.guidance_pass is None else (patch.guidance_pass,):
                rows = by_place.setdefault((patch.site, patch.place, name), [[] for _ in patches])
                rows[row].append(patch)
    return [Patch(site, place, partial(_apply_by_row, rows), name) for (site, place, name), rows in by_place.items()]


def _apply_by_row(rows: Sequence[Sequence[Patch]], tensor: torch.Tensor, where: PatchCall) -> torch.Tensor:
    """Apply to each row of a tensor the patches that belong to it."""
    parts = []
    for row, patches in zip(tensor.split(len(tensor) // len(rows)), rows, strict=True):
        part = row
        for patch in patches:
            if patch.is_active(where.step_index):
                changed = patch.function(part, where)
                part = part if changed is None else changed.to(part)
        parts.append(part)
    return torch.cat(parts)


def _known(predictions: dict[str, torch.Tensor]) -> Predict:
    """Return a prediction that was made already."""
    return lambda latents, timestep: predictions
