"""Simulated strokes: what a user might paint on a gray scene, with the true colors."""

import numpy as np
import numpy.typing as npt

from colorlab.strokes import Stroke, Strokes
from colorlab.training.scene_types import Scene

Mask = npt.NDArray[np.bool_]

_STEP_PX = 2.0
_BACKGROUND_SHARE = 0.3  # of scenes with a stroke on the sky, and on the ground (ours)
_MAX_POINTS = 24


def simulated_strokes(scene: Scene, seed: int) -> Strokes:
    """Paint strokes as a user would: short lines or dots inside things, now and then on sky or ground.

    Args:
        scene: the scene.
        seed: decides which instances get a stroke (at least one does), and the paths and widths.

    Returns:
        Strokes whose every painted pixel lies inside one instance, or outside all; an instance's strokes have the
        median color of its visible pixels, a background stroke has the median color of what it covers.
    """
    rng = np.random.default_rng([seed, scene.seed, 5])
    count = len(scene.instances)
    strokes = []
    for index in rng.choice(count, int(rng.integers(1, count + 1)), replace=False):
        mask = scene.instances[index].mask
        color = _median_color(scene, mask)
        for _ in range(int(rng.integers(1, 3))):
            path = _path_inside(mask, rng)
            if path is not None:
                strokes.append(Stroke(path[0], color, path[1]))
    free = ~np.any([instance.mask for instance in scene.instances], axis=0)
    horizon = round(scene.plan.horizon * scene.image.shape[0])
    for rows in (slice(0, horizon), slice(horizon, None)):
        if rng.random() < _BACKGROUND_SHARE:
            mask = np.zeros_like(free)
            mask[rows] = free[rows]
            path = _path_inside(mask, rng)
            if path is not None:
                covered = Strokes([Stroke(path[0], (0, 0, 0), path[1])]).rasterize(*free.shape)[1][0, 0].numpy() > 0
                strokes.append(Stroke(path[0], _median_color(scene, covered), path[1]))
    return Strokes(strokes)


def _median_color(scene: Scene, mask: Mask) -> tuple[int, int, int]:
    """The median sRGB color under a mask."""
    red, green, blue = np.median(scene.image[mask], axis=0).round().astype(int)
    return int(red), int(green), int(blue)


def _path_inside(mask: Mask, rng: np.random.Generator) -> tuple[tuple[tuple[float, float], ...], float] | None:
    """Walk at random where a brush stays inside the mask; returns points and radius, None if no brush fits."""
    for radius in (float(rng.uniform(1.5, 4.5)), 1.0):
        # One pixel more than the radius keeps the line between two points inside, too.
        room = _eroded(mask, radius + 1)
        rows, columns = np.nonzero(room)
        if rows.size:
            break
    else:
        return None
    start = int(rng.integers(rows.size))
    x, y, heading = columns[start] + 0.5, rows[start] + 0.5, rng.uniform(0, 2 * np.pi)
    points = [(float(x), float(y))]
    for _ in range(int(rng.integers(0, _MAX_POINTS))):
        heading += rng.normal(0, 0.35)
        x, y = x + _STEP_PX * np.cos(heading), y + _STEP_PX * np.sin(heading)
        if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0] and room[int(y), int(x)]):
            break
        points.append((float(x), float(y)))
    return tuple(points), radius


def _eroded(mask: Mask, radius: float) -> Mask:
    """Pixels whose whole disk lies inside the mask and the picture."""
    reach = int(np.ceil(radius))
    height, width = mask.shape
    padded = np.pad(mask, reach)
    result = mask.copy()
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            if np.hypot(max(abs(down) - 0.5, 0), max(abs(right) - 0.5, 0)) <= radius:
                result &= padded[reach + down : reach + down + height, reach + right : reach + right + width]
    return result
