"""Run files: everything comes back bit for bit, shared as it was; what can not be read or written says so."""

import json
import os
import signal
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tiny import tiny_colorizer, tiny_components, tiny_lcad, tiny_picture, tiny_text_to_image

import colorlab
from colorlab.errors import ColorlabError, RangeError, RunFileError, StateError
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.methods.text_to_image import TextToImage
from colorlab.runs.run import Run
from colorlab.runs.run_file import read_archive, write_archive
from colorlab.runs.tree import Tree
from colorlab.sampling.schedules import NoiseSchedule

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


def same_tensors(mine, its):
    """Return whether two tensors are equal bit for bit, type included."""
    return mine.dtype == its.dtype and torch.equal(mine, its)


def assert_same_run(run, other):
    """Check that two runs are the same in everything that a file is to keep."""
    assert (run.name, run.sample_index, run.num_shared) == (other.name, other.sample_index, other.num_shared)
    assert [s.first_step for s in run.segments] == [s.first_step for s in other.segments]
    for mine, its in zip(run.segments, other.segments, strict=True):
        assert (mine.conditioning, mine.settings) == (its.conditioning, its.settings)
    assert len(run.states) == len(other.states)
    assert all(mine.equals(its) for mine, its in zip(run.states, other.states, strict=True))
    for mine, its in zip(run.records, other.records, strict=True):
        assert (mine.step_index, mine.timestep, mine.environment) == (its.step_index, its.timestep, its.environment)
        assert list(mine.predictions) == list(its.predictions)
        assert all(same_tensors(mine.predictions[name], its.predictions[name]) for name in its.predictions)
        assert set(mine.network_inputs) == set(its.network_inputs)
        assert all(same_tensors(mine.network_inputs[name], its.network_inputs[name]) for name in its.network_inputs)
        assert same_tensors(mine.noise_pred, its.noise_pred)
        assert same_tensors(mine.pred_original_sample, its.pred_original_sample)


def assert_same_tree(run, other):
    assert repr(run.tree) == repr(other.tree)
    assert run.tree.num_made == other.tree.num_made
    for mine, its in zip(run.tree, other.tree, strict=True):
        assert_same_run(mine, its)
        fork, its_fork = run.tree.fork(mine), other.tree.fork(its)
        assert (fork and (fork.parent.name, fork.step_index)) == (its_fork and (its_fork.parent.name, fork.step_index))


def verdicts(run):
    return [replay_step(moment_of(run, step), run_sites(run)).verdict.name for step in range(run.step_index)]


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
        prompt="a red car",
        negative_prompt="gray",
        base_image=colors.integers(0, 256, (*picture.shape, 3), dtype=np.uint8),
        strokes=[STROKE],
        exemplar=colors.integers(0, 256, (9, 11, 3), dtype=np.uint8),
        sketch=picture,
        masks={"red car": mask, "encoding": ~mask},
        manipulations=[colorlab.Manipulation("red", 3.0, thresholds=(0.1, 0.2, 0.3, 0.4))],
    )
    colorizer = tiny_colorizer()
    with pytest.warns(colorlab.ConditioningWarning):
        run = colorizer.start(conditioning)
    run.branch(step=0, prompt="a blue car").save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(path, colorizer)
    assert opened.tree["run-0"].conditioning == conditioning
    assert list(opened.conditioning.masks) == ["red car", "encoding"]
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
        def guidance_passes(self, settings):
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


# Edits.


@dataclass(frozen=True)
class Nudge:
    """An edit with a field of every kind."""

    amount: float
    word: str | None = None
    steps: range | None = None
    values: object = ()
    weights: object = None
    source: object = None

    def applied(self, method, step_index):
        return nullcontext()

    # The names an edit has where it is checked first and gives patches.
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


def test_an_edit_that_can_not_be_kept_or_is_not_known_is_named(colorizer, picture, path):
    run = colorizer.start(picture)
    with pytest.raises(RunFileError, match=r"Nudge\.values holds a function, which can not be saved"):
        run.branch(
            step=0, edits=[Nudge(1.0, values=test_edits_come_back_with_their_fields_and_the_runs_they_name)]
        ).save(path)
    assert not path.exists()
    run.tree.prune(run.tree["run-1"])
    run.branch(step=0, edits=[Nudge(1.0)]).save(path)
    with pytest.raises(RunFileError, match="holds the edit 'Nudge'"):
        colorlab.open(path, colorizer)


