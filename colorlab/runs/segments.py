"""Segment: a stretch of a run under one Conditioning, one Settings and one tuple of edits."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, StateError
from colorlab.methods.base import Method, Prepared
from colorlab.networks.environment import Environment, environment_of
from colorlab.networks.patching import Patch, patched
from colorlab.runs.cost import CostMeter
from colorlab.runs.edits import Edit, EditCall, check_edits, entering_latents, step_patches
from colorlab.runs.tree import Tree
from colorlab.sampling.loop import first_state, sample_step
from colorlab.sampling.noise import initial_noise
from colorlab.sampling.records import StepRecord
from colorlab.sampling.solvers import find_solver
from colorlab.sampling.state import State
from colorlab.settings import Settings

__all__ = [
    "Edit",
    "Segment",
    "ask_networks",
    "changes_between",
    "check_continues",
    "decode_picture",
    "enter_step",
    "initial_state",
    "make_segment",
    "predict_step",
    "take_step",
    "timesteps_of",
    "with_memory",
]


@dataclass(frozen=True, eq=False)
class Segment:
    """What is in force from one step of a run until the next segment.

    Args:
        first_step: index of the first step it governs; the number of steps when it governs the decoding alone.
        conditioning: what the user gave.
        settings: how to sample.
        prepared: the conditioning, encoded.
        edits: applied in this order around every prediction.
        environment: in which the conditioning was encoded, by that of the autoencoder; None where nobody took note.
    """

    first_step: int
    conditioning: Conditioning
    settings: Settings
    prepared: Prepared
    edits: tuple[Edit, ...] = ()
    environment: Environment | None = None


def timesteps_of(method: Method, settings: Settings) -> torch.Tensor:
    """Return the timesteps that `settings` ask for, noisiest first."""
    return method.timesteps(settings)


def initial_state(method: Method, segment: Segment, *, sample_index: int = 0) -> State:
    """Return the state a run starts from: noise of the seed and the sample alone, and what the method makes of it."""
    noise = initial_noise(segment.settings.seed, sample_index, (1, *segment.prepared.latent_shape))
    return first_state(
        method.start_noise(segment.prepared, noise, segment.settings),
        schedule=method.schedule,
        timesteps=timesteps_of(method, segment.settings),
    )


def take_step(
    method: Method, segment: Segment, state: State, *, timesteps: torch.Tensor, sample_index: int = 0
) -> tuple[StepRecord, State]:
    """Take one step: predict, guide, solve. Equal arguments give equal bits.

    The caller holds the lock of the method.
    """
    settings = segment.settings
    with torch.no_grad():
        call, entering, patches = enter_step(method, segment, state)
        environment = environment_of(method.unet)
        following, record = sample_step(
            entering,
            predict=lambda latents, timestep: ask_networks(call, patches, latents, timestep),
            guide=lambda predictions: method.guide(predictions, settings),
            solver=find_solver(settings.solver),
            schedule=method.schedule,
            timesteps=timesteps,
            eta=settings.eta,
            seed=settings.seed,
            sample_index=sample_index,
        )
    if patches:
        # Hooks of compiled modules are never called, so that a patched network computes uncompiled.
        environment = replace(environment, is_compiled=False)
    return replace(record, environment=environment), with_memory(method, settings, state, following)


def with_memory(method: Method, settings: Settings, before: State, following: State) -> State:
    """Return the state after a step with what the method remembers beside the solver: the latents before."""
    if not method.remembers_latents(settings):
        return following
    return replace(following, history=(*following.history, before.latents))


def predict_step(
    method: Method, segment: Segment, state: State, *, watch: AbstractContextManager[Any] | None = None
) -> dict[str, torch.Tensor]:
    """Ask the networks about a state, mechanisms and edits applied: the call that a step makes and a replay repeats.

    The caller holds the lock of the method.

    Args:
        method: the loaded model.
        segment: what is in force.
        state: before the step, as the run recorded it; edits of the latents are applied here.
        watch: entered around the one call of the networks alone, after every patch is installed: hooks that it adds
            see what the networks really compute.

    Raises:
        StateError: no step comes after the state.
    """
    if state.timestep is None:
        raise StateError("All steps are done, so there is nothing left to predict; go back to an earlier state.")
    with torch.no_grad():
        call, entering, patches = enter_step(method, segment, state)
        return ask_networks(call, patches, entering.latents, state.timestep, watch)


def decode_picture(method: Method, segment: Segment, latents: torch.Tensor) -> torch.Tensor:
    """Decode and finish clean latents (1, C, h, w) as the picture itself, (1, 3, H, W), without rounding to 8 bits."""
    with method.lock, torch.no_grad():
        decoded = method.decode(latents, segment.prepared, segment.settings)
        return method.finish_image(decoded, segment.conditioning, segment.settings)


def make_segment(
    method: Method,
    first_step: int,
    conditioning: Conditioning,
    settings: Settings,
    *,
    edits: Sequence[Edit] = (),
    tree: Tree,
    meter: CostMeter,
) -> Segment:
    """Encode a conditioning, check the edits, and tell the user what of it does not reach the model.

    Raises:
        RangeError: an edit names what does not exist.
        StateError: an edit needs what is not there yet.
    """
    with meter.measure("prepare"), torch.no_grad():
        environment = environment_of(method.vae)
        prepared = method.prepare(conditioning, settings)
        steps = timesteps_of(method, settings).tolist()
        check_edits(edits, EditCall.of(method, conditioning, settings, prepared, first_step, timesteps=steps), tree)
    method.warn(prepared.notes)
    return Segment(first_step, conditioning, settings, prepared, tuple(edits), environment)


def changes_between(old: Segment, new: Segment) -> tuple[str, ...]:
    """Say what a segment changes, but for what the name of a run says anyway (`Run.subject`).

    That is prompt and seed, and text edits, strokes and masks where their words differ: one stroke in place of another
    is still "1 stroke", so that it is told here.

    Args:
        old: what was in force before.
        new: what is in force now.

    Returns:
        One text for each setting, mechanism and picture that differs, and one for the edits.
    """
    before, after = old.settings.to_dict(), new.settings.to_dict()
    mechanisms, others = after.pop("mechanisms"), before.pop("mechanisms")
    told = [f"{name}={value!r}" for name, value in after.items() if name != "seed" and value != before[name]]
    told += [
        f"{name}({', '.join(f'{key}={value!r}' for key, value in mechanisms.get(name, {}).items())})"
        for name in sorted({*mechanisms, *others})
        if mechanisms.get(name) != others.get(name)
    ]
    told += [
        f"other {field.name}"
        for field in fields(Conditioning)
        if old.conditioning.content_hash(field.name) != new.conditioning.content_hash(field.name)
        and not _is_named(field.name, old.conditioning, new.conditioning)
    ]
    if new.edits != old.edits:
        told.append(f"edits {', '.join(type(edit).__name__ for edit in new.edits) or 'removed'}")
    return tuple(told)


def _is_named(name: str, old: Conditioning, new: Conditioning) -> bool:
    """Return whether the words of `Conditioning.subject` tell two different values of a field apart."""
    if name in ("manipulations", "strokes", "masks"):
        return old.in_words(name) != new.in_words(name)
    return name == "prompt"


def check_continues(method: Method, step: int, old: Segment, new: Segment) -> None:
    """Check that a run that came to a step under one segment can go on from there under another.

    Raises:
        RangeError: the change cannot be made in the middle of a run.
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


