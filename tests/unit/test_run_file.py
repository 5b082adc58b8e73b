"""Run files: everything comes back bit for bit, shared as it was, in no more bytes than promised."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from run_files import assert_same_run, assert_same_tree, verdicts
from safetensors import safe_open
from tiny import tiny_colorizer, tiny_components, tiny_picture

import colorlab
from colorlab.methods.text_to_image import TextToImage
from colorlab.runs.run import Run
from colorlab.runs.run_file import read_archive
from colorlab.runs.tree import Tree

CASES = [
    {"solver": "ddim"},
    {"solver": "ddim", "eta": 0.7},
    {"solver": "euler", "timestep_spacing": "linspace"},
    {"solver": "dpmpp_2m"},
    {"solver": "ddim", "guidance_scale": 1.0},
]
pytestmark = pytest.mark.filterwarnings("ignore::colorlab.ConditioningWarning")
STROKE = colorlab.Stroke([(3, 4), (9.5, 7)], (200, 40, 40), 2.5, first_step=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.colorlab"


@pytest.mark.parametrize("shortcuts", CASES, ids=lambda shortcuts: "-".join(map(str, shortcuts.values())))
def test_a_run_comes_back_bit_for_bit_replays_exactly_and_goes_on_the_same_way(colorizer, path, shortcuts):
    run = colorizer.start(tiny_picture(30, 110), prompt="a red car", sample_index=3, **shortcuts)
    run.step()
    run.step()
    assert run.save(path) == path
    opened = colorlab.open(path, tiny_colorizer())
    assert_same_tree(opened, run)
    assert verdicts(opened) == ["exact", "exact"]
    assert opened.cost["predict"] == run.cost["predict"]
    assert_same_run(opened.finish(progress=False), run.finish(progress=False))
    assert np.array_equal(opened.image, run.image)


def test_a_tree_comes_back_and_branches_share_what_they_shared(colorizer, picture, path):
    run = colorizer.start(picture, prompt="a red car", solver="dpmpp_2m", timestep_spacing="trailing")
    run.finish(progress=False)
    blue = run.branch(step=2, prompt="a blue car", strokes=[STROKE], name="blue").finish(progress=False)
    green = blue.branch(step=3, solver="ddim", mechanisms={"luminance_guidance": {"tap_gains": (1.0, 0.5)}})
    green.finish(progress=False)
    run.tree.prune(run.branch(step=1))
    run.rewind(3)
    seed = colorizer.start(picture, seed=5, num_inference_steps=3, tree=run.tree)
    seed.step()
    blue.save(path)
    opened = colorlab.open(path, tiny_colorizer())
    assert opened.name == "blue"
    assert_same_tree(opened, run)
    tree = opened.tree
    assert tree["blue"].records[2] is tree["run-2"].records[2]
    assert tree["blue"].states[2] is tree["run-0"].states[2]
    assert tree["blue"].segments[0] is tree["run-0"].segments[0]
    assert tree["blue"].state.history[0].equal(blue.state.history[0])
    assert [verdicts(each) for each in tree] == [["exact"] * each.step_index for each in run.tree]
    assert tree["run-0"].branch(step=1).name == run.branch(step=1).name == "run-5"
    assert [each.cost["predict"].num_bytes for each in tree] == [each.cost["predict"].num_bytes for each in run.tree]
    # Nothing that the branches share is in the file twice.
    archive = read_archive(path)
    assert len(archive.content["edges"]) == 3 + 2 + 1 + 1  # run-0, and what blue, green and the other seed added
    assert len(archive.content["conditionings"]) == 3


def test_everything_the_user_gave_comes_back(picture, path):
    colors = np.random.default_rng(0)
    mask = np.zeros(picture.shape, dtype=bool)
    mask[3:9, 5:20] = True
    conditioning = colorlab.Conditioning(
        gray=colors.random(picture.shape, dtype=np.float32),
        prompt="car encoding",
        negative_prompt="gray",
        base_image=colors.integers(0, 256, (*picture.shape, 3), dtype=np.uint8),
        strokes=[STROKE],
        exemplar=colors.integers(0, 256, (9, 11, 3), dtype=np.uint8),
        sketch=picture,
        masks={"car": mask, "encoding": ~mask},
        manipulations=[colorlab.Manipulation("red", 3.0, thresholds=(0.1, 0.2, 0.3, 0.4))],
    )
    colorizer = tiny_colorizer()
    with pytest.warns(colorlab.ConditioningWarning):
        run = colorizer.start(conditioning)
    run.branch(step=0, prompt="encoding car").save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(path, colorizer)
    assert opened.tree["run-0"].conditioning == conditioning
    assert list(opened.conditioning.masks) == ["car", "encoding"]
    archive = read_archive(path)
    pictures = [name for name, tensor in archive.tensors.items() if tensor.dtype == torch.uint8]
    assert len(pictures) == 6


def test_an_opened_file_is_saved_as_it_was_and_is_plain_safetensors(colorizer, picture, path, tmp_path):
    run = colorizer.start(picture, solver="dpmpp_2m").finish(progress=False)
    run.save(path)
    colorlab.open(path, colorizer).save(tmp_path / "again.colorlab")
    before, after = read_archive(path), read_archive(tmp_path / "again.colorlab")
    assert before.content == after.content
    assert set(before.tensors) == set(after.tensors)
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["content"])["current"] == "r0"
        assert set(file.keys()) == set(before.tensors)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_file_is_no_larger_than_steps_and_passes_ask_for(picture, path, solver):
    run = tiny_colorizer().start(picture, prompt="a red car", num_inference_steps=12, solver=solver)
    branch = run.finish(progress=False).branch(step=7, prompt="a blue car").finish(progress=False)
    assert len(branch.records[0].predictions) == 2
    branch.save(path)
    latent_bytes = run.state.latents.numel() * 4
    assert path.stat().st_size <= 17 * (1 + 2) * latent_bytes + picture.nbytes + 2**20
    # The tensors alone: the start, and three for each step, less one: where the branch leaves, both runs ask without
    # words and get the same answer. The rest is the header.
    tensors = read_archive(path).tensors.values()
    assert sum(tensor.nbytes for tensor in tensors if tensor.is_floating_point()) == (1 + 17 * 3 - 1) * latent_bytes


def test_a_size_of_stable_diffusion_stays_within_the_bound(path, picture):
    latents = torch.randn(1, 4, 64, 64)
    run = tiny_colorizer().start(picture, num_inference_steps=20).finish(progress=False)
    # The same run with states and predictions of 512 px.
    initial = replace(run.states[0], latents=latents)
    large, segment = [], run.segments[0]
    for record, state in run.edges:
        predictions = {name: torch.randn_like(latents) for name in record.predictions}
        derived = run.method.guide(predictions, run.settings)
        before = large[-1][1] if large else initial
        original = run.method.schedule.to_original_sample(derived, before.latents, record.timestep)
        changed = replace(record, predictions=predictions, noise_pred=derived, pred_original_sample=original)
        large.append((changed, replace(state, latents=torch.randn_like(latents))))
    tree = Tree()
    stand_in = Run(run.method, [segment], initial, edges=large, tree=tree)
    tree.add(stand_in)
    stand_in.save(path)
    assert latents.nbytes * 20 * 3 < path.stat().st_size <= latents.nbytes * 20 * 3 + 2**20 + picture.nbytes


def test_predictions_that_a_method_guides_in_its_own_way_are_kept_whole(path):
    class FivePasses(TextToImage):
        def guidance_passes(self, settings, timestep=None):
            return ("one", "two", "three", "four", "five")

        def predict(self, prepared, latents, timestep, settings):
            names = self.guidance_passes(settings)
            return self.predict_passes(latents, timestep, {name: prepared.text["cond"] for name in names})

        def guide(self, predictions, settings):
            return sum(predictions.values()) / 5

    colorizer = tiny_colorizer(FivePasses(tiny_components(0), working_px=32))
    run = colorizer.start(prompt="a red car").finish(progress=False)
    run.save(path)
    assert_same_tree(colorlab.open(path, colorizer), run)
    with pytest.warns(colorlab.RunFileWarning, match="is not here"):
        assert_same_tree(colorlab.open(path), run)


def test_a_pruned_run_can_be_saved(colorizer, picture, path):
    run = colorizer.start(picture)
    branch = run.branch(step=0, prompt="a blue car").finish(progress=False)
    run.tree.prune(branch)
    branch.save(path)
    opened = colorlab.open(path, colorizer)
    assert opened.name == "(pruned)"
    assert [each.name for each in opened.tree] == ["run-0"]
    assert opened.state.equals(branch.state)
