"""Published checkpoints become model folders: synthetic files of the published layout, small in width."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_layout import Shapes, luminance_shapes, unet_shapes, vae_shapes
from tiny import MAX_TOKENS, tiny_picture, tiny_tokenizer

import colorlab
from colorlab import cli
from colorlab.checkpoints import architecture, select_prefix
from colorlab.checkpoints.ctrlcolor import CONTROL_PREFIX, TEXT_PREFIX
from colorlab.checkpoints.ldm import LUMINANCE_PREFIX, UNET_PREFIX, VAE_PREFIX
from colorlab.errors import RangeError, WeightsError
from colorlab.methods.published import convert_published
from colorlab.networks.libraries import CLIPTextConfig, CLIPTextModel
from colorlab.networks.vgg19 import Vgg19Features
from colorlab.strokes import Stroke

WIDTHS, VAE_WIDTHS, CONTEXT = (32, 64), (32, 32, 32, 64), 64
HINT_WIDTHS = (4, 8, 8, 8)


def unet(in_channels: int) -> Shapes:
    return unet_shapes(WIDTHS, num_res_blocks=1, attention_levels=(0,), in_channels=in_channels, context_width=CONTEXT)


def control_shapes(shapes: Shapes, hint_widths: tuple[int, ...]) -> Shapes:
    """List the original control network, given the shapes of a UNet on four channels."""
    kept = {name: shape for name, shape in shapes.items() if not name.startswith(("output_blocks.", "out."))}
    widths: dict[int, int] = {}
    for name, shape in kept.items():
        parts = name.split(".")
        if parts[0] == "input_blocks" and name.endswith(("out_layers.3.bias", "op.bias", "0.0.bias")):
            widths[int(parts[1])] = shape[0]
    base = widths[0]
    steps = [(3, hint_widths[0])]
    for narrow, wide in pairwise(hint_widths):
        steps += [(narrow, narrow), (narrow, wide)]
    steps.append((hint_widths[-1], base))
    for index, (inside, outside) in enumerate(steps):
        kept[f"input_hint_block.{2 * index}.weight"] = (outside, inside, 3, 3)
        kept[f"input_hint_block.{2 * index}.bias"] = (outside,)
    last = max(widths)
    for place, width in {**{f"zero_convs.{index}.0": width for index, width in widths.items()},
                         "middle_block_out.0": widths[last]}.items():  # fmt: skip
        kept |= {f"{place}.weight": (width, width, 1, 1), f"{place}.bias": (width,)}
    return kept


def random_weights(shapes: Shapes, prefix: str = "") -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(len(shapes))
    return {prefix + name: 0.05 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def text_weights() -> dict[str, torch.Tensor]:
    """Weights of a text tower, with the table of positions that older files hold."""
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=CONTEXT, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1,
        max_position_embeddings=MAX_TOKENS,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = CLIPTextModel(config).state_dict()
    named = {f"{TEXT_PREFIX}text_model.{name.removeprefix('text_model.')}": value for name, value in state.items()}
    return {**named, f"{TEXT_PREFIX}text_model.embeddings.position_ids": torch.arange(MAX_TOKENS)[None]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Synthetic checkpoints of both methods, the deformable autoencoder, and a tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    vae = random_weights(vae_shapes(VAE_WIDTHS, num_res_blocks=1))
    shared = {**{VAE_PREFIX + name: value for name, value in vae.items()}, **text_weights()}
    ctrlcolor = shared | random_weights(unet(9), UNET_PREFIX)
    ctrlcolor |= random_weights(control_shapes(unet(4), HINT_WIDTHS), CONTROL_PREFIX) | {"betas": torch.zeros(1000)}
    lcad = shared | random_weights(unet(4 + VAE_WIDTHS[-1]), UNET_PREFIX)
    lcad |= random_weights(luminance_shapes(VAE_WIDTHS, num_res_blocks=1), LUMINANCE_PREFIX)
    width, units = VAE_WIDTHS[-1], {}
    for place in ("dcn_in", "mid.block_1.dcn1", "mid.block_1.dcn2", "mid.block_2.dcn1", "mid.block_2.dcn2"):
        units |= {
            f"decoder.{place}.weight": (width, width, 3, 3),
            f"decoder.{place}.bias": (width,),
            f"decoder.{place}.conv_offset.weight": (27, width + 4, 3, 3),
            f"decoder.{place}.conv_offset.bias": (27,),
        }
    contents = {
        "ctrlcolor": {"state_dict": ctrlcolor, "global_step": 7},
        "lcad": {"state_dict": lcad},
        "deformable": {"state_dict": {**vae, **random_weights(units), "loss.logvar": torch.zeros(())}},
    }
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.ckpt")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    return {**{name: folder / f"{name}.ckpt" for name in contents}, "tokenizer": folder / "tokenizer"}


def convert(files: dict[str, Path], name: str, out: Path, *words: object) -> int:
    """Run `colorlab convert`."""
    options = ["-o", out, "--method", name, "--tokenizer", files["tokenizer"], *words]
    return cli.main(["convert", *map(str, [files[name], *options])])


def test_ctrlcolor_becomes_a_model_that_colors(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "model"
    vgg19 = tmp_path / "vgg19_conv.pth"
    torch.save(Vgg19Features((4, 4, 8, 8, 8)).state_dict(), vgg19)
    assert convert(files, "ctrlcolor", out, "--deformable", files["deformable"], "--vgg19", vgg19) == 0
    colorizer = colorlab.load("sd/ctrlcolor", weights=out)
    method = colorizer.method
    stored = torch.load(files["ctrlcolor"], weights_only=True)["state_dict"]
    assert (method.name, method.working_px, colorizer.settings.guidance_scale) == ("ctrlcolor", 512, 7.0)
    assert method.schedule.prediction_type == "epsilon"
    assert "S-Lab" in colorizer.card["licence"]
    assert {"source_sha256", "deformable_sha256", "vgg19_sha256"} <= set(colorizer.card)
    assert "exemplar" in method.fields_read()
    assert torch.equal(method.unet.conv_in.weight, stored[f"{UNET_PREFIX}input_blocks.0.0.weight"])
    parts = {"unet": UNET_PREFIX, "control_network": CONTROL_PREFIX, "vae": VAE_PREFIX, "text_encoder": TEXT_PREFIX}
    for part, prefix in parts.items():
        values = [value for name, value in select_prefix(stored, prefix).items() if "position_ids" not in name]
        own = list(method.components[part].parameters())
        assert sum(value.numel() for value in own) == sum(value.numel() for value in values)
        assert sum(float(value.double().sum()) for value in own) == pytest.approx(
            sum(float(value.double().sum()) for value in values)
        )
    method.working_px = 64
    red = Stroke([(10, 10), (30, 20)], (200, 40, 40), 3)
    run = colorizer.start(tiny_picture(64, 64), prompt="a red car", strokes=[red], num_inference_steps=2)
    assert run.finish(progress=False).image.shape == (64, 64, 3)
    assert {"vae_encoder", "control_network", "deformable_vae"} <= set(method.network_calls)
    assert np.isfinite(run.state.latents.numpy()).all()


def test_lcad_becomes_a_model_that_colors(files: dict[str, Path], tmp_path: Path) -> None:
    assert convert(files, "lcad", tmp_path / "model") == 0
    colorizer = colorlab.load("sd/lcad", weights=tmp_path / "model")
    assert colorizer.method.working_px == 256
    colorizer.method.working_px = 64
    run = colorizer.start(tiny_picture(64, 64), prompt="a red car", num_inference_steps=2)
    assert run.finish(progress=False).image.shape == (64, 64, 3)


def test_published_sizes_are_read_off_the_shapes() -> None:
    def meta(shapes: Shapes) -> dict[str, torch.Tensor]:
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    sizes: dict[str, Any] = {"num_res_blocks": 2, "attention_levels": (0, 1, 2), "context_width": 768}
    unets = {number: unet_shapes((320, 640, 1280, 1280), in_channels=number, **sizes) for number in (4, 9)}
    found = architecture.unet_config(meta(unets[9]))
    assert found == {
        "in_channels": 9,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    }
    control = architecture.controlnet_config(meta(control_shapes(unets[4], (16, 32, 96, 256))))
    assert control["conditioning_embedding_out_channels"] == (16, 32, 96, 256)
    assert (control["in_channels"], control["conditioning_channels"]) == (4, 3)
    vae = architecture.vae_config(meta(vae_shapes((128, 256, 512, 512), num_res_blocks=2)))
    assert (vae["block_out_channels"], vae["layers_per_block"], vae["latent_channels"]) == ((128, 256, 512, 512), 2, 4)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("ctrlcolor", "lcad", "sees 68 channels, but 9"),
        ("lcad", "ctrlcolor", "holds no luminance encoder"),
        ("ctrlcolor", "deformable", "holds no UNet: no weight begins with 'model.diffusion_model.'"),
        ("ctrlcolor", "missing", "there is no weight file"),
    ],
)
def test_files_of_something_else_are_refused(
    name: str, file: str, message: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {**files, "missing": tmp_path / "missing.ckpt"}
    assert convert({**known, name: known[file]}, name, tmp_path / "model") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "model" / "model_index.json").exists()


def test_bad_usage_is_told(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model"
    assert convert(files, "lcad", out, "--deformable", files["deformable"]) == 2
    assert "lcad has no deformable autoencoder" in capsys.readouterr().err
    assert convert(files, "lcad", out, "--vgg19", files["deformable"]) == 2
    assert "lcad has no guidance by an exemplar" in capsys.readouterr().err
    assert convert({**files, "diffcolor": files["lcad"]}, "diffcolor", out) == 2
    assert "expected one of colorizediffusion, ctrlcolor, lcad" in capsys.readouterr().err
    out.mkdir(exist_ok=True)
    (out / "model_index.json").write_text("{}")
    assert convert(files, "lcad", out) == 2
    assert "holds a model already" in capsys.readouterr().err
    with pytest.raises(RangeError, match="nothing to convert for 'diffcolor'"):
        convert_published("diffcolor", files["lcad"], out, clip=files["tokenizer"])


def test_a_tokenizer_has_to_fit(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no folder .*openai/clip-vit-large-patch14"):
        convert_published("lcad", files["lcad"], tmp_path / "a", clip=tmp_path / "none")
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["teal"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsError, match="has 55 words, but the text encoder 54"):
        convert_published("lcad", files["lcad"], tmp_path / "b", clip=tmp_path / "other")


def test_a_deformable_autoencoder_without_units_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no decoder.dcn_in.weight"):
        convert_published(
            "ctrlcolor", files["ctrlcolor"], tmp_path / "a", clip=files["tokenizer"], deformable=files["lcad"]
        )
