"""What may be done to exemplar tokens in training, so that the sketch and not the exemplar decides what is where.

| strategy | here |
| --- | --- |
| latent shuffle | `shuffle_tokens`; cross-attention sums over tokens, so it cannot change anything but rounding |
| high drop rate | `drop_tokens` |
| noisy training, first and later version | `noisy_tokens`, `noise_timesteps` |
| offset noise of the latents | `offset_noise` |

Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@d876b7e (first) and @c9bd9fb (later).
"""

from typing import Literal

import torch

from colorlab.sampling.schedules import NoiseSchedule

__all__ = [
    "OFFSET_NOISE",
    "TokenNoise",
    "drop_tokens",
    "noise_timesteps",
    "noisy_tokens",
    "offset_noise",
    "shuffle_tokens",
]

TokenNoise = Literal["none", "first", "later"]

OFFSET_NOISE = 0.05
"""Size of the noise that all cells of a latent channel share."""
_SHARED_NOISE = 0.01
_NEARLY_CLEAN = 900


def noise_timesteps(timesteps: torch.Tensor, num_train_timesteps: int, version: TokenNoise) -> torch.Tensor:
    """Return how noisy the tokens of each sample are; `later` the noisiest tenth of timesteps has nearly clean ones."""
    if version == "later":
        return torch.where(timesteps < _NEARLY_CLEAN, timesteps, num_train_timesteps - 1 - timesteps)
    return timesteps


def noisy_tokens(
    tokens: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    schedule: NoiseSchedule,
    *,
    version: TokenNoise,
    shared: torch.Tensor | None = None,
) -> torch.Tensor:
    """Make tokens noisy by the timestep of their sample.

    first: sqrt(abar_t) c + sqrt(1 - abar_t) n + 0.01 m; later: sqrt(abar_t') c + sqrt(1 - abar_t') n

    Args:
        tokens: c, (B, N, D).
        noise: n, as `tokens`, standard normal.
        timesteps: t, (B,) int64.
        schedule: of the latents.
        version: `none` returns the tokens themselves.
        shared: m, (B,) standard normal, only of `first`; None leaves its term out.

    Returns:
        (B, N, D).
    """
    if version == "none":
        return tokens
    noised = schedule.add_noise(tokens, noise, noise_timesteps(timesteps, schedule.num_train_timesteps, version))
    if version == "first" and shared is not None:
        noised = noised + _SHARED_NOISE * shared[:, None, None]
    return noised


def drop_tokens(tokens: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Replace the tokens (B, N, D) of whole samples by zeros; `kept` is (B,), 1 or 0."""
    return tokens * kept.to(tokens)[:, None, None]


def shuffle_tokens(tokens: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Reorder the tokens (B, N, D), all samples alike, by (N,) int64."""
    return tokens[:, permutation]


def offset_noise(noise: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """Add noise that all cells share: one draw for each sample (B,), or for each of its channels (B, C)."""
    return noise + OFFSET_NOISE * shared.reshape(len(noise), -1, 1, 1)
