"""Quick previews: a few large steps from the middle of a run, under another conditioning or other settings."""

from collections.abc import Iterator

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import to_uint8
from colorlab.methods.base import Method
from colorlab.runs.cost import CostMeter
from colorlab.runs.run import Run
from colorlab.runs.segments import decode_picture, make_segment, take_step
from colorlab.sampling.state import State
from colorlab.settings import Settings
from colorlab.shapes import check_range

__all__ = ["quick_preview"]


def quick_preview(
    run: Run, conditioning: Conditioning, settings: Settings, *, num_steps: int = 4, start: float = 0.2
) -> Iterator[np.ndarray | None]:
    """Show about what a run would become if it were given something else, without taking all its steps.

    It starts from the latents of the run some way into it, which have the layout of the picture but are still open for
    other colors, and goes to the end in a few even steps of DPM-Solver++(2M). What asks the networks once more in one
    step and changes little, self-attention guidance, is left out, unless that is what was changed. The run and its tree
    stay as they are.

    Args:
        run: has taken steps, the more the better; from noise it starts where none was taken.
        conditioning: what to color instead, a picture of the same size.
        settings: how; number of steps, spacing, solver and eta are those of a preview.
        num_steps: 1 to 20; 4 to 6 are usual.
        start: share of the run's steps that are taken over, [0, 1); a smaller one changes more.

    Yields:
        None after every step but the last, so that others can have the model, then the picture: (H, W, 3) uint8.

    Raises:
        RangeError: a number is out of range, or the picture has another shape.

    Source: ours; the solver is that of arXiv 2211.01095.
    Deviation: edits of the run are left out, and strokes with a range of steps count by the steps of the preview.
    """
    check_range(num_steps, 1, 20, "num_steps")
    if not 0 <= start < 1:
        raise RangeError(f"start is {start!r}, but a share of the steps from 0 to below 1 is expected.")
    method, first = run.method, min(int(start * run.num_steps), run.step_index)
    # Not to the last timestep of the run: the step before it would be so much longer in log signal-to-noise than those
    # before that the second-order solver overshoots.
    places = np.unique(np.linspace(first, run.num_steps, num_steps, endpoint=False).astype(int))
    timesteps = run.timesteps[torch.from_numpy(places)]
    settings = _without_refinements(method, settings, run.settings).replace(
        solver="dpmpp_2m", eta=0.0, num_inference_steps=run.num_steps, timestep_spacing=run.settings.timestep_spacing
    )
    with method.lock:
        segment = make_segment(method, 0, conditioning, settings, tree=run.tree, meter=CostMeter(method))
    latents = run.states[first].latents
    if tuple(latents.shape[1:]) != tuple(segment.prepared.latent_shape):
        raise RangeError(
            f"The new picture has latents of shape {segment.prepared.latent_shape}, but the run has "
            f"{tuple(latents.shape[1:])}; start a run of the new picture first."
        )
    state = State(0, timesteps[0].item(), latents)
    for _ in range(len(timesteps) - 1):
        with method.lock:
            _, state = take_step(method, segment, state, timesteps=timesteps, sample_index=run.sample_index)
        yield None
    with method.lock:
        _, state = take_step(method, segment, state, timesteps=timesteps, sample_index=run.sample_index)
    yield to_uint8(decode_picture(method, segment, state.latents))


def _without_refinements(method: Method, settings: Settings, before: Settings) -> Settings:
    """Switch off what costs more calls than it changes, where it is as it was before."""
    for mechanism in method.mechanisms:
        is_changed = mechanism.in_force(settings) != mechanism.in_force(before)
        if mechanism.is_refinement and mechanism.is_on(settings) and not is_changed:
            settings = settings.with_mechanism(mechanism.name, is_on=False)
    return settings
