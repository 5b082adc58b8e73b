"""DPM-Solver++(2M) as a pure step."""

import math

import torch

from colorlab.errors import RangeError
from colorlab.sampling.euler import end_sigma
from colorlab.sampling.schedules import NoiseSchedule, working_precision
from colorlab.sampling.state import State, check_step

__all__ = ["dpmpp_2m_step"]

# Below this number of steps the last one is of first order, for stability.
_FEW_STEPS = 15


def dpmpp_2m_step(
    state: State,
    noise_pred: torch.Tensor,
    *,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> State:
    """Do one step of the second-order multistep DPM-Solver++, midpoint form.

    | equation | code |
    | --- | --- |
    | sigma / alpha at r, s, t (each earlier than the last) | `rho_r`, `rho_s`, `rho_t` |
    | alpha, sigma of the variance-preserving latents | 1 / sqrt(1 + rho^2), rho / sqrt(1 + rho^2) |
    | lambda = log(alpha / sigma); h = lambda_t - lambda_s, h0 = lambda_s - lambda_r | -log(rho); `h`, `h0` |
    | e^-h - 1 | `rho_t / rho_s - 1` |
    | x0 predicted at s and at r; D | `x0`, `x0_before`; `d` |

    Args:
        state: where to step from; its history is empty, or holds the x0 predicted one step earlier.
        noise_pred: predicted noise after guidance, as the latents.
        schedule: the noise schedule.
        timesteps: (number of steps,) the whole list of the run.
        eta: 0; this solver adds no noise.
        noise: not used.

    Returns:
        The next state; its history holds this step's x0.

    Raises:
        StateError, ShapeError: see `check_step`.
        RangeError: `eta` is not 0.

    Source: arXiv 2211.01095 v2, Algorithm 2; huggingface/diffusers:src/diffusers/schedulers/
        scheduling_dpmsolver_multistep.py with its default options (order 2, midpoint, lower order at the end).
    """
    check_step(state, noise_pred, timesteps)
    if eta != 0:
        raise RangeError(f"eta is {eta}, but dpmpp_2m adds no noise; use eta=0, or solver='ddim'.")
    x = working_precision(state.latents)
    k = state.step_index

    # 1. Where the step starts and where it ends.
    rho_s, rho_t = schedule.sigma_at(timesteps[k].item()), end_sigma(schedule, timesteps, k)
    scale_s, scale_t = math.sqrt(1 + rho_s**2), math.sqrt(1 + rho_t**2)

    # 2. x0 = (x_s - sigma_s e) / alpha_s
    x0 = x * scale_s - rho_s * noise_pred.to(x)

    # 3. D = x0 + h / (2 h0) (x0 - x0_before); at the first step, and at the last where it must, D = x0.
    d = x0
    if not _is_first_order(state, timesteps, rho_t):
        rho_r, x0_before = schedule.sigma_at(timesteps[k - 1].item()), state.history[-1].to(x)
        h, h0 = math.log(rho_s / rho_t), math.log(rho_r / rho_s)
        d = x0 + h / (2 * h0) * (x0 - x0_before)

    # 4. x_t = (sigma_t / sigma_s) x_s - alpha_t (e^-h - 1) D
    x_next = (rho_t / rho_s) * (scale_s / scale_t) * x - (1 / scale_t) * (rho_t / rho_s - 1) * d
    return state.after_step(x_next, timesteps, history=(x0,))


def _is_first_order(state: State, timesteps: torch.Tensor, rho_t: float) -> bool:
    """Return whether a step has no x0 before it to go by, or is the last one and would not be stable with it."""
    is_last = state.step_index == len(timesteps) - 1
    return not state.history or (is_last and (rho_t == 0 or len(timesteps) < _FEW_STEPS))
