import csv
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from colorlab import exhibits
from colorlab.errors import ColorlabError, RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit, drawing_names, register_drawing


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Before, so that the drawings of colorlab, which register but once, are not those that are thrown away.
    importlib.import_module(exhibits._DRAWING_MODULE)
    monkeypatch.setattr(exhibits, "_DRAWINGS", {})
    return


def heat(**changes: Any) -> Exhibit:
    values: dict[str, Any] = {
        "array": np.arange(6, dtype=np.float32).reshape(2, 3) / 5,
        "axes": ("h", "w"),
        "unit": "share",
        "caption": "Where the word looks.",
        "provenance": {"step": 3, "site": "mid", "seeds": [1, 2]},
        "verdict": "exact",
        "baseline": np.full((2, 3), 1 / 6, dtype=np.float32),
    }
    return Exhibit(**{**values, **changes})


PICTURES = {"seed 0": np.zeros((4, 5, 3), np.uint8), "seed 1 ü": np.ones((6, 5, 3), np.float32)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"baseline": None, "verdict": None}, {"array": [[np.nan] * 3] * 2}, {"pictures": PICTURES}],
)
def test_npz_and_pickle_lose_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    exhibit = heat(**changes)
    assert Exhibit.load(exhibit.save(tmp_path / "deep" / "x.npz")) == exhibit
    assert pickle.loads(pickle.dumps(exhibit)) == exhibit
    assert exhibit != heat(caption="Another.")


def test_pictures_are_read_only_and_told() -> None:
    exhibit = heat(pictures=PICTURES)
    assert exhibit != heat()
    assert exhibit != heat(pictures={**PICTURES, "seed 0": PICTURES["seed 0"] + 1})
    assert "with baseline, 2 pictures" in repr(exhibit)
    with pytest.raises(ValueError, match="read-only"):
        exhibit.pictures["seed 0"][0, 0, 0] = 9
    with pytest.raises(ShapeError, match="picture 'x' has shape"):
        heat(pictures={"x": np.zeros((4, 5))})


def test_csv_holds_every_value_and_the_provenance(tmp_path: Path) -> None:
    exhibit = heat()
    lines = exhibit.save(tmp_path / "x.csv").read_text().splitlines()
    assert '# caption: "Where the word looks."' in lines
    assert '# provenance: {"step": 3, "site": "mid", "seeds": [1, 2]}' in lines
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert list(rows[0]) == ["h", "w", "value", "baseline"]
    read = np.zeros((2, 3), dtype=np.float32)
    for row in rows:
        read[int(row["h"]), int(row["w"])] = float(row["value"])
    assert np.array_equal(read, exhibit.array)


def test_tensors_are_detached_and_the_array_is_a_read_only_copy() -> None:
    source = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    exhibit = heat(array=source)
    assert exhibit.array.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        exhibit.array[0, 0] = 2.0
    exhibit.to_numpy()[0, 0] = 2.0
    assert exhibit.array[0, 0] == 1.0


def test_provenance_of_other_types_is_written_plainly(tmp_path: Path) -> None:
    exhibit = heat(provenance={"step": np.int64(3), "dtype": torch.float16, "where": torch.tensor([1, 2])})
    assert Exhibit.load(exhibit.save(tmp_path / "x.npz")).provenance == {
        "step": 3,
        "dtype": "torch.float16",
        "where": [1, 2],
    }
    with pytest.raises(TypeError):
        exhibit.provenance["step"] = 4  # type: ignore[index]


def test_repr_tells_shape_range_and_verdict() -> None:
    assert (
        repr(heat())
        == "<Exhibit heatmap (h 2 x w 3), 0 to 1 share, verdict exact, with baseline: Where the word looks.>"
    )
    assert ", all NaN share, verdict refused" in repr(heat(array=np.full((2, 3), np.nan), verdict="refused"))
    assert ", 1 to 1 share" in repr(heat(array=np.array([[1.0, np.nan, 1.0]] * 2)))
    assert "one value" in repr(Exhibit(array=3.0, axes=(), unit="", caption="A number."))  # type: ignore[arg-type]


def test_the_registered_function_draws() -> None:
    class Figure:
        def savefig(self, buffer: Any, format: str) -> None:
            buffer.write(f"{format} of {self.caption}".encode())

    @register_drawing("heatmap")
    def draw(exhibit: Exhibit) -> Figure:
        figure = Figure()
        figure.caption = exhibit.caption  # type: ignore[attr-defined]
        return figure

    assert drawing_names() == ("heatmap",)
    assert heat()._repr_png_() == b"png of Where the word looks."
    assert draw(heat()).caption == heat().plot().caption  # type: ignore[attr-defined]


def test_a_kind_that_nothing_draws_is_told_and_shown_as_text() -> None:
    exhibit = heat(kind="hologram")
    with pytest.raises(StateError, match="kind 'hologram'"):
        exhibit.plot()
    assert exhibit._repr_png_() is None
    with pytest.raises(RangeError, match="kind"):
        register_drawing("")


def test_importing_exhibits_imports_no_plotting() -> None:
    code = "import sys, colorlab.exhibits; print(sorted({'matplotlib', 'torch', 'IPython'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert said == "[]"


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"axes": ("h",)}, ShapeError, "one name for each axis"),
        ({"baseline": np.zeros((3, 2))}, ShapeError, "baseline has shape"),
        ({"verdict": "fine"}, RangeError, "exact, close, refused"),
    ],
)
def test_exhibits_that_do_not_fit_are_told(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        heat(**changes)


def test_files_that_cannot_be_are_told(tmp_path: Path) -> None:
    with pytest.raises(RangeError, match=r"saved as \.npz, \.csv"):
        heat().save(tmp_path / "x.tiff")
    (tmp_path / "file").write_text("")
    with pytest.raises(ColorlabError, match="cannot be written"):
        heat().save(tmp_path / "file" / "x.npz")
    with pytest.raises(ColorlabError, match="no exhibit"):
        Exhibit.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", array=np.zeros(3))
    with pytest.raises(ColorlabError, match="no exhibit"):
        Exhibit.load(tmp_path / "other.npz")


def test_numpy_takes_an_exhibit_for_its_numbers():
    exhibit = heat()
    assert np.array_equal(np.asarray(exhibit), exhibit.array)
    halved = np.asarray(exhibit, dtype=np.float16)
    assert halved.dtype == np.float16
    copied = np.array(exhibit)
    copied[...] = 0
    assert not np.array_equal(copied, exhibit.array)


@pytest.mark.parametrize(("ending", "first_bytes"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_drawing_is_saved_as_a_picture(tmp_path, ending, first_bytes):
    register_drawing("heatmap")(lambda exhibit: Figure())
    assert heat().save(tmp_path / f"x{ending}").read_bytes().startswith(first_bytes)
