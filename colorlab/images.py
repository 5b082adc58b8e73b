"""Pictures in and out: reading any file or array, working sizes, and the finish that keeps the input's lightness."""

import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError

from colorlab.color import fit_chroma_to_gamut, gray_to_lightness, image_to_gray, lab_to_rgb, rgb_to_lab
from colorlab.errors import ImageError
from colorlab.shapes import check_range, check_shape

__all__ = [
    "MAX_PIXELS",
    "finish_keep_lightness",
    "load_gray",
    "load_image",
    "resize_image",
    "to_uint8",
    "upsample_chroma",
    "working_size",
]

MAX_PIXELS = 50_000_000
"""Largest picture that is taken in: 50 megapixels, about 600 MB as float32."""

_MAX_ASPECT = 4.0
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
# Rows finished at a time, by their number of pixels: bounds the memory of the temporaries to about 20 MB.
_STRIP_PIXELS = 250_000
# Guided upsampling, chosen on scikit-image's photographs (RMS error of chroma 0.85 to 0.88 of bilinear at 2x to 8x;
# chroma that crosses a strong lightness edge: 3 % where bilinear has 44 %). All ours, lightness in [0, 1].
_GUIDE_RADIUS_CELLS = 1
_GUIDE_EPS = 0.02**2
_GUIDE_EDGE = 0.1**2


def load_image(source: Any, name: str = "image") -> torch.Tensor:
    """Load a color picture from a file, a PIL image or an array.

    Orientation from EXIF is applied; alpha is composited on white; gray, palette, CMYK and 16-bit pictures are
    converted to sRGB.

    Args:
        source: path, PIL image, or array (H, W[, 1 | 3 | 4]) of uint8, uint16, bool, or float in [0, 1].
        name: how the picture is called in the message.

    Returns:
        (1, 3, H, W) float32, sRGB, [0, 1].

    Raises:
        ImageError: the picture is missing, unreadable, empty, larger than `MAX_PIXELS`, not finite, or of another
            shape, type or range.
    """
    array = _to_array(source, name)
    return torch.from_numpy(array).permute(2, 0, 1)[None].expand(1, 3, -1, -1).contiguous()


def load_gray(source: Any, name: str = "gray") -> torch.Tensor:
    """Load a picture as gray; a color picture becomes the gray of the same CIELAB lightness.

    Args:
        source: as for `load_image`.
        name: how the picture is called in the message.

    Returns:
        (1, 1, H, W) float32, sRGB gray, [0, 1]; gray pictures keep their values.

    Raises:
        ImageError: as for `load_image`.
    """
    tensor = torch.from_numpy(_to_array(source, name)).permute(2, 0, 1)[None]
    return (image_to_gray(tensor) if tensor.shape[1] == 3 else tensor).contiguous()


def working_size(height: int, width: int, base_px: int, multiple_px: int) -> tuple[int, int]:
    """Choose the size at which a model works on a picture.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        base_px: side of a square picture at working size.
        multiple_px: both sides are multiples of it.

    Returns:
        (height, width) in pixels, area about `base_px` squared, aspect of the picture as far as multiples allow;
        pictures longer than 4:1 are squeezed to 4:1.

    Raises:
        RangeError: a size is not positive.
    """
    for value, label in ((height, "height"), (width, "width"), (base_px, "base_px"), (multiple_px, "multiple_px")):
        check_range(value, 1, math.inf, label)
    aspect = min(max(height / width, 1 / _MAX_ASPECT), _MAX_ASPECT)
    sides = (base_px * math.sqrt(aspect), base_px / math.sqrt(aspect))
    rounded = [max(1, round(side / multiple_px)) * multiple_px for side in sides]
    return rounded[0], rounded[1]


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize with antialiasing (bilinear; a triangle filter when it shrinks).

    Args:
        image: (B, C, H, W) float, any range.
        size: (height, width) in pixels.

    Returns:
        (B, C, height, width), dtype and device of `image`, no value outside the range of `image`.

    Raises:
        ShapeError: `image` does not have four axes.
        RangeError: a size is not positive.
    """
    check_shape(image, "B C H W", "image")
    check_range(size, 1, math.inf, "size")
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)


def finish_keep_lightness(decoded: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Give the picture of the input's size: its lightness, and the chroma of the decoded picture.

    The chroma is upsampled along the edges of the full-size lightness and scaled into the gamut pixel by pixel, so
    that after rounding to 8 bits the lightness differs from the input's by less than 0.5 at every pixel.

    Args:
        decoded: (1, 3, h, w) float, sRGB, [0, 1]; what the model decoded, at any size.
        gray: (1, 1, H, W) float, sRGB gray, [0, 1]; the input.

    Returns:
        (1, 3, H, W) float32 on the device of `gray`, sRGB, [0, 1].

    Raises:
        ShapeError: the two do not have these shapes.
        RangeError: `gray` is outside [0, 1].
    """
    check_shape(decoded, "1 3 h w", "decoded")
    check_shape(gray, "1 1 H W", "gray")
    check_range(gray, 0.0, 1.0, "gray")
    lightness = gray_to_lightness(gray.float())
    ab = rgb_to_lab(decoded.detach().float().to(gray.device))[:, 1:]
    finished = lightness.new_empty(1, 3, *lightness.shape[-2:])
    for rows, ab_rows in _chroma_strips(ab, lightness):
        level = lightness[:, :, rows]
        finished[:, :, rows] = lab_to_rgb(torch.cat([level, fit_chroma_to_gamut(level, ab_rows)], dim=1))
    return finished


