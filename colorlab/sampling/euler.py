"""The Euler method as a pure step."""

import math

import torch

from colorlab.errors import RangeError
from colorlab.sampling.schedules import NoiseSchedule, working_precision
from colorlab.sampling.state import State, check_step

__all__ = ["end_sigma", "euler_step"]


def euler_step(
    state: State,
    noise_pred: torch.Tensor,
    *,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> State:
    """Do one Euler step of the probability-flow differential equation dy / dsigma = e(x, t).

    The equation lives in variance-exploding latents y = x / alpha = x sqrt(1 + sigma^2): clean picture plus sigma times
    noise. States hold x, so it is rescaled here on the way in and on the way out.

    | equation | code |
    | --- | --- |
    | sigma_t, sigma_s (s earlier than t) | `sigma_t`, `sigma_s` |
    | y_t, y_s | `y`, `y_next` |
    | e(x_t, t) | `eps` |

    Args:
        state: where to step from.
        noise_pred: predicted noise after guidance, as the latents.
        schedule: the noise schedule.
        timesteps: (number of steps,) the whole list of the run.
        eta: 0; this solver adds no noise.
        noise: not used.

    Returns:
        The next state, without history.

    Raises:
        StateError, ShapeError: see `check_step`.
        RangeError: `eta` is not 0.

    Source: arXiv 2206.00364 v2, Algorithm 2 without churn;
        huggingface/diffusers:src/diffusers/schedulers/scheduling_euler_discrete.py with its default options.
    Deviation: a run starts from unit normal latents for every spacing; diffusers' first latents are smaller by
        sigma / sqrt(1 + sigma^2) (0.3 percent) for `linspace` and `trailing`.
    """
    check_step(state, noise_pred, timesteps)
    if eta != 0:
        raise RangeError(f"eta is {eta}, but euler adds no noise; use eta=0, or solver='ddim'.")
    x = working_precision(state.latents)
    eps = noise_pred.to(x)

    # 1. Where the step starts and where it ends.
    sigma_t = schedule.sigma_at(timesteps[state.step_index].item())
    sigma_s = end_sigma(schedule, timesteps, state.step_index)

    # 2. y_s = y_t + (sigma_s - sigma_t) e
    y = x * math.sqrt(1 + sigma_t**2)
    y_next = y + (sigma_s - sigma_t) * eps

    # 3. Back to variance preserving.
    return state.after_step(y_next / math.sqrt(1 + sigma_s**2), timesteps)


def end_sigma(schedule: NoiseSchedule, timesteps: torch.Tensor, step_index: int) -> float:
    """Return noise over signal where a step of Euler or DPM-Solver++ ends: that of the timestep that comes next."""
    if step_index + 1 < len(timesteps):
        return schedule.sigma_at(timesteps[step_index + 1].item())
    return 0.0 if schedule.final_sigmas_type == "zero" else schedule.sigma_at(0)
