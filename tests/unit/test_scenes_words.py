"""Captions of the procedural world: true, grammatical, of a closed vocabulary."""

import re

import pytest

from colorlab.color import COLORS
from colorlab.training import scenes
from colorlab.training.scene_captions import GROUND_PHRASES, SKY_PHRASES
from colorlab.training.scenes import Scene, caption, make_scene, named_instances

SEED = scenes.TEST_SEEDS.start + 1000


@pytest.fixture(scope="module")
def some_scenes() -> list[Scene]:
    return [make_scene(SEED + k, distinct_kinds=k % 4 > 0, size_px=64) for k in range(120)]


def described(text: str) -> list[tuple[str | None, str]]:
    """Return the (color or None, kind) of each object a caption mentions."""
    kinds, colors = "|".join(scenes.KINDS), "|".join(COLORS)
    return [(color or None, kind) for color, kind in re.findall(rf"\ban? (?:({colors}) )?({kinds})\b", text)]


def test_complete_captions_say_everything(some_scenes: list[Scene]) -> None:
    for seed, scene in enumerate(some_scenes):
        text = caption(scene, "complete", seed=seed)
        assert sorted(described(text)) == sorted((item.color, item.kind) for item in scene.instances)
        assert SKY_PHRASES[scene.sky] in text
        assert GROUND_PHRASES[scene.ground] in text or f"over the {scene.ground}" in text


def test_partial_captions_name_what_they_say_they_name(some_scenes: list[Scene]) -> None:
    for seed, scene in enumerate(some_scenes):
        named = named_instances(scene, "partial", seed)
        expected = [(item.color if k in named else None, item.kind) for k, item in enumerate(scene.instances)]
        assert sorted(described(caption(scene, "partial", seed=seed)), key=str) == sorted(expected, key=str)
        if len(scene.instances) > 1:
            assert 1 <= len(named) < len(scene.instances)


def test_scarce_captions_name_no_color(some_scenes: list[Scene]) -> None:
    texts = [caption(scene, "scarce", seed=seed) for seed, scene in enumerate(some_scenes)]
    assert not set(COLORS) & {word for text in texts for word in text.split()}
    assert any(described(text) for text in texts)
    assert any(not described(text) for text in texts)
    assert all(named_instances(scene, "scarce", 0) == () for scene in some_scenes)


def test_articles_fit_the_word_that_follows(some_scenes: list[Scene]) -> None:
    for level in scenes.CAPTION_LEVELS:
        for scene in some_scenes:
            for article, letter in re.findall(r"\b(an?) (\w)", caption(scene, level, seed=3)):
                assert article == ("an" if letter in "aeiou" else "a")


def test_the_vocabulary_is_closed_and_used(some_scenes: list[Scene]) -> None:
    words = {
        word
        for level in scenes.CAPTION_LEVELS
        for seed in range(3)
        for scene in some_scenes
        for word in caption(scene, level, seed=seed).replace(",", " ").split()
    }
    assert words == set(scenes.caption_words())


def test_wording_follows_the_seed_and_varies_with_it() -> None:
    scene = make_scene(SEED, num_instances=3)
    assert caption(scene, "partial", seed=1) == caption(scene, "partial", seed=1)
    assert len({caption(scene, "complete", seed=seed) for seed in range(30)}) >= 6
    assert {named_instances(scene, "partial", seed) for seed in range(60)} == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
