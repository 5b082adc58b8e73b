"""Drawings: figures without pyplot, in any thread, that show what they were given."""

import io
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from colorlab import plotting
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit, drawing_names

RED = np.zeros((20, 30, 3), np.uint8) + np.array([220, 20, 20], np.uint8)


def share_of(figure: plotting.LabFigure, color: tuple[int, int, int]) -> float:
    """Share of drawn pixels that have this color."""
    return float((np.abs(figure.to_array().astype(int) - color).max(-1) < 6).mean())


def test_pyplot_is_never_imported() -> None:
    code = "import colorlab.plotting, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "picture",
    [
        RED,
        RED / 255.0,
        torch.from_numpy(RED / 255.0).permute(2, 0, 1),
        torch.from_numpy(RED / 255.0).permute(2, 0, 1)[None],
    ],
    ids=["uint8", "float", "tensor", "batch of one"],
)
def test_every_form_of_a_picture_is_shown_in_its_colors(picture: object) -> None:
    assert share_of(plotting.plot_images([picture]), (220, 20, 20)) > 0.5


def test_gray_pictures_are_gray() -> None:
    figure = plotting.plot_images([np.full((8, 8), 0.5)])
    assert share_of(figure, (127, 127, 127)) > 0.5


def test_grid_has_one_cell_for_each_picture() -> None:
    figure = plotting.plot_images({str(i): RED for i in range(7)})
    assert len(figure.axes) == 7
    assert [cell.get_title() for cell in figure.axes] == [str(i) for i in range(7)]
    wide = plotting.plot_images([RED] * 4, num_columns=2)
    assert wide.axes[2].get_subplotspec().rowspan.start == 1


def test_pictures_that_cannot_be_shown() -> None:
    with pytest.raises(ShapeError, match="at least one"):
        plotting.plot_images([])
    with pytest.raises(ShapeError, match="expected one each"):
        plotting.plot_images([RED], titles=["a", "b"])
    with pytest.raises(ShapeError, match="expected \\(H, W, 3\\)"):
        plotting.plot_images([np.zeros((4, 4, 2))])


def test_heatmap_with_and_without_a_picture() -> None:
    ramp = np.linspace(0, 1, 12).reshape(3, 4)
    ramp[0, 0] = np.nan
    for image in (None, RED):
        figure = plotting.plot_heatmap(ramp, image=image, title="attention", unit="share")
        assert figure.axes[0].get_title() == "attention"
        assert figure.axes[-1].get_ylabel() == "share"
        assert figure.axes[0].images[-1].get_extent() == (
            [-0.5, 3.5, 2.5, -0.5] if image is None else [-0.5, 29.5, 19.5, -0.5]
        )
    with pytest.raises(ShapeError, match="expected \\(h, w\\)"):
        plotting.plot_heatmap(np.zeros(4))


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.full((2, 2), np.nan)], ids=["constant", "nan"])
def test_heatmap_without_a_range_is_drawn(values: np.ndarray) -> None:
    assert plotting.plot_heatmap(values).to_array().shape[-1] == 3


def test_delta_e_says_mean_and_maximum() -> None:
    other = RED.copy()
    other[:, :15] = [20, 20, 220]
    figure = plotting.plot_delta_e(RED, other, formula="76")
    shown = figure.axes[2].images[0].get_array()
    assert shown[:, 15:].max() == 0.0
    assert shown[:, :15].min() > 50.0
    assert f"mean {shown.mean():.1f}" in figure.axes[2].get_title()
    with pytest.raises(ShapeError, match="expected one size"):
        plotting.plot_delta_e(RED, RED[:-1])
    with pytest.raises(RangeError, match="formula is '94'"):
        plotting.plot_delta_e(RED, RED, formula="94")


def test_curves() -> None:
    figure = plotting.plot_curves({"loss": [3.0, 2.0, 1.0], "test": ([0, 10], [4.0, 2.0])}, is_logarithmic=True)
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["loss", "test"]
    np.testing.assert_array_equal(lines[1].get_xdata(), [0, 10])
    assert figure.axes[0].get_yscale() == "log"
    with pytest.raises(ShapeError, match="expected one each"):
        plotting.plot_curves({"loss": ([0, 1], [1.0])})


