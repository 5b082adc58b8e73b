"""The kinds of object of the procedural world: one drawing function each.

A drawing function paints its object on a `Layer` in units in which the object spans about [-1, 1]; objects that stand
do so at y = 0.95. Most of an object wears its own color; accents are neutral or wooden and stay below a quarter.
"""

from collections.abc import Callable

import numpy as np

from colorlab.training.scene_shapes import (
    NEUTRAL,
    WOOD,
    Layer,
    box,
    circle,
    common,
    ellipse,
    joined,
    polygon,
    segment,
)


def _eye(layer: Layer, x: float, y: float, size: float) -> None:
    """A white eye with a dark pupil."""
    layer.paint(circle(layer.x, layer.y, (x, y), size), 93.0, ab=NEUTRAL)
    layer.paint(circle(layer.x, layer.y, (x + 0.25 * size, y), 0.55 * size), 14.0, ab=NEUTRAL, rim=0)


def draw_car(layer: Layer) -> None:
    """A car with round wheels; saloon or van."""
    x, y = layer.x, layer.y
    van = layer.rng.random() < 0.35
    roof = (
        [(-0.85, 0.2), (-0.8, -0.5), (0.3, -0.5), (0.62, 0.2)]
        if van
        else [(-0.66, 0.2), (-0.4, -0.42), (0.28, -0.42), (0.6, 0.2)]
    )
    layer.paint(polygon(x, y, roof) - 0.06, layer.skin + 5)
    layer.paint(box(x, y, (0, 0.32), (0.98, 0.3), 0.16))
    for left, right in ((-0.42, -0.08), (0.04, 0.34)):
        layer.paint(
            polygon(x, y, [(left + 0.04, -0.3), (right - 0.04, -0.3), (right, 0.0), (left, 0.0)]), 84.0, ab=NEUTRAL
        )
    layer.paint(segment(x, y, (-0.02, 0.1), (-0.02, 0.5), 0.012), layer.skin - 14, rim=0)
    layer.paint(circle(x, y, (0.88, 0.26), 0.08), 90.0, ab=NEUTRAL)
    for wheel in (-0.52, 0.52):
        layer.paint(circle(x, y, (wheel, 0.6), 0.21), 20.0, ab=NEUTRAL)
        layer.paint(circle(x, y, (wheel, 0.6), 0.09), 78.0, ab=NEUTRAL)


def draw_house(layer: Layer) -> None:
    """A house with a pitched roof, a door and one or two windows."""
    x, y = layer.x, layer.y
    layer.paint(box(x, y, (0.42, -0.62), (0.11, 0.28)), layer.skin - 10)
    layer.paint(box(x, y, (0, 0.42), (0.72, 0.53)), layer.skin + 3)
    rows = 6 * np.sign(np.sin(22 * y)).astype(np.float32)
    layer.paint(polygon(x, y, [(-0.98, -0.05), (0, -0.92), (0.98, -0.05)]), layer.base - 14 + rows)
    door = layer.rng.choice([-0.4, 0.0, 0.4])
    layer.paint(box(x, y, (door, 0.65), (0.16, 0.3)), 36.0, ab=WOOD)
    layer.paint(circle(x, y, (door + 0.09, 0.66), 0.03), 80.0, ab=NEUTRAL, rim=0)
    for place in (-0.42, 0.0, 0.42):
        if abs(place - door) > 0.3:
            layer.paint(box(x, y, (place, 0.28), (0.15, 0.15)), 86.0, ab=NEUTRAL, rim=22)
            layer.paint(segment(x, y, (place, 0.14), (place, 0.42), 0.018), 45.0, ab=NEUTRAL, rim=0)
            layer.paint(segment(x, y, (place - 0.14, 0.28), (place + 0.14, 0.28), 0.018), 45.0, ab=NEUTRAL, rim=0)


