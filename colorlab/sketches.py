"""Line drawings: taken from pictures, told from their negatives, and turned around."""

from typing import Any, Literal, get_args

import kornia
import numpy as np
import torch
from torch.nn import functional

from colorlab.color import gray_to_lightness
from colorlab.errors import RangeError
from colorlab.images import load_gray, resize_image
from colorlab.shapes import check_shape

__all__ = [
    "SketchStyle",
    "extract_sketch",
    "fit_sketch",
    "invert_sketch",
    "is_blank",
    "is_inverted",
    "is_photograph",
    "sketch_of",
]

SketchStyle = Literal["xdog", "canny"]

# Ours, chosen by eye on 128 px pictures: fine lines, little grain.
_SIGMA_SHARE, _SIGMA_RATIO, _SHARPNESS, _STEEPNESS, _TOLERANCE = 0.006, 1.6, 20.0, 4.0, 0.12
_CANNY_LOW, _CANNY_HIGH = 0.06, 0.16
# Of kornia's blur in front of Canny.
_CANNY_REACH_PX = 2
_MIN_CONTRAST = 0.02
_INK, _PAPER = 0.15, 0.85
# How far `fit_sketch` looks around a pixel of the smaller drawing, and what share ink has to have of what a 1 px line
# averages to: specks have less, as they fade in both directions.
_NEARBY_CELLS, _LINE_SHARE = 2, 0.5


def extract_sketch(picture: Any, *, style: SketchStyle = "xdog") -> np.ndarray:
    """Draw the lines of a picture.

    Args:
        picture: path, PIL image or array; a color picture counts by its lightness.
        style: `xdog` for soft lines on the dark side of edges, `canny` for lines of one pixel on edges.

    Returns:
        (H, W) float32 in [0, 1], black lines on white.

    Raises:
        ImageError: the picture cannot be used.
        RangeError: there is no such style.

    Source: Winnemöller, Kyprianidis and Olsen, "XDoG", 2012, section 2.5; Canny by kornia.
    Deviation: the tone of the picture is left out of XDoG, so that dark areas are no ink.
    """
    return sketch_of(load_gray(picture, "picture"), style=style)[0, 0].numpy()


def sketch_of(gray: torch.Tensor, *, style: SketchStyle = "xdog") -> torch.Tensor:
    """Draw the lines of gray pictures; see `extract_sketch`.

    Args:
        gray: (B, 1, H, W), [0, 1], of any size.
        style: as there.

    Returns:
        (B, 1, H, W) float32, [0, 1], black lines on white.

    Raises:
        ShapeError: `gray` has another shape.
        RangeError: there is no such style.
    """
    check_shape(gray, "B 1 H W", "gray")
    if style not in get_args(SketchStyle):
        raise RangeError(f"style is {style!r}, but one of {', '.join(get_args(SketchStyle))} is expected.")
    lightness = gray_to_lightness(gray.float()) / 100.0
    height, width = gray.shape[-2:]
    sigma = max(0.5, _SIGMA_SHARE * min(height, width))
    reach_px = _CANNY_REACH_PX if style == "canny" else _reach_px(_SIGMA_RATIO * sigma)
    # Blurs mirror what lies at the border, which a picture has to be wide enough for.
    margin_px = reach_px if min(height, width) <= reach_px else 0
    lightness = functional.pad(lightness, (margin_px,) * 4, mode="replicate")
    drawn = _canny(lightness) if style == "canny" else _xdog(lightness, sigma)
    return drawn[..., margin_px : margin_px + height, margin_px : margin_px + width]


def _canny(lightness: torch.Tensor) -> torch.Tensor:
    """Draw edges of lightness (B, 1, H, W) in [0, 1], black on white."""
    edges: torch.Tensor = kornia.filters.canny(lightness, _CANNY_LOW, _CANNY_HIGH)[1]
    return 1 - edges


