"""Skies and grounds of the procedural world, and the step from Lab to an 8-bit picture.

That step does in NumPy, with a table instead of powers, what `colorlab.color` does in torch: a corpus is tens of
thousands of scenes. A test holds the two together.
"""

import numpy as np

from colorlab.training.scene_shapes import Array, circle, ellipse, polygon, segment, smooth_noise

SKIES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "clear": ((-3.0, -30.0), (-7.0, -14.0)),
    "sunset": ((22.0, 4.0), (24.0, 36.0)),
    "overcast": ((-0.5, -3.0), (0.0, -1.0)),
    "dusk": ((18.0, -34.0), (22.0, -16.0)),
}
"""Name of each sky and its color (a, b) at the top and at the horizon."""

GROUNDS: dict[str, tuple[float, float]] = {
    "grass": (-24.0, 30.0),
    "sand": (4.0, 26.0),
    "snow": (-1.0, -4.0),
    "road": (0.5, 1.0),
    "earth": (13.0, 20.0),
}
"""Name of each ground and its color (a, b)."""

_GROUND_LIGHTNESS = {"grass": (38, 66), "sand": (58, 78), "snow": (80, 92), "road": (32, 52), "earth": (32, 52)}
# sRGB primaries and D65 white, IEC 61966-2-1; the Lab constants are CIE's.
_XYZ_TO_RGB = np.array(
    [
        [3.2404813432005266, -1.5371515162713185, -0.4985363261688878],
        [-0.9692549499965682, 1.8759900014898907, 0.0415559265582928],
        [0.0556466391351772, -0.2040413383665112, 1.0573110696453443],
    ],
    np.float32,
) * np.array([0.95047, 1.0, 1.08883], np.float32)
_NUM_BISECTIONS = 9
_GAMMA_STEPS = 1 << 14
_LINEAR = np.linspace(0, 1, _GAMMA_STEPS + 1)
# The square root spreads the dark end, where the curve is steep, over many entries.
_GAMMA = np.where(_LINEAR**2 > 0.0031308, 1.055 * np.maximum(_LINEAR**2, 1e-9) ** (1 / 2.4) - 0.055, 12.92 * _LINEAR**2)
_GAMMA_BYTES = np.rint(_GAMMA * 255).astype(np.uint8)


class Backdrop:
    """The picture behind the objects: Lab channels and ink lines, painted in pixel coordinates of unit height.

    Args:
        size_px: height and width.
        horizon: height of the horizon, fraction of the picture from the top.
        seed: source of clouds, hills, tufts and stones.
    """

    def __init__(self, size_px: int, *, horizon: float, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 7])
        self.size_px, self.horizon = size_px, horizon
        axis = (np.arange(size_px, dtype=np.float32) + np.float32(0.5)) / np.float32(size_px)
        self.x, self.y = np.broadcast_to(axis, (size_px, size_px)), np.broadcast_to(axis[:, None], (size_px, size_px))
        self.lab = np.zeros((3, size_px, size_px), np.float32)
        self.ink = np.zeros((size_px, size_px), np.float32)

    def paint(
        self,
        distance: Array,
        lightness: Array | float,
        *,
        rows: slice,
        soft: float = 1.0,
        ink: float = 1.0,
        ab: tuple[float, float] | None = None,
    ) -> None:
        """Paint a shape given on `rows` of the picture; without `ab` the color below stays."""
        depth = distance * np.float32(self.size_px / soft)
        cover = np.clip(0.5 - depth, 0, 1)
        target = self.lab[:, rows]
        target[0] += cover * (lightness - target[0])
        if ab is not None:
            target[1] += cover * (np.float32(ab[0]) - target[1])
            target[2] += cover * (np.float32(ab[1]) - target[2])
        line = np.clip(1.3 - np.abs(depth * soft + 0.6), 0, 1) * np.float32(ink)
        self.ink[rows] = self.ink[rows] * (1 - cover) + cover * line