def test_trajectory_shows_the_steps_that_were_asked_for() -> None:
    records = [SimpleNamespace(timestep=900 - 100 * k) for k in range(9)]
    run = SimpleNamespace(records=records, preview=lambda step: np.full((8, 8, 3), 20 * step, np.uint8))
    figure = plotting.plot_trajectory(run)
    assert len(figure.axes) == 8
    assert figure.axes[0].get_title() == "step 0 (t = 900)"
    assert figure.axes[-1].get_title() == "step 8 (t = 100)"
    assert len(plotting.plot_trajectory(run, steps=[2, 5]).axes) == 2
    with pytest.raises(RangeError, match="from 0 to 8"):
        plotting.plot_trajectory(run, steps=[9])
    with pytest.raises(StateError, match=r"run\.step"):
        plotting.plot_trajectory(SimpleNamespace(records=[]))


def test_a_figure_shows_itself_and_can_be_drawn_in_a_thread() -> None:
    drawn: list[bytes] = []
    thread = threading.Thread(target=lambda: drawn.append(plotting.plot_images([RED])._repr_png_()))
    thread.start()
    thread.join()
    assert drawn[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("heatmap", (4, 6), ("h", "w")),
        ("curves", (5,), ("step",)),
        ("curves", (2, 5), ("head", "step")),
        ("image", (8, 9, 3), ("H", "W", "C")),
    ],
)
@pytest.mark.parametrize("has_baseline", [False, True])
def test_exhibits_are_drawn(kind: str, shape: tuple[int, ...], axes: tuple[str, ...], has_baseline: bool) -> None:
    array = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)
    exhibit = Exhibit(
        array=array, axes=axes, unit="share", caption="A caption.", verdict="exact", kind=kind,
        baseline=array[::-1] if has_baseline else None,
    )  # fmt: skip
    figure = exhibit.plot()
    assert figure.get_supxlabel() == "A caption. [exact]"
    told = replace(exhibit, caption="A map. Replay: exact.").plot()
    assert told.get_supxlabel() == "A map. Replay: exact."
    assert figure.to_array().std() > 1.0


@pytest.mark.parametrize("has_baseline", [False, True])
def test_a_gallery_shows_the_pictures_and_then_the_map(has_baseline: bool) -> None:
    ramp = np.linspace(0, 1, 600).reshape(20, 30)
    exhibit = Exhibit(
        array=ramp, axes=("H", "W"), unit="", caption="Spread.", kind="gallery",
        baseline=ramp[::-1] if has_baseline else None, pictures={"seed 0": RED, "seed 1": RED, "seed 2": RED},
    )  # fmt: skip
    figure = exhibit.plot()
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles == ["seed 0", "seed 1", "seed 2", "map", *(["null baseline"] if has_baseline else [])]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), ramp)
    assert share_of(figure, (220, 20, 20)) > 0.2


def test_a_ranking_shows_its_first_twenty_with_their_labels() -> None:
    labels = [f"head {index}" for index in range(30)]
    exhibit = Exhibit(
        array=np.arange(30)[::-1], axes=("head",), unit="Delta E", caption="Ranking.", kind="ranking",
        provenance={"labels": labels},
    )  # fmt: skip
    axes = exhibit.plot().axes[0]
    assert [bar.get_width() for bar in axes.patches] == list(range(29, 9, -1))
    assert [label.get_text() for label in axes.get_yticklabels()] == labels[:20]
    plain = Exhibit(array=np.ones(3), axes=("head",), unit="", caption="", kind="ranking")
    assert [label.get_text() for label in plain.plot().axes[0].get_yticklabels()] == ["0", "1", "2"]


def test_an_exhibit_of_other_axes_is_refused() -> None:
    assert {"heatmap", "curves", "image"} <= set(drawing_names())
    exhibit = Exhibit(array=np.zeros((2, 2, 2)), axes=("head", "h", "w"), unit="", caption="Three axes.")
    with pytest.raises(ShapeError, match="expects 2"):
        exhibit.plot()


def test_png_has_the_size_of_the_figure() -> None:
    figure = plotting.plot_images([RED] * 3, cell_px=100)
    with Image.open(io.BytesIO(figure.to_png())) as picture:
        assert (picture.height, picture.width) == figure.to_array().shape[:2]
        assert picture.width == 300
