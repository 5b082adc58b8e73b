"""Edits in run files: any dataclass with plain fields, arrays and runs; those of colorlab replay exactly."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from run_files import assert_same_run, assert_same_tree, same_tensors, verdicts
from tiny import tiny_colorizer

import colorlab
from colorlab.errors import RunFileError
from colorlab.inspection.edits import EDITS
from colorlab.runs.run import Run

STROKE = colorlab.Stroke([(3, 4), (9.5, 7)], (200, 40, 40), 2.5, first_step=1)
ATTN = "mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.colorlab"


def real_edits(source):
    """Return one edit of every kind, with as many fields given as it has."""
    mask = np.zeros((40, 56), dtype=bool)
    mask[:, :30] = True
    kinds = {
        "Reweight": {"word": "red", "scale": 2.0, "steps": range(1, 3), "guidance_pass": "cond"},
        "Replace": {"word": "red", "by": "tan"},
        "Restrict": {"word": "red", "mask": mask},
        "Remove": {"word": "red", "site": ATTN},
        "PromptToPrompt": {"source": source},
        "AblateHead": {"site": ATTN, "head": 1, "scale": 0.5},
        "AblateSite": {"site": "mid_block.resnets.0", "steps": range(2, 4)},
        "PatchLatents": {"source": source, "mask": mask, "steps": range(1, 3)},
        "PatchFeatures": {"source": source, "site": "mid_block.resnets.1", "mask": mask},
    }
    return {name: EDITS[name](**values) for name, values in kinds.items()}


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_of_colorlab_comes_back_and_replays_exactly(picture, path, name):
    source = tiny_colorizer().start(picture, prompt="a red car", solver="dpmpp_2m").finish(progress=False)
    edit = real_edits(source)[name]
    run = source.branch(step=1, prompt="a red box", edits=[edit])
    run.step()
    run.step()
    run.save(path)
    opened = colorlab.open(path, tiny_colorizer())
    assert_same_tree(opened, run)
    (its,) = opened.segments[-1].edits
    assert type(its) is type(edit)
    for entry in fields(edit):
        mine, other = getattr(edit, entry.name), getattr(its, entry.name)
        if isinstance(mine, Run):
            assert other is opened.tree["run-0"]
        elif isinstance(mine, np.ndarray | torch.Tensor):
            assert np.array_equal(np.asarray(mine), np.asarray(other))
        else:
            assert (type(mine), mine) == (type(other), other)
    assert verdicts(opened) == ["exact"] * 3
    assert_same_run(opened.finish(progress=False), run.finish(progress=False))


@dataclass(frozen=True)
class Nudge:
    """An edit with a field of every kind."""

    amount: float
    word: str | None = None
    steps: range | None = None
    values: object = ()
    weights: object = None
    source: object = None

    def check(self, call, tree):
        pass

    def enter(self, latents, call):
        return latents

    def patches(self, call):
        return ()


def test_edits_come_back_with_their_fields_and_the_runs_they_name(colorizer, picture, path):
    source = colorizer.start(picture, prompt="a blue car").finish(progress=False)
    run = colorizer.start(picture, tree=source.tree)
    weights = torch.randn(3, 5).to(torch.bfloat16)
    edits = [
        Nudge(2.0, "car", range(1, 9, 2), (1, (True, None, "x"), [0.5], {"a": (1,)}, STROKE), weights, source),
        Nudge(np.float32(0.5), values=np.arange(6, dtype=np.int16).reshape(2, 3)),
    ]
    branch = run.branch(step=0, edits=edits)
    branch.save(path)
    opened = colorlab.open(path, colorizer, edits={"Nudge": Nudge})
    first, second = opened.segments[0].edits
    assert replace(first, weights=None, source=None) == replace(edits[0], weights=None, source=None)
    assert same_tensors(first.weights, weights)
    assert first.source is opened.tree["run-0"]
    assert second.amount == 0.5
    assert second.values.dtype == np.int16
    assert second.values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_source_of_an_edit_is_kept_though_it_was_pruned(colorizer, picture, path):
    source = colorizer.start(picture, prompt="a blue car").finish(progress=False)
    run = colorizer.start(picture, tree=source.tree).branch(edits=[Nudge(1.0, source=source)])
    run.tree.prune(source)
    run.save(path)
    opened = colorlab.open(path, colorizer, edits={"Nudge": Nudge})
    assert [each.name for each in opened.tree] == ["run-1", "run-2"]
    kept = opened.segments[0].edits[0].source
    assert kept.name == "(pruned)"
    assert kept.state.equals(source.state)


def test_an_edit_that_cannot_be_kept_or_is_not_known_is_named(colorizer, picture, path):
    run = colorizer.start(picture)
    with pytest.raises(RunFileError, match=r"Nudge\.values holds a function, which cannot be saved"):
        run.branch(
            step=0, edits=[Nudge(1.0, values=test_edits_come_back_with_their_fields_and_the_runs_they_name)]
        ).save(path)
    assert not path.exists()
    run.tree.prune(run.tree["run-1"])
    run.branch(step=0, edits=[Nudge(1.0)]).save(path)
    with pytest.raises(RunFileError, match="holds the edit 'Nudge'"):
        colorlab.open(path, colorizer)