def upsample_chroma(ab: torch.Tensor, lightness: torch.Tensor) -> torch.Tensor:
    """Bring chroma to the size of a lightness, following the edges of the lightness.

    Args:
        ab: (1, 2, h, w) float, CIELAB chroma.
        lightness: (1, 1, H, W) float, L [0, 100].

    Returns:
        (1, 2, H, W), dtype and device of `ab`; `ab` itself where the sizes agree. No value leaves the range of the
        cells around it.

    Raises:
        ShapeError: the two do not have these shapes.

    Source: the coefficients are upsampled as in the fast guided filter, arXiv 1505.00996 v1, Algorithm 2.
    Deviation: windows are weighted by their contrast, so that flat ones do not pull color over an edge; what the
        local line does not explain is added back bilinearly, so that equal sizes give the identity; the result is
        held within the neighbouring cells. kornia's `guided_blur` needs the input at full size.
    """
    check_shape(ab, "1 2 h w", "ab")
    check_shape(lightness, "1 1 H W", "lightness")
    return torch.cat([rows for _, rows in _chroma_strips(ab, lightness)], dim=2)


def to_uint8(image: torch.Tensor) -> np.ndarray:
    """Round a picture to 8 bits.

    Args:
        image: (1, 3, H, W) float, sRGB, [0, 1].

    Returns:
        (H, W, 3) uint8 array.

    Raises:
        ShapeError: `image` is not one color picture.
        RangeError: `image` is outside [0, 1] or holds NaN.
    """
    check_shape(image, "1 3 H W", "image")
    check_range(image, 0.0, 1.0, "image")
    rounded = image[0].detach().float().mul(255.0).round_().to(torch.uint8)
    return rounded.permute(1, 2, 0).cpu().contiguous().numpy()


def _chroma_strips(ab: torch.Tensor, lightness: torch.Tensor) -> Any:
    """Yield (slice of rows, chroma of these rows) from the top; `ab` (1, 2, h, w), `lightness` (1, 1, H, W)."""
    height, width = lightness.shape[-2:]
    # Along a side where the decoded picture is the larger one there is nothing to guide: shrink it first.
    ab = resize_image(ab, (min(ab.shape[-2], height), min(ab.shape[-1], width)))
    cells = _line_coefficients(ab, resize_image(lightness / 100.0, (ab.shape[-2], ab.shape[-1])))
    num_rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, num_rows):
        rows = slice(top, min(top + num_rows, height))
        slope, offset, low, high = _upsample_rows(cells, rows, height, width).split(2, dim=1)
        wanted = torch.addcmul(offset, slope, lightness[:, :, rows].to(ab.dtype) / 100.0)
        yield rows, torch.minimum(torch.maximum(wanted, low), high)


def _line_coefficients(ab: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
    """Fit ab = slope * guide + offset around each cell: (1, 8, h, w) of slope, offset, lowest and highest ab."""
    radius = _GUIDE_RADIUS_CELLS

    def mean(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)

    mean_guide, mean_ab = mean(guide), mean(ab)
    variance = (mean(guide * guide) - mean_guide**2).clamp(min=0.0)
    slope = (mean(guide * ab) - mean_guide * mean_ab) / (variance + _GUIDE_EPS)
    offset = mean_ab - slope * mean_guide
    weight = variance + _GUIDE_EDGE
    slope, offset = mean(weight * slope) / mean(weight), mean(weight * offset) / mean(weight)
    offset = offset + (ab - (slope * guide + offset))
    highest = F.max_pool2d(ab, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-ab, 3, stride=1, padding=1)
    return torch.cat([slope, offset, lowest, highest], dim=1)


def _upsample_rows(cells: torch.Tensor, rows: slice, height: int, width: int) -> torch.Tensor:
    """Upsample (1, C, h, w) bilinearly to (height, width), but only these rows of it."""
    num_cells = cells.shape[-2]
    place = (torch.arange(rows.start, rows.stop, device=cells.device, dtype=torch.float64) + 0.5) * num_cells / height
    place = (place - 0.5).clamp(0, num_cells - 1)
    above = place.floor().long()
    below = (above + 1).clamp(max=num_cells - 1)
    share = (place - above).to(cells.dtype)[:, None]
    strip = torch.lerp(cells[:, :, above], cells[:, :, below], share)
    return F.interpolate(strip, size=(strip.shape[-2], width), mode="bilinear", align_corners=False)


def _to_array(source: Any, name: str) -> np.ndarray:
    """Read any accepted source into a (H, W, 1 | 3) float32 array in [0, 1]."""
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source), name)
    if isinstance(source, Image.Image):
        return _pil_to_array(source, name)
    if isinstance(source, np.ndarray):
        return _check_array(source, name)
    raise ImageError(
        f"{name} is a {type(source).__name__}, but a path, a PIL image or an array (H, W[, 3]) of uint8 or of float "
        f"in [0, 1] is expected."
    )


