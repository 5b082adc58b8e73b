"""Color spaces, the gamut, color differences, and the twelve color names of the project's world.

CIELAB throughout, D65, 2 degree observer, with kornia's matrices and constants.
"""

from typing import Any

import kornia.color
import numpy as np
import torch

from colorlab.shapes import check_shape

__all__ = [
    "CHROMATIC_COLORS",
    "COLORS",
    "LIGHTNESS_RANGE",
    "delta_e",
    "delta_e_2000",
    "fit_chroma_to_gamut",
    "gray_to_lightness",
    "image_to_gray",
    "lab_to_rgb",
    "lightness_to_gray",
    "nearest_color_name",
    "rgb_to_lab",
]

LIGHTNESS_RANGE = (45.0, 70.0)
"""Lightness in which every center of `COLORS` is inside the sRGB gamut, so that a name does not tell the lightness."""

COLORS: dict[str, tuple[float, float]] = {
    # name: (a, b). Chromatic centers lie just inside the gamut of the whole lightness range, at the hue that people
    # call by this name from L 45 to 70; the four others are the muted colors between them (all ours).
    "red": (40.0, 29.0),
    "orange": (30.0, 52.0),
    "yellow": (-4.0, 49.0),
    "green": (-43.0, 45.0),
    "cyan": (-25.0, -10.5),
    "blue": (5.5, -43.5),
    "purple": (35.0, -44.5),
    "pink": (53.0, -8.5),
    "brown": (14.0, 25.0),
    "olive": (-11.0, 26.0),
    "gray": (0.0, 0.0),
    "slate": (-2.0, -17.0),
}
"""Name to (a, b), the center of the color; at least 14 apart in the ab plane."""

CHROMATIC_COLORS: tuple[str, ...] = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
"""The eight saturated names of `COLORS`."""

# sRGB transfer function, IEC 61966-2-1; CIELAB constants as in kornia.color.lab.
_WHITE_X, _WHITE_Z = 0.95047, 1.08883
_LAB_DELTA, _LAB_SLOPE, _LAB_OFFSET = 0.2068966, 7.787, 4.0 / 29.0
_LAB_THRESHOLD = 0.008856
# The four-digit matrices put white at 1.00008 in linear light: it has to count as inside.
_LINEAR_LOW, _LINEAR_HIGH = -1e-6, 1.0 + 1e-4
# Halvings of [0, 1]: the chroma is found to 0.03 % of its length, far below one 8-bit level.
_NUM_BISECTIONS = 12


def rgb_to_lab(image: torch.Tensor) -> torch.Tensor:
    """Convert sRGB to CIELAB (D65).

    Args:
        image: (B, 3, H, W) float, sRGB, [0, 1]. Half precision is computed in float32.

    Returns:
        (B, 3, H, W), dtype and device of `image`: L [0, 100], a and b about [-128, 127].

    Raises:
        ShapeError: `image` is not (B, 3, H, W).
    """
    check_shape(image, "B 3 H W", "image")
    return kornia.color.rgb_to_lab(image.to(_work_dtype(image))).to(image.dtype)


def lab_to_rgb(lab: torch.Tensor, *, clip: bool = True) -> torch.Tensor:
    """Convert CIELAB (D65) to sRGB.

    Args:
        lab: (B, 3, H, W) float: L [0, 100], a and b about [-128, 127].
        clip: cut each channel to [0, 1]. This moves hue and lightness of colors outside the gamut; to keep lightness
            call `fit_chroma_to_gamut` first.

    Returns:
        (B, 3, H, W), dtype and device of `lab`, sRGB, [0, 1] with `clip`.

    Raises:
        ShapeError: `lab` is not (B, 3, H, W).
    """
    check_shape(lab, "B 3 H W", "lab")
    return kornia.color.lab_to_rgb(lab.to(_work_dtype(lab)), clip=clip).to(lab.dtype)


def gray_to_lightness(gray: torch.Tensor) -> torch.Tensor:
    """Convert sRGB gray to CIELAB lightness.

    Args:
        gray: (B, 1, H, W) float, sRGB gray, [0, 1].

    Returns:
        (B, 1, H, W), dtype and device of `gray`, L [0, 100].

    Raises:
        ShapeError: `gray` is not (B, 1, H, W).
    """
    check_shape(gray, "B 1 H W", "gray")
    return _luminance_to_lightness(_gray_to_luminance(gray.to(_work_dtype(gray)))).to(gray.dtype)


