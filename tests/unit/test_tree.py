"""Trees: names, forks, pruning, comparing."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_picture

import colorlab
from colorlab.conditioning import Manipulation
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.runs.tree import Tree
from colorlab.strokes import Stroke


@pytest.fixture
def run(colorizer, picture):
    return colorizer.start(picture, prompt="a red car").finish(progress=False)


def test_branches_know_where_they_come_from(run):
    blue = run.branch(step=2, prompt="a blue car")
    green = blue.branch(step=1, prompt="a green car", name="green")
    tree = run.tree
    assert tree is blue.tree is green.tree
    assert tree.runs == (run, blue, green) == tuple(tree)
    assert [each.name for each in tree] == ["run-0", "run-1", "green"]
    assert tree.parent(green) is blue
    assert tree.fork(blue).step_index == 2
    assert tree.parent(run) is tree.fork(run) is None
    assert tree.children(run) == (blue,)
    assert tree.descendants(run) == (blue, green)
    assert tree["green"] is tree[2] is tree[-1] is green


def test_runs_can_be_named_and_names_are_unique(run):
    other = run.branch(step=2)
    run.tree.name(other, "evening")
    assert other.name == "evening"
    run.tree.name(other, "evening")
    with pytest.raises(RangeError, match="'evening' is the name of another run"):
        run.tree.name(run, "evening")
    with pytest.raises(RangeError, match="at least one character"):
        run.tree.name(run, "")
    with pytest.raises(RangeError, match="No run is called 'dawn'; there are run-0, evening"):
        run.tree["dawn"]
    run.tree.name(other, "run-2")
    assert run.branch(step=0).name == "run-3"


def test_a_taken_name_makes_no_branch(run):
    with pytest.raises(RangeError, match="another run"):
        run.branch(step=1, name="run-0")
    assert len(run.tree) == 1


def test_pruning_takes_the_descendants_along_and_leaves_them_usable(run):
    blue = run.branch(step=2, prompt="a blue car")
    below = blue.branch(step=2)
    assert run.tree.prune(blue) == (blue, below)
    assert run.tree.runs == (run,)
    assert blue.name == "(pruned)"
    assert blue.finish(progress=False).is_finished
    with pytest.raises(StateError, match="not in the tree"):
        run.tree.parent(blue)
    with pytest.raises(StateError, match="not in the tree"):
        blue.branch(step=2)
    assert run.branch(step=1).name == "run-3"


def test_a_run_is_added_once(run):
    with pytest.raises(StateError, match="in this tree already"):
        run.tree.add(run)


def test_several_starts_may_share_a_tree(colorizer, picture):
    tree = Tree()
    for seed in range(3):
        colorizer.start(picture, seed=seed, tree=tree, name=f"seed {seed}")
    assert [run.name for run in tree] == ["seed 0", "seed 1", "seed 2"]
    assert all(tree.parent(run) is None for run in tree)
    assert repr(Tree()) == "Tree without runs"


def test_the_tree_is_drawn_with_its_forks(run):
    run.branch(step=2, prompt="a blue car").branch(step=2)
    run.branch(step=1)
    lines = repr(run.tree).splitlines()
    assert lines[0].startswith("run-0  step 4 of 4")
    assert lines[1].startswith("├─ run-1  step 2 of 4  from step 2")
    assert lines[2].startswith("│  └─ run-2")
    assert lines[3].startswith("└─ run-3")


def test_the_tree_says_what_each_branch_changes(run):
    run.branch(step=2, guidance_scale=7)
    run.branch(step=1, settings=run.settings.with_mechanism("luminance_guidance", is_on=False))
    run.branch(step=1, edits=[colorlab.edits.Reweight("car", 2.0)])
    run.branch(step=0, gray=255 - tiny_picture(40, 56))
    told = [line.rsplit("  ", 1)[1] for line in repr(run.tree).splitlines()[1:]]
    assert told == ["guidance_scale=7.0", "luminance_guidance(is_on=False)", "edits Reweight", "other gray"]


@pytest.mark.filterwarnings("ignore::colorlab.methods.base.ConditioningWarning")
def test_what_the_name_of_a_branch_says_is_not_told_again(run):
    first, second = (Stroke([(5, y), (15, y)], (220, 40, 40), 3.0) for y in (5, 15))
    blue, mask = Manipulation("the blue flower", 8.0), np.eye(40, 56, dtype=bool)
    drawn = run.branch(step=1, strokes=[first], name="drawn")
    edited = run.branch(step=1, manipulations=[blue], masks={"car": mask}, name="edited")
    branches = [
        (run, drawn, ()),
        (drawn, drawn.branch(step=1, strokes=[second]), ("other strokes",)),
        (drawn, drawn.branch(step=1, strokes=[first, second]), ()),
        (drawn, drawn.branch(step=1, strokes=[]), ()),
        (run, edited, ()),
        (edited, edited.branch(step=1, masks={"car": ~mask}), ("other masks",)),
        (edited, edited.branch(step=1, manipulations=[replace(blue, target_scale=3.0)]), ("other manipulations",)),
    ]
    assert [branch.changes_from(parent, 1) for parent, branch, _ in branches] == [told for *_, told in branches]
    line = next(line for line in repr(run.tree).splitlines() if "drawn" in line)
    assert line.endswith("from step 1  'a red car', 1 stroke, seed 0")


def test_a_run_compared_with_its_unchanged_branch_differs_nowhere(run):
    exhibit = run.tree.compare(run, run.branch(step=2))
    assert exhibit.array.shape == (40, 56)
    assert exhibit.provenance["max"] == 0.0


def test_compare_finishes_the_runs_and_measures_the_color_difference(run):
    other = run.branch(step=0, seed=1)
    exhibit = colorlab.compare(run, other)
    assert other.is_finished
    assert exhibit.axes == ("H", "W")
    assert list(exhibit.provenance["runs"]) == ["run-0", "run-1"]
    assert exhibit.provenance["mean"] == pytest.approx(float(np.mean(exhibit.array)))
    assert 0 < exhibit.provenance["mean"] <= exhibit.provenance["percentile_95"] <= exhibit.provenance["max"]
    assert np.array_equal(colorlab.compare(other, run).array, exhibit.array)


def test_runs_of_one_name_are_told_apart_by_what_they_were_given(colorizer, run):
    alike = colorizer.start(run.conditioning, run.settings)
    assert f"between the first run-0 ({run.subject}) and the second run-0" in colorlab.compare(run, alike).caption
    other = colorizer.start(run.conditioning, seed=7)
    assert other.name == run.name
    assert colorlab.compare(run, other).caption.startswith(
        f"Color difference between run-0 ({run.subject}) and run-0 ({other.subject}): mean "
    )


def test_pictures_of_different_sizes_cannot_be_compared(colorizer, run):
    with pytest.raises(ShapeError, match="40x56 and 20x20"):
        colorlab.compare(run, colorizer.start(tiny_picture(20, 20)))
