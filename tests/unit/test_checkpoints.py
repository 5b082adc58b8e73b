"""Key maps of the original layout, strict loading, and safe reading of weight files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ldm_layout import Shapes, luminance_shapes, unet_shapes, vae_shapes
from safetensors.torch import save_file
from torch import nn

from colorlab.checkpoints import (
    check_sha256,
    convert_weights,
    file_sha256,
    load_ldm_weights,
    luminance_encoder_key_map,
    read_weights,
    select_prefix,
    unet_key_map,
    vae_key_map,
)
from colorlab.errors import WeightsError
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.networks.luminance import LuminanceEncoder

torch.set_num_threads(1)

SD_WIDTHS = (320, 640, 1280, 1280)
SD_VAE_WIDTHS = (128, 256, 512, 512)


def make_unet(widths: tuple[int, ...], layers: int, attention_levels: tuple[int, ...], **sizes: int) -> nn.Module:
    levels = range(len(widths))
    down = ["CrossAttnDownBlock2D" if level in attention_levels else "DownBlock2D" for level in levels]
    up = ["CrossAttnUpBlock2D" if level in attention_levels else "UpBlock2D" for level in reversed(levels)]
    return UNet2DConditionModel(
        in_channels=sizes["in_channels"],
        cross_attention_dim=sizes["context_width"],
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        attention_head_dim=8,
        norm_num_groups=8,
    )


def make_vae(widths: tuple[int, ...], layers: int) -> nn.Module:
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        norm_num_groups=8,
    )


def check_bijection(module: nn.Module, shapes: Shapes, key_map: dict[str, str]) -> None:
    """Check that a map reaches every weight of the module once, with its shape but for squeezed attention."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    assert set(key_map) == set(shapes)
    assert set(key_map.values()) == set(own)
    for name, target in key_map.items():
        assert shapes[name] in (own[target], (*own[target], 1, 1)), (name, target)


@pytest.mark.parametrize(
    ("widths", "layers", "attention_levels"),
    [((8, 16, 16, 24), 2, (0, 1, 2)), ((8, 16, 16), 1, (1, 2)), ((16,), 3, (0,)), ((8, 16, 24, 24, 32), 1, (0, 3))],
)
def test_unet_map_is_a_bijection_for_any_layout(
    widths: tuple[int, ...], layers: int, attention_levels: tuple[int, ...]
) -> None:
    shapes = unet_shapes(
        widths, num_res_blocks=layers, attention_levels=attention_levels, in_channels=12, context_width=40
    )
    with torch.device("meta"):
        unet = make_unet(widths, layers, attention_levels, in_channels=12, context_width=40)
    check_bijection(unet, shapes, unet_key_map(shapes))


@pytest.mark.parametrize(("widths", "layers"), [((8, 16, 16, 24), 2), ((8, 16), 1), ((16, 16, 24), 3), ((8,), 2)])
def test_autoencoder_and_luminance_maps_are_bijections_for_any_layout(widths: tuple[int, ...], layers: int) -> None:
    with torch.device("meta"):
        vae = make_vae(widths, layers)
        encoder = LuminanceEncoder(block_out_channels=widths, layers_per_block=layers, norm_num_groups=8)
    shapes = vae_shapes(widths, num_res_blocks=layers)
    check_bijection(vae, shapes, vae_key_map(shapes))
    shapes = luminance_shapes(widths, num_res_blocks=layers)
    check_bijection(encoder, shapes, luminance_encoder_key_map(shapes))


def test_published_size_has_the_published_counts() -> None:
    """Key and parameter counts of a full L-CAD checkpoint: L-CAD notes, sections 2 and 6, counted on the files."""
    unet = unet_shapes(SD_WIDTHS, num_res_blocks=2, attention_levels=(0, 1, 2), in_channels=516, context_width=768)
    vae = vae_shapes(SD_VAE_WIDTHS, num_res_blocks=2)
    luminance = luminance_shapes(SD_VAE_WIDTHS, num_res_blocks=2)
    assert (len(unet), len(vae), len(luminance)) == (686, 248, 126)
    with torch.device("meta"):
        module = make_unet(SD_WIDTHS, 2, (0, 1, 2), in_channels=516, context_width=768)
    check_bijection(module, unet, unet_key_map(unet))
    assert sum(value.numel() for value in module.parameters()) == 860_995_524
    assert sum(value.numel() for value in module.conv_in.parameters()) == 1_486_400


