"""Colors of the brush: their text form, what a lightness allows, and the colors of a picture."""

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageColor

from colorlab.color import fit_chroma_to_gamut, gray_to_lightness, image_to_gray, lab_to_rgb, rgb_to_lab
from colorlab.errors import RangeError
from colorlab.images import to_uint8

__all__ = [
    "WHEEL_CHROMA",
    "allowed_color",
    "chroma_of",
    "color_to_hex",
    "main_colors",
    "picture_lightness",
    "text_to_color",
    "wheel_picture",
]

Color = tuple[int, int, int]

WHEEL_CHROMA = 136.0
"""CIELAB chroma at the rim of the wheel: every color of sRGB lies inside (blue has the most, 133.8)."""


def text_to_color(text: str) -> Color:
    """Read a color as a browser writes it: "#c82828", "#c22", "red", "rgb(200, 40, 40)".

    Returns:
        (red, green, blue), sRGB, 0 to 255.

    Raises:
        RangeError: the text is no color.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except (AttributeError, ValueError) as error:
        raise RangeError(f"{text!r} is no color; write one such as '#c82828' or 'red'.") from error
    return red, green, blue


def color_to_hex(color: Color) -> str:
    """Write a color as "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def picture_lightness(picture: np.ndarray) -> np.ndarray:
    """Return the CIELAB lightness of a picture.

    Args:
        picture: (H, W, 3) uint8, sRGB.

    Returns:
        (H, W) float32, L [0, 100].
    """
    image = torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
    lightness: np.ndarray = gray_to_lightness(image_to_gray(image))[0, 0].numpy()
    return lightness


def chroma_of(color: Color) -> tuple[float, float]:
    """Return CIELAB (a, b) of a color."""
    _, a, b = rgb_to_lab(_color_image(color)).flatten().tolist()
    return a, b


def allowed_color(lightness: float, ab: tuple[float, float]) -> Color:
    """Return the color of this lightness and hue whose chroma comes nearest to the wanted one inside sRGB.

    Args:
        lightness: L [0, 100].
        ab: wanted CIELAB (a, b).
    """
    level = torch.tensor(float(lightness)).view(1, 1, 1, 1)
    chroma = torch.tensor([float(value) for value in ab]).view(1, 2, 1, 1)
    image = lab_to_rgb(torch.cat([level, fit_chroma_to_gamut(level, chroma)], dim=1))
    red, green, blue = to_uint8(image).reshape(3).tolist()
    return red, green, blue


@lru_cache(maxsize=101)
def wheel_picture(lightness: int, side_px: int) -> np.ndarray:
    """Draw the colors that one lightness allows over the ab plane: a to the right, b up.

    Args:
        lightness: L, 0 to 100.
        side_px: sides of the picture, in pixels; they span twice `WHEEL_CHROMA`.

    Returns:
        (side, side, 4) uint8, sRGB with alpha, read-only: transparent where the color is outside sRGB.
    """
    axis = (torch.arange(side_px) + 0.5) / side_px * 2.0 * WHEEL_CHROMA - WHEEL_CHROMA
    ab = torch.stack(torch.meshgrid(axis, -axis, indexing="xy"))[None]
    level = torch.full_like(ab[:, :1], float(lightness))
    is_inside = (fit_chroma_to_gamut(level, ab) == ab).all(dim=1)[0]
    colors = to_uint8(lab_to_rgb(torch.cat([level, ab], dim=1)))
    wheel = np.dstack([colors, is_inside.numpy().astype(np.uint8) * 255])
    wheel.setflags(write=False)
    return wheel


def main_colors(picture: np.ndarray, num_colors: int = 8) -> tuple[Color, ...]:
    """Return the main colors of a picture, the most frequent first.

    Args:
        picture: (H, W, 3) uint8, sRGB.
        num_colors: at most this many, 1 to 256.

    Returns:
        Colors without repetition; fewer where the picture has fewer.
    """
    reduced = Image.fromarray(picture).quantize(num_colors, method=Image.Quantize.MEDIANCUT)
    palette = reduced.getpalette() or []
    counts = np.bincount(np.asarray(reduced).ravel())
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    found = [(palette[3 * index], palette[3 * index + 1], palette[3 * index + 2]) for index in order]
    return tuple(dict.fromkeys(found))


def _color_image(color: Color) -> torch.Tensor:
    """Return one pixel as (1, 3, 1, 1) float, [0, 1]."""
    return (torch.tensor(color, dtype=torch.float32) / 255.0).view(1, 3, 1, 1)
