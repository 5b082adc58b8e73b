"""ColorizeDiffusion's sketch branch: line art becomes one hint for each size of features on the UNet's way down.

| published checkpoint | here |
| --- | --- |
| `model`, eight convolutions | `stem`: picture to f0, an eighth of its size |
| `output_blocks` | `stages`: f1, f2 ..., each from the one before; all but the last halve the size |
| `zero_layer`, `zero_blocks` | `zero_convs`: f_i to hint i, zero at the start |

The hints enter *in the flow*: later blocks of the UNet and its skip connections both see the sum. They do not depend on
the timestep, so that a sketch is encoded once for a whole run.

Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@c9bd9fb, whose released weights need
    this network (the paper's own, of one hint, is not built).
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from colorlab.errors import ShapeError
from colorlab.networks.environment import eagerly
from colorlab.networks.libraries import ConfigMixin, ModelMixin, register_to_config
from colorlab.networks.sites import uncompiled
from colorlab.shapes import check_shape

__all__ = ["NO_SKETCH", "SketchEncoder", "hint_places", "injected_hints", "sketch_pixels"]

NO_SKETCH = -1.0
"""Paper as the network sees it; a picture of nothing else stands for "no sketch" and goes through the encoder."""


class SketchEncoder(ModelMixin, ConfigMixin):
    """Encode a line drawing into one hint for each size of features.

    A fresh encoder gives hints of zero, with which the UNet is the plain one.

    Args:
        in_channels: channels of the drawing; the published three are copies of one.
        stem_channels: widths of the stem, one for each of the sizes 1, 1/2, 1/4 and 1/8.
        block_out_channels: widths of the UNet's levels, finest first.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        stem_channels: Sequence[int] = (16, 32, 96, 256),
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
    ) -> None:
        super().__init__()
        first = block_out_channels[0]
        layers = [_conv(in_channels, stem_channels[0]), nn.SiLU()]
        for channels, following in itertools.pairwise(stem_channels):
            layers += [_conv(channels, channels), nn.SiLU(), _conv(channels, following, stride=2), nn.SiLU()]
        self.stem = nn.Sequential(*layers, _conv(stem_channels[-1], first))
        widths = (first, *block_out_channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                _conv(channels, following, stride=1 if index == len(block_out_channels) - 1 else 2),
                nn.SiLU(),
                _conv(following, following),
            )
            for index, (channels, following) in enumerate(itertools.pairwise(widths))
        )
        self.zero_convs = nn.ModuleList(_zero_conv(channels) for channels in widths)

    def forward(self, sketch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode drawings.

        Args:
            sketch: (B, `in_channels`, H, W), see `sketch_pixels`; H and W are multiples of the coarsest hint's pixel.

        Returns:
            The hints, finest first: (B, C_0, H / 8, W / 8), then one behind each level's downsampling, then one of the
            last one's size, (B, C_last, ...).

        Raises:
            ShapeError: another number of channels, or a size that does not divide.
        """
        sizes = check_shape(sketch, f"B {self.config.in_channels} H W", "sketch")
        multiple_px = 2 ** (len(self.config.stem_channels) - 1) * 2 ** (len(self.stages) - 1)
        if sizes["H"] % multiple_px or sizes["W"] % multiple_px:
            raise ShapeError(
                f"sketch is {sizes['H']}x{sizes['W']} pixels, but this sketch encoder needs multiples of "
                f"{multiple_px}; resize it first."
            )
        features = self.stem(sketch)
        hints = [self.zero_convs[0](features)]
        for stage, zero_conv in zip(self.stages, list(self.zero_convs)[1:], strict=True):
            features = stage(features)
            hints.append(zero_conv(features))
        return tuple(hints)


def sketch_pixels(sketch: torch.Tensor) -> torch.Tensor:
    """Make a drawing what the sketch encoder expects.

    Args:
        sketch: (B, 1, H, W), black lines (0) on white (1).

    Returns:
        (B, 3, H, W), lines 1 on paper -1.
    """
    check_shape(sketch, "B 1 H W", "sketch")
    return (1 - 2 * sketch).repeat(1, 3, 1, 1)


def hint_places(unet: nn.Module) -> tuple[nn.Module, ...]:
    """Return the modules of a UNet behind which the hints are added, in the order of the hints.

    These are the first convolution, each level's downsampling, and the last residual block of the way down: input
    blocks 0, 3, 6, 9 and 11 of the original layout.
    """
    network: Any = uncompiled(unet)
    down = [block.downsamplers[0] for block in network.down_blocks if getattr(block, "downsamplers", None)]
    return (network.conv_in, *down, network.down_blocks[-1].resnets[-1])


@contextmanager
def injected_hints(unet: nn.Module, hints: Sequence[torch.Tensor]) -> Iterator[None]:
    """Add hints to the features on the way down of every call within; the UNet is restored whatever happens.

    Args:
        unet: a `UNet2DConditionModel`; a compiled one is called eagerly within.
        hints: as `SketchEncoder` gives them, for the whole batch.

    Raises:
        ShapeError: another number of hints than the UNet has places.
    """
    places = hint_places(unet)
    if len(hints) != len(places):
        raise ShapeError(f"{len(hints)} hints came, but this UNet has {len(places)} places for them.")
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for place, hint in zip(places, hints, strict=True):
            handle = place.register_forward_hook(partial(_add, hint))
            stack.callback(handle.remove)
        yield


def _add(hint: torch.Tensor, module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
    """Add a hint to what a module returned; a forward hook."""
    return output + hint


def _conv(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, or halves it."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)


def _zero_conv(channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution that begins at zero."""
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