def paint_backdrop(sky: str, ground: str, *, size_px: int, horizon: float, seed: int) -> Backdrop:
    """Paint sky and ground.

    Args:
        sky: name in `SKIES`.
        ground: name in `GROUNDS`.
        size_px: height and width of the picture.
        horizon: height of the horizon, fraction of the picture from the top.
        seed: source of all details.

    Returns:
        The backdrop with Lab (3, size_px, size_px) and ink lines (size_px, size_px).
    """
    backdrop = Backdrop(size_px, horizon=horizon, seed=seed)
    split = round(horizon * size_px)
    _paint_sky(backdrop, sky, slice(0, split + 2))
    _paint_ground(backdrop, ground, slice(max(0, split - 4), size_px))
    return backdrop


def _paint_sky(backdrop: Backdrop, sky: str, rows: slice) -> None:
    """Gradient, sun or stars, clouds, one row of hills."""
    rng, x, y = backdrop.rng, backdrop.x[rows], backdrop.y[rows]
    top, low = SKIES[sky]
    sink = np.clip(backdrop.y[rows, :1] / backdrop.horizon, 0, 1)
    jitter = rng.normal(0, 1.5, 2)
    middle, slope = rng.uniform(*((48, 62) if sky == "dusk" else (66, 80))), rng.uniform(4, 11)
    lab = backdrop.lab[:, rows]
    lab[0] = middle + slope * (2 * sink - 1) + 1.2 * smooth_noise(rng, x, y, cells=5)
    for channel in (0, 1):
        lab[1 + channel] = top[channel] + (low[channel] - top[channel]) * sink + np.float32(jitter[channel])
    if sky in ("clear", "sunset"):
        height = rng.uniform(0.1, 0.25) if sky == "clear" else backdrop.horizon - rng.uniform(0.02, 0.12)
        backdrop.paint(
            circle(x, y, (rng.uniform(0.1, 0.9), height), rng.uniform(0.05, 0.08)),
            94.0,
            rows=rows,
            soft=2.0,
            ab=(-2.0, 26.0),
        )
    if sky == "dusk":
        for _ in range(int(rng.integers(5, 11))):
            star = circle(x, y, (rng.random(), rng.uniform(0, backdrop.horizon)), 0.006)
            backdrop.paint(star, 92.0, rows=rows, soft=1.5, ab=(2.0, 0.0))
    for _ in range(int(rng.integers(1, 4) + (2 if sky == "overcast" else 0))):
        center, width = (rng.random(), rng.uniform(0.05, 0.75 * backdrop.horizon)), rng.uniform(0.07, 0.13)
        bright = lab[0].mean() + rng.uniform(7, 13) * (-0.6 if sky == "overcast" and rng.random() < 0.6 else 1)
        cloud = np.minimum(
            ellipse(x, y, center, (width, 0.3 * width)),
            np.minimum(
                circle(x, y, (center[0] - 0.3 * width, center[1] - 0.15 * width), 0.33 * width),
                circle(x, y, (center[0] + 0.25 * width, center[1] - 0.2 * width), 0.4 * width),
            ),
        )
        own = 0.35 if sky == "clear" else 0.7
        tint = (own * float(lab[1].mean()), own * float(lab[2].mean()))
        backdrop.paint(cloud, min(float(bright), 95.0), rows=rows, soft=3.0, ab=tint)


def _paint_ground(backdrop: Backdrop, ground: str, rows: slice) -> None:
    """The ground up to the horizon, with what grows or lies on it."""
    rng, x, y = backdrop.rng, backdrop.x[rows], backdrop.y[rows]
    ab = GROUNDS[ground] + rng.normal(0, 1.5, 2)
    middle = np.float32(rng.uniform(*_GROUND_LIGHTNESS[ground]))
    near = (y - np.float32(backdrop.horizon)) / np.float32(1 - backdrop.horizon)
    bumps = 0.012 * np.sin(x * rng.uniform(4, 11) + rng.uniform(0, 6)) if ground != "road" else 0.0
    grain = rng.standard_normal(x.shape).astype(np.float32)
    surface = middle - 5 * (near - 0.5) + 1.5 * smooth_noise(rng, x, y, cells=8)
    if ground == "grass":
        surface += 2.5 * grain * (0.4 + near)
    elif ground == "sand":
        surface += 1.5 * grain + 2 * np.sin(60 * (y + 0.03 * np.sin(8 * x)))
    elif ground == "snow":
        surface += 0.5 * grain
    else:
        surface += 1.8 * grain
    backdrop.paint(np.float32(backdrop.horizon) + bumps - y, surface, rows=rows, ab=(float(ab[0]), float(ab[1])))
    _paint_details(backdrop, ground, rows, float(middle))