def _read_file(path: Path, name: str) -> np.ndarray:
    """Read one picture file."""
    # Not `path.exists`, which fails for names that no file can have.
    if not os.path.exists(path):
        raise ImageError(f"There is no file {str(path)!r} for {name}; check the path.")
    if path.is_dir():
        raise ImageError(f"{str(path)!r} is a folder, but a picture file is expected for {name}.")
    try:
        with warnings.catch_warnings():
            # Our own limit speaks for Pillow's, in _check_size.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path)
        with opened as image:
            return _pil_to_array(image, f"{name} ({str(path)!r})")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{str(path)!r} is not a picture that can be read; give a PNG or JPEG file for {name}."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{str(path)!r} has far more than {MAX_PIXELS:,} pixels; resize it for {name}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{str(path)!r} cannot be read ({error}); give an undamaged file for {name}.") from error


def _pil_to_array(image: Image.Image, name: str) -> np.ndarray:
    """Convert a PIL image of any mode, orientation applied, alpha on white."""
    _check_size(image.height, image.width, name)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        # First: Pillow's conversion of a deep picture with a transparent value makes everything white.
        if image.mode.startswith("I") or image.mode == "F":
            return _check_array(_wide_to_array(image, name), name)
        if image.mode in _ALPHA_MODES or "transparency" in image.info:
            image = image.convert("RGBA")
        elif image.mode in ("1", "L"):
            image = image.convert("L")
        else:
            image = image.convert("RGB")
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{name} cannot be decoded ({error}); it may be truncated or damaged.") from error
    return _check_array(np.asarray(image), name)


def _wide_to_array(image: Image.Image, name: str) -> np.ndarray:
    """Convert a gray PIL image of 16 or 32 bits a pixel to uint16 or float, its transparent value to white."""
    values = np.asarray(image)
    if image.mode == "F":
        return values
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError(
            f"{name} holds integers from {values.min()} to {values.max()}, but 8 or 16 bits without sign are expected."
        )
    return np.where(values == image.info.get("transparency"), 65535, values).astype(np.uint16)


def _check_size(height: int, width: int, name: str) -> None:
    """Refuse empty and absurdly large pictures before they are decoded."""
    if height < 1 or width < 1:
        raise ImageError(f"{name} is empty ({height} x {width} pixels); give a picture with at least one pixel.")
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{name} has {height} x {width} = {height * width:,} pixels, but at most {MAX_PIXELS:,} are taken; "
            f"resize it first."
        )


def _check_array(array: np.ndarray, name: str) -> np.ndarray:
    """Check shape, type and range of an array; return (H, W, 1 | 3) float32 in [0, 1], alpha on white."""
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = " (it looks channels-first: transpose it)" if array.ndim == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{name} is an array of shape {shape}, but (H, W), (H, W, 3) or (H, W, 4) is expected{hint}.")
    _check_size(shape[0], shape[1], name)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype in (np.uint8, np.uint16):
        picture = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    elif array.dtype == bool:
        # Pillow gives bool arrays that hold the byte 255.
        picture = (array.view(np.uint8) != 0).astype(np.float32)
    elif np.issubdtype(array.dtype, np.floating):
        picture = _check_float(array, name)
    else:
        raise ImageError(
            f"{name} is an array of {array.dtype}, but uint8, uint16, bool or float in [0, 1] is expected."
        )
    if picture.shape[2] == 4:
        alpha = picture[:, :, 3:]
        picture = picture[:, :, :3] * alpha + (1.0 - alpha)
    return np.ascontiguousarray(picture)


def _check_float(array: np.ndarray, name: str) -> np.ndarray:
    """Check that a float picture is finite and in [0, 1]; return it as a float32 copy."""
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        num_bad = int((~np.isfinite(array)).sum())
        raise ImageError(f"{name} holds {num_bad} values that are NaN or infinite, but finite values are expected.")
    if low < 0.0 or high > 1.0:
        raise ImageError(
            f"{name} is a float array from {low:g} to {high:g}, but [0, 1] is expected; for values up to 255 "
            f"convert it to uint8."
        )
    return array.astype(np.float32)