# Pruned runs.


def test_a_pruned_run_can_be_saved(colorizer, picture, path):
    run = colorizer.start(picture)
    branch = run.branch(step=0, prompt="a blue car").finish(progress=False)
    run.tree.prune(branch)
    branch.save(path)
    opened = colorlab.open(path, colorizer)
    assert opened.name == "(pruned)"
    assert [each.name for each in opened.tree] == ["run-0"]
    assert opened.state.equals(branch.state)


# Models.


def test_without_its_model_a_file_can_be_read_and_says_what_is_missing(colorizer, picture, path):
    colorizer.method.weights_hash = "abcdef0123456789"
    run = colorizer.start(picture, prompt="a red car", solver="dpmpp_2m")
    run.step()
    run.step()
    run.step()
    run.branch(step=1, prompt="a blue car").step()
    run.save(path)
    missing = r"'tiny/lcad'.*is not here.*There is no model 'tiny/lcad'"
    with pytest.warns(colorlab.RunFileWarning, match=missing):
        opened = colorlab.open(path)
    assert_same_tree(opened, run)
    assert np.array_equal(opened.guidance(2).array, run.guidance(2).array)
    assert np.array_equal(opened.trajectory().array, run.trajectory().array)
    assert opened.mechanisms == run.mechanisms
    assert opened.method.guidance_passes(opened.settings) == ("uncond", "cond")
    asks = [
        opened.step,
        lambda: opened.preview(1),
        lambda: opened.branch(prompt="a green car"),
        lambda: opened.attention(1, word="car"),
        lambda: opened.explain(1),
        lambda: opened.method.predict(None, None, 0, opened.settings),
    ]
    for ask in asks:
        with pytest.raises(StateError, match=r"needs the model 'tiny/lcad' \(lcad, weights abcdef012345\)"):
            ask()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        opened.method.colour  # noqa: B018
    # It can be saved again, and then opened with the model.
    opened.save(path)
    assert verdicts(colorlab.open(path, colorizer)) == ["exact"] * 3


