"""CtrlColor's recipes: hints, what networks begin with, exact resuming, and that training moves what it may."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from colorlab.data import data_folder
from colorlab.methods.components import load_component
from colorlab.networks.deformable import content_guide, decode_deformable
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.networks.luminance import LuminanceEncoder, extend_conv_in, narrow_conv_in
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training import ctrlcolor, deformable
from colorlab.training.corpus import NO_THING, scene_corpus
from colorlab.training.ctrlcolor import ControlledUNet, CtrlColorRecipe, InpaintRecipe, LightnessRecipe
from colorlab.training.deformable import DeformableRecipe
from colorlab.training.denoising import FrozenText
from colorlab.training.encoded_hints import EncodedHints, encode_hints
from colorlab.training.hints import photograph_hint, scene_hint
from colorlab.training.latents import EncodedPictures, encode_pictures
from colorlab.training.loop import Plan, train
from colorlab.training.photos import Photographs
from colorlab.training.pixels import Pictures
from colorlab.training.scenes import TRAIN_SEEDS, make_scene

NUM_PHOTOGRAPHS, NUM_SCENES, TAP_CHANNELS = 3, 6, 8
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Pictures:
    """A few scenes, and photographs of colored noise in blocks."""
    blocks = np.random.default_rng(0).integers(0, 256, (NUM_PHOTOGRAPHS, 8, 8, 3), np.uint8)
    images = blocks.repeat(20, axis=1).repeat(20, axis=2)
    labels = ("tulip", "rose", "car")
    photographs = Photographs(images, labels, labels)
    return Pictures(scene_corpus(NUM_SCENES, tmp_path_factory.mktemp("scenes")), photographs, ("red",) * 3)


@pytest.fixture(scope="module")
def family() -> dict:
    """The shipped frozen networks."""
    folder = data_folder() / "mini"
    places = {"vae": folder / "vae", "image_encoder": folder / "clip"}
    return {
        name: load_component(name, place, device=CPU, dtype=torch.float32).requires_grad_(False).eval()
        for name, place in places.items()
    } | {"text": FrozenText.load(folder / "clip", CPU)}


@pytest.fixture(scope="module")
def encoded(pictures, family, tmp_path_factory) -> tuple[EncodedPictures, EncodedHints]:
    """The pictures and their hints, encoded by the shipped networks; one photograph and one scene have no hint."""
    cache = tmp_path_factory.mktemp("cache")
    hints = encode_hints(pictures, family["vae"], family["image_encoder"], cache, key="k", counts=(2, NUM_SCENES - 1))
    again = encode_hints(pictures, None, None, cache, key="k", counts=(2, NUM_SCENES - 1))
    assert all(np.array_equal(getattr(hints, name), getattr(again, name)) for name in vars(hints))
    return encode_pictures(pictures, family["vae"], cache, key="k"), hints


@pytest.fixture
def lcad() -> UNet2DConditionModel:
    """A tiny UNet that sees a luminance tap."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4 + TAP_CHANNELS,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=2,
        norm_num_groups=4,
    )


@pytest.fixture
def luminance() -> LuminanceEncoder:
    """A tiny luminance encoder whose deepest tap is not zero."""
    torch.manual_seed(1)
    encoder = LuminanceEncoder(block_out_channels=(4, 4, 4, TAP_CHANNELS), layers_per_block=1, norm_num_groups=2)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    return encoder.requires_grad_(False)


@pytest.fixture
def schedule() -> NoiseSchedule:
    return NoiseSchedule(prediction_type="v_prediction")


def control_network(pictures, lcad, luminance) -> nn.Module:
    return LightnessRecipe(pictures, lcad, luminance).trainable()


def test_scene_hints_say_whose_strokes_they_are_and_edits_leave_one_object_free():
    num_edits = 0
    for seed in TRAIN_SEEDS[:24]:
        scene = make_scene(seed)
        hint = scene_hint(scene, seed)
        free = np.mean([(~hint.known)[instance.mask].mean() for instance in scene.instances])
        assert free > 0
        owners = set(hint.owners.flatten().tolist())
        assert owners <= {NO_THING, *range(len(scene.instances))}
        if hint.known.mean() > 0.5:
            num_edits += 1
            (owner,) = owners - {NO_THING}
            outside = ~scene.instances[owner].mask
            assert np.array_equal(hint.picture[~hint.known], (scene.image / np.float32(255))[~hint.known])
            assert hint.known[outside].mean() > 0.8
        else:
            for owner in owners - {NO_THING}:
                cells = np.kron(hint.owners == owner, np.ones((8, 8), bool))
                assert (cells & hint.known & scene.instances[owner].mask).any()
    assert 1 <= num_edits <= 12


