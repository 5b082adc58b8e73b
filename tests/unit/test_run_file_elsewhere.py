"""Run files and the world: models that are not here or are others, places and disks that cannot be written."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import assert_same_tree, small_files, verdicts
from tiny import tiny_colorizer, tiny_lcad, tiny_picture, tiny_text_to_image

import colorlab
from colorlab.errors import ColorlabError, RangeError, RunFileError, StateError
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.runs.run_file import read_archive, write_archive
from colorlab.sampling.schedules import NoiseSchedule


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture.colorlab"


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
        (Path("/proc/picture.colorlab"), "cannot be written"),
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
        with pytest.raises(RunFileError, match="cannot be written"):
            colorizer.start(picture).save(tmp_path / "picture.colorlab")
    finally:
        tmp_path.chmod(0o700)


def test_a_newer_version_is_told(colorizer, picture, path, monkeypatch):
    monkeypatch.setattr("colorlab.runs.run_file._VERSION", "2")
    colorizer.start(picture).save(path)
    monkeypatch.undo()
    with pytest.raises(RunFileError, match="has version '2' of the run file, this colorlab reads version 1"):
        colorlab.open(path, colorizer)


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_old_file_and_the_run(colorizer, picture, path):
    run = colorizer.start(picture)
    run.save(path)
    before = path.read_bytes()
    run.finish(progress=False)
    with small_files(len(before) // 2), pytest.raises(RunFileError, match=r"cannot be written .* and is as it was"):
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
