"""The Colorizer: model folders written and read, starting runs, the table of models."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_components, tiny_picture, tiny_text_to_image

import colorlab
from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, ImageError, RangeError, UnknownModelError, WeightsError
from colorlab.methods.components import load_component, save_component
from colorlab.methods.folder import INDEX_NAME, ModelIndex, read_index, write_index
from colorlab.networks.libraries import CLIPConfig, CLIPModel
from colorlab.runs.shortcuts import Shortcuts
from colorlab.settings import Settings

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved tiny model; tests that damage it copy it first."""
    return tiny_colorizer().save_pretrained(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the saved model that a test may damage."""
    return shutil.copytree(saved, tmp_path / "tiny")


def read(folder):
    return json.loads((folder / INDEX_NAME).read_text())


def write(folder, content):
    (folder / INDEX_NAME).write_text(json.dumps(content))


def test_saved_and_loaded_gives_the_same_bits(colorizer, picture, saved):
    loaded = colorlab.Colorizer.from_pretrained(saved)
    assert loaded.name == "tiny"
    assert loaded.settings == colorizer.settings
    first = colorizer.start(picture, prompt="a red car").finish(progress=False)
    second = loaded.start(picture, prompt="a red car").finish(progress=False)
    assert torch.equal(first.state.latents, second.state.latents)
    assert np.array_equal(first.image, second.image)
    for name, network in colorizer.method.networks.items():
        weights = loaded.method.networks[name].state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_the_index_lists_every_weight_file_with_its_hash(saved):
    index = read_index(saved)
    assert index.method == "lcad"
    assert index.working_px == 32
    assert index.settings == {"num_inference_steps": 4}
    assert set(index.sha256) == {path.relative_to(saved).as_posix() for path in saved.rglob("*.safetensors")}
    assert len(index.sha256) == 4


def test_a_second_copy_equals_the_first(saved, tmp_path):
    again = colorlab.load(str(saved)).save_pretrained(tmp_path / "again")
    assert read_index(again) == read_index(saved)


def test_text_to_image_and_shared_folders_load(tmp_path):
    method = tiny_text_to_image()
    (tmp_path / "prior").mkdir()
    for name in ("unet", "scheduler"):
        save_component(name, method.components[name], tmp_path / "prior" / name)
    save_component("vae", method.components["vae"], tmp_path / "vae")
    for name in ("text_encoder", "tokenizer"):
        save_component(name, method.components[name], tmp_path / "clip")
    components = {
        "unet": "unet",
        "vae": "../vae",
        "text_encoder": "../clip",
        "tokenizer": "../clip",
        "scheduler": "scheduler",
    }
    written = write_index(tmp_path / "prior", ModelIndex("text_to_image", components, {}, 32))
    assert "../clip/model.safetensors" in written.sha256
    loaded = colorlab.load(str(tmp_path / "prior"))
    assert loaded.start(prompt="a red car", num_inference_steps=2).image.shape == (32, 32, 3)


def test_the_text_tower_of_a_whole_clip_model_can_be_used(tmp_path):
    text_encoder = tiny_components(0)["text_encoder"]
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    clip = CLIPModel(CLIPConfig(text_config=text_encoder.config.to_dict(), vision_config=vision)).eval()
    clip.save_pretrained(tmp_path / "clip")
    loaded = load_component("text_encoder", tmp_path / "clip", device=torch.device("cpu"), dtype=torch.float32)
    ids = torch.tensor([[52, 0, 30, 53, 53]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).last_hidden_state, clip.text_model(ids).last_hidden_state)


def test_the_wanted_dtype_is_loaded_and_saved(saved, tmp_path):
    half = colorlab.load(str(saved), dtype=torch.float16)
    assert half.dtype == torch.float16
    assert all(p.dtype == torch.float16 for n in half.method.networks.values() for p in n.parameters())
    half.save_pretrained(tmp_path / "half")
    assert (tmp_path / "half" / UNET_FILE).stat().st_size < 0.7 * (saved / UNET_FILE).stat().st_size
    assert colorlab.load(str(tmp_path / "half")).dtype == torch.float32


def test_exhibits_say_which_weights_they_come_from(saved, tmp_path, picture):
    first, second = colorlab.load(str(saved)), colorlab.load(str(shutil.copytree(saved, tmp_path / "other")))
    run = first.start(picture)
    run.step()
    provenance = run.explain(0)["classifier_free_guidance.guidance_field"].provenance
    assert provenance["model"] == "tiny"
    assert provenance["weights"] == first.method.weights_hash == second.method.weights_hash
    assert len(provenance["weights"]) == 64


def test_loading_leaves_the_global_random_generator_alone(saved):
    state = torch.random.get_rng_state()
    colorlab.load(str(saved))
    assert torch.equal(torch.random.get_rng_state(), state)


def flip_a_bit(folder):
    data = bytearray((folder / UNET_FILE).read_bytes())
    data[-1] ^= 1
    (folder / UNET_FILE).write_bytes(data)


def truncate(folder):
    (folder / UNET_FILE).write_bytes((folder / UNET_FILE).read_bytes()[:-100])


def forget_the_hash(folder):
    content = read(folder)
    del content["sha256"][UNET_FILE]
    write(folder, content)


def forget_a_component(folder):
    content = read(folder)
    del content["components"]["vae"]
    write(folder, content)


def swap_networks(folder):
    save_component("unet", tiny_text_to_image().unet, folder / "unet")
    write_index(folder, read_index(folder))


DAMAGES = {
    "flipped bit": (flip_a_bit, "damaged or was changed: its SHA-256"),
    "truncated": (truncate, "damaged or was changed: its SHA-256"),
    "weights gone": (lambda folder: (folder / UNET_FILE).unlink(), "no weights of unet"),
    "folder gone": (lambda folder: shutil.rmtree(folder / "vae"), "no weights of vae"),
    "config gone": (lambda folder: (folder / "unet" / "config.json").unlink(), "no config.json"),
    "config damaged": (
        lambda folder: (folder / "unet" / "config.json").write_text("{"),
        "unet in .* cannot be loaded",
    ),
    "tokenizer gone": (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer in .* cannot be loaded"),
    "hash missing": (forget_the_hash, "has no SHA-256 for unet/"),
    "component missing": (forget_a_component, "names no folder for vae"),
    "other architecture": (
        lambda folder: (folder / "unet" / "config.json").write_text(
            json.dumps({**json.loads((folder / "unet" / "config.json").read_text()), "in_channels": 5})
        ),
        "unet in .* cannot be loaded: .*conv_in",
    ),
    "index gone": (lambda folder: (folder / INDEX_NAME).unlink(), "no model_index.json"),
    "index damaged": (lambda folder: (folder / INDEX_NAME).write_text("{]"), "is damaged"),
    "index is a list": (lambda folder: (folder / INDEX_NAME).write_text("[]"), "is damaged"),
    "index of another library": (
        lambda folder: write(folder, {"_class_name": "StableDiffusionPipeline"}),
        "describes a StableDiffusionPipeline",
    ),
    "unknown method": (lambda folder: write(folder, {**read(folder), "method": "x"}), "no method 'x'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_gives_one_clear_sentence(folder, damage):
    break_it, message = DAMAGES[damage]
    break_it(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        colorlab.Colorizer.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_unknown_names_list_what_exists():
    with pytest.raises(UnknownModelError, match=r"no model 'mini/nothing'.* there are: .*sd/lcad"):
        colorlab.load("mini/nothing")


def test_without_data_the_reason_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("COLORLAB_DATA", str(tmp_path / "none"))
    with pytest.raises(WeightsError, match="COLORLAB_DATA is"):
        colorlab.load("mini/lcad")


def test_published_models_say_what_they_need():
    with pytest.raises(WeightsError, match=r"sd/lcad needs weights that do not come with colorlab .*weights=FOLDER"):
        colorlab.load("sd/lcad")


def test_a_folder_of_converted_weights_stands_in_for_a_name(saved):
    assert colorlab.load("sd/lcad", weights=saved).name == "sd/lcad"


def test_devices_and_dtypes_that_do_not_exist_are_refused(saved):
    for device in ("cdua", "cuda:99"):
        with pytest.raises(RangeError, match=f"device is '{device}'"):
            colorlab.load(str(saved), device=device)
    with pytest.raises(RangeError, match=r"dtype is torch\.int8"):
        colorlab.load(str(saved), dtype=torch.int8)


def test_a_folder_that_cannot_be_written_is_said_so(colorizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ColorlabError, match="cannot be written"):
        colorizer.save_pretrained(tmp_path / "file" / "model")


def test_the_table_of_models_finds_those_of_the_data_folder(folder, monkeypatch):
    (folder.parent / "mini").mkdir()
    shutil.move(folder, folder.parent / "mini" / "tiny")
    monkeypatch.setenv("COLORLAB_DATA", str(folder.parent))
    table = colorlab.models()
    absent = ["mini/colorizediffusion", "mini/colorizediffusion-cls", "sd/colorizediffusion", "sd/ctrlcolor", "sd/lcad"]
    assert [entry.name for entry in table] == ["mini/tiny", *absent]
    assert not any(entry.is_ready for entry in table[1:])
    assert table[0].is_ready
    assert table[0].size_bytes > 0
    assert "mini/tiny" in repr(table).splitlines()[1]
    assert table._repr_html_().count("<tr>") == 7
    assert colorlab.load("mini/tiny").name == "mini/tiny"
    (folder.parent / "mini" / "tiny" / UNET_FILE).unlink()
    assert not colorlab.models()[0].is_ready
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        colorlab.load("mini/tiny")


def test_a_run_starts_from_a_picture_a_conditioning_or_fields(colorizer, picture):
    conditioning = Conditioning(gray=picture, prompt="a red car")
    runs = [
        colorizer.start(conditioning, Settings(num_inference_steps=4, seed=3)),
        colorizer.start(conditioning, seed=3),
        colorizer.start(picture, prompt="a red car", seed=3),
        colorizer.start(gray=picture, prompt="a red car", seed=3),
    ]
    assert len({run.conditioning for run in runs}) == 1
    assert len({run.settings for run in runs}) == 1
    assert all(run.state.equals(runs[0].state) for run in runs)
    assert colorizer.method.network_calls["luminance_encoder"] == 1


def test_what_cannot_be_started_is_refused(colorizer, picture):
    with pytest.raises(RangeError, match="Two pictures came"):
        colorizer.start(picture, gray=picture)
    with pytest.raises(RangeError, match="lcad needs gray"):
        colorizer.start(prompt="a red car")
    with pytest.raises(RangeError, match="'steps' is a field of neither"):
        colorizer.start(picture, steps=4)
    with pytest.raises(ImageError):
        colorizer.start("no such file.png")


def test_samples_of_one_seed_start_from_different_noise(colorizer, picture):
    first, second = (colorizer.start(picture, sample_index=index) for index in range(2))
    assert not first.state.equals(second.state)
    assert first.finish(progress=False).branch(step=0).state.equals(first.states[0])


def test_preparing_first_makes_starting_free(colorizer, picture):
    conditioning = Conditioning(gray=picture, prompt="a red car")
    colorizer.prepare(conditioning)
    assert colorizer.start(conditioning).cost["prepare"].network_calls == 0


def test_the_shortcuts_are_the_fields():
    names = [field.name for cls in (Conditioning, Settings) for field in dataclasses.fields(cls)]
    assert list(Shortcuts.__annotations__) == names


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (33, 31), (300, 20)])
def test_pictures_of_any_size_come_out_at_their_size(colorizer, shape):
    assert colorizer.start(tiny_picture(*shape), num_inference_steps=1).image.shape == (*shape, 3)


def test_the_model_is_described_in_one_line(colorizer):
    assert repr(colorizer) == "Colorizer 'tiny/lcad': lcad, 32 px, cpu, torch.float32"
    assert colorizer.device == torch.device("cpu")
    assert repr(colorlab.Colorizer(tiny_text_to_image())).startswith("Colorizer 'text_to_image'")
