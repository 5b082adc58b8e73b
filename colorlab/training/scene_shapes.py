"""Anti-aliased drawing in Lab: signed distances of simple shapes, and a layer that parts are painted on.

Everything is drawn at the final resolution: the signed distance of a shape (negative inside) divided by the width of a
pixel gives the covered fraction of each pixel. A layer holds its channels multiplied by their coverage, so painting a
part is one multiplication and one addition.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
Point = tuple[float, float]

NEUTRAL = (0.0, 0.0)
"""Color (a, b) of windows, wheels and other gray accents."""
WOOD = (9.0, 16.0)
"""Color (a, b) of trunks, stems, masts and handles."""


def circle(x: Array, y: Array, center: Point, radius: float) -> Array:
    """Signed distance of a disk."""
    return np.hypot(x - center[0], y - center[1]) - np.float32(radius)


def ellipse(x: Array, y: Array, center: Point, radii: Point, tilt: float = 0.0) -> Array:
    """Signed distance of an ellipse, exact to first order at its border; `tilt` in radians."""
    u, v = x - center[0], y - center[1]
    if tilt:
        cos, sin = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        u, v = u * cos + v * sin, v * cos - u * sin
    u, v = u / radii[0], v / radii[1]
    length = np.sqrt(u * u + v * v) + np.float32(1e-6)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2) + np.float32(1e-6)
    return (length - 1) * length / slope


def box(x: Array, y: Array, center: Point, half: Point, corner: float = 0.0) -> Array:
    """Signed distance of an upright rectangle with rounded corners."""
    u = np.abs(x - center[0]) - (half[0] - corner)
    v = np.abs(y - center[1]) - (half[1] - corner)
    outside = np.hypot(np.maximum(u, 0), np.maximum(v, 0))
    return outside + np.minimum(np.maximum(u, v), 0) - np.float32(corner)


def segment(x: Array, y: Array, start: Point, end: Point, width: float) -> Array:
    """Signed distance of a line with round ends; `width` is half its thickness."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy + 1e-9), 0, 1)
    return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy) - np.float32(width)


def polygon(x: Array, y: Array, corners: Sequence[Point]) -> Array:
    """Signed distance of a convex polygon (sharp corners), corners in either direction of rotation."""
    area = sum(p[0] * q[1] - q[0] * p[1] for p, q in zip(corners, [*corners[1:], corners[0]], strict=True))
    sign = 1.0 if area > 0 else -1.0
    distance = np.full(x.shape, -np.inf, np.float32)
    for p, q in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = float(np.hypot(q[0] - p[0], q[1] - p[1]))
        normal_x, normal_y = sign * (q[1] - p[1]) / length, -sign * (q[0] - p[0]) / length
        np.maximum(distance, (x - p[0]) * normal_x + (y - p[1]) * normal_y, out=distance)
    return distance


