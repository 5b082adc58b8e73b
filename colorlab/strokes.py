"""Strokes: what the user drew, as vectors, and their pixels."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch

from colorlab.errors import RangeError
from colorlab.shapes import check_range

__all__ = ["MIN_RADIUS_PX", "Stroke", "Strokes"]

MIN_RADIUS_PX = math.sqrt(0.5)
"""Half the diagonal of a pixel: a brush that is painted with at least this covers the pixel under each point, without
gaps between points."""


@dataclass(frozen=True)
class Stroke:
    """One stroke of the brush: a path in one color, valid for some or all steps.

    Args:
        points: (n, 2) of (x, y) in image pixels, n at least 1; the origin is the top left corner of the picture, so
            that pixel (column 3, row 5) covers x in [3, 4) and y in [5, 6). Points outside the picture are allowed.
        color: (red, green, blue), sRGB, integers 0 to 255.
        radius_px: half the width of the brush, above 0; a brush thinner than a pixel still covers the pixels it meets.
        first_step: first step index at which the stroke counts; None from the beginning.
        last_step: last step index at which it counts, inclusive; None to the end.

    Raises:
        RangeError: a value is out of range or of another type.
    """

    points: tuple[tuple[float, float], ...]
    color: tuple[int, int, int]
    radius_px: float
    first_step: int | None = None
    last_step: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", _check_points(self.points))
        object.__setattr__(self, "color", _check_color(self.color))
        radius = self.radius_px
        if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < math.inf:
            raise RangeError(f"radius_px is {radius!r}, but a number of pixels above 0 is expected.")
        object.__setattr__(self, "radius_px", float(radius))
        for name in ("first_step", "last_step"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise RangeError(f"{name} is {value!r}, but a step index of at least 0 or None is expected.")
        if self.first_step is not None and self.last_step is not None and self.first_step > self.last_step:
            raise RangeError(f"The stroke begins at step {self.first_step} but ends before it, at {self.last_step}.")

    def is_active(self, step_index: int) -> bool:
        """Tell whether the stroke counts at this step."""
        return (self.first_step or 0) <= step_index <= (math.inf if self.last_step is None else self.last_step)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        return {**self.__dict__, "points": [list(point) for point in self.points], "color": list(self.color)}


class Strokes(Sequence[Stroke]):
    """A frozen sequence of strokes; where they overlap the later one is on top.

    Args:
        strokes: any number of `Stroke`, in the order of painting.

    Raises:
        RangeError: an element is no `Stroke`.

    Example:
        >>> len(Strokes([Stroke([(2, 2), (9, 2)], (200, 40, 40), 3)]))
        1
    """

    __slots__ = ("_strokes",)
    _strokes: tuple[Stroke, ...]

    def __init__(self, strokes: Iterable[Stroke] = ()) -> None:
        items = tuple(strokes)
        for item in items:
            if not isinstance(item, Stroke):
                raise RangeError(f"strokes hold {item!r}, but objects of type colorlab.Stroke are expected.")
        object.__setattr__(self, "_strokes", items)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Strokes are frozen; make a new set, for instance strokes + [stroke].")

    def __len__(self) -> int:
        return len(self._strokes)

    @overload
    def __getitem__(self, index: int) -> Stroke: ...
    @overload
    def __getitem__(self, index: slice) -> "Strokes": ...
    def __getitem__(self, index: int | slice) -> "Stroke | Strokes":
        return Strokes(self._strokes[index]) if isinstance(index, slice) else self._strokes[index]

    def __iter__(self) -> Iterator[Stroke]:
        return iter(self._strokes)

    def __add__(self, other: Iterable[Stroke]) -> "Strokes":
        return Strokes((*self._strokes, *other))

    def __eq__(self, other: object) -> bool:
        return self._strokes == other._strokes if isinstance(other, Strokes) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._strokes)

    def __repr__(self) -> str:
        return f"Strokes({list(self._strokes)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Strokes, (self._strokes,)

    def active(self, step_index: int) -> "Strokes":
        """Return the strokes that count at this step."""
        return Strokes(stroke for stroke in self._strokes if stroke.is_active(step_index))

    def resized(self, from_size: tuple[int, int], to_size: tuple[int, int]) -> "Strokes":
        """Return the same strokes on a picture of another size.

        Args:
            from_size: (height, width) in pixels of the picture they were drawn on.
            to_size: (height, width) in pixels of the other one. The brush scales by the root of the area.

        Raises:
            RangeError: a size is not positive.
        """
        for size, name in ((from_size, "from_size"), (to_size, "to_size")):
            check_range(size, 1, math.inf, name)
        down, across = to_size[0] / from_size[0], to_size[1] / from_size[1]
        scale = math.sqrt(down * across)
        return Strokes(
            Stroke(
                tuple((x * across, y * down) for x, y in stroke.points),
                stroke.color,
                stroke.radius_px * scale,
                stroke.first_step,
                stroke.last_step,
            )
            for stroke in self._strokes
        )

    def rasterize(self, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the strokes into pixels, without antialiasing: a pixel is painted or it is not.

        Args:
            height: of the picture they were drawn on, in pixels.
            width: of the picture they were drawn on, in pixels.

        Returns:
            hint: (1, 3, height, width) float32, sRGB, [0, 1]; 0 where nothing is painted.
            hint_mask: (1, 1, height, width) float32, 1 where a color is given, else 0.

        Raises:
            RangeError: a size is not positive.
        """
        check_range((height, width), 1, math.inf, "height and width")
        hint = np.zeros((3, height, width), dtype=np.float32)
        mask = np.zeros((height, width), dtype=bool)
        for stroke in self._strokes:
            window, painted = _painted_pixels(stroke, height, width)
            hint[:, *window][:, painted] = (np.array(stroke.color, dtype=np.float32) / 255.0)[:, None]
            mask[window] |= painted
        return torch.from_numpy(hint)[None], torch.from_numpy(mask.astype(np.float32))[None, None]

    def to_list(self) -> list[dict[str, Any]]:
        """Return the strokes as plain values, as `json` writes them."""
        return [stroke.to_dict() for stroke in self._strokes]

    @classmethod
    def from_list(cls, values: Any) -> "Strokes":
        """Make strokes from plain values; the inverse of `to_list`.

        Raises:
            RangeError: no list of objects, an unknown or missing field, or a value out of range.
        """
        if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
            raise RangeError(f"strokes are {_short(values)}, but a list of objects, one for each stroke, is expected.")
        known = {"points", "color", "radius_px", "first_step", "last_step"}
        for value in values:
            odd = sorted(set(value) - known) or sorted({"points", "color", "radius_px"} - set(value))
            if odd:
                raise RangeError(
                    f"A stroke has points, color, radius_px and maybe first_step, last_step; look at: {odd}."
                )
        return cls(Stroke(**value) for value in values)

    def to_json(self) -> str:
        """Write the strokes as one line of JSON."""
        return json.dumps(self.to_list())

    @classmethod
    def from_json(cls, text: str) -> "Strokes":
        """Read what `to_json` wrote.

        Raises:
            RangeError: no JSON, or as in `from_list`.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise RangeError(f"The strokes are no JSON ({error}); give what Strokes.to_json wrote.") from error
        return cls.from_list(values)


def _painted_pixels(stroke: Stroke, height: int, width: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """Tell which pixels a stroke covers: those whose center is within the radius of the path.

    Returns:
        The rows and columns around the stroke, and which pixels within them are covered: thousands of small strokes on
        a large picture cost no more than their pixels.
    """
    radius = max(stroke.radius_px, MIN_RADIUS_PX)
    points = np.array(stroke.points, dtype=np.float64)
    first_row, first_column, rows, columns = _box(points.min(axis=0), points.max(axis=0), radius, height, width)
    painted = np.zeros((rows, columns), dtype=bool)
    for start, end in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        top, left, tall, wide = _box(np.minimum(start, end), np.maximum(start, end), radius, height, width)
        x = np.arange(left, left + wide)[None, :] + 0.5 - start[0]
        y = np.arange(top, top + tall)[:, None] + 0.5 - start[1]
        along = end - start
        length_squared = float(along @ along)
        # A single point, or two equal ones, is a path of length 0: the share along it is 0.
        share = np.clip((x * along[0] + y * along[1]) / length_squared, 0, 1) if length_squared > 0 else 0.0
        distance_squared = (x - share * along[0]) ** 2 + (y - share * along[1]) ** 2
        inner = (slice(top - first_row, top - first_row + tall), slice(left - first_column, left - first_column + wide))
        painted[inner] |= distance_squared <= radius**2
    return (slice(first_row, first_row + rows), slice(first_column, first_column + columns)), painted


def _box(low: np.ndarray, high: np.ndarray, radius: float, height: int, width: int) -> tuple[int, int, int, int]:
    """Return first row, first column, rows and columns of the picture within a radius of a box; outside of it 0."""
    left, top = (
        min(side, max(0, math.floor(value - radius))) for value, side in zip(low, (width, height), strict=True)
    )
    right, bottom = (min(side, math.ceil(value + radius)) for value, side in zip(high, (width, height), strict=True))
    return top, left, max(0, bottom - top), max(0, right - left)


def _check_points(points: Any) -> tuple[tuple[float, float], ...]:
    """Return the points as a tuple of pairs of floats."""
    try:
        array = np.array([list(point) for point in points], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RangeError(f"points are {_short(points)}, but pairs (x, y) of numbers are expected.") from error
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] != 2 or not np.isfinite(array).all():
        raise RangeError(f"points are {_short(points)}, but at least one pair (x, y) of finite numbers is expected.")
    return tuple((float(x), float(y)) for x, y in array)


def _check_color(color: Any) -> tuple[int, int, int]:
    """Return the color as a tuple of three integers."""
    try:
        values = [value.item() if hasattr(value, "item") else value for value in color]
    except TypeError:
        values = []
    is_valid = len(values) == 3 and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in values
    )
    if not is_valid:
        raise RangeError(f"color is {_short(color)}, but three integers from 0 to 255 (red, green, blue) are expected.")
    return values[0], values[1], values[2]


def _short(value: Any) -> str:
    """Write a value in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