# Pairs where another map would also be a bijection with fitting shapes.
@pytest.mark.parametrize(
    ("key_map", "name", "target"),
    [
        (unet_key_map, "input_blocks.0.0.weight", "conv_in.weight"),
        (unet_key_map, "input_blocks.4.1.proj_in.weight", "down_blocks.1.attentions.0.proj_in.weight"),
        (unet_key_map, "input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        (unet_key_map, "input_blocks.11.0.in_layers.0.weight", "down_blocks.3.resnets.1.norm1.weight"),
        (unet_key_map, "input_blocks.11.0.out_layers.0.weight", "down_blocks.3.resnets.1.norm2.weight"),
        (unet_key_map, "middle_block.2.out_layers.3.weight", "mid_block.resnets.1.conv2.weight"),
        (unet_key_map, "output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        (unet_key_map, "output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
        (unet_key_map, "output_blocks.11.1.norm.bias", "up_blocks.3.attentions.2.norm.bias"),
        (unet_key_map, "time_embed.2.bias", "time_embedding.linear_2.bias"),
        (vae_key_map, "decoder.up.3.block.0.norm1.weight", "decoder.up_blocks.0.resnets.0.norm1.weight"),
        (vae_key_map, "decoder.up.1.block.2.norm2.weight", "decoder.up_blocks.2.resnets.2.norm2.weight"),
        (vae_key_map, "decoder.mid.block_2.conv1.weight", "decoder.mid_block.resnets.1.conv1.weight"),
        (vae_key_map, "encoder.mid.attn_1.k.weight", "encoder.mid_block.attentions.0.to_k.weight"),
        (vae_key_map, "encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
        (luminance_encoder_key_map, "down.2.zero_conv.1.weight", "zero_convs.5.weight"),
        (luminance_encoder_key_map, "zero_conv_mid1.weight", "zero_convs.8.weight"),
        (luminance_encoder_key_map, "zero_conv_mid2.weight", "zero_convs.9.weight"),
        (
            luminance_encoder_key_map,
            "down.1.block.0.nin_shortcut.bias",
            "encoder.down_blocks.1.resnets.0.conv_shortcut.bias",
        ),
    ],
)
def test_layers_of_equal_shape_keep_their_places(
    key_map: Callable[[Any], dict[str, str]], name: str, target: str
) -> None:
    shapes = {
        unet_key_map: unet_shapes(
            SD_WIDTHS, num_res_blocks=2, attention_levels=(0, 1, 2), in_channels=4, context_width=768
        ),
        vae_key_map: vae_shapes(SD_VAE_WIDTHS, num_res_blocks=2),
        luminance_encoder_key_map: luminance_shapes(SD_VAE_WIDTHS, num_res_blocks=2),
    }[key_map]
    assert key_map(shapes)[name] == target


def test_conversion_there_and_back_changes_nothing() -> None:
    shapes = vae_shapes((8, 16), num_res_blocks=1)
    weights = random_weights(shapes)
    key_map = vae_key_map(weights)
    own = {name: value.shape for name, value in make_vae((8, 16), 1).state_dict().items()}
    there = convert_weights(weights, key_map, own)
    back = convert_weights(
        there,
        {target: name for name, target in key_map.items()},
        {name: torch.Size(shape) for name, shape in shapes.items()},
    )
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], value) for name, value in weights.items())
    assert there["decoder.mid_block.attentions.0.to_q.weight"].ndim == 2


