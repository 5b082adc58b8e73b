"""Pictures as bytes: PNG without a figure, maps as colors, small copies. No pyplot, so that any thread may draw."""

import io

import matplotlib
import numpy as np
from PIL import Image, ImageOps

from colorlab.conditioning import Conditioning
from colorlab.errors import ImageError

__all__ = ["as_colors", "as_shown", "encode_png", "open_upload", "small"]


def encode_png(picture: np.ndarray) -> bytes:
    """Encode (H, W, 3) or (H, W, 4) uint8 as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def as_colors(values: np.ndarray, limits: tuple[float, float] | None = None, colors: str = "magma") -> np.ndarray:
    """Turn a map (h, w) into colors (h, w, 3) uint8.

    Args:
        values: of any unit; NaN becomes gray.
        limits: values at the two ends of the scale; the smallest and the largest by default.
        colors: name of the scale.
    """
    finite = np.isfinite(values)
    low, high = limits or ((float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 1.0))
    scaled = np.clip((np.where(finite, values, low) - low) / (high - low or 1.0), 0, 1)
    rgb = np.round(matplotlib.colormaps[colors](scaled)[..., :3] * 255).astype(np.uint8)
    rgb[~finite] = 128
    return rgb


def as_shown(conditioning: Conditioning) -> np.ndarray:
    """Return the picture to color as (H, W, 3) uint8; a white one where there is none."""
    source = next(
        (part for part in (conditioning.gray, conditioning.base_image, conditioning.sketch) if part is not None), None
    )
    if source is None:
        return np.full((128, 128, 3), 255, dtype=np.uint8)
    rgb = source if source.ndim == 3 else np.repeat(source[..., None], 3, axis=-1)
    return np.round(rgb * 255).astype(np.uint8)


def small(picture: np.ndarray, height_px: int) -> np.ndarray:
    """Return a copy (height_px, w, 3) uint8 of a picture, at most as large as the picture itself."""
    height, width = picture.shape[:2]
    if height <= height_px:
        return picture
    return np.asarray(
        Image.fromarray(picture).resize((max(1, round(width * height_px / height)), height_px), Image.Resampling.BOX)
    )


def open_upload(content: bytes) -> np.ndarray:
    """Decode the bytes of an uploaded file to (H, W, 3) uint8, turned as its camera says.

    Raises:
        ImageError: they are no picture.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"The file is no picture that can be read ({error}); give a PNG, JPEG or WebP.") from error
