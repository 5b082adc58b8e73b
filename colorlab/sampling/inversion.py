"""DDIM run backwards: from a clean picture to the noise that would have led to it."""

import math
from collections.abc import Callable

import torch

from colorlab.sampling.ddim import ddim_target_timestep
from colorlab.sampling.schedules import NoiseSchedule, working_precision
from colorlab.shapes import check_shape

__all__ = ["ddim_invert"]

Predict = Callable[[torch.Tensor, int], torch.Tensor]


def ddim_invert(
    latents: torch.Tensor, predict: Predict, *, schedule: NoiseSchedule, timesteps: torch.Tensor
) -> torch.Tensor:
    """Bring clean latents to the first timestep of a list, so that DDIM along the list leads back to them.

    | equation | code |
    | --- | --- |
    | x_s, x_t (s earlier than t) | `x`, the next `x` |
    | abar_s, abar_t | `abar_s`, `abar_t` |
    | e(x_s, t) | `eps` |

    Args:
        latents: (B, C, h, w) float, clean and scaled.
        predict: (latents, timestep) -> predicted noise, as `latents`.
        schedule: the noise schedule.
        timesteps: (number of steps,) int64, descending, as the run visits them.

    Returns:
        As `latents`, as noisy as they are at `timesteps[0]`.

    Raises:
        ShapeError: `latents` are not (B, C, h, w).

    Source: arXiv 2010.02502 v4, Sec. 4.3 (Eq. (14) read backwards); DiffColor, arXiv 2308.01655, is silent about it.
    Deviation: the noise is asked for at the timestep that is gone to, which is the one DDIM asks for on its way back:
        for a network that does not depend on the latents the way back is then exact.
    """
    check_shape(latents, "B C h w", "latents")
    x = working_precision(latents)
    final = 1.0 if schedule.set_alpha_to_one else schedule.alphas_cumprod[0].item()
    for index in range(len(timesteps) - 1, -1, -1):
        timestep = int(timesteps[index])
        earlier = ddim_target_timestep(timesteps, index, schedule.num_train_timesteps)
        abar_s = schedule.alphas_cumprod[earlier].item() if earlier >= 0 else final
        abar_t = schedule.alphas_cumprod[timestep].item()
        eps = predict(x.to(latents.dtype), timestep).to(x)
        # x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) e with x0 = (x_s - sqrt(1 - abar_s) e) / sqrt(abar_s)
        clean = (x - math.sqrt(1 - abar_s) * eps) / math.sqrt(abar_s)
        x = math.sqrt(abar_t) * clean + math.sqrt(1 - abar_t) * eps
    return x.to(latents.dtype)
