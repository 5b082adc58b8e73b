"""Short moving clips of scenes: things that roll, drive, fly and hop before a still backdrop."""

from dataclasses import dataclass, replace

import numpy as np

from colorlab.training.scene_kinds import TURNING_KINDS
from colorlab.training.scene_render import compose, draw_thing, well_seen
from colorlab.training.scene_types import Scene, ScenePlan, Thing

MOVING_KINDS = frozenset({"car", "ball", "boat", "fish", "balloon", "butterfly", "bird", "kite", "rocket"})
"""Kinds that travel in a clip if they have room; the others hop like toys."""

_NUM_TRIALS = 12
_MIN_ROOM = 0.08  # fraction of the picture; what has less before it hops


@dataclass(frozen=True)
class _Motion:
    """How one thing moves over a clip: travel and hop in fractions of the picture, sway in radians."""

    travel: tuple[float, float]
    hop: float
    sway: float
    rate: float
    phase: float


def moving_plans(plan: ScenePlan, rng: np.random.Generator, num_frames: int) -> list[ScenePlan]:
    """Move the things of a plan, each well seen in every frame.

    Args:
        plan: the first moment, each thing well seen.
        rng: decides the motions.
        num_frames: how many plans.

    Returns:
        The plans in order of time; same seed, things, sky and ground, other places and tilts.
    """
    for trial in range(_NUM_TRIALS):
        reach = 1 - trial / (_NUM_TRIALS - 1)  # the last trial is a still clip, which the first plan guarantees
        motions = [_draw_motion(thing, rng) for thing in plan.things]
        plans = []
        for time in np.linspace(0, 1, num_frames):
            pairs = zip(plan.things, motions, strict=True)
            plans.append(replace(plan, things=tuple(_moved(*pair, float(time), reach) for pair in pairs)))
        if all(well_seen([draw_thing(thing, frame) for thing in frame.things], plan.size_px) for frame in plans):
            return plans
    return [plan] * num_frames


def render_clip(plans: list[ScenePlan]) -> list[Scene]:
    """Render the frames of a clip."""
    return [compose(plan, [draw_thing(thing, plan) for thing in plan.things]) for plan in plans]


def _draw_motion(thing: Thing, rng: np.random.Generator) -> _Motion:
    """Draw one thing's motion; what has a front goes forward."""
    distance, rise = float(rng.uniform(0.12, 0.35)), float(rng.uniform(-0.08, 0.08))
    rate, phase = float(rng.uniform(1.0, 2.0)), float(rng.uniform(0, np.pi))
    backward = thing.flip if thing.kind in TURNING_KINDS else thing.x > rng.uniform(0.3, 0.7)
    room = (thing.x if backward else 1 - thing.x) - thing.size
    if thing.kind not in MOVING_KINDS or room < _MIN_ROOM:
        return _Motion((0.0, 0.0), float(rng.uniform(0.02, 0.05)), float(rng.uniform(0.02, 0.08)), rate, phase)
    hop = float(rng.uniform(0.01, 0.03)) if thing.kind in ("butterfly", "bird", "fish") else 0.0
    travel_y = {"rocket": -abs(rise) - 0.05, "balloon": -abs(rise)}.get(thing.kind, 0.0)
    return _Motion((-distance if backward else distance, travel_y), hop, 0.0, rate, phase)


def _moved(thing: Thing, motion: _Motion, time: float, reach: float) -> Thing:
    """Place a thing at `time` in [0, 1], with `reach` of its motion; kept inside the picture."""
    beat = np.pi * motion.rate * time
    x = thing.x + reach * motion.travel[0] * time
    y = thing.y + reach * (motion.travel[1] * time - motion.hop * abs(float(np.sin(beat))))
    margin = 0.92 * thing.size
    # A thing that the first moment already cuts off at the border may stay there.
    x = float(np.clip(x, min(margin, thing.x), max(1 - margin, thing.x)))
    y = float(np.clip(y, min(margin, thing.y), max(1 - margin, thing.y)))
    sway = reach * motion.sway * float(np.sin(2 * beat + motion.phase) - np.sin(motion.phase))
    roll = (x - thing.x) / thing.size if thing.kind == "ball" else 0.0
    return replace(thing, x=x, y=y, tilt=thing.tilt + sway + roll)