def test_loading_is_strict_and_changes_nothing_on_failure() -> None:
    encoder = LuminanceEncoder(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    weights = random_weights(luminance_shapes((8, 16), num_res_blocks=1))
    incomplete = {name: value for name, value in weights.items() if name != "mid.attn_1.q.bias"}
    deeper = random_weights(luminance_shapes((8, 16), num_res_blocks=2))
    wider = random_weights(luminance_shapes((8, 24), num_res_blocks=1))
    for wrong, message in (
        (incomplete, r"1 missing \(encoder.mid_block.attentions.0.to_q.bias\), none unexpected"),
        (deeper, r"\d+ unexpected"),
        (wider, r"has shape .*\(24, .* needs \(16, .*another size"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_ldm_weights(encoder, wrong, luminance_encoder_key_map(wrong), name="luminance encoder")
        assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    load_ldm_weights(encoder, weights, luminance_encoder_key_map(weights), name="luminance encoder")
    assert torch.equal(encoder.zero_convs[3].weight, weights["zero_conv_mid2.weight"])


def test_an_optional_part_may_be_absent_only_as_a_whole() -> None:
    vae = make_vae((8, 16), 1)
    weights = random_weights(vae_shapes((8, 16), num_res_blocks=1))
    decoder = {name: value for name, value in weights.items() if not name.startswith("encoder.")}
    encoder_before = vae.encoder.conv_in.weight.clone()
    load_ldm_weights(vae, decoder, vae_key_map(decoder), name="autoencoder", optional=("encoder.",))
    assert torch.equal(vae.encoder.conv_in.weight, encoder_before)
    assert torch.equal(vae.decoder.conv_in.weight, weights["decoder.conv_in.weight"])
    half = decoder | {"encoder.conv_in.weight": weights["encoder.conv_in.weight"]}
    with pytest.raises(WeightsError, match="missing"):
        load_ldm_weights(vae, half, vae_key_map(half), name="autoencoder", optional=("encoder.",))
    with pytest.raises(WeightsError, match="missing"):
        load_ldm_weights(vae, decoder, vae_key_map(decoder), name="autoencoder")


@pytest.mark.parametrize("key_map", [unet_key_map, vae_key_map, luminance_encoder_key_map])
def test_names_of_something_else_are_refused(key_map: Callable[[Any], dict[str, str]]) -> None:
    with pytest.raises(WeightsError, match=r"1 unknown \(blocks.0.attn.qkv.weight\)"):
        key_map(["blocks.0.attn.qkv.weight"])


def test_select_prefix_strips_it() -> None:
    weights = {"a.b.weight": torch.ones(1), "ab.weight": torch.zeros(1)}
    assert list(select_prefix(weights, "a.")) == ["b.weight"]


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".pth", ".bin"])
def test_weights_are_read_and_cast(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = {"w": torch.randn(3, 2).half(), "steps": torch.tensor([7])}
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"state_dict": weights, "epoch": 3}, path)
    stored = read_weights(path)
    assert set(stored) == {"w", "steps"}
    assert stored["w"].dtype == torch.float16
    cast = read_weights(path, dtype=torch.float32)
    assert (cast["w"].dtype, cast["steps"].dtype) == (torch.float32, torch.int64)
    assert torch.equal(cast["w"], weights["w"].float())


class Payload:
    """Runs code when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_torch_file_never_runs_code(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "callbacks": Payload(trace)}, path)
    with pytest.raises(WeightsError, match=r"only running code from it could restore; if you trust its source"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_damaged_files_give_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    weights = {"w": torch.randn(64, 64)}
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    whole = path.read_bytes()
    for content in (b"", whole[:6], whole[:200], whole[:-100], b"this is no weight file" * 40):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged") as caught:
            read_weights(path)
        assert "\n" not in str(caught.value)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG")
    numbers = tmp_path / "numbers.pt"
    torch.save([1, 2, 3], numbers)
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    for path, message in (
        (tmp_path / "absent.safetensors", "there is no weight file"),
        (tmp_path, "not a file"),
        (picture, "expected .safetensors or one of .ckpt"),
        (numbers, "holds a list, expected tensors by name"),
        (empty, "holds no tensors"),
    ):
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_hash_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert file_sha256(path) == known
    check_sha256(path, known.upper())
    path.write_bytes(b"abd")
    with pytest.raises(WeightsError, match="damaged or was changed"):
        check_sha256(path, known)
    with pytest.raises(WeightsError, match="no weight file"):
        check_sha256(tmp_path / "absent", known)


def random_weights(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
