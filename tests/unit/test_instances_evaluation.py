"""The protocols of instances, masks and solvers: exact pictures are right, swapped ones are only matched."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from colorlab import cli
from colorlab.color import CHROMATIC_COLORS
from colorlab.errors import RangeError
from colorlab.evaluation import instances, solver_speed
from colorlab.evaluation.scenes import measure
from colorlab.training.scenes import TEST_SEEDS, recolored

SIZE_PX = 64


@pytest.fixture(scope="module")
def scenes():
    return list(islice(instances.same_kind_scenes(SIZE_PX), 4))


def test_objects_are_of_one_kind_in_different_colors(scenes):
    assert [len(scene.instances) for scene in scenes] == [2, 3, 2, 3]
    for scene in scenes:
        assert scene.seed in TEST_SEEDS
        assert len({instance.kind for instance in scene.instances}) == 1
        colors = [instance.color for instance in scene.instances]
        assert len(set(colors)) == len(colors)
        assert set(colors) <= set(CHROMATIC_COLORS)


def test_masks_are_named_by_the_words_of_their_objects(scenes):
    given = instances.masked_conditioning(scenes[1])
    assert list(given.masks) == [f"{one.color} {one.kind}" for one in scenes[1].instances]
    assert all(name in given.prompt for name in given.masks)
    assert given.gray.shape == (SIZE_PX, SIZE_PX)


def test_the_names_come_in_another_order_than_the_objects():
    """Else the order alone would tell which object is meant."""
    orders = []
    for scene in islice(instances.same_kind_scenes(SIZE_PX), 12):
        given = instances.masked_conditioning(scene)
        places = [given.prompt.index(name) for name in given.masks]
        orders.append(places == sorted(places))
    assert 0 < sum(orders) < len(orders)


def test_exact_pictures_are_right_and_turned_ones_are_matched_only(scenes):
    exact = measure(scenes, [scene.image for scene in scenes], "complete")
    assert instances.matched_share(exact) == (len(exact), len(exact))
    turned = [recolored(one, [*[i.color for i in one.instances][1:], one.instances[0].color]) for one in scenes]
    found = measure(scenes, [scene.image for scene in turned], "complete")
    assert sum(one.is_right() for one in found) == 0
    assert instances.matched_share(found) == (len(found), len(found))
    same = replace(found[0], wanted=found[1].wanted)
    right, total = instances.matched_share([same, found[1]])
    assert (right, total) == (1, 2)


def test_too_few_scenes_are_refused(scenes):
    with pytest.raises(RangeError, match="num_scenes is 0; expected at least 1"):
        instances.evaluate_instances(None, None, None, 0)
    with pytest.raises(RangeError, match="num_scenes is 1; expected at least 2"):
        solver_speed.evaluate_solvers(None, None, None, 1)


@pytest.mark.parametrize(
    ("protocol", "row"),
    [
        ("instances", "right color on the right object of one kind, with masks"),
        ("masks", "mask and named object: mean intersection over union"),
        ("solvers", "sampling time, DDIM / DPM-Solver++"),
    ],
)
def test_the_command_prints_each_protocol(protocol, row, monkeypatch, capsys):
    monkeypatch.setattr(solver_speed, "FAST", {**solver_speed.FAST, "num_inference_steps": 2})
    monkeypatch.setattr(solver_speed, "SLOW", {**solver_speed.SLOW, "num_inference_steps": 3})
    arguments = ["evaluate", "mini/lcad", "--scenes", "2", "--protocol", protocol, "--steps", "1", "--json"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)["reports"][0]
    rows = {one["name"]: one for one in report["rows"]}
    assert rows[row]["num"] >= 2
    assert np.isfinite(rows[row]["value"])
    assert rows[row]["low"] <= rows[row]["value"] <= rows[row]["high"]


def test_what_the_command_cannot_measure(capsys):
    assert cli.main(["evaluate", "mini/lcad", "--scenes", "2", "--protocol", "speed"]) == 2
    assert 'is "speed"; expected one of words, instances, masks, solvers' in capsys.readouterr().err
