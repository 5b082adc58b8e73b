"""Sketches, exemplars, strokes and clips of the procedural world."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorlab.color import nearest_color_name, rgb_to_lab
from colorlab.strokes import Strokes
from colorlab.training import scene_sheet, scenes
from colorlab.training.scenes import exemplar_scene, make_scene, moving_clip, simulated_strokes, sketch

SEED = scenes.TEST_SEEDS.start + 2000


def test_sketch_is_black_lines_on_white_around_every_instance() -> None:
    for seed in range(SEED, SEED + 20):
        scene = make_scene(seed)
        lines = sketch(scene)
        assert lines.shape == scene.lightness.shape
        assert lines.min() >= 0
        assert lines.max() == 1
        assert 0.75 < lines.mean() < 0.99
        for instance in scene.instances:
            inner = instance.mask.copy()
            for axis in (0, 1):
                inner &= np.roll(instance.mask, 1, axis) & np.roll(instance.mask, -1, axis)
            border = instance.mask & ~inner
            border[[0, -1]] = border[:, [0, -1]] = False
            assert lines[border].mean() < 0.5


def test_sketch_does_not_depend_on_color() -> None:
    scene = make_scene(SEED, num_instances=2)
    assert np.array_equal(sketch(scene), sketch(scenes.recolored(scene, ["red", "blue"])))


def test_exemplar_shows_the_same_objects_elsewhere() -> None:
    for seed in range(SEED, SEED + 20):
        scene = make_scene(seed)
        exemplar = exemplar_scene(scene, 1)
        assert (exemplar.sky, exemplar.ground) == (scene.sky, scene.ground)
        before = {thing.style: thing for thing in scene.plan.things}
        after = {thing.style: thing for thing in exemplar.plan.things}
        assert before.keys() == after.keys()
        for style, thing in before.items():
            other = after[style]
            assert (thing.kind, thing.ab, thing.lightness) == (other.kind, other.ab, other.lightness)
            assert (thing.x, thing.y) != (other.x, other.y)
        floor = scenes.MIN_VISIBLE_FRACTION * scene.lightness.size
        assert all(instance.mask.sum() >= floor for instance in exemplar.instances)
        assert np.array_equal(exemplar.image, exemplar_scene(scene, 1).image)
        assert not np.array_equal(exemplar.image, exemplar_scene(scene, 2).image)


def test_strokes_stay_inside_and_carry_the_named_color() -> None:
    torch.set_num_threads(1)
    num_on_instances = num_on_background = 0
    for seed in range(SEED, SEED + 40):
        scene = make_scene(seed)
        strokes = simulated_strokes(scene, seed=1)
        assert strokes == simulated_strokes(scene, seed=1)
        num_before = num_on_instances
        for stroke in strokes:
            painted = Strokes([stroke]).rasterize(*scene.lightness.shape)[1][0, 0].numpy() > 0
            assert painted.any()
            inside = [instance for instance in scene.instances if instance.mask[painted].all()]
            outside = not any(instance.mask[painted].any() for instance in scene.instances)
            assert len(inside) + outside == 1
            num_on_background += outside
            if inside:
                num_on_instances += 1
                lab = rgb_to_lab(torch.tensor(stroke.color).view(1, 3, 1, 1) / 255)[0, :, 0, 0]
                assert nearest_color_name(lab[1:]) == inside[0].color
        assert num_on_instances > num_before
    assert num_on_background > 5


def test_clip_starts_with_the_scene_and_moves() -> None:
    for seed in range(SEED, SEED + 12):
        first, *others = moving_clip(seed, 5)
        assert np.array_equal(first.image, make_scene(seed).image)
        assert len(others) == 4
        for frame in others:
            assert [(item.kind, item.color) for item in frame.instances] == [
                (item.kind, item.color) for item in first.instances
            ]
            floor = scenes.MIN_VISIBLE_FRACTION * first.lightness.size
            assert all(item.mask.sum() >= floor for item in frame.instances)
        assert not np.array_equal(first.image, others[-1].image)


def test_clip_moves_smoothly_before_a_still_backdrop() -> None:
    frames = moving_clip(SEED + 3, 16)
    free = ~np.any([item.mask for frame in frames for item in frame.instances], axis=0)
    sky = free & (np.arange(128)[:, None] < 0.4 * frames[0].plan.horizon * 128)
    assert sky.sum() > 100
    steps = []
    for before, after in pairwise(frames):
        assert np.median(np.abs(before.lightness - after.lightness)[sky]) == 0
        steps += [
            float(np.hypot(p.x - q.x, p.y - q.y)) for p, q in zip(before.plan.things, after.plan.things, strict=True)
        ]
    assert 0 < max(steps) < 0.05


def test_a_clip_of_one_frame_is_the_scene() -> None:
    (only,) = moving_clip(SEED, 1)
    assert np.array_equal(only.image, make_scene(SEED).image)


def test_the_contact_sheet_is_written_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sheet.png"
    monkeypatch.setattr("sys.argv", ["scene_sheet", str(target)])
    scene_sheet.main()
    with Image.open(target) as picture:
        sheet = np.asarray(picture)
    assert sheet.shape[1:] == (828, 3)
    # The very first tile is the scene of seed 0, unchanged.
    first = make_scene(0).image
    rows = [row for row in range(60) if np.array_equal(sheet[row : row + 128, 6:134], first)]
    assert len(rows) == 1


def test_the_contact_sheet_asks_for_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["scene_sheet"])
    with pytest.raises(SystemExit, match=r"docs/scenes\.png"):
        scene_sheet.main()
