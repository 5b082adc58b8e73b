"""The procedural world: small pictures of which everything is known exactly.

A scene is a pure function of a `ScenePlan`, and a plan is a pure function of a seed. The lightness of an object is
drawn independently of its color, so the gray picture does not tell the color; see `make_scene`.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from colorlab.color import COLORS
from colorlab.errors import RangeError
from colorlab.training.scene_captions import CAPTION_LEVELS, caption, caption_words, named_instances
from colorlab.training.scene_kinds import KINDS
from colorlab.training.scene_motion import moving_plans, render_clip
from colorlab.training.scene_plans import MAX_INSTANCES, arrange, draw_things, empty_plan
from colorlab.training.scene_render import MIN_VISIBLE_FRACTION, render
from colorlab.training.scene_shapes import Array
from colorlab.training.scene_strokes import simulated_strokes
from colorlab.training.scene_types import Instance, Scene, ScenePlan, Thing
from colorlab.training.scene_world import GROUNDS, SKIES

__all__ = [
    "CAPTION_LEVELS",
    "GROUNDS",
    "KINDS",
    "MAX_INSTANCES",
    "MIN_SIZE_PX",
    "MIN_VISIBLE_FRACTION",
    "SKIES",
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "Instance",
    "Scene",
    "ScenePlan",
    "Thing",
    "caption",
    "caption_words",
    "exemplar_scene",
    "make_scene",
    "moving_clip",
    "named_instances",
    "recolored",
    "render",
    "simulated_strokes",
    "sketch",
]

TRAIN_SEEDS = range(0, 2**30)
"""Seeds of scenes to train on."""
TEST_SEEDS = range(2**30, 2**31)
"""Seeds of held-out scenes, disjoint from `TRAIN_SEEDS`."""
MIN_SIZE_PX = 64
"""Smallest picture."""


def make_scene(
    seed: int, *, size_px: int = 128, num_instances: int | None = None, distinct_kinds: bool = True
) -> Scene:
    """Make one scene.

    The lightness of each object is uniform, a little inside `LIGHTNESS_RANGE`, and independent of its color; color is
    constant over an object and shading changes lightness only, with chroma scaled into the gamut where a highlight or
    shade leaves it.

    Args:
        seed: at least 0; `TRAIN_SEEDS` or `TEST_SEEDS`. Equal arguments give equal scenes, whatever was drawn before.
        size_px: height and width, at least `MIN_SIZE_PX`: smaller objects would be mostly border.
        num_instances: 1 to `MAX_INSTANCES` objects; None draws the number.
        distinct_kinds: whether all kinds differ. False allows objects of one kind (then of different colors), and
            makes them in half of the scenes.

    Returns:
        The scene.

    Raises:
        RangeError: an argument is outside its range.

    Example:
        >>> scene = make_scene(1, num_instances=2)
        >>> scene.image.shape, len(scene.instances)
        ((128, 128, 3), 2)
    """
    if seed < 0:
        raise RangeError(f"seed is {seed}, but at least 0 is expected.")
    if size_px < MIN_SIZE_PX:
        raise RangeError(f"size_px is {size_px}, but at least {MIN_SIZE_PX} is expected.")
    if num_instances is not None and not 1 <= num_instances <= MAX_INSTANCES:
        raise RangeError(f"num_instances is {num_instances}, but 1 to {MAX_INSTANCES} is expected.")
    rng = np.random.default_rng([seed, 1])
    count = int(rng.integers(1, MAX_INSTANCES + 1)) if num_instances is None else num_instances
    plan = empty_plan(rng, seed=seed, size_px=size_px)
    things = draw_things(rng, count, distinct_kinds=distinct_kinds)
    return arrange(rng, plan, things)


def recolored(scene: Scene, colors: Sequence[str]) -> Scene:
    """Give the objects of a scene other colors; geometry and lightness stay the same.

    Args:
        scene: the scene.
        colors: one name of `COLORS` for each instance, in the order of `scene.instances`. An instance whose name does
            not change keeps its exact color, another gets the center of its new name.

    Returns:
        The scene in other colors, with equal masks and lightness.

    Raises:
        RangeError: there are not as many colors as instances, or a name is unknown.
    """
    things = scene.plan.things
    if len(colors) != len(things):
        raise RangeError(f"colors has {len(colors)} names, but the scene has {len(things)} instances.")
    for color in colors:
        if color not in COLORS:
            raise RangeError(f"colors holds {color!r}, but only {', '.join(COLORS)} are known.")
    changed = tuple(
        thing if thing.color == color else replace(thing, color=color, ab=COLORS[color])
        for thing, color in zip(things, colors, strict=True)
    )
    return render(replace(scene.plan, things=changed))


def exemplar_scene(scene: Scene, seed: int) -> Scene:
    """Show the same objects in another arrangement, as a picture to borrow colors from.

    Args:
        scene: the scene.
        seed: decides the arrangement.

    Returns:
        A scene with the same things (kind, exact color, lightness and details), sky and ground; places, sizes, horizon,
        light and clouds differ. Its instances may come in another order.
    """
    rng = np.random.default_rng([seed, scene.seed, 2])
    fresh = empty_plan(rng, seed=scene.seed, size_px=scene.plan.size_px)
    return arrange(rng, replace(fresh, sky=scene.sky, ground=scene.ground), scene.plan.things)


def moving_clip(
    seed: int,
    num_frames: int,
    *,
    size_px: int = 128,
    num_instances: int | None = None,
    distinct_kinds: bool = True,
) -> list[Scene]:
    """Make a short clip: the first frame is `make_scene` of the same arguments, then its things move.

    Args:
        seed: as for `make_scene`.
        num_frames: at least 1.
        size_px: as for `make_scene`.
        num_instances: as for `make_scene`.
        distinct_kinds: as for `make_scene`.

    Returns:
        The frames; instances keep their order, kind and color, and each is well seen in every frame.

    Raises:
        RangeError: an argument is outside its range.
    """
    if num_frames < 1:
        raise RangeError(f"num_frames is {num_frames}, but at least 1 is expected.")
    first = make_scene(seed, size_px=size_px, num_instances=num_instances, distinct_kinds=distinct_kinds)
    return render_clip(moving_plans(first.plan, np.random.default_rng([seed, 4]), num_frames))


def sketch(scene: Scene) -> Array:
    """Draw the outlines of a scene.

    Args:
        scene: the scene.

    Returns:
        (H, W) float32 [0, 1], black lines (0) on white (1).
    """
    return 1 - scene.lines