def lightness_to_gray(lightness: torch.Tensor) -> torch.Tensor:
    """Convert CIELAB lightness to sRGB gray; the inverse of `gray_to_lightness`.

    Args:
        lightness: (B, 1, H, W) float, L [0, 100].

    Returns:
        (B, 1, H, W), dtype and device of `lightness`, [0, 1].

    Raises:
        ShapeError: `lightness` is not (B, 1, H, W).
    """
    check_shape(lightness, "B 1 H W", "lightness")
    luminance = _inverse_lab_function((lightness.to(_work_dtype(lightness)) + 16.0) / 116.0)
    return _luminance_to_gray(luminance).to(lightness.dtype)


def image_to_gray(image: torch.Tensor) -> torch.Tensor:
    """Convert sRGB to the gray of the same CIELAB lightness (not luma: the weights act on linear light).

    Args:
        image: (B, 3, H, W) float, sRGB, [0, 1].

    Returns:
        (B, 1, H, W), dtype and device of `image`, sRGB gray, [0, 1].

    Raises:
        ShapeError: `image` is not (B, 3, H, W).
    """
    check_shape(image, "B 3 H W", "image")
    linear = _gray_to_luminance(image.to(_work_dtype(image)))
    weights = linear.new_tensor(_LUMINANCE_WEIGHTS).view(1, 3, 1, 1)
    return _luminance_to_gray((linear * weights).sum(dim=1, keepdim=True)).to(image.dtype)


