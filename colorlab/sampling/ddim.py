"""DDIM as a pure step."""

import math

import torch

from colorlab.errors import RangeError
from colorlab.sampling.schedules import NoiseSchedule, working_precision
from colorlab.sampling.state import State, check_same_shape, check_step
from colorlab.shapes import check_range

__all__ = ["ddim_step", "ddim_target_timestep"]


def ddim_step(
    state: State,
    noise_pred: torch.Tensor,
    *,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    eta: float = 0.0,
    noise: torch.Tensor | None = None,
) -> State:
    """Do one step of denoising diffusion implicit models.

    | equation | code |
    | --- | --- |
    | x_t, x_s (s earlier than t) | `x`, `x_next` |
    | abar_t, abar_s | `abar_t`, `abar_s` |
    | e(x_t, t) | `eps` |
    | x0 | `x0` |
    | sigma_t(eta) | `std` |

    Args:
        state: where to step from.
        noise_pred: predicted noise after guidance, as the latents.
        schedule: the noise schedule.
        timesteps: (number of steps,) the whole list of the run, also when it began in its middle.
        eta: 0 is deterministic, 1 as noisy as ancestral sampling; [0, 1].
        noise: standard normal, as the latents; needed when `eta` > 0.

    Returns:
        The next state, without history.

    Raises:
        StateError, ShapeError: see `check_step`.
        RangeError: `eta` is outside [0, 1], or above 0 without noise; or a timestep is not an integer.

    Source: arXiv 2010.02502 v4, Eq. (12) and (16); huggingface/diffusers:src/diffusers/schedulers/scheduling_ddim.py.
    """
    check_step(state, noise_pred, timesteps)
    check_range(eta, 0, 1, "eta")
    x = working_precision(state.latents)
    eps = noise_pred.to(x)

    # 1. Where the step starts and where it ends.
    abar_t, abar_s = _end_points(schedule, timesteps, state.step_index)

    # 2. x0 = (x_t - sqrt(1 - abar_t) e) / sqrt(abar_t)
    x0 = (x - math.sqrt(1 - abar_t) * eps) / math.sqrt(abar_t)

    # 3. sigma_t = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)
    std = eta * math.sqrt((1 - abar_s) / (1 - abar_t)) * math.sqrt(1 - abar_t / abar_s)

    # 4. x_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - sigma_t^2) e + sigma_t noise
    x_next = math.sqrt(abar_s) * x0 + math.sqrt(1 - abar_s - std**2) * eps
    if eta > 0:
        if noise is None:
            raise RangeError(
                f"eta is {eta}, but no noise came; pass noise=step_noise(seed, step_index, ...), or eta=0."
            )
        check_same_shape(noise, state.latents, "noise")
        x_next = x_next + std * noise.to(x)
    return state.after_step(x_next, timesteps)


def _end_points(schedule: NoiseSchedule, timesteps: torch.Tensor, step_index: int) -> tuple[float, float]:
    """Return abar where a step starts and where it ends."""
    target = ddim_target_timestep(timesteps, step_index, schedule.num_train_timesteps)
    final = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0].item()
    abar_s = schedule.alphas_cumprod[target].item() if target >= 0 else final
    return schedule.alphas_cumprod[int(timesteps[step_index])].item(), abar_s


def ddim_target_timestep(timesteps: torch.Tensor, step_index: int, num_train_timesteps: int) -> int:
    """Return the timestep whose noise level a DDIM step ends at; below 0 means the end.

    It is t - T // S for S steps, whatever the list names next: the rule of diffusers. The two agree for `leading`; for
    `linspace` and `trailing` with an S that does not divide T the network is then told a level a little off the true
    one. A published list (1, 1 + c, 1 + 2c ...) can be longer than S, so its own spacing c counts.
    """
    if timesteps.is_floating_point():
        raise RangeError(
            "timesteps fall between integers, but ddim knows integers only; make the list for solver='ddim'."
        )
    timestep = int(timesteps[step_index])
    stride = num_train_timesteps // len(timesteps)
    if len(timesteps) > 1 and int(timesteps[-1]) == 1:
        gaps = timesteps[:-1] - timesteps[1:]
        if bool((gaps == gaps[0]).all()):
            stride = int(gaps[0])
    return timestep - stride