def test_hints_are_a_function_of_the_seed_and_mirror_twice_to_themselves():
    scene = make_scene(5)
    first, same, other = (scene_hint(scene, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.picture, same.picture)
    assert not np.array_equal(first.known, other.known)
    assert np.array_equal(first.mirrored().mirrored().owners, first.owners)


def test_photograph_hints_give_some_colors_near_the_true_ones(pictures):
    image = pictures.photographs.images[0][:128, :128]
    for seed in range(8):
        hint = photograph_hint(image, seed)
        assert 0 < hint.known.mean() < 1
        assert (hint.owners == NO_THING).all()
    assert np.array_equal(hint.picture, photograph_hint(image, 7).picture)


def test_without_a_hint_nothing_is_given(encoded):
    _, hints = encoded
    around = hints.around(hints.indices[:2].tolist(), torch.tensor([True, False]))
    assert around.shape == (2, 5, 16, 16)
    assert bool((around[1, 0] == 1).all())
    assert torch.equal(around[1, 1:], torch.from_numpy(hints.blank).float())
    assert float(around[0, 0].min()) == 0
    assert torch.equal(around[0, 1:], torch.from_numpy(hints.masked_latents[0]).float())


def test_pictures_that_need_a_hint_have_one_and_stroked_objects_count_most(encoded, family, schedule, lcad):
    recipe = InpaintRecipe(*encoded, family["text"], schedule, lcad=lcad)
    indices = recipe._indices(16, torch.Generator().manual_seed(0))
    is_hinted = recipe.is_hinted(16)
    hinted = [index for index, given in zip(indices, is_hinted, strict=True) if given]
    assert set(hinted) <= set(encoded[1].indices.tolist())
    weights, owners, patches = recipe.cell_weights(indices), recipe.owners(indices), encoded[0].patches(indices)
    assert bool((owners[~is_hinted] == NO_THING).all())
    on_stroke = (owners >= 0) & (owners == patches)
    assert bool(on_stroke.any())
    assert bool((weights[:, 0][on_stroke] == ctrlcolor.STROKED_WEIGHT).all())
    assert float(weights[~is_hinted].max()) < ctrlcolor.STROKED_WEIGHT


def test_narrowing_undoes_widening(lcad):
    narrowed = narrow_conv_in(extend_conv_in(lcad, 3), lcad.config.in_channels)
    assert all(torch.equal(one, other) for one, other in zip(lcad.parameters(), narrowed.parameters(), strict=True))


def test_the_prior_begins_as_lcad_without_luminance_and_learns_with_its_input_half(encoded, family, schedule, lcad):
    recipe = InpaintRecipe(*encoded, family["text"], schedule, lcad=lcad)
    unet = recipe.trainable()
    noisy, words = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    hinted = torch.cat([noisy, torch.randn(2, 5, 16, 16)], dim=1)
    expected = narrow_conv_in(lcad, 4)(noisy, 500, encoder_hidden_states=words).sample
    assert torch.allclose(unet(hinted, 500, encoder_hidden_states=words).sample, expected, atol=1e-5)
    loss, _ = recipe.loss(unet, torch.Generator().manual_seed(0), 4)
    loss.backward()
    assert float(unet.conv_in.weight.grad[:, 4:].abs().sum()) > 0
    assert all(parameter.grad is None for parameter in unet.up_blocks.parameters())


def test_the_control_network_begins_by_adding_lcads_features_whole(pictures, lcad, luminance):
    network = control_network(pictures, lcad, luminance)
    noisy, words = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 128)
    seen = {}
    handle = (plain := narrow_conv_in(lcad, 4)).mid_block.register_forward_hook(
        lambda module, args, output: seen.update(middle=output)
    )
    plain(noisy, 500, encoder_hidden_states=words)
    handle.remove()
    # The embedding of lightness begins at zero.
    _, middle = network(
        noisy, 500, encoder_hidden_states=words, controlnet_cond=torch.rand(2, 3, 128, 128), return_dict=False
    )
    assert torch.allclose(middle, seen["middle"], atol=1e-5)


