"""The luminance encoder, decoding with its taps, the widened UNet, and the hint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from colorlab.errors import RangeError, ShapeError
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.networks.luminance import (
    LuminanceEncoder,
    decode_with_taps,
    extend_conv_in,
    lightness_hint,
    lightness_to_hint,
    resize_as_published,
    tap_sites,
)

torch.set_num_threads(1)

LAYOUTS = [((8, 16, 16, 24), 2), ((8, 16), 1), ((16, 16, 24), 3)]
every_layout = pytest.mark.parametrize(("widths", "layers"), LAYOUTS)


def make_vae(widths: tuple[int, ...], layers: int, **config: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=8,
        **config,
    ).eval()


def make_encoder(widths: tuple[int, ...], layers: int, *, is_random: bool = True) -> LuminanceEncoder:
    encoder = LuminanceEncoder(block_out_channels=widths, layers_per_block=layers, norm_num_groups=8).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.zero_convs.parameters() if is_random else ():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return encoder


def make_inputs(widths: tuple[int, ...], batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a hint and latents of one size, not square."""
    generator = torch.Generator().manual_seed(2)
    factor = 2 ** (len(widths) - 1)
    hint = torch.rand(batch, 1, 3 * factor, 5 * factor, generator=generator) - 1
    return hint.repeat(1, 3, 1, 1), torch.randn(batch, 4, 3, 5, generator=generator)


def decode_plain(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents / vae.config.scaling_factor).sample


@every_layout
def test_a_fresh_encoder_leaves_the_decoder_alone(widths: tuple[int, ...], layers: int) -> None:
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers, is_random=False)
    hint, latents = make_inputs(widths)
    with torch.no_grad():
        taps = encoder(hint)
        assert all(not tap.any() for tap in taps)
        assert torch.equal(decode_with_taps(vae, latents, taps), decode_plain(vae, latents))
        assert torch.equal(decode_with_taps(vae, latents), decode_plain(vae, latents))


@every_layout
def test_taps_have_the_shapes_of_their_levels(widths: tuple[int, ...], layers: int) -> None:
    encoder = make_encoder(widths, layers)
    hint, _ = make_inputs(widths)
    taps = encoder(hint)
    levels = [level for level in range(len(widths)) for _ in range(layers)] + [len(widths) - 1] * 2
    height, width = hint.shape[-2:]
    expected = [(2, widths[level], height // 2**level, width // 2**level) for level in levels]
    assert [tuple(tap.shape) for tap in taps] == expected
    assert encoder.num_taps == len(taps)
    assert encoder.tap_channels == tuple(shape[1] for shape in expected)


def test_taps_follow_the_blocks_of_the_encoder() -> None:
    """Each tap is its own 1x1 convolution of what its residual block returned inside diffusers' own encoder."""
    widths, layers = LAYOUTS[0]
    encoder = make_encoder(widths, layers)
    hint, _ = make_inputs(widths)
    body = encoder.encoder
    blocks = [resnet for block in body.down_blocks for resnet in block.resnets] + list(body.mid_block.resnets)
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda _module, _args, output: seen.append(output)) for block in blocks]
    with torch.no_grad():
        body(hint)
        for handle in handles:
            handle.remove()
        taps = encoder(hint)
        for tap, conv, feature in zip(taps, encoder.zero_convs, seen, strict=True):
            assert torch.equal(tap, conv(feature))


def test_sites_of_the_published_layout() -> None:
    """The table of the L-CAD notes, section 2, in diffusers' names: the middle is crossed, third blocks get nothing."""
    assert tap_sites(4, 2) == (
        "up_blocks.3.resnets.1",
        "up_blocks.3.resnets.0",
        "up_blocks.2.resnets.1",
        "up_blocks.2.resnets.0",
        "up_blocks.1.resnets.1",
        "up_blocks.1.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.0.resnets.0",
        "mid_block.resnets.1",
        "mid_block.resnets.0",
    )


@every_layout
def test_decoding_equals_hooks_on_the_plain_decoder(widths: tuple[int, ...], layers: int) -> None:
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    gains = [0.25 * index for index in range(encoder.num_taps)]
    with torch.no_grad():
        taps = encoder(hint)
        decoded = decode_with_taps(vae, latents, taps, gains=gains)
        handles = [
            vae.decoder.get_submodule(site).register_forward_hook(
                lambda _module, _args, output, tap=tap, gain=gain: output + gain * tap
            )
            for site, tap, gain in zip(tap_sites(len(widths), layers), taps, gains, strict=True)
        ]
        hooked = decode_plain(vae, latents)
        for handle in handles:
            handle.remove()
    assert torch.equal(decoded, hooked)
    assert (decoded - decode_plain(vae, latents)).abs().max() > 1e-3


