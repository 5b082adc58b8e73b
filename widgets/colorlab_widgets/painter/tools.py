"""What the painter's tools do: plain functions from strokes to strokes, without widgets and without pixels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from colorlab.errors import RangeError
from colorlab.strokes import MIN_RADIUS_PX, Stroke, Strokes
from colorlab_widgets.painter.geometry import shares_near, to_segments

__all__ = ["change", "delete", "erase", "lasso", "move", "stroke_at"]

Points = Sequence[tuple[float, float]]

# Cut a little wider than the rubber, so that rounding leaves no pixel under it. In image pixels.
_CUT_MARGIN_PX = 1e-6


def erase(strokes: Strokes, path: Points, radius_px: float) -> Strokes:
    """Rub out what is painted along a path; a stroke that is crossed falls into pieces.

    A piece ends where the round end of its brush just leaves the rubber, so no pixel under the rubber stays painted.
    A stroke that the rubber does not touch stays the same object.

    Args:
        strokes: what is painted.
        path: (n, 2) of (x, y) in image pixels, n at least 1: the way of the rubber.
        radius_px: half the width of the rubber, in image pixels, above 0.

    Returns:
        The strokes without what was under the rubber, in their order.

    Raises:
        RangeError: the path or the radius is none.
    """
    rubber = Stroke(tuple(path), (0, 0, 0), radius_px)
    return Strokes(piece for stroke in strokes for piece in _pieces(stroke, rubber))


def move(strokes: Strokes, index: int, offset: tuple[float, float]) -> Strokes:
    """Move one stroke.

    Args:
        strokes: what is painted.
        index: which stroke.
        offset: (right, down) in image pixels.

    Raises:
        RangeError: there is no such stroke, or the offset is not finite.
    """
    points = tuple((x + offset[0], y + offset[1]) for x, y in _stroke(strokes, index).points)
    return change(strokes, index, points=points)


def delete(strokes: Strokes, index: int) -> Strokes:
    """Take one stroke away.

    Raises:
        RangeError: there is no such stroke.
    """
    _stroke(strokes, index)
    return strokes[:index] + strokes[index + 1 :]


def change(strokes: Strokes, index: int, **values: Any) -> Strokes:
    """Give one stroke other values, such as `color`, `radius_px`, `first_step` or `last_step`.

    Raises:
        RangeError: there is no such stroke, or a value is out of range.
    """
    changed = replace(_stroke(strokes, index), **values)
    return Strokes([*strokes[:index], changed, *strokes[index + 1 :]])


def stroke_at(strokes: Strokes, point: tuple[float, float], reach_px: float = 0.0) -> int | None:
    """Find the topmost stroke under a point.

    Args:
        strokes: what is painted.
        point: (x, y) in image pixels.
        reach_px: how far beside a stroke still counts as on it, in image pixels, at least 0.

    Returns:
        Its index; None where nothing is painted.
    """
    for index in reversed(range(len(strokes))):
        stroke = strokes[index]
        reach = max(stroke.radius_px, MIN_RADIUS_PX) + reach_px
        place = np.array(point, dtype=np.float64)
        if shares_near(place, place, np.array(stroke.points), reach):
            return index
    return None


def lasso(path: Points, size: tuple[int, int]) -> np.ndarray:
    """Turn a closed outline into a mask.

    Args:
        path: (n, 2) of (x, y) in image pixels; the last point is joined to the first.
        size: (height, width) of the picture in pixels.

    Returns:
        (height, width) bool: the pixels whose center lies inside.

    Raises:
        RangeError: the outline encloses no pixel.
    """
    outline = np.array([(y - 0.5, x - 0.5) for x, y in path], dtype=np.float64).reshape(-1, 2)
    mask: np.ndarray = polygon2mask(size, outline) if len(outline) > 2 else np.zeros(size, dtype=bool)
    if not mask.any():
        raise RangeError(f"The outline of {len(outline)} points encloses no pixel; draw around the object.")
    return mask


def _stroke(strokes: Strokes, index: int) -> Stroke:
    """Return one stroke, or say that there is none."""
    if not 0 <= index < len(strokes):
        raise RangeError(f"There is no stroke {index}; there are {len(strokes)}, counted from 0.")
    return strokes[index]


def _pieces(stroke: Stroke, rubber: Stroke) -> list[Stroke]:
    """Return what the rubber leaves of a stroke."""
    reach = max(stroke.radius_px, MIN_RADIUS_PX) + rubber.radius_px + _CUT_MARGIN_PX
    points, path = np.array(stroke.points), np.array(rubber.points)
    if not _boxes_meet(points, path, reach):
        return [stroke]
    pieces: list[list[tuple[float, float]]] = []
    is_open = is_cut = False
    for start, end in zip(*to_segments(points), strict=True):
        gaps = shares_near(start, end, path, reach)
        is_cut = is_cut or bool(gaps)
        for first, last in _kept(gaps):
            ends = [tuple((start + share * (end - start)).tolist()) for share in (first, last)]
            # A segment that goes on from the one before it brings only its own end.
            if is_open and first == 0.0:
                pieces[-1].append(ends[1])
            else:
                pieces.append(ends)
            is_open = last == 1.0
        is_open = is_open and not (gaps and gaps[-1][1] == 1.0)
    return [replace(stroke, points=tuple(piece)) for piece in pieces] if is_cut else [stroke]


def _boxes_meet(points: np.ndarray, others: np.ndarray, reach: float) -> bool:
    """Tell whether the boxes around two paths come nearer than `reach`; most strokes are ruled out by that."""
    is_near = (points.min(axis=0) - reach < others.max(axis=0)) & (others.min(axis=0) < points.max(axis=0) + reach)
    return bool(is_near.all())


def _kept(gaps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return what rising gaps leave of [0, 1]."""
    edges = [0.0, *(edge for gap in gaps for edge in gap), 1.0]
    return [(first, last) for first, last in zip(edges[::2], edges[1::2], strict=True) if first < last]
