"""What the released ColorizeDiffusion interface makes of uploads: sketches placed on paper, exemplars on a canvas."""

from dataclasses import dataclass
from typing import Literal, get_args

import kornia
import numpy as np
import torch
from torch.nn import functional

from colorlab.errors import RangeError, ShapeError

__all__ = ["PlacedSketch", "Preprocessor", "pad_exemplar", "place_sketch"]

Preprocessor = Literal["invert", "none", "invert-webui"]

# Of the preprocessor taken over from the WebUI.
_BLUR_SIGMA, _BLUR_PX = 6.0, 49
_FAINT, _LEAST_MEDIAN, _INK = 8.0, 16.0, 127.0
_WHITE = 255


@dataclass(frozen=True, eq=False)
class PlacedSketch:
    """A sketch on paper of the working size.

    Args:
        picture: (1, 3, H, W), nominally lines 1 on paper -1; cubic overshoots are not clamped.
        area: rows and columns of the sketch on the paper.
    """

    picture: torch.Tensor
    area: tuple[slice, slice]


def place_sketch(sketch: np.ndarray, size: tuple[int, int], *, preprocessor: Preprocessor = "invert") -> PlacedSketch:
    """Prepare an uploaded sketch: preprocess, resize with its aspect kept, and lay it on paper.

    Args:
        sketch: (H, W, 3) uint8.
        size: (height, width) the networks work at.
        preprocessor: `invert` for black lines on white, `none` for white lines on black, `invert-webui` for faint
            lines.

    Returns:
        The paper with the sketch, and where on it the sketch lies.

    Raises:
        ShapeError: `sketch` is of another shape or type.
        RangeError: there is no such preprocessor, or nothing is left of the shorter side of a long sketch.

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb. The paper is -1 with every preprocessor.
    """
    if sketch.dtype != np.uint8 or sketch.ndim != 3 or sketch.shape[2] != 3:
        raise ShapeError(f"sketch is {sketch.dtype} {sketch.shape}, but uint8 (H, W, 3) is expected.")
    if preprocessor not in get_args(Preprocessor):
        raise RangeError(
            f"preprocessor is {preprocessor!r}, but one of {', '.join(get_args(Preprocessor))} is expected."
        )
    pixels = torch.from_numpy(np.array(sketch)).permute(2, 0, 1)[None].float()
    lines = _dark_lines(pixels) / 127.5 - 1 if preprocessor == "invert-webui" else pixels / 127.5 - 1
    if preprocessor == "invert":
        lines = -lines
    height, width = sketch.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    inner = (int(height * ratio), int(width * ratio))
    if min(inner) < 1:
        raise RangeError(
            f"sketch is {height} x {width} pixels, of which less than one is left across on paper of {size[0]} x "
            f"{size[1]}; give a less elongated one."
        )
    lines = functional.interpolate(lines, size=inner, mode="bicubic", antialias=True)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    around = (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top)
    area = (slice(top, top + inner[0]), slice(left, left + inner[1]))
    return PlacedSketch(functional.pad(lines, around, value=-1.0), area)


def pad_exemplar(exemplar: np.ndarray, scale: float) -> np.ndarray:
    """Paste an exemplar in the middle of a white canvas of its height.

    CLIP then sees margins of nothing, which is said to help against shapes of the exemplar in the picture.

    Args:
        exemplar: (H, W, 3) uint8.
        scale: width of the canvas in widths of the exemplar, 1 to 2.

    Returns:
        (H, int(W * scale), 3) uint8.

    Raises:
        RangeError: `scale` is not within 1 to 2.
    """
    if not 1 <= scale <= 2:
        raise RangeError(f"scale is {scale}, but a number from 1 to 2 is expected.")
    height, width = exemplar.shape[:2]
    canvas = np.full((height, int(width * scale), 3), _WHITE, np.uint8)
    left = (canvas.shape[1] - width) // 2
    canvas[:, left : left + width] = exemplar
    return canvas


def _dark_lines(pixels: torch.Tensor) -> torch.Tensor:
    """Find what is darker than its surroundings; (1, 3, H, W) of 0 to 255 to the same, lines bright."""
    surroundings: torch.Tensor = kornia.filters.gaussian_blur2d(
        pixels, (_BLUR_PX, _BLUR_PX), (_BLUR_SIGMA, _BLUR_SIGMA), border_type="reflect"
    )
    ink = (surroundings - pixels).amin(dim=1, keepdim=True).clamp(0, 255)
    clear = ink[ink > _FAINT]
    median = float(np.median(clear.numpy())) if clear.numel() else 0.0
    return (ink / max(_LEAST_MEDIAN, median) * _INK).clamp(0, 255).trunc().repeat(1, 3, 1, 1)
