"""Initial weights that pass the picture through: convolutional autoencoders then learn color from the first step.

With random weights every normalisation mixes what the input was; a network of 1 M parameters spends thousands of steps
on learning to copy. Here residual branches begin at zero, sampling down is average pooling, sampling up is repetition.

Source: ours; the zero residual branch is that of Goyal et al., arXiv 1706.02677, section 5.1.
"""

from typing import Any

import torch
from torch import nn

from colorlab.networks.libraries import AutoencoderKL
from colorlab.networks.luminance import LuminanceEncoder


def fresh_tap_encoder(vae: AutoencoderKL, *, seed: int) -> LuminanceEncoder:
    """Return an untrained encoder whose taps, all zero, fit the decoder of an autoencoder.

    Args:
        vae: the autoencoder.
        seed: of the initial weights.
    """
    config = vae.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = LuminanceEncoder(
            block_out_channels=config.block_out_channels,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
        )
    pass_through(encoder)
    return encoder.to(memory_format=torch.channels_last)


@torch.no_grad()
def pass_through(module: nn.Module) -> None:
    """Set the weights of diffusers' autoencoder blocks so that features pass through unchanged.

    Args:
        module: an autoencoder, or its encoder or decoder; changed in place.
    """
    block: Any
    for block in module.modules():
        kind = type(block).__name__
        if kind == "ResnetBlock2D":
            _zero(block.conv2)
            if block.conv_shortcut is not None:
                _copy_first_channels(block.conv_shortcut)
        elif kind == "Attention":
            _zero(block.to_out[0])
        elif kind == "Downsample2D":
            _zero(block.conv)
            channels = range(block.conv.weight.shape[0])
            for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
                block.conv.weight[channels, channels, row, column] = 0.25
        elif kind == "Upsample2D":
            _zero(block.conv)
            channels = range(block.conv.weight.shape[0])
            block.conv.weight[channels, channels, 1, 1] = 1.0


def _zero(layer: Any) -> None:
    """Clear weight and bias."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def _copy_first_channels(shortcut: Any) -> None:
    """Let the first output channels be the input channels; the others keep their random mixtures."""
    count = min(shortcut.weight.shape[:2])
    shortcut.weight[:count] = 0.0
    shortcut.weight[range(count), range(count)] = 1.0
    nn.init.zeros_(shortcut.bias)