def test_gains_of_one_and_zero_are_with_and_without() -> None:
    widths, layers = LAYOUTS[0]
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    with torch.no_grad():
        taps = encoder(hint)
        ones, zeros = [1.0] * len(taps), [0.0] * len(taps)
        with_taps = decode_with_taps(vae, latents, taps)
        assert torch.equal(decode_with_taps(vae, latents, taps, gains=ones), with_taps)
        assert torch.equal(decode_with_taps(vae, latents, taps, gains=zeros), decode_plain(vae, latents))
        for index in range(len(taps)):
            one_off = [float(other != index) for other in range(len(taps))]
            assert not torch.equal(decode_with_taps(vae, latents, taps, gains=one_off), with_taps), index


def test_taps_can_be_used_again_and_nothing_is_changed() -> None:
    widths, layers = LAYOUTS[1]
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    with torch.no_grad():
        taps = encoder(hint)
        copies, latents_copy = [tap.clone() for tap in taps], latents.clone()
        first = decode_with_taps(vae, latents, taps)
        assert torch.equal(first, decode_with_taps(vae, latents, taps))
    assert all(torch.equal(tap, copy) for tap, copy in zip(taps, copies, strict=True))
    assert torch.equal(latents, latents_copy)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vae.modules())


def test_gradients_reach_every_used_weight_through_a_frozen_decoder() -> None:
    widths, layers = LAYOUTS[0]
    vae, encoder = make_vae(widths, layers).requires_grad_(False), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    latents.requires_grad_(True)
    decode_with_taps(vae, latents, encoder(hint)).square().mean().backward()
    assert latents.grad is not None
    for name, parameter in encoder.named_parameters():
        is_unused = name.startswith(("encoder.conv_norm_out", "encoder.conv_out"))
        assert parameter.requires_grad != is_unused, name
        assert is_unused or (parameter.grad is not None and parameter.grad.isfinite().all()), name
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_one_set_of_taps_serves_a_batch_of_latents() -> None:
    widths, layers = LAYOUTS[1]
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    with torch.no_grad():
        taps = encoder(hint[:1])
        together = decode_with_taps(vae, latents, taps)
        for index in range(len(latents)):
            alone = decode_with_taps(vae, latents[index : index + 1], taps)
            torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-5, atol=1e-5)


def test_autoencoders_own_scale_and_shift_are_used() -> None:
    widths, layers = LAYOUTS[1]
    vae, encoder = make_vae(widths, layers, scaling_factor=0.5, shift_factor=0.25), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    with torch.no_grad():
        wanted = vae.decode(latents / 0.5 + 0.25).sample
        assert torch.equal(decode_with_taps(vae, latents), wanted)
        assert torch.equal(decode_with_taps(vae, latents, [tap * 0 for tap in encoder(hint)]), wanted)


def test_wrong_taps_are_refused() -> None:
    widths, layers = LAYOUTS[0]
    vae, encoder = make_vae(widths, layers), make_encoder(widths, layers)
    hint, latents = make_inputs(widths)
    taps = encoder(hint)
    with pytest.raises(ShapeError, match="9 taps came, but this decoder takes 10"):
        decode_with_taps(vae, latents, taps[:-1])
    with pytest.raises(ShapeError, match="2 gains came for 10 taps"):
        decode_with_taps(vae, latents, taps, gains=[1.0, 0.0])
    with pytest.raises(ShapeError, match="gains were given without taps"):
        decode_with_taps(vae, latents, gains=[1.0])
    with pytest.raises(ShapeError, match=r"decoder.mid_block.resnets.0 has shape .* same picture size"):
        decode_with_taps(vae, latents[..., :3], taps)
    with pytest.raises(ShapeError, match=r"has shape \(3, "):
        decode_with_taps(vae, latents, [torch.cat([tap, tap[:1]]) for tap in taps])
    with pytest.raises(ShapeError, match="latents has shape"):
        decode_with_taps(vae, latents[:, :3], taps)


def test_wrong_hints_are_refused() -> None:
    encoder = make_encoder((8, 16, 16), 1)
    with pytest.raises(ShapeError, match=r"hint is 10x16 pixels.* multiples of 4; resize"):
        encoder(torch.zeros(1, 3, 10, 16))
    with pytest.raises(ShapeError, match="hint has shape"):
        encoder(torch.zeros(1, 1, 16, 16))


def test_an_encoder_is_saved_and_loaded(tmp_path: Path) -> None:
    encoder = make_encoder((8, 16), 3)
    encoder.save_pretrained(tmp_path)
    loaded = LuminanceEncoder.from_pretrained(tmp_path)
    assert loaded.tap_channels == encoder.tap_channels == (8, 8, 8, 16, 16, 16, 16, 16)
    assert not loaded.encoder.conv_out.weight.requires_grad
    assert loaded.zero_convs[0].weight.requires_grad
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())
    hint = make_inputs((8, 16))[0]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(encoder(hint), loaded(hint), strict=True))
    assert LuminanceEncoder.from_pretrained(tmp_path, torch_dtype=torch.float16).dtype == torch.float16


