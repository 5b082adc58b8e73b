"""What CLIP's vision tower says about a picture: one token for cross-attention, and features on a grid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.shapes import check_shape

__all__ = ["PIXEL_MEAN", "PIXEL_STD", "clip_pixels", "patch_features", "pooled_token"]

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's published picture mean."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's published standard deviation of pictures."""


def clip_pixels(image: torch.Tensor, size_px: int) -> torch.Tensor:
    """Make a picture what a CLIP tower expects: square, the whole of it, normalised.

    Args:
        image: (B, 3, H, W) float, sRGB, [0, 1].
        size_px: side that the tower was made for.

    Returns:
        (B, 3, size_px, size_px), about standard normal. Differentiable.

    Deviation: squeezed to a square where CLIP's own processor cuts the sides off; an exemplar's edges have colors too.
    """
    check_shape(image, "B 3 H W", "image")
    mean, std = (image.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (PIXEL_MEAN, PIXEL_STD))
    square = functional.interpolate(image, size=(size_px, size_px), mode="bilinear", antialias=True)
    return (square - mean) / std


def pooled_token(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Encode (B, 3, H, W) in [0, 1] into one token (B, 1, D), the pooled output of a CLIP vision tower.

    Source: CtrlColor, arXiv 2402.10855, by the configuration of `ZhexinLiang/Control-Color@f21054a`.
    """
    config: Any = encoder.config
    token: torch.Tensor = encoder(pixel_values=clip_pixels(image, config.image_size)).pooler_output
    return token[:, None]


def patch_features(encoder: nn.Module, image: torch.Tensor, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return features of a CLIP vision tower on its grid of patches, for comparing pictures.

    Args:
        encoder: the tower; gradients reach the picture.
        image: (B, 3, H, W) float, sRGB, [0, 1].
        layers: numbers of transformer layers behind which to look, from 1; negative from the end.

    Returns:
        `layer_K` -> (B, D, h, w), the class token left out.

    Raises:
        RangeError: there is no such layer.
    """
    config: Any = encoder.config
    states = encoder(pixel_values=clip_pixels(image, config.image_size), output_hidden_states=True).hidden_states
    side = config.image_size // config.patch_size
    features = {}
    for layer in layers:
        number = layer if layer > 0 else len(states) + layer
        if not 0 < number < len(states):
            raise RangeError(f"There is no layer {layer}; the tower has 1 to {len(states) - 1}.")
        features[f"layer_{number}"] = states[number][:, 1:].transpose(1, 2).unflatten(2, (side, side))
    return features
