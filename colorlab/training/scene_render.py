"""Rendering of scene plans: draw each object in its box, lay the boxes over the backdrop, collect the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from colorlab.training.scene_kinds import FLYING_KINDS, KINDS
from colorlab.training.scene_shapes import Array, Layer
from colorlab.training.scene_types import Instance, Scene, ScenePlan, Thing
from colorlab.training.scene_world import paint_backdrop, to_image

MIN_VISIBLE_FRACTION = 250 / 128**2
"""Smallest visible area of an instance, fraction of the picture."""
_MIN_SHOWN = 0.55  # of an object's own area: less is hard to recognise (ours)
_MIN_OWN = 0.6  # of the visible area in the object's own color: else an accent could become the median (ours)


def render(plan: ScenePlan) -> Scene:
    """Render a plan.

    Args:
        plan: what to draw.

    Returns:
        The scene; its instances may be hidden or outside the picture if the plan puts them there.
    """
    return compose(plan, [draw_thing(thing, plan) for thing in plan.things])


@dataclass(frozen=True)
class Drawn:
    """A drawn object and where it lies: `rows` and `columns` of the picture."""

    channels: Array
    rows: slice
    columns: slice


@lru_cache(maxsize=64)
def _draw(
    kind: str,
    size: float,
    tilt: float,
    flip: bool,
    style: int,
    lightness: float,
    light: tuple[float, float],
    offset: tuple[float, float],
    shape: tuple[int, int],
) -> Array:
    """Draw an object in its box; `size` and `offset` (center within the box) in pixels. Cached: colors do not enter."""
    u = (np.arange(shape[1], dtype=np.float32) + np.float32(0.5 - offset[0])) / np.float32(size)
    v = ((np.arange(shape[0], dtype=np.float32) + np.float32(0.5 - offset[1])) / np.float32(size))[:, None]
    cos, sin, side = float(np.cos(tilt)), float(np.sin(tilt)), -1.0 if flip else 1.0
    x, y = u * cos + v * sin, v * cos - u * sin
    toward = (side * (light[0] * cos + light[1] * sin), light[1] * cos - light[0] * sin)
    layer = Layer(
        x * side,
        y,
        pixel=1 / size,
        lightness=lightness,
        light=toward,
        rng=np.random.default_rng([style, 3]),
    )
    KINDS[kind](layer)
    layer.channels.flags.writeable = False
    return layer.channels


def draw_thing(thing: Thing, plan: ScenePlan) -> Drawn:
    """Draw a planned object in the box that holds it."""
    total = plan.size_px
    reach = thing.size * (1.06 + abs(np.sin(thing.tilt)) * 0.5) + 1.5 / total
    left, right = max(0, int((thing.x - reach) * total)), min(total, int((thing.x + reach) * total) + 1)
    top, bottom = max(0, int((thing.y - reach) * total)), min(total, int((thing.y + reach) * total) + 1)
    channels = _draw(
        thing.kind,
        thing.size * total,
        thing.tilt,
        thing.flip,
        thing.style,
        thing.lightness,
        plan.light,
        (thing.x * total - left, thing.y * total - top),
        (max(0, bottom - top), max(0, right - left)),
    )
    return Drawn(channels, slice(top, bottom), slice(left, right))


def _visible(layers: Sequence[Drawn], size_px: int) -> npt.NDArray[np.int8]:
    """Index of the object seen at each pixel, -1 for none."""
    seen = np.full((size_px, size_px), -1, np.int8)
    for index, drawn in enumerate(layers):
        seen[drawn.rows, drawn.columns][drawn.channels[5] >= 0.5] = index
    return seen


def well_seen(layers: Sequence[Drawn], size_px: int) -> bool:
    """Whether each object shows enough of itself, and enough of it in its own color."""
    seen = _visible(layers, size_px)
    for index, drawn in enumerate(layers):
        mask = seen[drawn.rows, drawn.columns] == index
        area = int(mask.sum())
        if area < max(MIN_VISIBLE_FRACTION * size_px**2, _MIN_SHOWN * float(drawn.channels[5].sum())):
            return False
        if int((drawn.channels[3] > 0.9 * drawn.channels[5])[mask].sum()) < _MIN_OWN * area:
            return False
    return True


def compose(plan: ScenePlan, layers: Sequence[Drawn]) -> Scene:
    """Lay the objects over the backdrop and collect the truth."""
    size_px = plan.size_px
    backdrop = paint_backdrop(plan.sky, plan.ground, size_px=size_px, horizon=plan.horizon, seed=plan.backdrop_seed)
    for thing, drawn in zip(plan.things, layers, strict=True):
        if thing.kind not in FLYING_KINDS:
            _cast_shadow(backdrop.lab, thing, plan)
        lightness, accent_a, accent_b, own, ink, alpha = drawn.channels
        lab = backdrop.lab[:, drawn.rows, drawn.columns]
        lab *= 1 - alpha
        lab[0] += lightness
        lab[1] += accent_a + own * np.float32(thing.ab[0])
        lab[2] += accent_b + own * np.float32(thing.ab[1])
        lines = backdrop.ink[drawn.rows, drawn.columns]
        lines *= 1 - alpha
        lines += ink
    image = to_image(backdrop.lab)
    seen = _visible(layers, size_px)
    instances = tuple(_instance(thing, seen == index) for index, thing in enumerate(plan.things))
    return Scene(
        image, backdrop.lab[0].copy(), instances, plan.sky, plan.ground, plan.seed, np.clip(backdrop.ink, 0, 1), plan
    )


def _instance(thing: Thing, mask: npt.NDArray[np.bool_]) -> Instance:
    """Collect the mask and its box; a hidden object has an empty box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0, 0, 0, 0)
    if rows.size:
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Instance(thing.kind, thing.color, mask, box)


def _cast_shadow(lab: Array, thing: Thing, plan: ScenePlan) -> None:
    """Darken the ground under a standing object; lightness only."""
    total, foot = plan.size_px, thing.y + 0.93 * thing.size
    top, bottom = int((foot - 0.25 * thing.size) * total), min(total, int((foot + 0.25 * thing.size) * total) + 1)
    left = max(0, int((thing.x - 1.4 * thing.size) * total))
    right = min(total, int((thing.x + 1.4 * thing.size) * total) + 1)
    v = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / total - foot)[:, None] / (0.2 * thing.size)
    u = (
        (np.arange(left, right, dtype=np.float32) + 0.5) / total - thing.x + 0.2 * thing.size * plan.light[0]
    ) / thing.size
    lab[0, top:bottom, left:right] *= (1 - 0.32 * np.clip(1.4 * (1 - u * u - v * v), 0, 1)).astype(np.float32)