def test_other_weights_are_told_and_refused_by_the_verdict(colorizer, picture, path):
    colorizer.method.weights_hash = "a" * 64
    run = colorizer.start(picture).finish(progress=False)
    run.save(path)
    other = tiny_colorizer()
    other.method.weights_hash = "b" * 64
    with torch.no_grad():
        other.method.unet.conv_out.weight.mul_(1.5)
    with pytest.warns(colorlab.RunFileWarning, match=r"other weights \(bbbbbbbbbbbb\).*\(aaaaaaaaaaaa\)"):
        opened = colorlab.open(path, other)
    assert_same_tree(opened, run)
    assert verdicts(opened) == ["refused"] * 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: tiny_text_to_image(), "a model of text_to_image, but the file is of lcad"),
        (lambda: tiny_lcad(schedule=NoiseSchedule(beta_end=0.02)), "another noise schedule"),
        (lambda: type(tiny_lcad())(tiny_lcad().components, 64), "works at 64 px, the file at 32 px"),
    ],
)
def test_a_model_of_another_kind_is_refused(colorizer, picture, path, other, message):
    colorizer.start(picture).save(path)
    with pytest.raises(RangeError, match=message):
        colorlab.open(path, tiny_colorizer(other()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_with_another_dtype_a_replay_is_close(colorizer, picture, path, dtype):
    colorizer.start(picture, prompt="a red car").finish(progress=False).save(path)
    method = tiny_lcad()
    for network in method.networks.values():
        network.to(dtype)
    opened = colorlab.open(path, tiny_colorizer(method))
    replay = replay_step(moment_of(opened, 1), run_sites(opened))
    assert replay.verdict.name == "close"
    assert "dtype" in replay.verdict.reasons[0]


def test_in_another_environment_a_replay_is_close(colorizer, picture, path):
    run = colorizer.start(picture).finish(progress=False)
    run.save(path)
    archive = read_archive(path)
    for environment in archive.content["environments"].values():
        environment["device"] = "cpu of another machine"
    write_archive(path, archive)
    opened = colorlab.open(path, colorizer)
    verdict = replay_step(moment_of(opened, 1), run_sites(opened)).verdict
    assert verdict.name == "close"
    assert verdict.difference == 0.0
    assert "cpu of another machine" in verdict.reasons[0]


def test_the_shipped_model_is_loaded_by_its_name(path):
    run = colorlab.load("mini/lcad").start(tiny_picture(96, 128), prompt="a red car", num_inference_steps=3)
    run.step()
    run.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(path)
        half = colorlab.open(path, dtype=torch.bfloat16)
    assert verdicts(opened) == ["exact"]
    assert verdicts(half) == ["close"]
    assert half.method.dtype == torch.bfloat16
    archive = read_archive(path)
    archive.content["models"]["m0"] |= {"device": "cuda:99", "dtype": "float16"}
    write_archive(path, archive)
    elsewhere = colorlab.open(path)
    assert (str(elsewhere.method.device), elsewhere.method.dtype) == ("cpu", torch.float32)


def test_runs_of_two_models_may_share_a_file(colorizer, picture, path):
    run = colorizer.start(picture)
    tiny_colorizer(tiny_text_to_image()).start(prompt="a red car", tree=run.tree).step()
    run.save(path)
    with pytest.warns(colorlab.RunFileWarning, match="'text_to_image' of this file is not here"):
        opened = colorlab.open(path, colorizer)
    assert_same_tree(opened, run)
    assert opened.step().step_index == 1
    with pytest.raises(StateError, match="needs the model 'text_to_image'"):
        opened.tree["run-1"].step()


# Paths, and what can go wrong on a disk.


def test_bad_places_are_refused_in_one_sentence(colorizer, picture, tmp_path):
    run = colorizer.start(picture)
    for path, message in [
        (tmp_path / "picture.png", "no name of a run file"),
        (tmp_path / "no" / "picture.colorlab", "There is no folder"),
        (Path("/proc/picture.colorlab"), "can not be written"),
    ]:
        with pytest.raises(RunFileError, match=message):
            run.save(path)
    (tmp_path / "folder.colorlab").mkdir()
    with pytest.raises(RunFileError, match="is a folder; give the name of a file in it"):
        run.save(tmp_path / "folder.colorlab")
    with pytest.raises(RunFileError, match="is a folder without a journal"):
        colorlab.open(tmp_path)
    with pytest.raises(RunFileError, match="There is no run file"):
        colorlab.open(tmp_path / "none.colorlab")
    (tmp_path / "text.colorlab").write_text("not a run file at all")
    with pytest.raises(RunFileError, match="damaged or no run file"):
        colorlab.open(tmp_path / "text.colorlab")
    weights = colorlab.data.data_folder() / "mini" / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(RunFileError, match="is a safetensors file, but no run file"):
        colorlab.open(weights)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.colorlab", "text.colorlab"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(colorizer, picture, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunFileError, match="can not be written"):
            colorizer.start(picture).save(tmp_path / "picture.colorlab")
    finally:
        tmp_path.chmod(0o700)


def test_a_newer_version_is_told(colorizer, picture, path, monkeypatch):
    monkeypatch.setattr("colorlab.runs.run_file._VERSION", "2")
    colorizer.start(picture).save(path)
    monkeypatch.undo()
    with pytest.raises(RunFileError, match="has version '2' of the run file, this colorlab reads version 1"):
        colorlab.open(path, colorizer)


@contextmanager
def small_files(num_bytes):
    """Make every write beyond a file size fail, as a full disk does."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file_and_the_run(colorizer, picture, path):
    run = colorizer.start(picture)
    run.save(path)
    before = path.read_bytes()
    run.finish(progress=False)
    with small_files(len(before) // 2), pytest.raises(RunFileError, match="can not be written .* and is as it was"):
        run.save(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    run.save(path)
    assert colorlab.open(path, colorizer).is_finished


def test_a_file_is_replaced_at_once_through_links_and_keeps_its_mode(colorizer, picture, path, tmp_path):
    run = colorizer.start(picture)
    run.save(path)
    path.chmod(0o640)
    link = tmp_path / "link.colorlab"
    link.symlink_to(path)
    run.step()
    run.save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert colorlab.open(path, colorizer).step_index == 1


def test_every_error_is_one_of_colorlabs():
    assert issubclass(RunFileError, ColorlabError)
    assert colorlab.RunFileError is RunFileError
