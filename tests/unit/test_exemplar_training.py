"""Training of ColorizeDiffusion: strategies as identities, deformation, words of patches, and the first steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_unet

from colorlab.color import CHROMATIC_COLORS
from colorlab.errors import RangeError
from colorlab.methods.components import load_component
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training import edited_exemplars
from colorlab.training.colorizediffusion import Strategies
from colorlab.training.corpus import NO_THING, corpus_scene, patch_map
from colorlab.training.deformation import deform, thin_plate_warp
from colorlab.training.edited_exemplars import EditedExemplars
from colorlab.training.exemplars import own_masks, patch_owners
from colorlab.training.scene_kinds import KINDS
from colorlab.training.scenes import exemplar_scene, make_scene
from colorlab.training.sketched_kinds import UNKNOWN, KindReader
from colorlab.training.sketched_unet import fit_token_map, read_tokens_as_words, without_taps
from colorlab.training.token_strategies import drop_tokens, noise_timesteps, noisy_tokens, offset_noise, shuffle_tokens
from colorlab.training.token_words import named_patches, phrase_vectors

GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(shape, generator=GENERATOR)


def test_a_shuffle_of_tokens_cannot_change_what_cross_attention_says():
    unet = tiny_unet(4).eval().double()
    tokens, sample = drawn(2, 9, 16).double(), drawn(2, 4, 8, 8).double()
    with torch.no_grad():
        plain, shuffled = (
            unet(sample, 500, encoder_hidden_states=given).sample
            for given in (tokens, shuffle_tokens(tokens, torch.randperm(9, generator=GENERATOR)))
        )
    assert not torch.equal(tokens, shuffle_tokens(tokens, torch.arange(9).flip(0)))
    assert float((plain - shuffled).abs().max()) < 1e-12


def test_noise_of_tokens_follows_the_timestep_but_the_later_version_keeps_the_noisiest_clean():
    schedule = NoiseSchedule()
    tokens = torch.ones(3, 200, 8)
    timesteps = torch.tensor([10, 899, 950])
    for version, noisiest in (("first", 2), ("later", 1)):
        noised = noisy_tokens(tokens, drawn(1, 200, 8).expand(3, -1, -1), timesteps, schedule, version=version)
        spread = noised.std(dim=(1, 2))
        assert int(spread.argmax()) == noisiest
        assert float(spread[0]) < 0.2
    assert noise_timesteps(timesteps, 1000, "later").tolist() == [10, 899, 49]
    assert noisy_tokens(tokens, tokens, timesteps, schedule, version="none") is tokens


def test_dropped_tokens_are_zeros_of_whole_samples():
    tokens = drawn(3, 4, 5)
    kept = drop_tokens(tokens, torch.tensor([1.0, 0.0, 1.0]))
    assert torch.equal(kept[[0, 2]], tokens[[0, 2]])
    assert not kept[1].any()


def test_offset_noise_is_shared_by_all_cells():
    noise = drawn(2, 4, 6, 6)
    for shared in (drawn(2), drawn(2, 4)):
        moved = offset_noise(noise, shared) - noise
        torch.testing.assert_close(moved, moved[..., :1, :1].expand_as(moved))


def test_a_deformation_moves_points_where_they_are_to_go_and_keeps_colors():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 15:17, 15:17] = 1
    before = torch.tensor([[[16.0, 16.0], [0.0, 0.0], [32.0, 0.0], [0.0, 32.0], [32.0, 32.0]]])
    after = before.clone()
    after[0, 0] = torch.tensor([22.0, 12.0])
    warped = thin_plate_warp(image, before, after)[0, 0]
    y, x = np.unravel_index(int(warped.argmax()), (32, 32))
    assert abs(x + 0.5 - 22) <= 1
    assert abs(y + 0.5 - 12) <= 1
    picture = torch.rand(2, 3, 24, 40, generator=GENERATOR)
    bent = deform(picture, torch.Generator().manual_seed(1))
    assert bent.shape == picture.shape
    assert torch.equal(bent, deform(picture, torch.Generator().manual_seed(1)))
    assert float((bent - picture).abs().mean()) > 0.05
    assert bent.min() >= 0
    assert bent.max() <= 1


def test_patches_belong_to_the_phrase_they_are_nearest_to():
    vectors = torch.eye(4)[:2]
    tokens = torch.tensor([[5.0, 1.0, 0, 0], [0.1, 4.0, 0, 0], [0.1, 0.2, 9.0, 0], [0, 0, 0, 0]])
    assert named_patches(tokens, vectors).tolist() == [[True, False, False, False], [False, True, False, False]]


def test_keys_and_values_read_tokens_as_the_words_they_stand_for():
    unet = tiny_unet(4).eval()
    matrix, tokens = drawn(16, 16), drawn(400, 16)
    token_map = fit_token_map(tokens, tokens @ matrix.T)
    torch.testing.assert_close(token_map, matrix, rtol=0.05, atol=0.05)
    sample, seen = drawn(1, 4, 8, 8), drawn(1, 5, 16)
    with torch.no_grad():
        by_words = unet(sample, 300, encoder_hidden_states=seen @ matrix.T).sample
        read_tokens_as_words(unet, matrix)
        by_tokens = unet(sample, 300, encoder_hidden_states=seen).sample
    torch.testing.assert_close(by_tokens, by_words, rtol=1e-4, atol=1e-4)


def test_nothing_to_fit_leaves_tokens_as_they_are():
    assert torch.equal(fit_token_map(torch.zeros(0, 5), torch.zeros(0, 5)), torch.eye(5))


def test_a_unet_without_taps_is_the_one_whose_taps_are_zero():
    wide = tiny_unet(7).eval()
    sample, words = drawn(1, 4, 8, 8), drawn(1, 5, 16)
    with torch.no_grad():
        known = wide(torch.cat([sample, torch.zeros(1, 3, 8, 8)], 1), 300, encoder_hidden_states=words).sample
        bare = without_taps(wide)(sample, 300, encoder_hidden_states=words).sample
    torch.testing.assert_close(bare, known, rtol=1e-5, atol=1e-5)


def test_strategies_are_checked():
    for arguments, words in (
        ({"drop_rate": 1.5}, r"drop_rate is 1\.5"),
        ({"dual_weight": float("nan")}, r"dual_weight is not a number \(NaN\), but at least 0 is expected"),
        ({"grounding_weight": -1.0}, "grounding_weight is -1, but at least 0 is expected"),
        ({"edit_share": 2.0}, "edit_share is 2, but 0 to 1 is expected"),
        ({"token_noise": "latter"}, "token_noise is 'latter', but one of none, first, later is expected"),
        ({"exemplar": "bent"}, "exemplar is 'bent', but one of arranged, deformed, same is expected"),
    ):
        with pytest.raises(RangeError, match=words):
            Strategies(**arguments)


def test_patches_of_an_exemplar_belong_to_the_things_of_the_scene_not_to_its_own_order():
    scene = next(scene for scene in map(make_scene, range(50)) if len(scene.instances) == 3)
    exemplar = exemplar_scene(scene, seed=1)
    owners, shown = patch_owners(own_masks(scene, exemplar)), patch_map(exemplar)
    for number, instance in enumerate(scene.instances):
        other = [one.kind for one in exemplar.instances].index(instance.kind)
        assert (shown == other).any()
        assert set(owners[shown == other]) == {number}
        # What two things share belongs to the larger part here, and to none in the scene's own map.
        assert set(shown[owners == number]) <= {other, NO_THING}
    assert set(patch_owners(torch.zeros(0, 16, 24)).flatten()) == {NO_THING}


def test_edited_exemplars_say_the_colors_of_their_scene(monkeypatch):
    clip = Path("data/mini/clip")
    parts = {
        name: load_component(name, clip, device=torch.device("cpu"), dtype=torch.float32).eval()
        for name in ("projected_image_encoder", "projected_text_encoder")
    }
    tokenizer = load_component("tokenizer", clip, device=torch.device("cpu"), dtype=torch.float32)
    phrases = phrase_vectors(tokenizer, parts["projected_text_encoder"])
    edited = EditedExemplars(parts["projected_image_encoder"], phrases, "high")
    scene = corpus_scene(1)
    place = next(place for place, one in enumerate(scene.instances) if one.color in CHROMATIC_COLORS)
    kind, color = scene.instances[place].kind, scene.instances[place].color
    shown = next(other for other in CHROMATIC_COLORS if other != color)
    monkeypatch.setattr(edited_exemplars, "_other_colors", lambda things, rng: {kind: shown})
    tokens, owners = edited.draw(1, torch.Generator().manual_seed(2))
    assert torch.equal(tokens, edited.draw(1, torch.Generator().manual_seed(2))[0])
    assert tokens.shape == (257, 128)
    vectors = torch.stack([phrases[name, kind] for name in CHROMATIC_COLORS])
    told = [CHROMATIC_COLORS[index] for index in (tokens[1:][owners == place] @ vectors.T).argmax(1).tolist()]
    assert np.mean([name == color for name in told]) > 0.5, told


def test_what_an_edited_exemplar_shows_is_never_the_color_of_the_scene():
    things = [("red", "car"), ("gray", "house"), ("blue", "kite")]
    for seed in range(20):
        changes = edited_exemplars._other_colors(things, np.random.default_rng(seed))
        assert set(changes) <= {"car", "kite"}
        assert changes
        assert changes.get("car") != "red"
        assert changes.get("kite") != "blue"


def test_a_reader_learns_kinds_from_known_cells_alone():
    reader = KindReader((4, 4)).requires_grad_(False)
    hints = (drawn(2, 4, 8, 8), drawn(2, 4, 4, 4), drawn(2, 4, 2, 2))
    unknown = torch.full((2, 8, 8), UNKNOWN)
    assert float(reader(hints, unknown)) == 0
    kinds = unknown.clone()
    kinds[0, 2, 4] = 2  # seen in the finest hint alone, because the other takes every second row and column from 1 on
    for head in reader.heads:
        head.weight.zero_()
        head.bias.zero_()
    assert float(reader(hints, kinds)) == pytest.approx(np.log(len(KINDS) + 1) / 2, rel=1e-5)
    reader.heads[0].bias[2] = 50
    assert float(reader(hints, kinds)) == pytest.approx(0, abs=1e-5)