def draw_tree(layer: Layer) -> None:
    """A round tree or a fir, with a wooden trunk."""
    x, y = layer.x, layer.y
    layer.paint(polygon(x, y, [(-0.1, 0.2), (0.1, 0.2), (0.15, 0.95), (-0.15, 0.95)]), 38.0 - 12 * x, ab=WOOD)
    if layer.rng.random() < 0.4:
        for top, base, half in ((-0.1, 0.62, 0.72), (-0.55, 0.22, 0.58), (-0.97, -0.2, 0.42)):
            layer.paint(polygon(x, y, [(0, top), (half, base), (-half, base)]), layer.skin + 10 * (x * layer.light[0]))
        return
    turn = layer.rng.uniform(0, 6.28)
    leaves = layer.round_skin((0, -0.25), 0.85, depth=14) + 3 * np.sin(17 * x + 3 * y) * np.sin(15 * y - 4 * x)
    crown = [
        circle(x, y, (0.42 * np.cos(turn + k * 1.047), -0.25 + 0.34 * np.sin(turn + k * 1.047)), 0.36) for k in range(6)
    ]
    layer.paint(joined(circle(x, y, (0, -0.25), 0.5), *crown), leaves)


def draw_ball(layer: Layer) -> None:
    """A beach ball: a shaded disk with panels that meet in a point."""
    x, y = layer.x, layer.y
    pole = layer.rng.uniform(-0.35, 0.35, 2).astype(np.float32)
    angle = np.arctan2(y - pole[1], x - pole[0]) + layer.rng.uniform(0, 6.28)
    panels = np.clip(np.sin(3 * angle) * 8, -1, 1) * np.float32(layer.rng.uniform(6, 10))
    disk = circle(x, y, (0, 0), 0.93)
    layer.paint(disk, layer.round_skin((0, 0), 0.93, depth=16) - layer.skin + layer.base + panels)
    seams = np.abs(np.sin(3 * angle)) * np.hypot(x - pole[0], y - pole[1]) / 3 - 0.6 * layer.pixel
    layer.paint(common(disk, seams), layer.base - 6, rim=0)
    layer.paint(circle(x, y, (float(pole[0]), float(pole[1])), 0.13), 88.0, ab=NEUTRAL)


def draw_boat(layer: Layer) -> None:
    """A sailing boat: hull, mast and two sails."""
    x, y = layer.x, layer.y
    layer.paint(segment(x, y, (0, -0.95), (0, 0.5), 0.035), 40.0, ab=WOOD)
    layer.paint(polygon(x, y, [(0.07, -0.88), (0.8, 0.28), (0.07, 0.28)]), layer.skin + 9)
    layer.paint(polygon(x, y, [(-0.07, -0.68), (-0.07, 0.28), (-0.62, 0.28)]), layer.skin + 4)
    layer.paint(polygon(x, y, [(-0.98, 0.4), (0.98, 0.4), (0.62, 0.92), (-0.66, 0.92)]), layer.skin - 7)
    layer.paint(segment(x, y, (-0.82, 0.52), (0.84, 0.52), 0.03), 90.0, ab=NEUTRAL, rim=0)


def draw_flower(layer: Layer) -> None:
    """A flower with round petals, a dark or light heart, a stem and two leaves."""
    x, y = layer.x, layer.y
    layer.paint(segment(x, y, (0, -0.2), (0.04, 0.95), 0.055), 42.0, ab=WOOD)
    layer.paint(ellipse(x, y, (0.28, 0.62), (0.3, 0.12), -0.5), layer.skin - 9)
    layer.paint(ellipse(x, y, (-0.22, 0.72), (0.27, 0.11), 0.5), layer.skin - 9)
    petals = int(layer.rng.integers(5, 9))
    turn = layer.rng.uniform(0, 6.28)
    shade = layer.round_skin((0, -0.3), 0.75, depth=10)
    for k in range(petals):
        angle = turn + k * 2 * np.pi / petals
        center = (0.38 * np.cos(angle), -0.3 + 0.38 * np.sin(angle))
        layer.paint(ellipse(x, y, center, (0.3, 1.15 / petals + 0.02), angle), shade)
    layer.paint(circle(x, y, (0, -0.3), 0.19), float(layer.rng.choice([25.0, 84.0])), ab=WOOD)


