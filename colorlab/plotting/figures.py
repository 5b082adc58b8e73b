"""Functions that return a matplotlib `Figure` of pictures, maps and curves.

No `pyplot`: a figure belongs to whoever asked for it, is drawn in any thread, and leaves no global state behind. In a
notebook a figure shows itself as the last value of a cell.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from colorlab.color import delta_e, delta_e_2000, rgb_to_lab
from colorlab.errors import RangeError, ShapeError, StateError

__all__ = [
    "CELL_PX",
    "LabFigure",
    "grid_of_cells",
    "plot_curves",
    "plot_delta_e",
    "plot_heatmap",
    "plot_images",
    "plot_trajectory",
    "show_map",
    "show_picture",
    "value_range",
]

CELL_PX = 160
"""Width of one picture of a grid, in pixels of the drawn figure."""

_DPI = 100
_HEATMAP_COLORS = "magma"


class LabFigure(Figure):
    """A figure that draws itself: as PNG in a notebook, or with `to_array`, without a window and without pyplot."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("layout", "constrained")
        kwargs.setdefault("dpi", _DPI)
        super().__init__(*args, **kwargs)
        FigureCanvasAgg(self)

    def to_png(self) -> bytes:
        """Draw the figure and encode it as PNG."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def to_array(self) -> np.ndarray:
        """Draw the figure into an array (height, width, 3) uint8."""
        canvas = FigureCanvasAgg(self)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook."""
        return self.to_png()


def plot_images(
    images: Sequence[Any] | Mapping[str, Any],
    *,
    titles: Sequence[str] | None = None,
    num_columns: int | None = None,
    cell_px: int = CELL_PX,
) -> LabFigure:
    """Show pictures in a grid, row by row.

    Args:
        images: pictures, or a mapping from title to picture; each (H, W, 3) or (H, W), uint8 or float [0, 1], or a
            tensor (3, H, W), (1, 3, H, W), (1, H, W) or (1, 1, H, W). They may differ in size.
        titles: one for each picture.
        num_columns: columns of the grid; None takes one row for up to six pictures, and about a square otherwise.
        cell_px: width of one cell.

    Returns:
        The figure.

    Raises:
        ShapeError: there is no picture, one has another shape, or titles and pictures differ in number.
    """
    if isinstance(images, Mapping):
        titles, images = (list(images) if titles is None else titles), list(images.values())
    pictures = [_to_picture(image) for image in images]
    if not pictures:
        raise ShapeError("images is empty; expected at least one picture.")
    if titles is not None and len(titles) != len(pictures):
        raise ShapeError(f"titles has {len(titles)} entries for {len(pictures)} pictures; expected one each.")
    columns = num_columns or (len(pictures) if len(pictures) <= 6 else math.ceil(math.sqrt(len(pictures))))
    figure, cells = grid_of_cells(len(pictures), columns, cell_px, aspect=pictures[0].shape[0] / pictures[0].shape[1])
    for index, (cell, picture) in enumerate(zip(cells, pictures, strict=True)):
        show_picture(cell, picture)
        if titles is not None:
            cell.set_title(str(titles[index]), fontsize=9)
    return figure


def plot_trajectory(run: Any, *, steps: Sequence[int] | None = None, cell_px: int = CELL_PX) -> LabFigure:
    """Show what the network took for the clean picture at the steps of a run, in the order of the steps.

    Args:
        run: a run with at least one finished step; only its record is read, decoded step by step.
        steps: step indices to show; None shows at most eight, evenly spread over the finished ones.
        cell_px: width of one picture.

    Returns:
        The figure.

    Raises:
        StateError: no step is finished.
        RangeError: one of `steps` is not finished.
    """
    finished = len(run.records)
    if finished == 0:
        raise StateError("The run has taken no step yet; call run.step() or run.finish() first.")
    if steps is None:
        steps = sorted({round(x) for x in np.linspace(0, finished - 1, min(8, finished))})
    for step in steps:
        if not 0 <= step < finished:
            raise RangeError(f"step {step} is not finished; expected a step from 0 to {finished - 1}.")
    titles = [f"step {step} (t = {run.records[step].timestep})" for step in steps]
    return plot_images(
        [run.preview(step) for step in steps], titles=titles, num_columns=min(4, len(steps)), cell_px=cell_px
    )


def plot_heatmap(
    heatmap: Any,
    *,
    image: Any | None = None,
    title: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
    opacity: float = 0.6,
    cell_px: int = 2 * CELL_PX,
) -> LabFigure:
    """Show a map as colors, with its scale; over a picture if one is given.

    Args:
        heatmap: (h, w) float; nan is left blank. A coarse map is laid over the whole picture.
        image: picture underneath, in any form `plot_images` takes.
        title: title of the figure.
        unit: what the scale measures.
        limits: values at the two ends of the scale; None takes the smallest and the largest.
        opacity: of the map over the picture, [0, 1].
        cell_px: width of the map.

    Returns:
        The figure.

    Raises:
        ShapeError: `heatmap` is not a map.
    """
    values = _to_numpy(heatmap).astype(np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ShapeError(f"heatmap has shape {values.shape}; expected (h, w) with at least one value.")
    picture = None if image is None else _to_picture(image)
    height, width = values.shape if picture is None else picture.shape[:2]
    figure, (cell,) = grid_of_cells(1, 1, cell_px, aspect=height / width)
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    if picture is not None:
        cell.imshow(picture, extent=frame)
    low, high = limits if limits is not None else value_range(values)
    drawn = cell.imshow(
        values,
        cmap=_HEATMAP_COLORS,
        vmin=low,
        vmax=high,
        extent=frame,
        alpha=1.0 if picture is None else opacity,
        interpolation="nearest",
    )
    cell.set_axis_off()
    cell.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=cell, label=unit, fraction=0.046)
    return figure