def joined(*distances: Array) -> Array:
    """Union of shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.minimum(result, distance)
    return result


def common(*distances: Array) -> Array:
    """Intersection of shapes."""
    result = distances[0]
    for distance in distances[1:]:
        result = np.maximum(result, distance)
    return result


def smooth_noise(rng: np.random.Generator, x: Array, y: Array, *, cells: float) -> Array:
    """Bilinear noise of about unit size at the points (x, y) of [-1.4, 1.4], `cells` grid cells to a unit.

    What is drawn from `rng` does not depend on the points, so a texture sticks to its object at every size and place.
    """
    count = int(2.8 * cells) + 2
    grid = rng.standard_normal((count, count)).astype(np.float32)
    column, row = np.clip((x + 1.4) * cells, 0, count - 1.01), np.clip((y + 1.4) * cells, 0, count - 1.01)
    left, top = column.astype(np.int32), row.astype(np.int32)
    right, down = column - left, row - top
    upper = grid[top, left] * (1 - right) + grid[top, left + 1] * right
    lower = grid[top + 1, left] * (1 - right) + grid[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


class Layer:
    """One object being drawn in its own box, in units in which the object spans about [-1, 1] both ways.

    Args:
        x, y: (h, w) float32, position of each pixel in object units; y points down.
        pixel: width of a pixel in object units.
        lightness: lightness of the unshaded skin, CIE L.
        light: unit vector to the light in object units.
        rng: source of the object's own details.
    """

    CHANNELS = ("lightness", "accent_a", "accent_b", "own", "ink", "alpha")

    def __init__(
        self, x: Array, y: Array, *, pixel: float, lightness: float, light: Point, rng: np.random.Generator
    ) -> None:
        self.x, self.y, self.pixel, self.light, self.rng = x, y, np.float32(pixel), light, rng
        self.base = lightness
        self.channels = np.zeros((len(self.CHANNELS), *x.shape), np.float32)
        grain = smooth_noise(rng, x, y, cells=22) * np.float32(rng.uniform(0.4, 2.2))
        self.skin: Array = np.float32(lightness) + 6 * (x * light[0] + y * light[1]) + grain + self._pattern()

    def _pattern(self) -> Array:
        """A print in lightness on the object's skin: plain, stripes, dots, checks or a soft cloud."""
        rng, x, y = self.rng, self.x, self.y
        which = rng.integers(0, 8)
        depth, pitch, angle = rng.uniform(4, 8), rng.uniform(7, 13), rng.uniform(0, np.pi)
        if which == 0:
            wave = np.sin(pitch * (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))))
        elif which == 1:
            wave = 4 * (np.sin(pitch * x) * np.sin(pitch * y) - np.float32(0.55))
        elif which == 2:
            wave = 3 * np.sin(0.7 * pitch * x) * np.sin(0.7 * pitch * y)
        elif which in (3, 4):
            return smooth_noise(rng, x, y, cells=2.5) * np.float32(0.4 * depth)
        else:
            return np.zeros(x.shape, np.float32)
        return np.clip(3 * wave, -1, 1) * np.float32(depth / 2)

    def round_skin(self, center: Point, radius: float, *, depth: float = 11.0) -> Array:
        """The skin shaded as a ball: light side, dark rim and a small highlight."""
        u, v = (self.x - center[0]) / np.float32(radius), (self.y - center[1]) / np.float32(radius)
        height = np.sqrt(np.clip(1 - u * u - v * v, 0, 1))
        facing = 0.6 * (u * self.light[0] + v * self.light[1]) + 0.8 * height
        highlight = np.exp(-((u - 0.5 * self.light[0]) ** 2 + (v - 0.5 * self.light[1]) ** 2) * 14)
        return self.skin + np.float32(depth) * (facing - np.float32(0.62)) + 10 * highlight

    def paint(
        self, distance: Array, lightness: Array | float | None = None, *, ab: Point | None = None, rim: float = 13.0
    ) -> None:
        """Paint one part over what is there.

        Args:
            distance: (h, w) signed distance in object units.
            lightness: CIE L of the part, default the skin.
            ab: fixed color of an accent; None means the object's own color.
            rim: how much darker the border of the part is, CIE L.
        """
        depth = distance / self.pixel
        cover = np.clip(0.5 - depth, 0, 1)
        values = self.channels
        edge = np.clip(1.6 - np.abs(depth + 0.7), 0, 1)
        value = (self.skin if lightness is None else lightness) - np.float32(rim) * edge
        values *= 1 - cover
        values[0] += cover * value
        if ab is None:
            values[3] += cover
        else:
            values[1] += cover * np.float32(ab[0])
            values[2] += cover * np.float32(ab[1])
        values[4] += cover * np.clip(1.3 - np.abs(depth + 0.6), 0, 1)
        values[5] += cover

    def hole(self, distance: Array) -> None:
        """Cut a hole through everything painted so far."""
        self.channels *= np.clip(0.5 + distance / self.pixel, 0, 1)