def draw_cup(layer: Layer) -> None:
    """A cup with a handle, filled with something warm."""
    x, y = layer.x, layer.y
    ring = np.abs(ellipse(x, y, (0.6, 0.12), (0.3, 0.34))) - np.float32(0.085)
    layer.paint(ring, layer.skin - 4)
    body = polygon(x, y, [(-0.74, -0.5), (0.62, -0.5), (0.46, 0.88), (-0.58, 0.88)]) - 0.05
    layer.paint(body, layer.skin + 9 * np.cos(2.6 * (x - 0.45 * layer.light[0])) - 4)
    layer.paint(ellipse(x, y, (-0.06, -0.52), (0.73, 0.24)), layer.skin + 7)
    layer.paint(ellipse(x, y, (-0.06, -0.49), (0.6, 0.16)), 26.0, ab=WOOD)


def draw_fish(layer: Layer) -> None:
    """A fish with scales, fins and an eye."""
    x, y = layer.x, layer.y
    layer.paint(polygon(x, y, [(-0.35, 0.0), (-0.98, -0.5), (-0.82, 0.0)]), layer.skin - 5)
    layer.paint(polygon(x, y, [(-0.35, 0.0), (-0.98, 0.5), (-0.82, 0.0)]), layer.skin - 5)
    layer.paint(polygon(x, y, [(-0.25, -0.35), (0.05, -0.78), (0.4, -0.35)]), layer.skin - 5)
    layer.paint(polygon(x, y, [(-0.1, 0.35), (-0.05, 0.72), (0.28, 0.35)]), layer.skin - 5)
    scales = 4 * np.sin(16 * x) * np.cos(16 * y) - 9 * np.clip((y - 0.1) * 2, -0.5, 1)
    layer.paint(ellipse(x, y, (0.18, 0), (0.78, 0.5)), layer.skin + scales)
    gill = common(np.abs(circle(x, y, (0.2, 0), 0.34)) - np.float32(0.025), 0.3 - x)
    layer.paint(gill, layer.skin - 14, rim=0)
    _eye(layer, 0.62, -0.12, 0.11)


def draw_balloon(layer: Layer) -> None:
    """A party balloon with its string."""
    x, y = layer.x, layer.y
    bend = layer.rng.uniform(-0.12, 0.12)
    layer.paint(segment(x - np.float32(bend) * np.sin(7 * y), y, (0, 0.6), (0, 0.98), 0.022), 30.0, ab=NEUTRAL, rim=0)
    layer.paint(polygon(x, y, [(0, 0.44), (0.12, 0.66), (-0.12, 0.66)]), layer.skin - 8)
    layer.paint(ellipse(x, y, (0, -0.2), (0.64, 0.76)), layer.round_skin((0, -0.2), 0.78, depth=15))


def draw_hat(layer: Layer) -> None:
    """A hat with a brim and a ribbon: a top hat or a sun hat."""
    x, y = layer.x, layer.y
    if layer.rng.random() < 0.5:
        layer.paint(ellipse(x, y, (0, 0.62), (0.98, 0.25)), layer.skin - 4)
        layer.paint(
            polygon(x, y, [(-0.62, -0.72), (0.62, -0.72), (0.52, 0.6), (-0.52, 0.6)]) - 0.03, layer.skin + 3 * x
        )
        layer.paint(ellipse(x, y, (0, -0.72), (0.65, 0.16)), layer.skin + 8)
    else:
        layer.paint(ellipse(x, y, (0, 0.52), (1.0, 0.32)), layer.skin - 2)
        dome = common(ellipse(x, y, (0, 0.42), (0.58, 0.98)), y - np.float32(0.58))
        layer.paint(dome, layer.round_skin((0, 0.1), 0.8, depth=10))
    layer.paint(box(x, y, (0, 0.42), (0.545, 0.1), 0.02), 24.0, ab=NEUTRAL)


