"""The command line: exit codes, one sentence on stderr, and nothing half-done on the disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_colorizer, tiny_picture, tiny_text_to_image

import colorlab
from colorlab import cli
from colorlab.color import gray_to_lightness, rgb_to_lab
from colorlab.commands import files
from colorlab.commands.devices import check_device
from colorlab.commands.lab import find_notebooks
from colorlab.commands.problems import BadUsageError
from colorlab.images import load_gray, load_image
from colorlab.methods.lcad import Lcad
from colorlab.training.clip import mini_clip
from colorlab.training.latents import CURRICULUM
from colorlab.training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_colorizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """A gray picture file."""
    path = tmp_path / "gray.png"
    Image.fromarray(tiny_picture()).save(path)
    return path


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stderr: exactly one line, from colorlab, without a traceback."""
    error = capsys.readouterr().err
    assert error.startswith("colorlab: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def colorize(*words: object) -> int:
    """Run `colorlab colorize`."""
    return cli.main(["colorize", *map(str, words)])


def test_colorize_keeps_size_and_lightness(model: str, gray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert colorize(gray, "-o", out, "--model", model, "--prompt", "a red car", "--seed", 3) == 0
    result = load_image(out)
    assert result.shape[-2:] == tiny_picture().shape
    expected = tiny_colorizer().start(gray, prompt="a red car", seed=3).finish(progress=False).image
    np.testing.assert_array_equal(np.asarray(Image.open(out)), expected)


def test_options_reach_the_run(model: str, gray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    options = ["--steps", 2, "--guidance-scale", 2.5, "--solver", "euler", "--negative-prompt", "gray"]
    assert colorize(gray, "-o", out, "-m", model, *options) == 0
    run = tiny_colorizer().start(
        gray, num_inference_steps=2, guidance_scale=2.5, solver="euler", negative_prompt="gray"
    )
    np.testing.assert_array_equal(np.asarray(Image.open(out)), run.finish(progress=False).image)


def test_the_runs_can_be_kept_beside_the_pictures(model: str, gray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert colorize(gray, "-o", out, "-m", model, "--steps", 2, "--save-run") == 0
    assert sorted(path.name for path in out.iterdir()) == ["gray.colorlab", "gray.png"]
    run = colorlab.open(out / "gray.colorlab", tiny_colorizer())
    np.testing.assert_array_equal(np.asarray(Image.open(out / "gray.png")), run.image)


def test_several_pictures_go_into_a_folder(model: str, gray: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / "gray.jpg"
    Image.fromarray(tiny_picture(32, 32)).save(twin)
    out = tmp_path / "new" / "folder"
    assert colorize(gray, twin, "-o", out, "-m", model, "--steps", 1) == 0
    assert sorted(path.name for path in out.iterdir()) == ["gray-1.png", "gray-2.png"]


def test_one_bad_picture_does_not_stop_the_others(
    model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(gray.read_bytes()[:50])
    assert colorize(bad, gray, "-o", tmp_path / "out", "-m", model, "--steps", 1) == 1
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "out" / "gray.png")
    assert "bad.png" in captured.err
    assert "1 of 2 pictures failed" in captured.err


@pytest.mark.parametrize("name", ["missing.png", "text.png", "folder.png"])
def test_pictures_that_cannot_be_read(
    name: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    assert colorize(tmp_path / name, "-o", tmp_path / "out.png", "-m", model) == 1
    assert name in error_of(capsys)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "mini/nothing"], 2, "mini/nothing"),
        (["--steps", "0"], 2, "--steps"),
        (["--steps", "many"], 2, "--steps"),
        (["--solver", "heun"], 2, "solver is 'heun'"),
        (["--guidance-scale", "0.5"], 2, "guidance_scale is 0.5"),
        (["--guidance-scale", "nan"], 2, "guidance_scale is nan"),
        (["--seed", "-1"], 2, "seed is -1"),
        (["--device", "abacus"], 2, '"abacus" is no device'),
        (["--colour"], 2, "--colour"),
    ],
)
def test_bad_usage(
    words: list[str], code: int, message: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert colorize(gray, "-o", tmp_path / "out.png", *words) == code
    assert message in error_of(capsys)


@pytest.mark.parametrize("words", [["colorize"], ["colourise"], ["train"], ["evaluate", "mini/lcad"]])
def test_bad_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    error_of(capsys)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert "doctor" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()
    assert cli.main([]) == 2
    assert "Usage" in capsys.readouterr().out


def test_corrupt_and_missing_weights(
    model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = next(broken.rglob("unet/*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", broken) == 1
    assert "unet" in error_of(capsys)
    weights.unlink()
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", broken) == 1
    assert "unet" in error_of(capsys)


def test_a_model_that_colors_no_pictures_is_refused(
    gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior = tiny_colorizer(tiny_text_to_image()).save_pretrained(tmp_path / "prior")
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", prior) == 2
    assert "does not color gray pictures" in error_of(capsys)
    assert cli.main(["evaluate", str(prior), "--scenes", "1"]) == 2
    assert "does not color gray pictures" in error_of(capsys)
    assert not (tmp_path / "out.png").exists()


def test_a_long_prompt_is_colorized_and_said_to_be_cut(
    model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", model, "--steps", 1, "-p", "red car " * 250) == 0
    assert "tokens" in (said := error_of(capsys))
    assert said.split("what follows '")[1].startswith(("red ", "car "))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Listen to Ctrl-C, which a process started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("finished", [0, 2])
def test_ctrl_c_keeps_the_last_prediction(
    finished: int, model: str, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    predict, calls = Lcad.predict, iter(range(100))

    def interrupted(*given: Any) -> object:
        if next(calls) == finished:
            signal.raise_signal(signal.SIGINT)
        return predict(*given)

    monkeypatch.setattr(Lcad, "predict", interrupted)
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", model) == 1
    message = error_of(capsys)
    assert not (tmp_path / "out.png").exists()
    partial = tmp_path / "out.partial.png"
    if finished == 0:
        assert "nothing was written" in message
        assert not partial.exists()
        return
    assert f"after 2 of 4 steps; the prediction of the last finished step is in {partial}" in message
    monkeypatch.undo()
    run = tiny_colorizer().start(gray)
    for _ in range(finished):
        run.step()
    np.testing.assert_array_equal(np.asarray(Image.open(partial)), run.preview(finished - 1))


def test_ctrl_c_before_the_first_step_is_told(
    gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("colorlab.commands.colorize.colorize_files", interrupted)
    assert colorize(gray, "-o", tmp_path / "out.png") == 1
    assert "Interrupted" in error_of(capsys)


def test_a_folder_that_cannot_be_written(
    model: str, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Root may write anywhere, so the refusal of a read-only folder is played.
    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", model) == 1
    message = error_of(capsys)
    assert str(tmp_path) in message
    assert "read-only file system" in message


def test_a_file_in_the_way_of_the_folder(gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").write_text("a file")
    assert colorize(gray, "-o", tmp_path / "taken" / "deeper" / "out.png") == 1
    assert "Nothing can be written" in error_of(capsys)


def test_unexpected_errors_are_one_sentence_unless_debugging(
    model: str, gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(Lcad, "predict", fail)
    words = [gray, "-o", tmp_path / "out.png", "-m", model]
    assert colorize(*words) == 1
    assert "ZeroDivisionError: two lines (--debug shows where)." in error_of(capsys)
    assert colorize(*words, "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_devices() -> None:
    assert check_device("cpu") == "cpu"
    assert torch.device(check_device("auto"))
    with pytest.raises(BadUsageError, match="no cuda:99"):
        check_device("cuda:99")
    with pytest.raises(BadUsageError, match="meta"):
        check_device("meta")


def test_models_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    assert "sd/lcad" in capsys.readouterr().out
    assert cli.main(["models", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"name", "method", "licence", "is_ready", "how"} <= set(entries[0])


def test_train_names_the_recipes_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main(["train", "nothing", *words]) == 2
    assert "expected one of" in error_of(capsys)
    assert cli.main(["train", "vae", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "is no folder" in error_of(capsys)


@pytest.fixture
def toy_recipe(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A recipe that writes down how it was called, and is interrupted at step 13."""
    from colorlab.training import recipes

    calls: list[dict[str, Any]] = []

    def run_recipe(name: str, **given: Any) -> Path:
        calls.append({"name": name, **given})
        if given["steps"] == 13:
            raise KeyboardInterrupt
        return Path(given["out"]) / "family" / name

    monkeypatch.setattr(recipes, "PLANS", {"toy": None})
    monkeypatch.setattr(recipes, "run_recipe", run_recipe)
    return calls


def test_train_hands_everything_to_the_recipe(
    toy_recipe: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--data",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--resume",
        "--warm-start",
        "--steps",
        "7",
        "--caption-dropout",
        "0",
        "--curriculum",
    ]
    assert cli.main(["train", "toy", *words]) == 0
    given: dict[str, Any] = {"data": tmp_path, "out": tmp_path / "out", "device": "cpu", "resume": True, "steps": 7}
    given["warm_start"] = True
    given["captions"] = replace(CURRICULUM, dropout=0.0)
    assert toy_recipe == [{"name": "toy", **given}]
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "family" / "toy")


def test_an_interrupted_training_says_what_is_kept(
    toy_recipe: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "toy", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "13"]
    assert cli.main(words) == 1
    assert "nothing can be resumed" in error_of(capsys)
    checkpoint = tmp_path / "out" / "toy" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert cli.main(words) == 1
    assert f"{checkpoint} is kept" in error_of(capsys)


def test_evaluate_prints_a_table_and_json(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(photographs / "one.png")
    out = tmp_path / "figures.json"
    words = ["evaluate", model, "--scenes", "1", "--images", str(photographs), "--steps", "1", "--out", str(out)]
    assert cli.main(words) == 0
    table = capsys.readouterr().out
    assert "named color right, complete captions" in table
    assert "taps gain, raw" in table
    assert cli.main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert len(printed["reports"]) == 3
    assert printed["settings"]["num_inference_steps"] == 1


def test_a_clip_is_evaluated_by_its_own_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, photographs, out = tmp_path / "clip", tmp_path / "photographs", tmp_path / "figures.json"
    mini_clip(train_tokenizer(["a", "red", "car"], folder), width=16).save_pretrained(folder)
    photographs.mkdir()
    Image.fromarray(np.full((32, 32, 3), (200, 40, 40), np.uint8)).save(photographs / "unlabeled.png")
    words = ["evaluate", str(folder), "--out", str(out)]
    assert cli.main([*words, "--scenes", "1"]) == 0
    assert "patch-text AUC" in capsys.readouterr().out
    assert "margin positive, scenes in color" in out.read_text()
    assert cli.main([*words, "--images", str(photographs)]) == 0
    assert "margin" not in out.read_text()
    assert cli.main([*words[:-1], str(tmp_path), "--scenes", "1"]) == 2
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--images", "nowhere"], ["--images", "."]])
def test_evaluate_without_pictures(
    words: list[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["evaluate", model, *words, "-o", "a/b/figures.json"]) == 1
    error_of(capsys)
    assert not (tmp_path / "a").exists()


def test_a_command_that_fails_leaves_no_folders(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert colorize(tmp_path / "none.png", "-o", tmp_path / "y" / "z" / "x.png", "-m", model) == 1
    error_of(capsys)
    assert not (tmp_path / "y").exists()


def test_the_lab_opens_on_the_tour_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_tour.ipynb").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_notebooks() == (tmp_path, ["--LabApp.default_url=/lab/tree/notebooks/00_tour.ipynb"])


def test_the_lab_passes_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    # In the real execv nothing comes after; here the way of other systems is taken next, with the same words.
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    monkeypatch.setattr("colorlab.commands.lab.subprocess.run", run)
    assert cli.main(["lab", "--no-browser", "--port=9999"]) == 0
    assert commands[0] == commands[-1]
    assert commands[0][:3] == [sys.executable, "-m", "jupyterlab"]
    assert {"--no-browser", "--port=9999"} <= set(commands[0])
    assert cli.main(["lab", "--help"]) == 0
    assert "--help" in commands[-1]


def test_the_process_ends_with_the_code_and_a_clean_stderr(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "colorlab", "colorize", str(tmp_path / "x.png"), "-o", str(tmp_path / "y.gif")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("colorlab: ")
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_lightness_is_kept_in_the_file(model: str, gray: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert colorize(gray, "-o", out, "-m", model) == 0
    error = rgb_to_lab(load_image(out))[:, :1] - gray_to_lightness(load_gray(gray))
    assert float(error.abs().max()) < 0.5