def plot_delta_e(image: Any, other: Any, *, formula: str = "2000", cell_px: int = CELL_PX) -> LabFigure:
    """Show two pictures and the map of their color differences.

    Args:
        image: a picture, in any form `plot_images` takes.
        other: a picture of the same size.
        formula: "2000" for CIEDE2000, "76" for the Euclidean distance in Lab.
        cell_px: width of one of the three panels.

    Returns:
        The figure; mean and maximum are in the title of the map.

    Raises:
        ShapeError: the pictures differ in size.
        RangeError: `formula` is unknown.
    """
    formulas = {"2000": delta_e_2000, "76": delta_e}
    if formula not in formulas:
        raise RangeError(f"formula is {formula!r}; expected one of {', '.join(formulas)}.")
    first, second = _to_picture(image), _to_picture(other)
    if first.shape != second.shape:
        raise ShapeError(f"other is {second.shape[:2]} pixels large and image {first.shape[:2]}; expected one size.")
    labs = [rgb_to_lab(torch.from_numpy(picture).float().permute(2, 0, 1)[None]) for picture in (first, second)]
    difference = formulas[formula](*labs).squeeze().reshape(first.shape[:2]).numpy()
    figure, cells = grid_of_cells(3, 3, cell_px, aspect=first.shape[0] / first.shape[1])
    show_picture(cells[0], first)
    show_picture(cells[1], second)
    drawn = cells[2].imshow(difference, cmap=_HEATMAP_COLORS, vmin=0.0)
    cells[2].set_axis_off()
    cells[2].set_title(f"ΔE: mean {difference.mean():.1f}, most {difference.max():.1f}", fontsize=9)
    figure.colorbar(drawn, ax=cells[2], fraction=0.046)
    return figure


def plot_curves(
    curves: Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str = "step",
    y_label: str = "loss",
    title: str = "",
    is_logarithmic: bool = False,
) -> LabFigure:
    """Draw curves, for instance the losses of a training.

    Args:
        curves: name to values, or to a pair (positions, values).
        x_label: what the horizontal axis measures.
        y_label: what the vertical axis measures.
        title: title of the figure.
        is_logarithmic: draw the vertical axis on a logarithmic scale.

    Returns:
        The figure.

    Raises:
        ShapeError: positions and values of a curve differ in number.
    """
    figure = LabFigure(figsize=(6.4, 3.6))
    axes = figure.add_subplot()
    for name, curve in curves.items():
        has_positions = isinstance(curve, tuple) and len(curve) == 2 and np.ndim(curve[0]) == 1
        x, y = (np.asarray(part, dtype=float) for part in (curve if has_positions else (range(len(curve)), curve)))
        if x.shape != y.shape or x.ndim != 1:
            raise ShapeError(f'curve "{name}" has {x.shape} positions and {y.shape} values; expected one each.')
        axes.plot(x, y, label=name, linewidth=1.5, marker="." if len(x) == 1 else None)
    if is_logarithmic:
        axes.set_yscale("log")
    if curves:
        axes.legend(fontsize=8, frameon=False)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def grid_of_cells(num_cells: int, num_columns: int, cell_px: int, *, aspect: float) -> tuple[LabFigure, list[Axes]]:
    """Make a figure with a grid of cells; `aspect` is height over width of one. Spare cells stay empty."""
    num_rows = math.ceil(num_cells / num_columns)
    width = num_columns * cell_px / _DPI
    height = num_rows * (cell_px * min(max(aspect, 0.2), 5.0) + 28) / _DPI
    figure = LabFigure(figsize=(max(width, 2.0), max(height, 1.0)))
    return figure, [figure.add_subplot(num_rows, num_columns, index + 1) for index in range(num_cells)]


def show_picture(cell: Axes, picture: np.ndarray) -> None:
    """Show one picture without ticks."""
    cell.imshow(picture)
    cell.set_axis_off()


def show_map(cell: Axes, values: np.ndarray, limits: tuple[float, float], title: str = "") -> AxesImage:
    """Show one map without ticks and return what its color scale is made from."""
    drawn = cell.imshow(values, cmap=_HEATMAP_COLORS, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    cell.set_axis_off()
    cell.set_title(title, fontsize=9)
    return drawn


def _to_numpy(values: Any) -> np.ndarray:
    """Bring a tensor or anything array-like to the CPU as an array."""
    return values.detach().float().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _to_picture(image: Any) -> np.ndarray:
    """Bring a picture to (H, W, 3) float32 [0, 1]."""
    array = _to_numpy(image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if isinstance(image, torch.Tensor) and array.ndim == 3:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise ShapeError(f"A picture has shape {array.shape}; expected (H, W, 3), (H, W) or a tensor (1, 3, H, W).")
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    picture = np.clip(array.astype(np.float32) / scale, 0.0, 1.0)
    return np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture


def value_range(values: np.ndarray) -> tuple[float, float]:
    """Find the ends of a scale; a constant map gets a scale of width 1, an empty one [0, 1]."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (low, high) if high > low else (low, low + 1.0)