def draw_butterfly(layer: Layer) -> None:
    """A butterfly with four spotted wings."""
    x, y = np.abs(layer.x), layer.y
    layer.paint(segment(x, y, (0.03, -0.4), (0.28, -0.9), 0.025), 22.0, ab=NEUTRAL, rim=0)
    layer.paint(ellipse(x, y, (0.46, 0.42), (0.46, 0.32), 0.6), layer.skin - 6)
    layer.paint(ellipse(x, y, (0.53, -0.28), (0.54, 0.38), -0.65), layer.skin + 4)
    spots = float(layer.rng.choice([-16.0, 14.0]))
    layer.paint(circle(x, y, (0.64, -0.4), 0.14), layer.skin + spots, rim=4)
    layer.paint(circle(x, y, (0.52, 0.48), 0.11), layer.skin + spots, rim=4)
    layer.paint(ellipse(layer.x, y, (0, 0.08), (0.08, 0.55)), 20.0, ab=NEUTRAL)
    layer.paint(circle(layer.x, y, (0, -0.48), 0.12), 20.0, ab=NEUTRAL)


def draw_bird(layer: Layer) -> None:
    """A small bird with a wing, a tail and a beak."""
    x, y = layer.x, layer.y
    for leg in (-0.1, 0.16):
        layer.paint(segment(x, y, (leg, 0.6), (leg + 0.04, 0.93), 0.035), 34.0, ab=WOOD, rim=0)
    layer.paint(polygon(x, y, [(0.8, -0.46), (1.0, -0.34), (0.8, -0.26)]), 70.0, ab=WOOD)
    layer.paint(polygon(x, y, [(-0.4, 0.12), (-0.98, -0.28), (-0.98, 0.14), (-0.4, 0.45)]), layer.skin - 8)
    body = joined(ellipse(x, y, (-0.02, 0.22), (0.62, 0.46), -0.25), circle(x, y, (0.5, -0.36), 0.36))
    layer.paint(body, layer.skin - 10 * (y - 0.1))
    layer.paint(ellipse(x, y, (-0.2, 0.16), (0.44, 0.25), 0.35), layer.skin - 9 + 4 * np.sin(22 * (x + y)))
    _eye(layer, 0.58, -0.42, 0.11)


def draw_kite(layer: Layer) -> None:
    """A diamond kite with sticks and a tail with bows."""
    x, y = layer.x, layer.y
    sway = np.float32(0.1) * np.sin(9 * y + np.float32(layer.rng.uniform(0, 6)))
    layer.paint(segment(x - sway, y, (0, 0.4), (0, 0.98), 0.025), 28.0, ab=NEUTRAL, rim=0)
    corners = [(0.0, -0.97), (0.66, -0.3), (0.0, 0.48), (-0.66, -0.3)]
    quarters = np.where((x > 0) == (y > -0.3), np.float32(7), np.float32(-5))
    layer.paint(polygon(x, y, corners), layer.skin + quarters)
    layer.paint(segment(x, y, (0, -0.93), (0, 0.44), 0.022), 40.0, ab=WOOD, rim=0)
    layer.paint(segment(x, y, (-0.62, -0.3), (0.62, -0.3), 0.022), 40.0, ab=WOOD, rim=0)
    for bow in (0.64, 0.88):
        wings = polygon(np.abs(x - sway), y, [(0.0, bow), (0.16, bow - 0.09), (0.16, bow + 0.09)])
        layer.paint(wings, layer.skin - 2)


