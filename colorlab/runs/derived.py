"""What follows from the predictions of a step: computed again on reading, instead of stored."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from colorlab.methods.absent import weightless
from colorlab.methods.base import Method
from colorlab.runs.segments import timesteps_of
from colorlab.sampling.solvers import find_solver
from colorlab.sampling.state import State
from colorlab.settings import Settings

__all__ = ["Derived", "derive", "same_bits"]


@dataclass(frozen=True, eq=False)
class Derived:
    """What guidance and solver made of the predictions of a step.

    Args:
        noise_pred: after guidance.
        pred_original_sample: the clean latents it implies.
        history: what the solver remembers; None where it was not asked for.
    """

    noise_pred: torch.Tensor
    pred_original_sample: torch.Tensor
    history: tuple[torch.Tensor, ...] | None


def derive(
    method: Method, settings: Settings, before: State, predictions: Mapping[str, torch.Tensor], *, has_history: bool
) -> Derived:
    """Compute what follows from the predictions of a step, without the weights of the model.

    Guidance is that of the registered method, so that a file means the same with and without its model.

    Args:
        method: the model, or what stands for it.
        settings: in force.
        before: state before the step.
        predictions: of each guidance pass.
        has_history: whether to step with the solver to see what it remembers.
    """
    noise_pred = weightless(method.name).guide(predictions, settings)
    timestep = before.timestep
    if timestep is None:
        raise ValueError("a step follows the last state")
    original = method.schedule.to_original_sample(noise_pred, before.latents, timestep)
    history = None
    if has_history and settings.eta == 0:
        # Both solvers that remember something remember this step alone.
        following = find_solver(settings.solver).step(
            before.without_history(), noise_pred, schedule=method.schedule, timesteps=timesteps_of(method, settings)
        )
        history = following.history
    return Derived(noise_pred, original, history)


def same_bits(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors are equal in dtype, shape and every bit."""
    if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
        return False
    mine, its = (each.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for each in (tensor, other))
    return torch.equal(mine, its)
