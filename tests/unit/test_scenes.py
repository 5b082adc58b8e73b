"""The procedural world: what is claimed about a scene is true of its pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from colorlab.color import (
    CHROMATIC_COLORS,
    COLORS,
    LIGHTNESS_RANGE,
    fit_chroma_to_gamut,
    lab_to_rgb,
    nearest_color_name,
    rgb_to_lab,
)
from colorlab.errors import RangeError
from colorlab.training import scenes
from colorlab.training.scene_plans import draw_things
from colorlab.training.scene_world import to_image
from colorlab.training.scenes import Scene, make_scene

SEED = scenes.TEST_SEEDS.start


@pytest.fixture(scope="module")
def some_scenes() -> list[Scene]:
    torch.set_num_threads(1)
    return [make_scene(SEED + k, distinct_kinds=k % 3 > 0) for k in range(110)]


def lab_of(scene: Scene) -> np.ndarray:
    image = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float() / 255
    return rgb_to_lab(image)[0].numpy()


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(scenes.KINDS) >= 12
    assert len(COLORS) == 12
    assert len(scenes.SKIES) == 4
    assert len(scenes.GROUNDS) == 5


def test_all_of_the_world_occurs(some_scenes: list[Scene]) -> None:
    instances = [instance for scene in some_scenes for instance in scene.instances]
    assert {instance.kind for instance in instances} == set(scenes.KINDS)
    assert {instance.color for instance in instances} == set(COLORS)
    assert {scene.sky for scene in some_scenes} == set(scenes.SKIES)
    assert {scene.ground for scene in some_scenes} == set(scenes.GROUNDS)
    assert {len(scene.instances) for scene in some_scenes} == {1, 2, 3, 4}


def test_median_chroma_has_the_named_color(some_scenes: list[Scene]) -> None:
    for scene in some_scenes:
        lab = lab_of(scene)
        for instance in scene.instances:
            assert nearest_color_name(np.median(lab[1:, instance.mask], axis=1)) == instance.color


def test_own_color_covers_three_quarters(some_scenes: list[Scene]) -> None:
    shares = []
    for scene in some_scenes:
        ab = lab_of(scene)[1:]
        for thing, instance in zip(scene.plan.things, scene.instances, strict=True):
            # Chroma is scaled in highlights, so the hue is compared; gray objects have none.
            if thing.color in CHROMATIC_COLORS:
                a, b = ab[:, instance.mask]
                along = (a * thing.ab[0] + b * thing.ab[1]) / np.hypot(*thing.ab)
                aside = np.abs(a * thing.ab[1] - b * thing.ab[0]) / np.hypot(*thing.ab)
                shares.append(np.mean((along > 12) & (aside < 4)))
    assert np.mean(shares) > 0.8
    assert np.mean(np.array(shares) > 0.6) > 0.95


def test_masks_are_disjoint_large_enough_and_boxed(some_scenes: list[Scene]) -> None:
    for scene in some_scenes:
        masks = np.stack([instance.mask for instance in scene.instances])
        assert masks.dtype == bool
        assert masks.sum(axis=0).max() == 1
        assert masks.sum(axis=(1, 2)).min() >= scenes.MIN_VISIBLE_FRACTION * masks[0].size
        for instance in scene.instances:
            left, top, right, bottom = instance.box
            assert instance.mask[top:bottom, left:right].sum() == instance.mask.sum()
            assert instance.mask[top, left:right].any()
            assert instance.mask[bottom - 1, left:right].any()
            assert instance.mask[top:bottom, left].any()
            assert instance.mask[top:bottom, right - 1].any()


def test_objects_hide_each_other_sometimes(some_scenes: list[Scene]) -> None:
    hidden = 0
    for scene in some_scenes:
        for thing, instance in zip(scene.plan.things, scene.instances, strict=True):
            alone = scenes.render(replace(scene.plan, things=(thing,)))
            hidden += instance.mask.sum() < 0.97 * alone.instances[0].mask.sum()
    assert hidden > 0.1 * len(some_scenes)


def test_lightness_is_that_of_the_picture(some_scenes: list[Scene]) -> None:
    for scene in some_scenes:
        assert scene.lightness.dtype == np.float32
        assert np.abs(lab_of(scene)[0] - scene.lightness).max() < 0.5


def test_lightness_does_not_tell_the_color() -> None:
    generators = map(np.random.default_rng, range(3000))
    things = [thing for rng in generators for thing in draw_things(rng, 3, distinct_kinds=True)]
    lightness = np.array([thing.lightness for thing in things])
    assert lightness.min() >= LIGHTNESS_RANGE[0]
    assert lightness.max() <= LIGHTNESS_RANGE[1]
    # Under independence the mean of a group of n has this standard error; five of them are never exceeded by chance.
    for names in ([thing.color for thing in things], [thing.kind for thing in things]):
        for name in set(names):
            group = lightness[np.array(names) == name]
            assert abs(group.mean() - lightness.mean()) < 5 * lightness.std() / np.sqrt(len(group))


def test_every_color_stays_clearly_nearest_to_its_name() -> None:
    generators = map(np.random.default_rng, range(500))
    things = [thing for rng in generators for thing in draw_things(rng, 4, distinct_kinds=False)]
    assert list(nearest_color_name([thing.ab for thing in things])) == [thing.color for thing in things]


def test_lab_becomes_the_same_picture_as_in_the_color_module() -> None:
    rng = np.random.default_rng(0)
    lab = rng.uniform([[[2]], [[-90]], [[-90]]], [[[98]], [[90]], [[90]]], (3, 64, 64)).astype(np.float32)
    lightness, ab = torch.from_numpy(lab.copy())[None, :1], torch.from_numpy(lab.copy())[None, 1:]
    fitted = fit_chroma_to_gamut(lightness, ab)
    difference = (
        torch.from_numpy(to_image(lab)).permute(2, 0, 1) - 255 * lab_to_rgb(torch.cat([lightness, fitted], 1))[0]
    )
    inside = (fitted == ab).all(dim=1)[0]
    assert 0.1 < inside.float().mean() < 0.9
    assert difference[:, inside].abs().max() < 0.51
    # Where chroma is scaled both stop their bisection a little inside, and near black a level is a tiny step of light.
    assert difference[:, ~inside].abs().max() < 8
    assert difference[:, ~inside].abs().mean() < 0.4


def test_a_seed_decides_everything_and_nothing_else_does() -> None:
    first = make_scene(SEED + 5)
    np.random.seed(0)
    make_scene(SEED + 6)
    again, other = make_scene(SEED + 5), make_scene(SEED + 7)
    assert np.array_equal(first.image, again.image)
    assert first.plan == again.plan
    assert not np.array_equal(first.image, other.image)


def test_train_and_test_seeds_are_disjoint() -> None:
    assert scenes.TRAIN_SEEDS.stop <= scenes.TEST_SEEDS.start
    assert len(scenes.TRAIN_SEEDS) > 0
    assert len(scenes.TEST_SEEDS) > 0


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_number_and_distinctness_of_instances(count: int) -> None:
    for seed in range(SEED, SEED + 25):
        distinct = make_scene(seed, num_instances=count).instances
        assert len({instance.kind for instance in distinct}) == count
        free = make_scene(seed, num_instances=count, distinct_kinds=False).instances
        assert len({(instance.kind, instance.color) for instance in free}) == count


def test_same_kinds_occur_where_they_may() -> None:
    kinds = [
        {instance.kind for instance in make_scene(seed, num_instances=2, distinct_kinds=False).instances}
        for seed in range(SEED, SEED + 40)
    ]
    assert 8 <= sum(len(pair) == 1 for pair in kinds) <= 36


@pytest.mark.parametrize("size_px", [64, 100, 256])
def test_other_sizes_show_the_same_world(size_px: int) -> None:
    for seed in range(SEED, SEED + 10):
        scene = make_scene(seed, size_px=size_px)
        assert scene.image.shape == (size_px, size_px, 3)
        lab = lab_of(scene)
        for instance in scene.instances:
            assert nearest_color_name(np.median(lab[1:, instance.mask], axis=1)) == instance.color


def test_recolored_changes_color_alone() -> None:
    for seed in range(SEED, SEED + 20):
        scene = make_scene(seed)
        colors = [CHROMATIC_COLORS[(seed + k) % 8] for k in range(len(scene.instances))]
        other = scenes.recolored(scene, colors)
        assert np.array_equal(scene.lightness, other.lightness)
        lab, background = lab_of(other), np.ones(scene.lightness.shape, bool)
        for before, after, color in zip(scene.instances, other.instances, colors, strict=True):
            assert np.array_equal(before.mask, after.mask)
            assert (before.kind, color) == (after.kind, after.color)
            assert nearest_color_name(np.median(lab[1:, after.mask], axis=1)) == color
        for instance in scene.instances:
            left, top, right, bottom = instance.box
            background[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
        assert np.array_equal(scene.image[background], other.image[background])
        same = scenes.recolored(scene, [instance.color for instance in scene.instances])
        assert np.array_equal(scene.image, same.image)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_scene(-1), "seed is -1"),
        (lambda: make_scene(0, size_px=32), "size_px is 32"),
        (lambda: make_scene(0, num_instances=5), "num_instances is 5"),
        (lambda: make_scene(0, num_instances=0), "num_instances is 0"),
        (lambda: scenes.moving_clip(0, 0), "num_frames is 0"),
        (lambda: scenes.recolored(make_scene(0, num_instances=2), ["red"]), "1 names"),
        (lambda: scenes.recolored(make_scene(0, num_instances=1), ["mauve"]), "mauve"),
        (lambda: scenes.caption(make_scene(0), "full", seed=0), "'full'"),
    ],
)
def test_bad_arguments_are_named(call, words: str) -> None:
    with pytest.raises(RangeError, match=words):
        call()
