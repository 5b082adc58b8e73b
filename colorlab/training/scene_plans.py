"""Planning of scenes: what is in them, and where."""

from dataclasses import replace

import numpy as np

from colorlab.color import COLORS, LIGHTNESS_RANGE
from colorlab.errors import StateError
from colorlab.training.scene_kinds import FLYING_KINDS, KINDS, TURNING_KINDS
from colorlab.training.scene_render import compose, draw_thing, well_seen
from colorlab.training.scene_types import Scene, ScenePlan, Thing
from colorlab.training.scene_world import GROUNDS, SKIES

MAX_INSTANCES = 4
"""Most objects in a scene."""

_LIGHTNESS_MARGIN = 3.0  # shading goes both ways from the base lightness
_JITTER_SCALE, _JITTER_MAX = 1.8, 4.0  # around the center of a color; centers are at least 14 apart
_MAX_ATTEMPTS = 1000  # fewer than 40 are used in practice
_HALF_EXTENT = {1: (0.19, 0.3), 2: (0.16, 0.235), 3: (0.145, 0.2), 4: (0.13, 0.175)}


def empty_plan(rng: np.random.Generator, *, seed: int, size_px: int) -> ScenePlan:
    """Draw sky, ground, horizon and light."""
    angle = rng.uniform(0.25, 0.75) * np.pi
    return ScenePlan(
        seed=seed,
        size_px=size_px,
        things=(),
        sky=str(rng.choice(list(SKIES))),
        ground=str(rng.choice(list(GROUNDS))),
        horizon=float(rng.uniform(0.42, 0.62)),
        light=(float(np.cos(angle)), -float(np.sin(angle))),
        backdrop_seed=int(rng.integers(2**31)),
    )


def draw_things(rng: np.random.Generator, count: int, *, distinct_kinds: bool) -> tuple[Thing, ...]:
    """Draw kinds, colors and lightness, each independently; places come later."""
    names = list(KINDS)
    if distinct_kinds:
        kinds = rng.choice(names, count, replace=False)
    elif rng.random() < 0.5:
        kinds = np.repeat(rng.choice(names), count)
    else:
        kinds = rng.choice(names, count)
    repeated = len(set(kinds)) < count
    colors = rng.choice(list(COLORS), count, replace=not repeated)
    low, high = LIGHTNESS_RANGE
    things = []
    for kind, color in zip(kinds, colors, strict=True):
        jitter = rng.normal(0, _JITTER_SCALE, 2)
        jitter *= min(1.0, _JITTER_MAX / (float(np.hypot(*jitter)) + 1e-9))
        center = COLORS[str(color)]
        things.append(
            Thing(
                kind=str(kind),
                color=str(color),
                ab=(center[0] + float(jitter[0]), center[1] + float(jitter[1])),
                lightness=float(rng.uniform(low + _LIGHTNESS_MARGIN, high - _LIGHTNESS_MARGIN)),
                x=0.5,
                y=0.5,
                size=0.2,
                tilt=0.0,
                flip=False,
                style=int(rng.integers(2**31)),
            )
        )
    return tuple(things)


def arrange(rng: np.random.Generator, plan: ScenePlan, things: tuple[Thing, ...]) -> Scene:
    """Place the objects until each is well seen, and render."""
    for _ in range(_MAX_ATTEMPTS):
        placed = _place(rng, plan, things)
        trial = replace(plan, things=placed)
        layers = [draw_thing(thing, trial) for thing in placed]
        if well_seen(layers, plan.size_px):
            return compose(trial, layers)
    raise StateError(f"No arrangement was found for seed {plan.seed} in {_MAX_ATTEMPTS} attempts; take another seed.")


def _place(rng: np.random.Generator, plan: ScenePlan, things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    """Draw places, sizes and tilts; returns the things in drawing order."""
    count = len(things)
    slots = (rng.permutation(count) + 0.5) / count
    placed = []
    for thing, slot in zip(things, slots, strict=True):
        size = float(rng.uniform(*_HALF_EXTENT[count]))
        x = float(np.clip(slot + rng.normal(0, 0.36 / count), 0.92 * size, 1 - 0.92 * size))
        if thing.kind in FLYING_KINDS:
            y, tilt = rng.uniform(size, max(size, plan.horizon)), rng.normal(0, 0.2)
        else:
            nearness = rng.uniform(0.15, 0.95)
            foot = plan.horizon + nearness * (1 - plan.horizon)
            size *= 0.85 + 0.25 * nearness
            y, tilt = max(foot - 0.95 * size, 0.9 * size), rng.normal(0, 0.04)
        flip = thing.kind in TURNING_KINDS and bool(rng.random() < 0.5)
        placed.append(replace(thing, x=x, y=float(y), size=size, tilt=float(tilt), flip=flip))
    return tuple(sorted(placed, key=lambda thing: (thing.kind not in FLYING_KINDS, thing.y + thing.size)))
