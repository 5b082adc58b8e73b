"""Content-guided deformable decoding: five modulated deformable convolutions at the latent end of a decoder.

| symbol | variable | meaning |
| --- | --- | --- |
| h | `hidden` | decoder features, as large as the latents |
| g | `guide` | latents of the gray picture, behind the shared 1x1 convolution |
| (dy, dx), m | `offset`, `modulation` | where each of the k*k taps looks, in cells, and how much it counts |
| y(p) = sum_n w_n m_n(p) h(p + p_n + d_n(p)) + b | `deform_conv2d` | the deformable convolution |
| h + y | `decode_deformable` | what replaces h behind a site |

Source: CtrlColor, arXiv 2402.10855 (content-guided deformable autoencoder); wiring and ranges by
`ZhexinLiang/Control-Color@f21054a`; the convolution is that of arXiv 1811.11168 v2, Eq. (1).
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from colorlab.errors import ShapeError
from colorlab.networks.libraries import AutoencoderKL, ConfigMixin, ModelMixin, register_to_config
from colorlab.shapes import check_shape

__all__ = [
    "UNIT_SITES",
    "DeformableConv",
    "DeformableUnits",
    "Deformation",
    "content_guide",
    "decode_deformable",
    "deform_conv2d",
]

UNIT_SITES = (
    "conv_in",
    "mid_block.resnets.0.conv1",
    "mid_block.resnets.0.conv2",
    "mid_block.resnets.1.conv1",
    "mid_block.resnets.1.conv2",
)
"""The decoder module behind which each unit stands."""


@dataclass(frozen=True, eq=False)
class Deformation:
    """What one unit did.

    Args:
        hidden: (B, C, h, w), what it got.
        offset: (B, 2 k k, h, w), in cells: a (dy, dx) pair for each tap, taps row by row.
        modulation: (B, k k, h, w), [0, 1].
        output: (B, C, h, w), what it adds.
    """

    hidden: torch.Tensor
    offset: torch.Tensor
    modulation: torch.Tensor
    output: torch.Tensor


class DeformableConv(nn.Module):
    """A modulated deformable convolution that looks where features and guide tell it to.

    A fresh one has zero offsets and modulation 0.5.

    Args:
        channels: of the features, in and out.
        guide_channels: of the guide.
        kernel_size: odd.
    """

    def __init__(self, channels: int, guide_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        num_taps = kernel_size * kernel_size
        bound = (channels * num_taps) ** -0.5
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel_size, kernel_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset = nn.Conv2d(
            channels + guide_channels, 3 * num_taps, kernel_size=kernel_size, padding=kernel_size // 2
        )
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor, guide: torch.Tensor) -> Deformation:
        """Convolve.

        Args:
            hidden: (B, C, h, w) features.
            guide: (B, G, h, w).

        Returns:
            What it did; the caller adds its output.
        """
        raw = self.conv_offset(torch.cat([hidden, guide], dim=1))
        num_taps = raw.shape[1] // 3
        offset, modulation = raw[:, : 2 * num_taps], raw[:, 2 * num_taps :].sigmoid()
        output = deform_conv2d(hidden, offset, self.weight, self.bias, modulation=modulation)
        return Deformation(hidden, offset, modulation, output)


class DeformableUnits(ModelMixin, ConfigMixin):
    """The five units of one decoder, in the order of `UNIT_SITES`.

    Args:
        channels: of the decoder's deepest level.
        guide_channels: latent channels.
        kernel_size: odd.
    """

    @register_to_config
    def __init__(self, channels: int = 512, guide_channels: int = 4, kernel_size: int = 3) -> None:
        super().__init__()
        self.units = nn.ModuleList(DeformableConv(channels, guide_channels, kernel_size) for _ in UNIT_SITES)


def deform_conv2d(
    hidden: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    modulation: torch.Tensor | None = None,
) -> torch.Tensor:
    """Convolve with taps that look elsewhere; zero outside, stride 1, output of the same size.

    Differentiable in every argument, and without compiled operators: each tap is one bilinear reading of the features.

    Args:
        hidden: (B, C, h, w) float.
        offset: (B, 2 k k, h, w), cells, (dy, dx) for each tap, taps row by row.
        weight: (O, C, k, k), k odd.
        bias: (O,).
        modulation: (B, k k, h, w), factor on each tap; None for 1.

    Returns:
        (B, O, h, w).

    Raises:
        ShapeError: shapes do not fit each other, or k is even.

    Source: arXiv 1811.11168 v2, Eq. (1); equal to `torchvision.ops.deform_conv2d` with padding k // 2.
    """
    sizes = check_shape(weight, "O C k k", "weight", sizes=check_shape(hidden, "B C h w", "hidden"))
    kernel, height, width = sizes["k"], sizes["h"], sizes["w"]
    if kernel % 2 == 0:
        raise ShapeError(f"weight has a kernel of {kernel}, but an odd one is expected.")
    num_taps = kernel * kernel
    check_shape(offset, f"B {2 * num_taps} h w", "offset", sizes=sizes)
    if modulation is not None:
        check_shape(modulation, f"B {num_taps} h w", "modulation", sizes=sizes)

    # 1. Where each tap looks: p + p_n + d_n(p), in cells.
    taps = torch.arange(kernel, device=hidden.device, dtype=hidden.dtype) - kernel // 2
    moved = offset.unflatten(1, (num_taps, 2))
    y = torch.arange(height, device=hidden.device, dtype=hidden.dtype)[:, None] + moved[:, :, 0]
    x = torch.arange(width, device=hidden.device, dtype=hidden.dtype) + moved[:, :, 1]
    y = y + taps.repeat_interleave(kernel)[:, None, None]
    x = x + taps.repeat(kernel)[:, None, None]
    # 2. Bilinear readings; cell i has its center at (2 i + 1) / size - 1.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    read = functional.grid_sample(
        hidden, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    ).unflatten(2, (num_taps, height))
    if modulation is not None:
        read = read * modulation[:, None]
    # 3. sum_n w_n m_n h(...) + b
    convolved = torch.einsum("bcnhw,ocn->bohw", read, weight.flatten(2))
    return convolved if bias is None else convolved + bias[:, None, None]


def content_guide(vae: AutoencoderKL, lightness: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """Encode the gray picture into the guide of the deformable decoder, with the deformable autoencoder's own encoder.

    Args:
        vae: the deformable autoencoder.
        lightness: (B, 1, H, W), L / 100, [0, 1]: the published weights were trained on this range, not on [-1, 1].
        noise: (B, C, h, w) standard normal for a sample of the posterior, as published; None for its mean.

    Returns:
        (B, C, h, w), not scaled.

    Raises:
        ShapeError: `lightness` does not have one channel.
    """
    check_shape(lightness, "B 1 H W", "lightness")
    posterior = vae.encode(lightness.repeat(1, 3, 1, 1)).latent_dist
    guide: torch.Tensor = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
    return guide


def decode_deformable(
    vae: AutoencoderKL, units: DeformableUnits, latents: torch.Tensor, guide: torch.Tensor, *, gain: float = 1.0
) -> tuple[torch.Tensor, tuple[Deformation, ...]]:
    """Decode latents with the units inside the decoder.

    The networks are read, never changed. Gradients reach latents, guide and units.

    Args:
        vae: the deformable autoencoder.
        units: made for it.
        latents: (B, C, h, w) float, scaled latents.
        guide: (B or 1, C, h, w), see `content_guide`.
        gain: factor on what every unit adds; 0 is the plain decoder.

    Returns:
        picture: (B, 3, H, W), nominally [-1, 1], not clamped.
        deformations: what each unit did, in the order of `UNIT_SITES`.

    Raises:
        ShapeError: latents and guide do not fit each other.

    Deviation: a guide of one picture serves a batch; the published code fails there.
    """
    sizes = check_shape(latents, f"B {vae.config.latent_channels} h w", "latents")
    if guide.shape[1:] != latents.shape[1:] or guide.shape[0] not in (1, sizes["B"]):
        raise ShapeError(
            f"guide has shape {tuple(guide.shape)}, expected {tuple(latents.shape)}; guide and latents must belong to "
            "the same picture size."
        )
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    guide = guide.expand(sizes["B"], -1, -1, -1)
    if vae.post_quant_conv is not None:
        latents, guide = vae.post_quant_conv(latents), vae.post_quant_conv(guide)

    decoder = vae.decoder
    done: list[Deformation] = []

    def bend(hidden: torch.Tensor) -> torch.Tensor:
        done.append(units.units[len(done)](hidden, guide))
        return hidden + gain * done[-1].output

    hidden = bend(decoder.conv_in(latents))
    middle = decoder.mid_block
    for index, resnet in enumerate(middle.resnets):
        if index and middle.attentions[index - 1] is not None:
            hidden = middle.attentions[index - 1](hidden, temb=None)
        inside = bend(resnet.conv1(resnet.nonlinearity(resnet.norm1(hidden))))
        inside = bend(resnet.conv2(resnet.dropout(resnet.nonlinearity(resnet.norm2(inside)))))
        skip = hidden if resnet.conv_shortcut is None else resnet.conv_shortcut(hidden)
        hidden = (skip + inside) / resnet.output_scale_factor
    for block in decoder.up_blocks:
        hidden = block(hidden, None)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden))), tuple(done)