def fit_chroma_to_gamut(lightness: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
    """Scale chroma toward gray, pixel by pixel, until each color is inside sRGB. Lightness and hue angle stay.

    Args:
        lightness: (B, 1, H, W) float, L [0, 100].
        ab: (B, 2, H, W) float, wanted chroma.

    Returns:
        (B, 2, H, W), dtype and device of `ab`; equal to `ab` where the color is inside the gamut already.

    Raises:
        ShapeError: the two do not have these shapes.
    """
    sizes = check_shape(lightness, "B 1 H W", "lightness")
    check_shape(ab, "B 2 H W", "ab", sizes=sizes)
    dtype = _work_dtype(ab)
    level, a, b = lightness[:, 0].to(dtype), ab[:, 0].to(dtype), ab[:, 1].to(dtype)
    outside = ~_in_gamut(level, a, b)
    if not outside.any():
        return ab
    level_out, a_out, b_out = level[outside], a[outside], b[outside]
    low, high = torch.zeros_like(level_out), torch.ones_like(level_out)
    # The gamut at one lightness is star-shaped around gray, so in/out changes once along the ray.
    for _ in range(_NUM_BISECTIONS):
        middle = (low + high) / 2
        inside = _in_gamut(level_out, middle * a_out, middle * b_out)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    scale = torch.ones_like(level)
    scale[outside] = low
    return (ab.to(dtype) * scale[:, None]).to(ab.dtype)


def delta_e(lab1: torch.Tensor, lab2: torch.Tensor) -> torch.Tensor:
    """Compute the CIE 1976 color difference, the Euclidean distance in CIELAB.

    Args:
        lab1: (B, 3, H, W) float, CIELAB.
        lab2: (B, 3, H, W) float, CIELAB.

    Returns:
        (B, 1, H, W) float, at least 0; about 2.3 is just noticeable.

    Raises:
        ShapeError: the two do not have this shape.
    """
    sizes = check_shape(lab1, "B 3 H W", "lab1")
    check_shape(lab2, "B 3 H W", "lab2", sizes=sizes)
    return torch.linalg.vector_norm(lab1 - lab2, dim=1, keepdim=True)


def delta_e_2000(lab1: torch.Tensor, lab2: torch.Tensor) -> torch.Tensor:
    """Compute the CIEDE2000 color difference (scikit-image; not differentiable).

    Args:
        lab1: (B, 3, H, W) float, CIELAB.
        lab2: (B, 3, H, W) float, CIELAB.

    Returns:
        (B, 1, H, W), dtype and device of `lab1`, at least 0; about 1 is just noticeable.

    Raises:
        ShapeError: the two do not have this shape.
    """
    from skimage.color import deltaE_ciede2000

    sizes = check_shape(lab1, "B 3 H W", "lab1")
    check_shape(lab2, "B 3 H W", "lab2", sizes=sizes)
    first, second = (lab.detach().cpu().double().numpy() for lab in (lab1, lab2))
    difference = deltaE_ciede2000(first, second, channel_axis=1)
    return torch.from_numpy(np.asarray(difference)).to(lab1)[:, None]


def nearest_color_name(ab: Any) -> Any:
    """Name a chroma by the nearest center of `COLORS` in the ab plane.

    Args:
        ab: (..., 2) tensor, array or sequence, CIELAB a and b.

    Returns:
        The name (str) for one pair; an array of names with shape (...) for more.

    Raises:
        ShapeError: the last axis does not have two elements.
    """
    points = torch.as_tensor(ab).detach().cpu().double()
    if points.ndim == 0 or points.shape[-1] != 2:
        check_shape(points, "N 2", "ab")
    centers = torch.tensor(list(COLORS.values()), dtype=torch.float64)
    nearest = torch.cdist(points.reshape(-1, 2), centers).argmin(dim=1)
    names = np.array(list(COLORS))[nearest.numpy()].reshape(points.shape[:-1])
    return str(names[()]) if points.ndim == 1 else names


def _work_dtype(x: torch.Tensor) -> torch.dtype:
    """Return float64 for float64, else float32: Lab subtracts near-equal numbers."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _gray_to_luminance(gray: torch.Tensor) -> torch.Tensor:
    """Undo the sRGB transfer function: encoded [0, 1] to linear light [0, 1]."""
    return torch.where(gray > 0.04045, ((gray.clamp(min=0) + 0.055) / 1.055) ** 2.4, gray / 12.92)


def _luminance_to_gray(luminance: torch.Tensor) -> torch.Tensor:
    """Apply the sRGB transfer function: linear light to encoded, cut to [0, 1]."""
    power = 1.055 * luminance.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(luminance > 0.0031308, power, 12.92 * luminance).clamp(0.0, 1.0)


def _luminance_to_lightness(luminance: torch.Tensor) -> torch.Tensor:
    """Convert CIE Y [0, 1] to L [0, 100]."""
    root = luminance.clamp(min=_LAB_THRESHOLD) ** (1 / 3)
    return 116.0 * torch.where(luminance > _LAB_THRESHOLD, root, _LAB_SLOPE * luminance + _LAB_OFFSET) - 16.0


def _inverse_lab_function(value: torch.Tensor) -> torch.Tensor:
    """Invert the compressive function of CIELAB."""
    return torch.where(value > _LAB_DELTA, value * value * value, (value - _LAB_OFFSET) / _LAB_SLOPE)


def _in_gamut(lightness: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Tell where CIELAB is inside sRGB; tensors of one shape. Works in linear light, which needs no powers."""
    y = (lightness + 16.0) / 116.0
    # A negative f(z) is no color at all; kornia cuts it to 0 and would so move the lightness.
    z = y - b / 200.0
    inside = z >= 0.0
    x, z = _WHITE_X * _inverse_lab_function(y + a / 500.0), _WHITE_Z * _inverse_lab_function(z)
    y = _inverse_lab_function(y)
    for row in _XYZ_TO_LINEAR_RGB:
        channel = row[0] * x + row[1] * y + row[2] * z
        inside &= (channel >= _LINEAR_LOW) & (channel <= _LINEAR_HIGH)
    return inside


_XYZ_TO_LINEAR_RGB: list[list[float]] = kornia.color.xyz_to_rgb(torch.eye(3, dtype=torch.float64)[:, :, None])[
    ..., 0
].tolist()
"""(3, 3), read out of kornia so that both sides agree to the last digit."""

_LUMINANCE_WEIGHTS: list[float] = kornia.color.rgb_to_xyz(torch.eye(3, dtype=torch.float64)[:, :, None])[
    1, :, 0
].tolist()
"""Weights of linear red, green and blue in CIE Y."""
