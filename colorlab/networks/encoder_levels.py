"""What an autoencoder's encoder sees of a picture on its way down: fine features that tell places apart."""

from typing import Any

import torch

from colorlab.errors import RangeError
from colorlab.shapes import check_shape

__all__ = ["encoder_levels"]


def encoder_levels(vae: Any, image: torch.Tensor, num_levels: int) -> tuple[torch.Tensor, ...]:
    """Return the features of an encoder's finest levels; the levels behind them are not computed.

    Args:
        vae: `AutoencoderKL`.
        image: (B, 3, H, W) float, sRGB, [0, 1]; both sides divisible by 2 to the power of `num_levels` - 1.
        num_levels: how many levels, from the finest.

    Returns:
        For each level (B, C, h, w), the output of its last residual block; h and w halve from level to level.

    Raises:
        ShapeError: `image` is no batch of color pictures.
        RangeError: the encoder has fewer levels.
    """
    check_shape(image, "B 3 H W", "image")
    blocks = vae.encoder.down_blocks
    if not 1 <= num_levels <= len(blocks):
        raise RangeError(f"num_levels is {num_levels}, but the encoder has 1 to {len(blocks)}.")
    parameter = next(vae.encoder.parameters())
    sample = vae.encoder.conv_in(image.to(parameter) * 2 - 1)
    levels = []
    for block in blocks[:num_levels]:
        for resnet in block.resnets:
            sample = resnet(sample, None)
        levels.append(sample)
        if len(levels) < num_levels:
            sample = block.downsamplers[0](sample)
    return tuple(levels)