def _paint_details(backdrop: Backdrop, ground: str, rows: slice, middle: float) -> None:
    """Tufts on grass, stones on earth, lane marks on the road, soft mounds in snow, shells in sand."""
    rng, x, y = backdrop.rng, backdrop.x[rows], backdrop.y[rows]
    low = backdrop.horizon + 0.04
    if ground == "road":
        lane = low + rng.uniform(0.3, 0.6) * (0.96 - low)
        start = rng.uniform(-0.2, 0.0)
        for k in range(5):
            left = start + 0.28 * k
            mark = polygon(
                x, y, [(left, lane), (left + 0.15, lane), (left + 0.14, lane + 0.03), (left - 0.01, lane + 0.03)]
            )
            backdrop.paint(mark, 86.0, rows=rows, ab=(0.0, 2.0))
        return
    for _ in range(int(rng.integers(3, 8))):
        place = (rng.random(), rng.uniform(low, 0.98))
        if ground == "grass":
            for lean in (-0.012, 0.0, 0.012):
                blade = segment(x, y, place, (place[0] + lean, place[1] - 0.03), 0.003)
                backdrop.paint(blade, middle - 12, rows=rows, ink=0.6)
        elif ground == "snow":
            backdrop.paint(ellipse(x, y, place, (0.11, 0.018)), middle - 5, rows=rows, soft=3.0, ink=0.3)
        elif ground == "earth":
            backdrop.paint(ellipse(x, y, place, (0.018, 0.012)), middle + 14, rows=rows, ab=(3.0, 5.0), ink=0.8)
        else:
            backdrop.paint(ellipse(x, y, place, (0.008, 0.006)), middle - 16, rows=rows, ink=0.6)


def linear_rgb(lightness: Array, a: Array, b: Array) -> Array:
    """Convert CIELAB (D65) to linear light.

    Args:
        lightness: any shape, float32, CIE L.
        a: shape of `lightness`.
        b: shape of `lightness`.

    Returns:
        (3, ...) float32 linear RGB, outside [0, 1] where the color is outside the gamut.
    """
    fy = (lightness + 16) * np.float32(1 / 116)
    f = np.stack((fy + a * np.float32(0.002), fy, fy - b * np.float32(0.005))).reshape(3, -1)
    xyz = np.where(f > np.float32(0.2068966), f * f * f, (f - np.float32(4 / 29)) * np.float32(1 / 7.787))
    return (_XYZ_TO_RGB @ xyz).reshape(3, *lightness.shape)


def to_image(lab: Array) -> np.ndarray:
    """Turn Lab into an 8-bit sRGB picture, scaling chroma into the gamut pixel by pixel.

    Args:
        lab: (3, H, W) float32; its a and b are scaled in place where the color is outside sRGB.

    Returns:
        (H, W, 3) uint8.
    """
    np.clip(lab[0], 2, 98, out=lab[0])
    linear = linear_rgb(lab[0], lab[1], lab[2])
    outside = (linear.min(0) < 0) | (linear.max(0) > 1)
    if outside.any():
        lightness, a, b = lab[0][outside], lab[1][outside], lab[2][outside]
        low, step = np.zeros_like(lightness), np.float32(0.5)
        for _ in range(_NUM_BISECTIONS):
            trial = low + step
            rgb = linear_rgb(lightness, a * trial, b * trial)
            low = np.where((rgb.min(0) >= 0) & (rgb.max(0) <= 1), trial, low)
            step /= 2
        lab[1][outside], lab[2][outside] = a * low, b * low
        linear[:, outside] = linear_rgb(lightness, a * low, b * low)
    root = np.sqrt(np.clip(linear, 0, 1))
    return np.ascontiguousarray(_GAMMA_BYTES[(root * _GAMMA_STEPS + 0.5).astype(np.int32)].transpose(1, 2, 0))
