"""The luminance path of L-CAD: an encoder of the gray picture whose features enter the decoder and the UNet.

| symbol | variable | meaning |
| --- | --- | --- |
| L | `lightness` | CIELAB lightness of the gray input, [0, 100] |
| l = L / 127.5 - 1 | `hint` | what the luminance encoder sees, [-1, -0.2157] |
| g = (g0, g1 ...) | `taps` | one feature map for each residual block of the encoder, finest level first, middle last |
| g[-1] | `taps[-1]` | the deepest tap; also concatenated to the latents in front of the UNet's widened `conv_in` |
| z | `latents` | scaled latents |

The decoder reads the taps from the back: the last tap enters after its first middle block, the one before after its
second, then each level's taps in reverse order. The extra block that each decoder level has gets none.

Source: L-CAD, arXiv 2305.15217; wiring and numbers from changzheng123/L-CAD@3e1d8d6.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from colorlab.color import gray_to_lightness, rgb_to_lab
from colorlab.errors import RangeError, ShapeError
from colorlab.networks.libraries import (
    AutoencoderKL,
    ConfigMixin,
    Encoder,
    ModelMixin,
    UNet2DConditionModel,
    register_to_config,
)
from colorlab.shapes import check_shape

__all__ = [
    "LuminanceEncoder",
    "decode_with_taps",
    "extend_conv_in",
    "lightness_hint",
    "lightness_to_hint",
    "narrow_conv_in",
    "resize_as_published",
    "tap_sites",
]


class LuminanceEncoder(ModelMixin, ConfigMixin):
    """Encode a lightness hint into one tap for each residual block.

    The body is the encoder of a Stable Diffusion autoencoder; a 1x1 convolution, zero at the start, stands behind
    every residual block of every level and behind both middle blocks. A fresh encoder therefore gives zero taps, with
    which the decoder is the plain one. The body's output layers exist for the sake of the published weights and are
    never used.

    Args:
        in_channels: channels of the hint; the published three are copies of one.
        out_channels: latent channels of the unused output layer.
        block_out_channels: channels of each level, finest first; the same as the decoder's.
        layers_per_block: residual blocks in each level; the same as the autoencoder's.
        norm_num_groups: groups of the group normalization.

    Source: L-CAD, arXiv 2305.15217; changzheng123/L-CAD@3e1d8d6.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 4,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            double_z=True,
        )
        widths = [channels for channels in block_out_channels for _ in range(layers_per_block)]
        widths += [block_out_channels[-1]] * 2
        self.zero_convs = nn.ModuleList(_zero_conv(channels) for channels in widths)
        self._tap_channels = tuple(widths)
        # The output layers never get a gradient; said here so that distributed training does not wait for one.
        self.encoder.conv_norm_out.requires_grad_(False)
        self.encoder.conv_out.requires_grad_(False)

    @property
    def num_taps(self) -> int:
        """Number of taps: one for each residual block and two for the middle."""
        return len(self._tap_channels)

    @property
    def tap_channels(self) -> tuple[int, ...]:
        """Channels of each tap; the last is what `extend_conv_in` needs."""
        return self._tap_channels

    def forward(self, hint: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode a hint.

        Args:
            hint: (B, `in_channels`, H, W) float, [-1, -0.2157], as `lightness_hint` gives it. H and W are multiples of
                2 ** (levels - 1).

        Returns:
            The taps, finest level first, then the two middle blocks; tap of level i: (B, C_i, H / 2**i, W / 2**i).

        Raises:
            ShapeError: `hint` has another number of channels, or a size that does not divide.
        """
        sizes = check_shape(hint, f"B {self.config.in_channels} H W", "hint")
        multiple_px = 2 ** (len(self.encoder.down_blocks) - 1)
        if sizes["H"] % multiple_px or sizes["W"] % multiple_px:
            raise ShapeError(
                f"hint is {sizes['H']}x{sizes['W']} pixels, but this luminance encoder needs multiples of "
                f"{multiple_px}; resize the picture first."
            )
        features: list[torch.Tensor] = []
        hidden = self.encoder.conv_in(hint)
        for block in self.encoder.down_blocks:
            for resnet in block.resnets:
                hidden = resnet(hidden, temb=None)
                features.append(hidden)
            for downsampler in block.downsamplers or ():
                hidden = downsampler(hidden)
        middle = self.encoder.mid_block
        hidden = middle.resnets[0](hidden, None)
        features.append(hidden)
        hidden = middle.attentions[0](hidden, temb=None)
        hidden = middle.resnets[1](hidden, None)
        features.append(hidden)
        return tuple(conv(feature) for conv, feature in zip(self.zero_convs, features, strict=True))


def tap_sites(num_levels: int, layers_per_block: int) -> tuple[str, ...]:
    """Name the decoder module behind which each tap is added.

    Args:
        num_levels: levels of encoder and decoder.
        layers_per_block: taps of each level (a decoder level has one residual block more).

    Returns:
        One diffusers path below `vae.decoder` for each tap, in the order of the taps.

    Example:
        >>> tap_sites(2, 1)
        ('up_blocks.1.resnets.0', 'up_blocks.0.resnets.0', 'mid_block.resnets.1', 'mid_block.resnets.0')
    """
    sites = [
        f"up_blocks.{num_levels - 1 - level}.resnets.{layers_per_block - 1 - layer}"
        for level in range(num_levels)
        for layer in range(layers_per_block)
    ]
    # The crossing: the tap of the encoder's second middle block enters after the decoder's first, and the reverse.
    return (*sites, "mid_block.resnets.1", "mid_block.resnets.0")


def decode_with_taps(
    vae: AutoencoderKL,
    latents: torch.Tensor,
    taps: Sequence[torch.Tensor] | None = None,
    *,
    gains: Sequence[float] | None = None,
) -> torch.Tensor:
    """Decode latents, adding the luminance taps inside the decoder.

    The autoencoder is read, never changed: no hooks, nothing in place, and the taps may be used again. Gradients reach
    taps and latents. Without taps this is `vae.decode`, tiling included; with taps the picture is decoded whole.

    Args:
        vae: a diffusers autoencoder with the plain decoder.
        latents: (B, C, h, w) float, scaled latents (they are divided by the autoencoder's scaling factor here).
        taps: what `LuminanceEncoder` returned for the same size, batch B or 1; None for the plain decoder.
        gains: one factor for each tap, 1 as published, 0 to leave a tap out; None for all 1.

    Returns:
        (B, 3, H, W), dtype of `latents`: the picture, nominally [-1, 1] and not clamped.

    Raises:
        ShapeError: number or shapes of the taps, or the number of gains, do not fit the decoder.

    Source: L-CAD, arXiv 2305.15217; changzheng123/L-CAD@3e1d8d6 (its decoder), where the list can be used once only.
    """
    check_shape(latents, f"B {vae.config.latent_channels} h w", "latents")
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    if taps is None:
        if gains is not None:
            raise ShapeError("gains were given without taps; pass the taps of the luminance encoder as well.")
        return vae.decode(latents).sample
    site_taps = _taps_by_site(vae, taps, gains)

    decoder = vae.decoder
    hidden = latents if vae.post_quant_conv is None else vae.post_quant_conv(latents)
    hidden = decoder.conv_in(hidden)
    middle = decoder.mid_block
    hidden = _add_tap(middle.resnets[0](hidden, None), site_taps, "mid_block.resnets.0")
    for index, (attention, resnet) in enumerate(zip(middle.attentions, middle.resnets[1:], strict=True), start=1):
        if attention is not None:
            hidden = attention(hidden, temb=None)
        hidden = _add_tap(resnet(hidden, None), site_taps, f"mid_block.resnets.{index}")
    for level, block in enumerate(decoder.up_blocks):
        for index, resnet in enumerate(block.resnets):
            hidden = _add_tap(resnet(hidden, temb=None), site_taps, f"up_blocks.{level}.resnets.{index}")
        for upsampler in block.upsamplers or ():
            hidden = upsampler(hidden)
    return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(hidden)))


def extend_conv_in(unet: UNet2DConditionModel, extra_channels: int) -> UNet2DConditionModel:
    """Copy a UNet and widen its first convolution by input channels whose weights are zero.

    The new channels stand behind the old ones: the copy takes `torch.cat([latents, taps[-1]], 1)`. With zero weights it
    predicts what `unet` predicts, up to rounding, whatever the new channels hold.

    Args:
        unet: the network to copy; it is left alone.
        extra_channels: number of new input channels, at least 1 (512 as published).

    Returns:
        A new network with its own weights, in dtype, device and training mode of `unet`.

    Raises:
        RangeError: `extra_channels` is below 1.

    Source: L-CAD, arXiv 2305.15217; zero initialisation is ours, after the control networks (the paper's start weights
        are not public).
    """
    if extra_channels < 1:
        raise RangeError(f"extra_channels is {extra_channels}, expected at least 1.")
    old = unet.conv_in.weight.detach()
    return _with_conv_in(unet, torch.cat([old, old.new_zeros(old.shape[0], extra_channels, *old.shape[2:])], dim=1))


def narrow_conv_in(unet: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """Copy a UNet without its last input channels; undoes `extend_conv_in`.

    Args:
        unet: the network to copy; it is left alone.
        channels: number of input channels to keep, at most those it has.

    Returns:
        A new network with its own weights, in dtype, device and training mode of `unet`.

    Raises:
        RangeError: `channels` is below 1 or above those that there are.
    """
    total = unet.conv_in.weight.shape[1]
    if not 1 <= channels <= total:
        raise RangeError(f"channels is {channels}, but 1 to {total} is expected.")
    return _with_conv_in(unet, unet.conv_in.weight.detach()[:, :channels].clone())


def _with_conv_in(unet: UNet2DConditionModel, weight: torch.Tensor) -> UNet2DConditionModel:
    """Copy a UNet with another weight of its first convolution."""
    # The private entries remember which values were defaults, and would put the old number of channels back.
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    config["in_channels"] = weight.shape[1]
    with torch.device("meta"):  # nothing is drawn from the global random generator, no memory is filled twice
        copied = UNet2DConditionModel.from_config(config)
    weights = {name: value.detach().clone() for name, value in unet.state_dict().items()}
    weights["conv_in.weight"] = weight
    copied.load_state_dict(weights, assign=True)
    return copied.train(unet.training)


def lightness_hint(image: torch.Tensor) -> torch.Tensor:
    """Turn a color or gray picture into the hint of the luminance encoder.

    Args:
        image: (B, 3, H, W) or (B, 1, H, W) float, sRGB, [0, 1].

    Returns:
        (B, 3, H, W) float, dtype of `image`, [-1, -0.2157], three equal channels.

    Raises:
        ShapeError: `image` has neither one nor three channels.
    """
    sizes = check_shape(image, "B C H W", "image")
    if sizes["C"] == 1:
        lightness = gray_to_lightness(image.float())
    elif sizes["C"] == 3:
        lightness = rgb_to_lab(image.float())[:, :1]
    else:
        raise ShapeError(f"image has {sizes['C']} channels, expected 3 (color) or 1 (gray).")
    return lightness_to_hint(lightness).to(image.dtype)


def lightness_to_hint(lightness: torch.Tensor) -> torch.Tensor:
    """Scale CIELAB lightness as L-CAD does and repeat it to three channels.

    Args:
        lightness: (B, 1, H, W) float, [0, 100].

    Returns:
        (B, 3, H, W), L / 127.5 - 1: white is -0.2157, not 1 (the published weights were trained so).

    Raises:
        ShapeError: `lightness` is not (B, 1, H, W).
    """
    check_shape(lightness, "B 1 H W", "lightness")
    return (lightness / 127.5 - 1.0).repeat(1, 3, 1, 1)


def resize_as_published(picture: Image.Image | np.ndarray, size: tuple[int, int] = (256, 256)) -> torch.Tensor:
    """Resize an 8-bit picture exactly as the released code reads its files.

    Bilinear with antialiasing on 8-bit values, aspect ratio not kept. Resizing floats gives other numbers.

    Args:
        picture: PIL image, or (H, W, 3) or (H, W) uint8 array.
        size: (height, width) in pixels; the released default is 256 by 256.

    Returns:
        (1, 3, height, width) float32, sRGB, [0, 1].

    Raises:
        ShapeError: the array is not uint8, or has another shape.

    Source: changzheng123/L-CAD@3e1d8d6 (its data set).
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
            raise ShapeError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (H, W, 3) or (H, W).")
        picture = Image.fromarray(picture)
    height, width = size
    resized = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255.0


def _zero_conv(channels: int) -> nn.Conv2d:
    """Return a 1x1 convolution whose weight and bias are zero."""
    conv = nn.Conv2d(channels, channels, kernel_size=1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


def _taps_by_site(
    vae: AutoencoderKL, taps: Sequence[torch.Tensor], gains: Sequence[float] | None
) -> dict[str, torch.Tensor]:
    """Give each tap, times its gain, the name of the decoder module behind which it belongs."""
    sites = tap_sites(len(vae.decoder.up_blocks), len(vae.decoder.up_blocks[0].resnets) - 1)
    if len(taps) != len(sites):
        raise ShapeError(f"{len(taps)} taps came, but this decoder takes {len(sites)}; use its own luminance encoder.")
    if gains is None:
        return dict(zip(sites, taps, strict=True))
    if len(gains) != len(taps):
        raise ShapeError(f"{len(gains)} gains came for {len(taps)} taps, expected one for each.")
    return {site: tap if gain == 1 else tap * gain for site, tap, gain in zip(sites, taps, gains, strict=True)}


def _add_tap(hidden: torch.Tensor, site_taps: dict[str, torch.Tensor], site: str) -> torch.Tensor:
    """Add the tap of a site, if it has one, after checking that it fits."""
    tap = site_taps.get(site)
    if tap is None:
        return hidden
    if tap.shape[1:] != hidden.shape[1:] or tap.shape[0] not in (1, hidden.shape[0]):
        raise ShapeError(
            f"the tap for decoder.{site} has shape {tuple(tap.shape)}, expected {tuple(hidden.shape)}; "
            "hint and latents must belong to the same picture size."
        )
    return hidden + tap.to(hidden.dtype)
