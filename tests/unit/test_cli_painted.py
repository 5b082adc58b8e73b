"""The command line with strokes, exemplars and sketches: what reaches the run, and one sentence for bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_picture

from colorlab import cli
from colorlab.strokes import Stroke, Strokes

RED = Stroke([(10, 10), (30, 20)], (200, 40, 40), 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny CtrlColor."""
    return str(tiny_colorizer(tiny_ctrlcolor()).save_pretrained(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def gray(tmp_path: Path) -> Path:
    """A gray picture file."""
    path = tmp_path / "gray.png"
    Image.fromarray(tiny_picture()).save(path)
    return path


@pytest.fixture
def exemplar(tmp_path: Path) -> Path:
    """A colored picture file of another size."""
    path = tmp_path / "exemplar.png"
    Image.fromarray(np.full((20, 30, 3), (250, 20, 20), np.uint8)).save(path)
    return path


def stroke_file(path: Path, values: Any) -> Path:
    """Write JSON."""
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def colorize(*words: object) -> int:
    """Run `colorlab colorize`."""
    return cli.main(["colorize", *map(str, words)])


def test_strokes_and_exemplar_reach_the_run(model: str, gray: Path, exemplar: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    strokes = tmp_path / "s.json"
    strokes.write_text(Strokes([RED]).to_json(), encoding="utf-8")
    assert colorize(gray, "-o", out, "-m", model, "--strokes", strokes, "--exemplar", exemplar, "--steps", 2) == 0
    run = tiny_colorizer(tiny_ctrlcolor()).start(gray, strokes=[RED], exemplar=exemplar, num_inference_steps=2)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), run.finish(progress=False).image)


def test_what_the_model_does_not_read_is_said(
    model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    assert colorize(gray, "-o", out, "-m", model, "--sketch", gray, "--steps", 1) == 0
    assert "does not read sketch; it is ignored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([Stroke([(300, 10)], (1, 2, 3), 3).to_dict()], "1 of 1 strokes lie outside of the picture of 40 x 56 pixels"),
        ([Stroke([(9, 9), (9, 9)], (200, 2, 3), 1).to_dict()], ""),
        ([Stroke([(x % 56, x % 40)], (200, 2, 3), 1).to_dict() for x in range(3000)], ""),
        ([], ""),
    ],
)
def test_odd_strokes_have_a_stated_behavior(
    values: Any, said: str, model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = stroke_file(tmp_path / "s.json", values), tmp_path / "out.png"
    assert colorize(gray, "-o", out, "-m", model, "--strokes", path, "--steps", 1) == 0
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == (1 if said else 0)
    assert Image.open(out).size == (56, 40)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (no such file"),
        ("", "no JSON"),
        ('{"points": []}', "a list of objects"),
        ('[{"points": [[1, 2]], "color": [1, 2, 3]}]', "A stroke has points, color, radius_px"),
        ('[{"points": [[1, 2]], "color": [1, 2, 3, 0], "radius_px": 2}]', "three integers from 0 to 255"),
        ('[{"points": [], "color": [1, 2, 3], "radius_px": 2}]', "at least one pair"),
        ('[{"points": [[1, 2]], "color": [1, 2, 3], "radius_px": 0}]', "radius_px is 0"),
        ('[{"points": [[NaN, 2]], "color": [1, 2, 3], "radius_px": 2}]', "finite numbers"),
        (b"\xff\xfe\x00", "it is no text"),
    ],
)
def test_bad_strokes_give_one_sentence(
    content: str | bytes | None, message: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "strokes.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert colorize(gray, "-o", tmp_path / "out.png", "-m", "anything", "--strokes", path) == 2
    error = capsys.readouterr().err
    assert error.startswith("colorlab: ")
    assert error.count("\n") == 1
    assert str(path) in error
    assert message in error
    assert not (tmp_path / "out.png").exists()


def test_exemplars_that_are_none(model: str, gray: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.png"
    assert colorize(gray, "-o", out, "-m", model, "--exemplar", tmp_path / "no.jpg") == 1
    error = capsys.readouterr().err
    assert "no.jpg" in error
    assert error.count("\n") == 1
    # The gray picture itself as its exemplar: it works, and is said.
    assert colorize(gray, "-o", out, "-m", model, "--exemplar", gray, "--steps", 1) == 0
    assert "The exemplar has no colors" in capsys.readouterr().err
