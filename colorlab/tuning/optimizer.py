"""Adam as a pure step: new tensors come out and the old ones stay, so that an interrupt cannot leave half a step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

__all__ = ["Moments", "adam_step", "clip_gradients"]

_BETAS = (0.9, 0.999)
_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class Moments:
    """What Adam remembers.

    Args:
        first: running mean of each gradient.
        second: running mean of its square.
        num_steps: steps taken.
    """

    first: Mapping[str, torch.Tensor] = field(default_factory=dict)
    second: Mapping[str, torch.Tensor] = field(default_factory=dict)
    num_steps: int = 0


def clip_gradients(gradients: Mapping[str, torch.Tensor], max_norm: float) -> tuple[dict[str, torch.Tensor], float]:
    """Scale gradients down to a common norm; return them and the norm they had."""
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    scale = min(1.0, max_norm / norm) if norm > 0 else 1.0
    return {name: gradient * scale for name, gradient in gradients.items()}, norm


def adam_step(
    weights: Mapping[str, torch.Tensor],
    gradients: Mapping[str, torch.Tensor],
    moments: Moments,
    *,
    learning_rate: float,
) -> tuple[dict[str, torch.Tensor], Moments]:
    """Take one step.

    | equation | code |
    | --- | --- |
    | m_k = b1 m + (1 - b1) g, v_k = b2 v + (1 - b2) g^2 | `first`, `second` |
    | w_k = w - lr (m_k / (1 - b1^k)) / (sqrt(v_k / (1 - b2^k)) + eps) | `stepped` |

    Args:
        weights: by name.
        gradients: by the same names.
        moments: of the step before; empty for the first.
        learning_rate: lr.

    Returns:
        New weights and moments.

    Source: Kingma and Ba, arXiv 1412.6980 v9, Algorithm 1.
    """
    number = moments.num_steps + 1
    first, second, stepped = {}, {}, {}
    for name, weight in weights.items():
        gradient = gradients[name]
        mean, square = moments.first.get(name), moments.second.get(name)
        first[name] = (1 - _BETAS[0]) * gradient if mean is None else torch.lerp(mean, gradient, 1 - _BETAS[0])
        squared = gradient.square()
        second[name] = (1 - _BETAS[1]) * squared if square is None else torch.lerp(square, squared, 1 - _BETAS[1])
        unbiased = first[name] / (1 - _BETAS[0] ** number)
        size = (second[name] / (1 - _BETAS[1] ** number)).sqrt() + _EPS
        stepped[name] = weight - learning_rate * unbiased / size
    return stepped, Moments(first, second, number)
