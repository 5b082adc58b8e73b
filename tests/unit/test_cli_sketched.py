"""The command line with sketches, exemplars and text edits: what reaches the run, and what is said of bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_lcad, tiny_picture

import colorlab
from colorlab import cli
from colorlab.commands.inputs import read_edit
from colorlab.commands.problems import BadUsageError
from colorlab.conditioning import Manipulation
from colorlab.errors import WeightsError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny ColorizeDiffusion."""
    return str(tiny_colorizer(tiny_colorizediffusion()).save_pretrained(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sketch, its negative, blank paper, a colored and a gray picture of other sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = np.full((40, 56), 255, np.uint8)
    lines[10:30, 20] = lines[10:30, 40] = lines[10, 20:40] = lines[29, 20:40] = 0
    pictures = {
        "sketch": lines,
        "negative": 255 - lines,
        "blank": np.full((40, 56), 255, np.uint8),
        "exemplar": np.kron(np.random.default_rng(0).integers(0, 256, (3, 5, 3)), np.ones((9, 9, 1))).astype(np.uint8),
        "gray": tiny_picture(30, 20),
    }  # fmt: skip
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


def colorize(source: Path, out: Path, model: str, *words: object) -> int:
    """Run `colorlab colorize` on a sketch, two steps."""
    given = [source, "-o", out, "-m", model, "--from-sketch", "--steps", 2, *words]
    return cli.main(["colorize", *map(str, given)])


def test_sketch_exemplar_and_edits_reach_the_run(model: str, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    words = ["--exemplar", files["exemplar"], "--edit", "a red car -> a blue car", "--edit", "-> green"]
    assert colorize(files["sketch"], out, model, *words, "--edit-scale", 5, "--seed", 3) == 0
    edits = [Manipulation("a blue car", 5.0, anchor_text="a red car", control_text="a red car")]
    run = tiny_colorizer(tiny_colorizediffusion()).start(
        sketch=files["sketch"],
        exemplar=files["exemplar"],
        manipulations=[*edits, Manipulation("green", 5.0)],
        num_inference_steps=2,
        seed=3,
    )
    # The weights were read from files, so that sums in CLIP's towers may be added in another order.
    difference = np.asarray(Image.open(out)).astype(int) - run.finish(progress=False).image
    assert Image.open(out).size == (56, 40)
    assert np.abs(difference).max() <= 1


def test_a_gray_picture_is_drawn_and_keeps_its_lightness(model: str, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    words = [files["gray"], "-o", out, "-m", model, "--exemplar", files["exemplar"], "--steps", 2]
    assert cli.main(["colorize", *map(str, words)]) == 0
    lightness = [np.asarray(Image.open(path).convert("L")).astype(int) for path in (out, files["gray"])]
    # L is a weighted sum of the channels, not lightness itself: near, not equal.
    assert np.abs(lightness[0] - lightness[1]).mean() < 15


def test_an_inverted_sketch_is_said_and_the_option_turns_it_around(
    model: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = {name: tmp_path / f"{name}.png" for name in ("plain", "inverted", "turned")}
    assert colorize(files["sketch"], outs["plain"], model) == 0
    assert "inverted" not in capsys.readouterr().err
    assert colorize(files["negative"], outs["inverted"], model) == 0
    assert "looks inverted" in (said := capsys.readouterr().err)
    assert "--invert-sketch" in said
    assert colorize(files["negative"], outs["turned"], model, "--invert-sketch") == 0
    assert "inverted" not in capsys.readouterr().err
    pictures = {name: np.asarray(Image.open(path)) for name, path in outs.items()}
    assert np.array_equal(pictures["plain"], pictures["turned"])
    assert not np.array_equal(pictures["plain"], pictures["inverted"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--exemplar", "gray"], "The exemplar has no colors"),
        (["--edit", "red -> blue"], "There is no exemplar, so that its text edits have nothing to edit"),
        (["--exemplar", "exemplar", "--edit", f"{'car ' * 80}-> blue"], "is ignored; shorten it"),
        (["--prompt", "a car", "--exemplar", "exemplar"], "does not read prompt; it is ignored"),
    ],
)
def test_what_does_not_act_is_said_and_the_picture_is_made(
    words: list[str],
    said: str,
    model: str,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.png"
    assert colorize(files["sketch"], out, model, *(files.get(word, word) for word in words)) == 0
    assert said in capsys.readouterr().err
    assert Image.open(out).size == (56, 40)


def test_what_cannot_be_drawn_from_is_refused_in_one_sentence(
    model: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert colorize(files["blank"], out, model) == 1
    assert (error := capsys.readouterr().err).startswith("colorlab: The sketch is blank")
    assert error.count("\n") == 1
    lcad = tiny_colorizer(tiny_lcad()).save_pretrained(tmp_path / "lcad")
    assert colorize(files["sketch"], out, str(lcad)) == 2
    assert "reads no sketches" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("text", ["red, blue", "->", "red ->", ""])
def test_an_edit_that_is_none_is_bad_usage(text: str) -> None:
    with pytest.raises(BadUsageError, match='expected "the red car -> the blue car"'):
        read_edit(text, scale=5.0)


def test_evaluate_prints_both_reports_with_intervals(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    assert cli.main(["evaluate", model, "--scenes", "2", "--steps", "1", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    for row in (
        "hue of the exemplar's like, or both gray",
        "edge F1 against the sketch, exemplar disagrees",
        "leakage of the exemplar's colors",
        "corrected: one edit gives the wanted color",
        "published: one edit gives the wanted color",
        "corrected: three edits, the first two in place",
        "AUC of the weights",
        "a moved threshold: weights and tokens",
    ):
        assert row in text
    assert "95 % interval" in text
    assert len(json.loads(out.read_text())["reports"]) == 2


def test_models_without_weights_are_listed_and_say_how_to_get_them(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model, tmp_path / "mini" / "other")
    monkeypatch.setenv("COLORLAB_DATA", str(tmp_path))
    assert cli.main(["models"]) == 0
    listed = capsys.readouterr().out
    for name in ("mini/colorizediffusion", "mini/colorizediffusion-cls"):
        assert f"{name}  " in listed
        with pytest.raises(WeightsError, match=f"{name} cannot be loaded: the weights of this model are not in"):
            colorlab.load(name)
    assert "colorlab train colorizediffusion-cls" in listed
    # With a folder of that name it is a model like any other.
    shutil.copytree(model, tmp_path / "mini" / "colorizediffusion")
    assert [entry.is_ready for entry in colorlab.models() if entry.name == "mini/colorizediffusion"] == [True]
    assert colorlab.load("mini/colorizediffusion").method.name == "colorizediffusion"


def test_the_scale_of_text_edits_is_the_usual_one():
    from inspect import signature

    from colorlab import cli
    from colorlab.conditioning import USUAL_TARGET_SCALE

    assert signature(cli.colorize).parameters["edit_scale"].default == USUAL_TARGET_SCALE
