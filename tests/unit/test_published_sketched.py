"""A published checkpoint of ColorizeDiffusion becomes a model folder: a synthetic file of its layout, narrow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ldm_layout import Shapes, sketch_encoder_shapes, unet_shapes, vae_shapes
from safetensors.torch import save_file
from tiny import MAX_TOKENS, tiny_tokenizer

import colorlab
from colorlab import cli
from colorlab.checkpoints import architecture, select_prefix
from colorlab.checkpoints.colorizediffusion import SKETCH_PREFIX
from colorlab.checkpoints.ldm import UNET_PREFIX, VAE_PREFIX
from colorlab.conditioning import Manipulation
from colorlab.errors import RangeError
from colorlab.methods.published import convert_published
from colorlab.networks.libraries import CLIPConfig, CLIPModel
from colorlab.networks.sketch_encoder import sketch_pixels

WIDTHS, VAE_WIDTHS, STEM, CONTEXT = (64, 128), (32, 32, 32, 64), (4, 4, 6, 8), 16


def random_weights(shapes: Shapes, prefix: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(len(shapes))
    return {prefix + name: 0.05 * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def save_clip(folder: Path, *, width: int = CONTEXT) -> Path:
    """Write a whole CLIP as transformers does; as in old files, the towers' configurations do not know the width."""
    towers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 54, "max_position_embeddings": MAX_TOKENS, "bos_token_id": 52, "eos_token_id": 53}
    config = CLIPConfig(
        text_config={**towers, **text, "pad_token_id": 53},
        vision_config={**towers, "image_size": 16, "patch_size": 4},
        projection_dim=width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        CLIPModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A `mult` checkpoint: networks, tables of the schedule, and what exports drop or leave in by accident."""
    sizes: dict[str, Any] = {"num_res_blocks": 1, "attention_levels": (0,), "in_channels": 4, "context_width": CONTEXT}
    found = random_weights(unet_shapes(WIDTHS, **sizes), UNET_PREFIX)
    found |= random_weights(sketch_encoder_shapes(STEM, WIDTHS), SKETCH_PREFIX)
    found |= random_weights(vae_shapes(VAE_WIDTHS, num_res_blocks=1), VAE_PREFIX)
    return found | {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000), "model_ema.decay": torch.ones(1)}


@pytest.fixture(scope="module")
def files(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sketched")
    save_file(weights, folder / "mult-ft-eps.safetensors")
    return {"file": folder / "mult-ft-eps.safetensors", "clip": save_clip(folder / "clip")}


def convert(files: dict[str, Path], out: Path, *words: object, prediction: str | None = "epsilon") -> int:
    """Run `colorlab convert`."""
    options = ["-o", out, "--method", "colorizediffusion", "--clip", files["clip"]]
    options += [] if prediction is None else ["--prediction-type", prediction]
    return cli.main(["convert", *map(str, [files["file"], *options, *words])])


def test_it_becomes_a_model_that_colors_a_sketch(
    files: dict[str, Path], weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert convert(files, tmp_path / "model") == 0
    colorizer = colorlab.load("sd/colorizediffusion", weights=tmp_path / "model")
    method: Any = colorizer.method
    assert (method.name, method.working_px, method.exemplar_part) == ("colorizediffusion", 512, "local")
    assert "CC BY-NC-SA" in colorizer.card["licence"]
    assert "source_sha256" in colorizer.card
    assert method.schedule.prediction_type == "epsilon"
    # Every number of the file is in the model, and nothing else.
    for part, prefix in {"unet": UNET_PREFIX, "sketch_encoder": SKETCH_PREFIX, "vae": VAE_PREFIX}.items():
        stored = torch.cat([value.flatten() for value in select_prefix(weights, prefix).values()]).sort().values
        own = torch.cat([value.detach().flatten() for value in method.components[part].parameters()]).sort().values
        assert torch.equal(stored, own)
    assert list(method.unet.config.attention_head_dim) == [1, 2]
    clip = CLIPModel.from_pretrained(files["clip"])
    tower = method.components["projected_image_encoder"]
    assert torch.equal(tower.visual_projection.weight, clip.visual_projection.weight)

    method.working_px = 64
    sketch = np.ones((64, 64), np.float32)
    sketch[20:40, 30] = 0
    exemplar = np.random.default_rng(0).random((16, 16, 3))
    edit = Manipulation("blue", 4.0, control_text="red")
    run = colorizer.start(sketch=sketch, exemplar=exemplar, manipulations=[edit], num_inference_steps=2)
    assert run.finish(progress=False).image.shape == (64, 64, 3)
    assert torch.isfinite(run.state.latents).all()


def test_hints_are_those_of_convolutions_written_out(files: dict[str, Path], weights: Any, tmp_path: Path) -> None:
    """The published encoder, from its names and the sheet alone: order, strides and activations."""
    convert_published("colorizediffusion", files["file"], tmp_path, clip=files["clip"], prediction_type="v_prediction")
    method = colorlab.load("sd/colorizediffusion", weights=tmp_path).method
    assert method.schedule.prediction_type == "v_prediction"
    stored = select_prefix(weights, SKETCH_PREFIX)

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = stored[f"{name}.weight"]
        return torch.nn.functional.conv2d(x, weight, stored[f"{name}.bias"], stride, weight.shape[-1] // 2)

    drawing = sketch_pixels((torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(1)) > 0.2).float())
    silu, features = torch.nn.functional.silu, drawing
    for index, stride in zip(range(0, 14, 2), (1, 1, 2, 1, 2, 1, 2), strict=True):
        features = silu(conv(f"model.{index}", features, stride))
    features = conv("model.14", features)
    expected = [conv("zero_layer.0", features)]
    for level, stride in enumerate((2, 1)):
        features = conv(f"output_blocks.{level}.1", silu(features), stride)
        features = conv(f"output_blocks.{level}.3", silu(features))
        expected.append(conv(f"zero_blocks.{level}.0", features))
    with torch.no_grad():
        hints = method.components["sketch_encoder"](drawing)
    for hint, wanted in zip(hints, expected, strict=True):
        torch.testing.assert_close(hint, wanted, rtol=1e-5, atol=1e-6)


def test_published_sizes_are_read_off_the_shapes() -> None:
    def meta(shapes: Shapes) -> dict[str, torch.Tensor]:
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}

    widths = (320, 640, 1280, 1280)
    shapes = unet_shapes(widths, num_res_blocks=2, attention_levels=(0, 1, 2), in_channels=4, context_width=1024)
    config = architecture.image_token_unet_config(meta(shapes))
    assert config["attention_head_dim"] == (5, 10, 20, 20)
    assert (config["cross_attention_dim"], config["use_linear_projection"]) == (1024, False)
    flat = {name: shape[:2] if "proj_in" in name or "proj_out" in name else shape for name, shape in shapes.items()}
    assert architecture.image_token_unet_config(meta(flat))["use_linear_projection"]
    encoder = architecture.sketch_encoder_config(meta(sketch_encoder_shapes((16, 32, 96, 256), widths)))
    assert encoder == {"in_channels": 3, "stem_channels": (16, 32, 96, 256), "block_out_channels": widths}


def test_what_the_unet_predicts_has_to_be_said(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(files, tmp_path / "model", prediction=None) == 2
    assert "prediction_type is not given, but epsilon or v_prediction" in capsys.readouterr().err
    assert convert(files, tmp_path / "model", prediction="sample") == 2
    assert "prediction_type is 'sample'" in capsys.readouterr().err
    with pytest.raises(RangeError, match="lcad predicts noise; leave it out"):
        convert_published("lcad", files["file"], tmp_path, clip=files["clip"], prediction_type="v_prediction")
    assert cli.main(["convert", str(files["file"]), "--method", "colorizediffusion", "-o", str(tmp_path / "x")]) == 2
    assert "add --clip DIR" in capsys.readouterr().err
    assert not (tmp_path / "model" / "model_index.json").exists()


def test_files_of_something_else_and_another_clip_are_refused(
    files: dict[str, Path], weights: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(content: dict[str, torch.Tensor], **given: Path) -> str:
        save_file(content, tmp_path / "other.safetensors")
        assert convert({**files, "file": tmp_path / "other.safetensors", **given}, tmp_path / "model") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "version 1.5 (switch)" in told(weights | {f"{UNET_PREFIX}a.lora_down_fg.weight": torch.zeros(1)})
    assert "holds no autoencoder" in told({name: value for name, value in weights.items() if "first" not in name})
    less = {name: value for name, value in weights.items() if not name.endswith("zero_blocks.1.0.bias")}
    assert "1 missing (zero_convs.2.bias)" in told(less)
    assert "There is no folder" in told(weights, clip=tmp_path / "none")
    narrow = save_clip(tmp_path / "8", width=8)
    capsys.readouterr()
    assert "gives tokens of 8 features, but the UNet reads 16" in told(weights, clip=narrow)
    (tmp_path / "empty").mkdir()
    assert "There are no weights of projected_image_encoder" in told(weights, clip=tmp_path / "empty")


def test_a_pickle_that_would_run_code_is_not_opened(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {"x": torch.zeros(1)}, "trap": Trap()}, tmp_path / "mult-eps.ckpt")
    assert convert({**files, "file": tmp_path / "mult-eps.ckpt"}, tmp_path / "model") == 1
    assert "only running code from it could restore" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
