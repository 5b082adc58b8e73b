"""What CLIP's vision tower says about a picture: one or many tokens for cross-attention, and features on a grid."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.shapes import check_shape

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "clip_pixels",
    "exemplar_pixels",
    "patch_features",
    "pooled_token",
    "projected_tokens",
]

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
    square = functional.interpolate(image, size=(size_px, size_px), mode="bilinear", antialias=True)
    return _normalized(square)


def exemplar_pixels(image: torch.Tensor, size_px: int) -> torch.Tensor:
    """Make an exemplar what a CLIP tower expects, as ColorizeDiffusion does: squeezed to a square, bicubic.

    Args:
        image: (B, 3, H, W) float, sRGB, [0, 1].
        size_px: side that the tower was made for.

    Returns:
        (B, 3, size_px, size_px), about standard normal; not clamped where the cubic overshoots.

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb.
    """
    check_shape(image, "B 3 H W", "image")
    return _normalized(
        functional.interpolate(image, size=(size_px, size_px), mode="bicubic", antialias=True, align_corners=True)
    )


def projected_tokens(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Encode an exemplar into tokens of the space that CLIP's text shares, every patch like the class token.

    Args:
        encoder: a CLIP vision tower with its projection.
        image: (B, 3, H, W) float, sRGB, [0, 1].

    Returns:
        (B, 1 + N, D), index 0 the class token, the patches row by row; not normalised.

    Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@c9bd9fb, which norms and projects
        every token where CLIP itself does so with the class token alone.
    """
    tower: Any = encoder
    hidden = tower.vision_model(pixel_values=exemplar_pixels(image, tower.config.image_size)).last_hidden_state
    tokens: torch.Tensor = tower.visual_projection(tower.vision_model.post_layernorm(hidden))
    return tokens


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


def _normalized(image: torch.Tensor) -> torch.Tensor:
    """Bring (B, 3, H, W) in [0, 1] to CLIP's pixel statistics."""
    mean, std = (image.new_tensor(numbers).view(1, 3, 1, 1) for numbers in (PIXEL_MEAN, PIXEL_STD))
    return (image - mean) / std