def test_published_encoder_has_the_published_size() -> None:
    """Counts of the L-CAD notes, section 2: body, taps, and the shapes of all ten taps at 256 pixels."""
    with torch.device("meta"):
        encoder = LuminanceEncoder()
        taps = encoder(torch.empty(1, 3, 256, 256))
    assert sum(value.numel() for value in encoder.encoder.parameters()) == 34_163_592
    assert sum(value.numel() for value in encoder.zero_convs.parameters()) == 1_740_544
    assert len(encoder.state_dict()) == 126
    assert [tuple(tap.shape[1:]) for tap in taps] == (
        [(128, 256, 256)] * 2 + [(256, 128, 128)] * 2 + [(512, 64, 64)] * 2 + [(512, 32, 32)] * 4
    )
    assert encoder.tap_channels[-1] == 512


def make_unet(in_channels: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return UNet2DConditionModel(
        in_channels=in_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


def test_a_widened_unet_predicts_what_the_narrow_one_does() -> None:
    unet = make_unet()
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(2, 4, 6, 10, generator=generator)
    extra = torch.randn(2, 16, 6, 10, generator=generator)
    context = torch.randn(2, 7, 12, generator=generator)
    widened = extend_conv_in(unet, 16)
    with torch.no_grad():
        wanted = unet(latents, 10, context).sample
        got = widened(torch.cat([latents, extra], dim=1), 10, context).sample
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert (unet.config.in_channels, widened.config.in_channels) == (4, 20)


def test_widening_copies() -> None:
    unet = make_unet().half().train()
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    random_state = torch.get_rng_state()
    widened = extend_conv_in(unet, 3)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert widened.training
    assert widened.dtype == torch.float16
    assert all(parameter.requires_grad for parameter in widened.parameters())
    with torch.no_grad():
        for parameter in widened.parameters():
            parameter.fill_(7)
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())


def test_the_widened_unet_of_the_published_size() -> None:
    """The L-CAD notes, section 2: 516 input channels, 1,486,400 parameters in `conv_in`, 860,995,524 in all."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        widened = extend_conv_in(unet, LuminanceEncoder().tap_channels[-1])
    assert widened.conv_in.weight.shape == (320, 516, 3, 3)
    assert sum(value.numel() for value in widened.conv_in.parameters()) == 1_486_400
    assert sum(value.numel() for value in widened.parameters()) == 860_995_524


@pytest.mark.parametrize("extra_channels", [0, -1])
def test_widening_by_nothing_is_refused(extra_channels: int) -> None:
    with pytest.raises(RangeError, match="extra_channels is"):
        extend_conv_in(make_unet(), extra_channels)


def test_the_hint_runs_from_minus_one_to_white() -> None:
    ramp = torch.linspace(0, 1, 256).reshape(1, 1, 1, 256)
    hint = lightness_hint(ramp)
    assert hint.shape == (1, 3, 1, 256)
    assert hint.min() == -1
    assert hint.max().item() == pytest.approx(100 / 127.5 - 1, abs=1e-6)
    assert (hint.diff(dim=-1) > 0).all()
    torch.testing.assert_close(lightness_hint(ramp.repeat(1, 3, 1, 1)), hint, rtol=0, atol=1e-6)
    assert lightness_hint(ramp.half()).dtype == torch.float16
    assert torch.equal(lightness_to_hint(torch.full((2, 1, 3, 4), 51.0)), torch.full((2, 3, 3, 4), 51 / 127.5 - 1))


def test_hints_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match="image has 2 channels"):
        lightness_hint(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ShapeError, match="lightness has shape"):
        lightness_to_hint(torch.zeros(1, 3, 4, 4))


def test_the_published_resize_is_antialiased_on_bytes() -> None:
    checks = np.indices((12, 20)).sum(0) % 2 * 255
    picture = checks.astype(np.uint8)
    image = resize_as_published(picture, (3, 5))
    assert image.shape == (1, 3, 3, 5)
    # Without antialiasing a checkerboard reduced by four would be black or white; and the values are whole levels.
    assert (image - 0.5).abs().max() < 0.1
    assert torch.equal((image * 255).round() / 255, image)
    assert torch.equal(image, resize_as_published(Image.fromarray(picture), (3, 5)))
    assert torch.equal(image, resize_as_published(np.stack([picture] * 3, -1), (3, 5)))
    unchanged = resize_as_published(picture, (12, 20))
    assert torch.equal(unchanged[0, 0], torch.from_numpy(picture).float() / 255)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_the_published_resize_takes_bytes_only(picture: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="expected uint8"):
        resize_as_published(picture)