def draw_mushroom(layer: Layer) -> None:
    """A mushroom: a spotted cap on a pale stem."""
    x, y = layer.x, layer.y
    stem = joined(
        polygon(x, y, [(-0.2, 0.0), (0.2, 0.0), (0.27, 0.8), (-0.27, 0.8)]), ellipse(x, y, (0, 0.8), (0.29, 0.13))
    )
    layer.paint(stem, 82.0 - 12 * np.abs(x + 0.2), ab=(1.0, 5.0))
    cap = common(ellipse(x, y, (0, 0.12), (0.97, 1.02)), y - np.float32(0.2) + 0.1 * x * x)
    layer.paint(cap, layer.round_skin((0, -0.1), 1.0, depth=13))
    for place, size in (((-0.5, -0.18), 0.13), ((0.05, -0.5), 0.15), ((0.52, -0.12), 0.12), ((0.0, -0.02), 0.09)):
        layer.paint(ellipse(x, y, place, (size, 0.85 * size)), 90.0, ab=NEUTRAL, rim=7)


def draw_umbrella(layer: Layer) -> None:
    """An open umbrella with scalloped panels and a hooked wooden handle."""
    x, y = layer.x, layer.y
    layer.paint(segment(x, y, (0, -0.95), (0, 0.78), 0.04), 40.0, ab=WOOD)
    hook = common(np.abs(circle(x, y, (0.13, 0.78), 0.13)) - np.float32(0.045), 0.78 - y)
    layer.paint(hook, 40.0, ab=WOOD)
    dome = ellipse(x, y, (0, 0.15), (0.98, 0.95))
    scallops = joined(*(ellipse(x, y, (place, 0.17), (0.245, 0.16)) for place in (-0.735, -0.245, 0.245, 0.735)))
    canopy = common(dome, np.maximum(y - np.float32(0.17), -scallops))
    spread = np.sqrt(np.clip(1 - ((y - 0.15) / 0.95) ** 2, 0.02, 1))
    panel = np.sign(np.sin(x / spread * np.float32(2 * np.pi))).astype(np.float32)
    layer.paint(canopy, layer.round_skin((0, 0.1), 1.05, depth=10) + 5 * panel)
    for rib in (-0.49, 0.0, 0.49):
        bend = np.abs(x / spread - np.float32(rib)) * spread - 0.55 * layer.pixel
        layer.paint(common(dome, bend, y - np.float32(0.17)), layer.skin - 8, rim=0)


def draw_rocket(layer: Layer) -> None:
    """A toy rocket with fins and a round window."""
    x, y = layer.x, layer.y
    layer.paint(polygon(x, y, [(-0.17, 0.6), (0.17, 0.6), (0.0, 0.98)]), 92.0 - 30 * np.abs(x), ab=WOOD)
    layer.paint(polygon(np.abs(x), y, [(0.2, 0.08), (0.66, 0.5), (0.66, 0.86), (0.2, 0.56)]), layer.skin - 12)
    body = common(circle(x, y, (-0.62, 0.02), 1.04), circle(x, y, (0.62, 0.02), 1.04), y - np.float32(0.66))
    layer.paint(body, layer.skin + 11 * np.cos(3.2 * (x - 0.2 * layer.light[0])) - 4)
    layer.paint(circle(x, y, (0, -0.2), 0.19), 82.0, ab=NEUTRAL, rim=25)
    layer.paint(segment(x, y, (-0.36, 0.38), (0.36, 0.38), 0.03), layer.skin - 14, rim=0)


KINDS: dict[str, Callable[[Layer], None]] = {
    "car": draw_car,
    "house": draw_house,
    "tree": draw_tree,
    "ball": draw_ball,
    "boat": draw_boat,
    "flower": draw_flower,
    "cup": draw_cup,
    "fish": draw_fish,
    "balloon": draw_balloon,
    "hat": draw_hat,
    "butterfly": draw_butterfly,
    "bird": draw_bird,
    "kite": draw_kite,
    "mushroom": draw_mushroom,
    "umbrella": draw_umbrella,
    "rocket": draw_rocket,
}
"""Name of each kind and how it is drawn."""

FLYING_KINDS = frozenset({"balloon", "kite", "butterfly", "rocket"})
"""Kinds that hang in the sky instead of standing on the ground."""
TURNING_KINDS = frozenset({"car", "house", "boat", "cup", "fish", "bird", "umbrella"})
"""Kinds that face left or right."""