def enter_step(method: Method, segment: Segment, state: State) -> tuple[EditCall, State, list[Patch]]:
    """Return the call of a step, the state that enters it, and every patch of the denoising network, in order.

    The caller holds the lock of the method. The state may hold several pictures of one conditioning.
    """
    timesteps = () if state.timestep is None else (state.timestep,)
    call = EditCall.of(
        method,
        segment.conditioning,
        segment.settings,
        segment.prepared,
        state.step_index,
        timesteps=timesteps,
        before=_step_before(method, segment.settings, state),
    )
    latents = entering_latents(segment.edits, state.latents, call)
    entering = state if latents is state.latents else replace(state, latents=latents)
    return call, entering, step_patches(segment.edits, call)


def ask_networks(
    call: EditCall,
    patches: Sequence[Patch],
    latents: torch.Tensor,
    timestep: int | float,
    watch: AbstractContextManager[Any] | None = None,
) -> dict[str, torch.Tensor]:
    """Ask the networks once under patches; arguments as `enter_step` returns them, `watch` as in `predict_step`."""
    installed: AbstractContextManager[None] = nullcontext()
    # Without patches nothing at all is installed.
    if patches:
        installed = patched(
            call.network,
            patches,
            guidance_passes=call.guidance_passes,
            step_index=call.step_index,
            num_samples=len(latents),
        )
    # Not `watch or ...`: a probe that has read nothing yet is an empty mapping.
    with installed, nullcontext() if watch is None else watch:
        return call.method.predict(call.prepared, latents, timestep, call.settings)


def _step_before(method: Method, settings: Settings, state: State) -> tuple[torch.Tensor, float] | None:
    """Return latents and timestep of the step before a state, where it remembers them."""
    if not state.history or not method.remembers_latents(settings):
        return None
    return state.history[-1], timesteps_of(method, settings)[state.step_index - 1].item()