def _xdog(lightness: torch.Tensor, sigma: float) -> torch.Tensor:
    """Draw the dark sides of edges of lightness (B, 1, H, W) in [0, 1]; `sigma` in pixels."""
    # 1. D = G(sigma) - G(k sigma); S = 1 + p D
    sharp = 1 + _SHARPNESS * (_blur(lightness, sigma) - _blur(lightness, _SIGMA_RATIO * sigma))
    # 2. T = 1 above 1 - epsilon, below it 1 + tanh(phi (S - 1 + epsilon))
    return (1 + torch.tanh(_STEEPNESS * (sharp - 1 + _TOLERANCE).clamp(max=0))).clamp(0, 1)


def fit_sketch(sketch: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize drawings; where they shrink, lines stay as dark as they were.

    Averaged alone, fine lines fade into a gray that no sketch encoder knows: it then takes the paper for empty.

    | symbol | variable |
    | --- | --- |
    | d: the darkest ink nearby, before | `darkest` |
    | m, M: averaged ink, and the most of it nearby | `ink`, `most` |
    | z: how much smaller the drawing gets; a line 1 px wide averages to d / z, a speck to d / z^2 | `scale` |
    | d s(m / max(M, d / 2z)) with s(x) = 3x^2 - 2x^3 | what is returned, as ink |

    Args:
        sketch: (B, 1, H, W), [0, 1], black lines on white.
        size: (height, width) in pixels.

    Returns:
        (B, 1, height, width), [0, 1], on the device of `sketch`.

    Raises:
        ShapeError: `sketch` has another shape.

    Source: ours.
    """
    check_shape(sketch, "B 1 H W", "sketch")
    fitted = resize_image(sketch, size)
    if sketch.shape[-2] <= size[0] and sketch.shape[-1] <= size[1]:
        return fitted
    ink = 1 - fitted
    darkest, most = (
        functional.max_pool2d(part, 2 * _NEARBY_CELLS + 1, stride=1, padding=_NEARBY_CELLS)
        for part in (functional.adaptive_max_pool2d(1 - sketch, size), ink)
    )
    # The smooth step takes away the gray that averaging laid around lines.
    scale = max(before / after for before, after in zip(sketch.shape[-2:], size, strict=True))
    least = (_LINE_SHARE / scale * darkest).clamp(min=1e-6)
    share = (ink / torch.maximum(most, least)).clamp(0, 1)
    return 1 - darkest * share * share * (3 - 2 * share)


def invert_sketch(sketch: Any) -> np.ndarray:
    """Turn white lines on black into black lines on white; (H, W) float32 in [0, 1].

    Args:
        sketch: path, PIL image or array.

    Raises:
        ImageError: the drawing cannot be used.
    """
    return 1 - load_gray(sketch, "sketch")[0, 0].numpy()


def is_inverted(sketch: np.ndarray) -> bool:
    """Return whether a drawing (H, W) in [0, 1] looks like white lines on black: most of its paper is dark."""
    return bool(np.median(sketch) < 0.5)


def is_photograph(sketch: np.ndarray) -> bool:
    """Return whether a drawing (H, W) in [0, 1] looks like a photograph: most of it is neither ink nor paper.

    Of drawings at most a seventh is gray; of 400 photographs more than half was in 88 of 100. Ours.
    """
    return not is_blank(sketch) and bool(((sketch > _INK) & (sketch < _PAPER)).mean() > 0.5)


def is_blank(sketch: np.ndarray) -> bool:
    """Return whether a drawing (H, W) in [0, 1] has no lines at all."""
    return bool(sketch.max() - sketch.min() < _MIN_CONTRAST)


def _reach_px(sigma: float) -> int:
    """Return how far a blur looks."""
    return int(np.ceil(3 * sigma))


def _blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, H, W) by a Gaussian, mirrored at the border."""
    size = 2 * _reach_px(sigma) + 1
    blurred: torch.Tensor = kornia.filters.gaussian_blur2d(image, (size, size), (sigma, sigma), border_type="reflect")
    return blurred
