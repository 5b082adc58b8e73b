"""The drawings of exhibits, one for each kind; importing this module registers them."""

import math
import textwrap

import numpy as np

from colorlab.errors import ShapeError
from colorlab.exhibits import Exhibit, register_drawing
from colorlab.plotting.figures import (
    CELL_PX,
    LabFigure,
    grid_of_cells,
    plot_curves,
    plot_heatmap,
    plot_images,
    show_map,
    show_picture,
    value_range,
)

__all__ = [
    "draw_arrows",
    "draw_contact_sheet",
    "draw_curves",
    "draw_difference",
    "draw_gallery",
    "draw_heatmap",
    "draw_image",
    "draw_maps",
    "draw_matrix",
    "draw_pairs",
    "draw_paths",
    "draw_ranking",
    "draw_stacked_curves",
]

_NUM_BARS = 20
_NUM_SHEET_COLUMNS = 6
_MAX_NAMED_TOKENS = 40
_MAX_NUMBERED_CELLS = 16
_SIGNED_COLORS = "RdBu_r"


@register_drawing("heatmap")
def draw_heatmap(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit of two axes as a map, beside its null baseline on the same scale if it has one."""
    _require_axes(exhibit, 2)
    limits = value_range(exhibit.array)
    if exhibit.baseline is None:
        figure = plot_heatmap(exhibit.array, unit=exhibit.unit, limits=limits)
    else:
        limits = value_range(np.stack([exhibit.array, exhibit.baseline]))
        height, width = exhibit.array.shape
        figure, cells = grid_of_cells(2, 2, 2 * CELL_PX, aspect=height / width)
        for cell, values, name in zip(
            cells, (exhibit.array, exhibit.baseline), ("found", "null baseline"), strict=True
        ):
            drawn = show_map(cell, values, limits, name)
        figure.colorbar(drawn, ax=cells, label=exhibit.unit, fraction=0.046)
    return _with_caption(figure, exhibit)


@register_drawing("gallery")
def draw_gallery(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit of two axes after the pictures that it was computed from, its null baseline last."""
    _require_axes(exhibit, 2)
    maps = {"map": exhibit.array} | ({} if exhibit.baseline is None else {"null baseline": exhibit.baseline})
    height, width = exhibit.array.shape
    number = len(exhibit.pictures) + len(maps)
    columns = number if number <= 6 else math.ceil(math.sqrt(number))
    figure, cells = grid_of_cells(number, columns, CELL_PX, aspect=height / width)
    for cell, (title, picture) in zip(cells, exhibit.pictures.items(), strict=False):
        show_picture(cell, picture)
        cell.set_title(title, fontsize=9)
    limits = value_range(np.stack(list(maps.values())))
    for cell, (title, values) in zip(cells[-len(maps) :], maps.items(), strict=True):
        drawn = show_map(cell, values, limits, title)
    figure.colorbar(drawn, ax=cells, label=exhibit.unit, fraction=0.046, shrink=0.6)
    return _with_caption(figure, exhibit)


@register_drawing("difference")
def draw_difference(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit of signed values as a map, one for each label if it has three axes; white is no difference.

    A map of two axes has its null baseline beside it.
    """
    if exhibit.array.ndim != 2:
        _require_axes(exhibit, 3)
    maps = exhibit.array if exhibit.array.ndim == 3 else exhibit.array[None]
    titles = list(exhibit.provenance.get("labels", ())) if exhibit.array.ndim == 3 else [""]
    if exhibit.baseline is not None and exhibit.array.ndim == 2:
        maps, titles = np.stack([exhibit.array, exhibit.baseline]), ["found", "null baseline"]
    columns = len(maps) if len(maps) <= 4 else math.ceil(math.sqrt(len(maps)))
    cell_px = 2 * CELL_PX if len(maps) == 1 else CELL_PX
    figure, cells = grid_of_cells(len(maps), columns, cell_px, aspect=maps.shape[1] / maps.shape[2])
    finite = np.abs(maps[np.isfinite(maps)])
    largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    for index, (cell, values) in enumerate(zip(cells, maps, strict=True)):
        title = str(titles[index]) if index < len(titles) else f"{exhibit.axes[0]} {index}"
        drawn = show_map(cell, values, (-largest, largest), title, colors=_SIGNED_COLORS)
    figure.colorbar(drawn, ax=cells, label=exhibit.unit, fraction=0.046)
    return _with_caption(figure, exhibit)


@register_drawing("maps")
def draw_maps(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit of three axes as maps on one scale, with the labels of its provenance; null baselines below."""
    _require_axes(exhibit, 3)
    maps, labels = exhibit.array, [str(label) for label in exhibit.provenance.get("labels", range(len(exhibit.array)))]
    columns = min(len(labels), 5)
    if exhibit.baseline is not None:
        maps = np.concatenate([maps, exhibit.baseline])
        labels += [f"{label}\nnull baseline" for label in labels]
    limits = value_range(maps)
    figure, cells = grid_of_cells(len(labels), columns, CELL_PX, aspect=maps.shape[1] / maps.shape[2])
    for cell, values, label in zip(cells, maps, labels, strict=True):
        drawn = show_map(cell, values, limits, label)
    figure.colorbar(drawn, ax=cells, label=exhibit.unit, fraction=0.046)
    return _with_caption(figure, exhibit)


@register_drawing("matrix")
def draw_matrix(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit (row, column) as cells with their numbers, beside the picture whose cells they are."""
    _require_axes(exhibit, 2)
    rows, columns = exhibit.array.shape
    pictures = list(exhibit.pictures.items())
    figure, cells = grid_of_cells(1 + len(pictures), 1 + len(pictures), 2 * CELL_PX, aspect=rows / columns)
    for cell, (title, picture) in zip(cells, pictures, strict=False):
        show_picture(cell, picture)
        cell.set_title(title, fontsize=9)
    is_signed = bool(exhibit.provenance.get("is_signed"))
    finite = np.abs(exhibit.array[np.isfinite(exhibit.array)])
    largest = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    limits = (-largest, largest) if is_signed else value_range(exhibit.array)
    drawn = show_map(cells[-1], exhibit.array, limits, "", colors=_SIGNED_COLORS if is_signed else "magma")
    if max(rows, columns) <= _MAX_NUMBERED_CELLS:
        for (row, column), value in np.ndenumerate(exhibit.array):
            share = (value - limits[0]) / (limits[1] - limits[0] or 1.0)
            is_dark = abs(2 * share - 1) > 0.6 if is_signed else share < 0.6
            color = "white" if is_dark else "black"
            cells[-1].text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color=color)
    figure.colorbar(drawn, ax=cells, label=exhibit.unit, fraction=0.046)
    return _with_caption(figure, exhibit)


@register_drawing("pairs")
def draw_pairs(exhibit: Exhibit) -> LabFigure:
    """Draw the pictures of an exhibit in a row, each under its title."""
    titles = [f"{title}\n{share:.1%}" for title, share in zip(exhibit.pictures, exhibit.array, strict=True)]
    return _with_caption(plot_images(list(exhibit.pictures.values()), titles=titles), exhibit)


@register_drawing("contact_sheet")
def draw_contact_sheet(exhibit: Exhibit) -> LabFigure:
    """Draw the pictures of an exhibit in a grid, each under its title and its value.

    Where the provenance holds `curves`, numbers by name, they stand below with the values, over its `places`.
    """
    _require_axes(exhibit, 1)
    pairs = zip(exhibit.pictures, exhibit.array, strict=True)
    titles = [f"{title}\n{value:.3g} {exhibit.unit}" for title, value in pairs]
    pictures, curves = list(exhibit.pictures.values()), dict(exhibit.provenance.get("curves", {}))
    if not curves:
        return _with_caption(plot_images(pictures, titles=titles), exhibit)
    places = list(exhibit.provenance.get("places", range(len(pictures))))
    num_columns = min(len(pictures), _NUM_SHEET_COLUMNS)
    num_rows = math.ceil(len(pictures) / num_columns)
    figure = LabFigure(figsize=(max(4.0, 1.8 * num_columns), 2.0 * num_rows + 2.4))
    grid = figure.add_gridspec(num_rows + 1, num_columns)
    for index, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        cell = figure.add_subplot(grid[divmod(index, num_columns)])
        show_picture(cell, picture)
        cell.set_title(title, fontsize=8)
    axes = figure.add_subplot(grid[num_rows, :])
    other = axes.twinx()
    lines = axes.plot(places, exhibit.array, marker=".", color="tab:blue", label=exhibit.unit)
    for number, (name, values) in enumerate(curves.items(), start=1):
        lines += other.plot(places, values, marker=".", linestyle="--", color=f"C{number}", label=name)
    axes.legend(handles=lines, fontsize=7, frameon=False)
    axes.set(xlabel=exhibit.axes[0], ylabel=exhibit.unit)
    other.set(ylabel=", ".join(curves))
    return _with_caption(figure, exhibit)


@register_drawing("paths")
def draw_paths(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit (path, component, state) as lines in a plane, from the dot on."""
    _require_axes(exhibit, 3)
    labels = [str(label) for label in exhibit.provenance.get("labels", range(len(exhibit.array)))]
    figure = LabFigure(figsize=(5, 4))
    axes = figure.add_subplot()
    for path, label in zip(exhibit.array, labels, strict=True):
        (line,) = axes.plot(path[0], path[1], marker=".", markersize=3, label=label)
        axes.plot(path[0, :1], path[1, :1], "o", color=line.get_color())
    axes.legend(fontsize=7, frameon=False)
    axes.set(xlabel=f"component 0, {exhibit.unit}", ylabel=f"component 1, {exhibit.unit}")
    return _with_caption(figure, exhibit)


@register_drawing("ranking")
def draw_ranking(exhibit: Exhibit) -> LabFigure:
    """Draw the first twenty values of an exhibit of one axis as bars, with the labels of its provenance."""
    _require_axes(exhibit, 1)
    values = exhibit.array[:_NUM_BARS]
    labels = list(exhibit.provenance.get("labels", range(len(values))))[: len(values)]
    figure = LabFigure(figsize=(7.2, 0.9 + 0.22 * max(len(values), 4)))
    axes = figure.add_subplot()
    axes.barh(range(len(values)), values, color="tab:blue", label="found")
    if exhibit.baseline is not None:
        axes.plot(exhibit.baseline[:_NUM_BARS], range(len(values)), "|", color="black", label="null baseline")
        axes.legend(fontsize=7, frameon=False)
    axes.set_yticks(range(len(values)), [str(label) for label in labels], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel=exhibit.unit)
    axes.spines[["top", "right"]].set_visible(False)
    return _with_caption(figure, exhibit)


@register_drawing("curves")
def draw_curves(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit of one axis as a curve, of two as one curve for each row; the null baseline is dashed."""
    if exhibit.array.ndim not in (1, 2):
        _require_axes(exhibit, 1)
    rows = np.atleast_2d(exhibit.array)
    names = (
        [str(label) for label in exhibit.provenance.get("labels", ())]
        or [f"{exhibit.axes[0]} {index}" for index in range(len(rows))]
        if exhibit.array.ndim == 2
        else [exhibit.unit or "found"]
    )
    figure = plot_curves(dict(zip(names, rows, strict=True)), x_label=exhibit.axes[-1], y_label=exhibit.unit)
    if exhibit.baseline is not None:
        for row in np.atleast_2d(exhibit.baseline):
            figure.axes[0].plot(row, color="gray", linestyle="--", linewidth=1)
    _name_tokens(figure, exhibit)
    return _with_caption(figure, exhibit)


@register_drawing("stacked_curves")
def draw_stacked_curves(exhibit: Exhibit) -> LabFigure:
    """Draw each row of an exhibit of two axes as a curve on a scale of its own, with the labels of its provenance."""
    _require_axes(exhibit, 2)
    labels = [str(label) for label in exhibit.provenance.get("labels", range(len(exhibit.array)))]
    figure = LabFigure(figsize=(6.4, 0.6 + 1.5 * len(labels)))
    cells = figure.subplots(len(labels), sharex=True, squeeze=False)[:, 0]
    for axes, values, label in zip(cells, exhibit.array, labels, strict=True):
        axes.plot(values, linewidth=1.5, marker=".", markersize=3)
        axes.set(ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
    cells[-1].set(xlabel=exhibit.axes[-1])
    _name_tokens(figure, exhibit)
    return _with_caption(figure, exhibit)


@register_drawing("arrows")
def draw_arrows(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit (tap, h, w, xy) as arrows from each cell, one for the mean of its taps, lengths to scale."""
    _require_axes(exhibit, 4)
    figure = LabFigure(figsize=(4, 4))
    axes = figure.add_subplot()
    mean = exhibit.array.mean(axis=0)
    axes.quiver(mean[..., 0], mean[..., 1], angles="xy", scale_units="xy", scale=1)
    axes.set(aspect="equal", xlim=(-1, mean.shape[1]), ylim=(mean.shape[0], -1))
    return _with_caption(figure, exhibit)


@register_drawing("image")
def draw_image(exhibit: Exhibit) -> LabFigure:
    """Draw an exhibit (H, W, 3) as a picture, beside its null baseline if it has one."""
    _require_axes(exhibit, 3)
    pictures = {"found": exhibit.array}
    if exhibit.baseline is not None:
        pictures["null baseline"] = exhibit.baseline
    figure = plot_images(
        list(pictures.values()), titles=list(pictures) if len(pictures) > 1 else None, cell_px=2 * CELL_PX
    )
    return _with_caption(figure, exhibit)


def _name_tokens(figure: LabFigure, exhibit: Exhibit) -> None:
    """Write tokens below the curves that run over them, the first of equal neighbors alone, where they have room."""
    tokens = [str(name) for name in exhibit.provenance.get("token_names", ())]
    places = [index for index, name in enumerate(tokens) if index == 0 or name != tokens[index - 1]]
    if exhibit.axes[-1] == "token" and len(tokens) == exhibit.array.shape[-1] and len(places) <= _MAX_NAMED_TOKENS:
        figure.axes[-1].set_xticks(places, [tokens[index] for index in places], rotation=90, fontsize=6)


def _require_axes(exhibit: Exhibit, number: int) -> None:
    """Raise unless an exhibit has as many axes as its drawing needs."""
    if exhibit.array.ndim != number:
        raise ShapeError(
            f"An exhibit of kind {exhibit.kind!r} has axes {exhibit.axes}; its drawing expects {number} of them."
        )


def _with_caption(figure: LabFigure, exhibit: Exhibit) -> LabFigure:
    """Write the caption below the drawing, and the verdict unless the caption tells it."""
    is_told = exhibit.verdict is None or f"Replay: {exhibit.verdict}" in exhibit.caption
    verdict = "" if is_told else f" [{exhibit.verdict}]"
    width_chars = max(30, int(figure.get_figwidth() * 14))
    figure.supxlabel(textwrap.fill(f"{exhibit.caption}{verdict}", width_chars), fontsize=8)
    return figure