def test_the_embedding_of_lightness_learns_what_the_tap_adds(pictures, lcad, luminance):
    recipe = LightnessRecipe(pictures, lcad, luminance)
    network = recipe.trainable()
    optimizer = torch.optim.Adam(network.controlnet_cond_embedding.parameters(), lr=3e-3)
    losses = []
    for step in range(12):
        loss, _ = recipe.loss(network, torch.Generator().manual_seed(step % 2), 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(1.0, abs=1e-4)
    assert losses[-1] < 0.9
    assert all(parameter.grad is None for parameter in network.down_blocks.parameters())


class Unpainted(CtrlColorRecipe):
    """The recipe, without the model folder and the pictures that need the whole family."""

    def export(self, folder: Path, module: nn.Module, card: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), folder / "networks.pt")

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        return Image.new("RGB", (1, 1))


def test_a_resumed_training_equals_an_uninterrupted_one(encoded, family, schedule, pictures, lcad, luminance, tmp_path):
    plan = Plan(steps=3, batch_size=4, learning_rate=1e-3, warmup=1, ema_decay=0.9)

    def run(folder: str, **options: object) -> None:
        unet = extend_conv_in(narrow_conv_in(lcad, 4), 5)
        control = control_network(pictures, lcad, luminance)
        recipe = Unpainted(*encoded, family["text"], schedule, unet=unet, control_network=control)
        train(recipe, plan, tmp_path / folder, tmp_path / f"{folder}_member", device="cpu", **options)

    run("whole")
    run("parts", max_seconds=0.0)
    run("parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / f"{name}_member" / "networks.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = {
        part: bool((whole[f"unet.{part}"] != value).any())
        for part, value in extend_conv_in(narrow_conv_in(lcad, 4), 5).state_dict().items()
    }
    assert moved["conv_in.weight"]
    assert moved["conv_out.weight"]


@pytest.fixture
def deformable_recipe(encoded, family, schedule, pictures, lcad, luminance) -> DeformableRecipe:
    unet = extend_conv_in(narrow_conv_in(lcad, 4), 5)
    networks = ControlledUNet(unet, control_network(pictures, lcad, luminance)).requires_grad_(False)
    return DeformableRecipe(
        *encoded,
        family["text"],
        schedule,
        networks=networks,
        vae=family["vae"],
        image_encoder=family["image_encoder"],
    )


def test_the_deformable_decoder_begins_as_the_plain_one(deformable_recipe, family):
    module = deformable_recipe.trainable()
    image, wrong = deformable_recipe.slightly_wrong([0, 5], torch.Generator().manual_seed(0))
    vae = family["vae"]
    guide = content_guide(vae, torch.rand(2, 1, 128, 128))
    plain = vae.decode(wrong / vae.config.scaling_factor).sample
    assert torch.allclose(decode_deformable(vae, module.units, wrong, guide)[0], plain, atol=1e-4)
    assert image.shape == (2, 3, 128, 128)


def test_only_the_units_learn_until_the_judge_is_heard_and_the_judge_only_by_judging(deformable_recipe, monkeypatch):
    module = deformable_recipe.trainable()
    loss, numbers = deformable_recipe.loss(module, torch.Generator().manual_seed(0), 2)
    loss.backward()
    assert numbers["gan"] == numbers["judging"] == 0
    assert all(parameter.grad is None for parameter in module.discriminator.parameters())
    assert float(module.units.units[0].weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in deformable_recipe.networks.parameters())

    monkeypatch.setattr(deformable, "ADVERSARIAL_START", 0)
    judged = []
    for factor in (deformable.ADVERSARIAL_FACTOR, 0.0):
        monkeypatch.setattr(deformable, "ADVERSARIAL_FACTOR", factor)
        module = deformable_recipe.trainable()
        loss, numbers = deformable_recipe.loss(module, torch.Generator().manual_seed(0), 2)
        loss.backward()
        judged.append([parameter.grad for parameter in module.discriminator.parameters()])
        assert np.isfinite(numbers["gan"])
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*judged, strict=True))
    assert int(module.num_batches) == 1
