"""Recipe `clip-phrases`: what wordings name, what patches are told to be, and that kinds are told apart by it."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from colorlab.data import data_folder
from colorlab.errors import StateError
from colorlab.methods.components import load_component
from colorlab.networks.libraries import CLIPModel
from colorlab.training.clip_members import build_clip_class
from colorlab.training.corpus import GROUND_INDEX, SKY_INDEX, scene_corpus
from colorlab.training.loop import batch_generator
from colorlab.training.members import (
    EXEMPLAR_ENCODER,
    PHRASE_ENCODER,
    find_exemplar_encoder,
    find_phrase_encoder,
    load_frozen,
)
from colorlab.training.photos import Photographs
from colorlab.training.phrases import WORDINGS, PhraseRecipe, _Names
from colorlab.training.pixels import Draws, Pictures
from colorlab.training.scene_kinds import KINDS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Pictures:
    photographs = Photographs(np.zeros((1, 160, 160, 3), np.uint8), ("cat",), ("a.png",))
    return Pictures(scene_corpus(16, tmp_path_factory.mktemp("scenes")), photographs, ("gray",), photograph_share=0.0)


@pytest.fixture
def recipe(pictures) -> PhraseRecipe:
    mini = data_folder() / "mini"
    return PhraseRecipe(
        pictures,
        load_component("tokenizer", mini / "clip", device=CPU, dtype=torch.float32),
        load_frozen(PHRASE_ENCODER, mini / "clip", CPU),
        load_frozen(EXEMPLAR_ENCODER, mini / "colorizediffusion" / EXEMPLAR_ENCODER, CPU),
    )


def test_every_wording_names_what_it_can_and_backdrops_beside_kinds():
    for sort, number in zip(WORDINGS, (12 * len(KINDS), len(KINDS), 12), strict=True):
        for wording in sort:
            names = _Names.of(wording)
            things = {text for (first, _), text in ((key, names.texts[at]) for key, at in names.index.items())}
            assert things == set(names.texts)
            backdrops = sum(("sky", sky) in names.index for sky in ("clear", "sunset", "overcast", "dusk"))
            assert backdrops == (4 if "{kind}" in wording else 0)
            assert len(names.texts) >= number


def test_a_mirrored_scene_shows_its_things_mirrored(recipe):
    plain, mirrored = (
        np.array([str(thing) for thing in recipe._shown(Draws(torch.zeros(1, 3, 128, 128), (), (2,), (flag,)))])
        for flag in (False, True)
    )
    assert (plain.reshape(16, 16)[:, ::-1] == mirrored.reshape(16, 16)).all()
    patches = recipe.pictures.scenes.patches[2].flatten()
    sky, ground = recipe.pictures.scenes.backdrops[2]
    assert set(plain[patches == SKY_INDEX]) <= {str(("sky", sky))}
    assert set(plain[patches == GROUND_INDEX]) <= {str(("ground", ground))}
    assert set(plain[patches == 0]) <= {str(recipe.pictures.scenes.things[2][0])}


def test_training_takes_texts_of_different_kinds_apart_and_the_export_keeps_it(recipe, tmp_path: Path):
    module = recipe.trainable()

    def likeness(encoder) -> float:
        """Return the mean cosine of a red thing and one of another kind."""
        with torch.no_grad():
            vectors = recipe._encoded(encoder, [f"the red {kind}" for kind in KINDS])
        return float((vectors @ vectors.T)[~torch.eye(len(KINDS), dtype=torch.bool)].mean())

    before = likeness(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    losses = []
    for step in range(8):
        loss, numbers = recipe.loss(module, batch_generator(0, step), 4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.1
    assert set(numbers) == {f"{sort}_{what}" for sort in ("phrase", "kind", "color") for what in ("loss", "top1")}
    assert likeness(module) < before - 0.02
    recipe.export(tmp_path, module, {})
    again = load_component(PHRASE_ENCODER, tmp_path, device=CPU, dtype=torch.float32).eval()
    assert likeness(again) == pytest.approx(likeness(module), abs=2e-3)


def test_a_batch_that_shows_nothing_costs_nothing(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "_shown", lambda draws: [None] * (256 * len(draws.scenes)))
    loss, numbers = recipe.loss(recipe.trainable(), batch_generator(0, 0), 2)
    loss.backward()
    assert float(loss.detach()) == 0
    assert set(numbers.values()) == {0.0}


def test_things_have_the_article_that_users_give_them():
    index = _Names.of("a {color} {kind}").index["orange", "umbrella"]
    assert _Names.of("a {color} {kind}").texts[index] == "an orange umbrella"
    assert "an umbrella" in _Names.of("a {kind}").texts
    assert "orange" in _Names.of("{color}").texts
    assert "something orange" in _Names.of("something {color}").texts


def test_the_tower_of_class_tokens_goes_on_from_the_one_of_patches(pictures, recipe, tmp_path: Path):
    clip = CLIPModel.from_pretrained(data_folder() / "mini" / "clip", dtype=torch.float32)
    told = build_clip_class(pictures, tmp_path, tmp_path, CPU)
    assert told.name == "clip-class"
    for name in ("vision_model", "visual_projection"):
        weights, shipped, old = (
            getattr(tower, name).state_dict() for tower in (told.start, recipe.image_encoder, clip)
        )
        assert all(torch.equal(weights[key], value) for key, value in shipped.items())
        assert not all(torch.equal(weights[key], value) for key, value in old.items())


@pytest.mark.parametrize(
    ("trained", "find", "missing"),
    [
        ("clip", find_exemplar_encoder, "clip-kinds"),
        ("clip", find_phrase_encoder, "clip-phrases"),
        ("clip-kinds", find_phrase_encoder, "clip-phrases"),
        ("clip-kinds", partial(find_exemplar_encoder, reads_patches=False), "clip-class"),
    ],
)
def test_shipped_towers_are_not_mixed_with_others(tmp_path: Path, trained, find, missing):
    assert not find(tmp_path).is_relative_to(tmp_path)
    (tmp_path / "family" / trained).mkdir(parents=True)
    with pytest.raises(StateError, match=f"has a {trained} of its own, but no {missing}"):
        find(tmp_path)
