"""Values of the procedural world: what is planned, and what is seen."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from colorlab.training.scene_shapes import Array


@dataclass(frozen=True)
class Thing:
    """One object as planned.

    Args:
        kind: name in `KINDS`.
        color: name in `COLORS`.
        ab: its exact color, near the center of its name.
        lightness: CIE L of its unshaded skin.
        x, y: its center, fraction of the picture.
        size: half of its extent, fraction of the picture.
        tilt: rotation, radians.
        flip: whether it faces left.
        style: seed of its own details.
    """

    kind: str
    color: str
    ab: tuple[float, float]
    lightness: float
    x: float
    y: float
    size: float
    tilt: float
    flip: bool
    style: int


@dataclass(frozen=True)
class ScenePlan:
    """All that decides a picture; `things` are in drawing order, the farthest first.

    Args:
        seed: the seed it was made from.
        size_px: height and width.
        things: the objects.
        sky: name in `SKIES`.
        ground: name in `GROUNDS`.
        horizon: height of the horizon, fraction of the picture from the top.
        light: direction to the light (x, y), y down.
        backdrop_seed: seed of clouds, tufts and stones.
    """

    seed: int
    size_px: int
    things: tuple[Thing, ...]
    sky: str
    ground: str
    horizon: float
    light: tuple[float, float]
    backdrop_seed: int


@dataclass(frozen=True)
class Instance:
    """One object as seen.

    Args:
        kind: name in `KINDS`.
        color: name in `COLORS`.
        mask: (H, W) bool, its visible pixels.
        box: left, top, right, bottom of the visible pixels in pixels, right and bottom exclusive.
    """

    kind: str
    color: str
    mask: npt.NDArray[np.bool_]
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and the truth about it.

    Args:
        image: (H, W, 3) uint8, sRGB.
        lightness: (H, W) float32, CIE L before rounding to 8 bits.
        instances: what is seen, in drawing order, the farthest first.
        sky: name in `SKIES`.
        ground: name in `GROUNDS`.
        seed: the seed it was made from.
        lines: (H, W) float32 [0, 1], ink of the line drawing.
        plan: what it was rendered from.
    """

    image: npt.NDArray[np.uint8]
    lightness: Array
    instances: tuple[Instance, ...]
    sky: str
    ground: str
    seed: int
    lines: Array
    plan: ScenePlan
