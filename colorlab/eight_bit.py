"""8-bit pictures as OpenCV computes them: what released code does before and after its networks.

For runs that follow a released code (`as_published`) and for comparisons with it; everything else works on floats.
Equal to OpenCV but for single levels where colors come back from CIELAB.
"""

import numpy as np
import torch

from colorlab.errors import RangeError, ShapeError

__all__ = ["lab8_to_rgb8", "resize8_area", "resize8_lanczos4", "rgb8_to_lab8", "to_truncated8"]

_LANCZOS_RADIUS = 4
# OpenCV's constants.
_WHITE = np.array([0.950456, 1.0, 1.088754])
_RGB_TO_XYZ = np.array([[0.412453, 0.35758, 0.180423], [0.212671, 0.71516, 0.072169], [0.019334, 0.119193, 0.950227]])
_LIGHT_LEVELS = 255 * 8
_L_FACTOR, _L_OFFSET = 296, (16 * 255 * 32768 + 50) // 100


def rgb8_to_lab8(picture: np.ndarray) -> np.ndarray:
    """Convert sRGB to CIELAB in 8 bits, in OpenCV's integers: L 2.55, a + 128, b + 128, up to their rounding.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ShapeError: `picture` is not (H, W, 3) uint8.
    """
    _check_rgb8(picture)
    # 1. Linear light in 255 * 8 levels.
    levels = np.arange(256) / 255.0
    linear = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    light = np.rint(linear * _LIGHT_LEVELS).astype(np.int64)[picture]
    # 2. XYZ over white, weights in 12 bits.
    weights = np.rint(_RGB_TO_XYZ / _WHITE[:, None] * 4096.0).astype(np.int64)
    xyz = (light @ weights.T + 2048) >> 12
    # 3. f(t) in 15 bits.
    ratio = xyz / _LIGHT_LEVELS
    curved = np.where(ratio < 0.008856, 7.787 * ratio + 0.13793103448275862, np.cbrt(ratio))
    x, y, z = np.moveaxis(np.rint(curved * 32768.0).astype(np.int64), -1, 0)
    # 4. L, a and b; the factors of L are integers too.
    lab = (_L_FACTOR * y - _L_OFFSET, 500 * (x - y) + 128 * 32768, 200 * (y - z) + 128 * 32768)
    return np.clip((np.stack(lab, axis=-1) + 16384) >> 15, 0, 255).astype(np.uint8)


def lab8_to_rgb8(lab8: np.ndarray) -> np.ndarray:
    """Invert `rgb8_to_lab8`; colors outside sRGB are cut channel by channel, which moves their lightness.

    Args:
        lab8: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ShapeError: `lab8` is not (H, W, 3) uint8.
    """
    _check_rgb8(lab8)
    lightness, a, b = np.moveaxis(lab8.astype(np.float64) - [0.0, 128.0, 128.0], -1, 0)
    y = (lightness * 100.0 / 255.0 + 16.0) / 116.0
    f = np.stack([y + a / 500.0, y, y - b / 200.0], axis=-1)
    # Not kornia's inverse, which cuts a negative f(z) to 0 where OpenCV goes on along the line.
    xyz = _WHITE * np.where(f > 0.2068966, f**3, (f - 4.0 / 29.0) / 7.787)
    linear = np.clip(xyz @ np.linalg.inv(_RGB_TO_XYZ).T, 0.0, 1.0)
    return _round8(np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255.0)


def to_truncated8(image: torch.Tensor) -> np.ndarray:
    """Turn a decoded picture into 8 bits as the released image writers do: cut off, not rounded.

    Args:
        image: (1, 3, H, W) float, [0, 1]; what lies outside is cut to it.

    Returns:
        (H, W, 3) uint8.
    """
    return (image[0].float().clamp(0, 1) * 255.0).permute(1, 2, 0).to(torch.uint8).cpu().numpy()


def resize8_area(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by averaging over the area of each new pixel (`INTER_AREA`).

    Args:
        picture: (H, W) or (H, W, C) uint8.
        size: (height, width) in pixels. If one side grows, both are interpolated as OpenCV then does.

    Returns:
        uint8 of that size.
    """
    shrinks = size[0] <= picture.shape[0] and size[1] <= picture.shape[1]
    weights = _area_weights if shrinks else _area_weights_growing
    return _resize8(picture, size, weights)


def resize8_lanczos4(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with eight Lanczos taps along each side, without antialiasing (`INTER_LANCZOS4`); as `resize8_area`."""
    return _resize8(picture, size, _lanczos_weights)


def _resize8(picture: np.ndarray, size: tuple[int, int], weights: object) -> np.ndarray:
    """Apply one matrix of weights along each side and round once."""
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
        raise ShapeError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (H, W) or (H, W, C).")
    if min(size) < 1:
        raise RangeError(f"size is {size}, but (height, width) of at least 1 pixel is expected.")
    if picture.shape[:2] == tuple(size):
        return picture.copy()
    rows, columns = (weights(old, new) for old, new in zip(picture.shape, size, strict=False))  # type: ignore[operator]
    resized = np.tensordot(rows, picture.astype(np.float64), axes=(1, 0))
    resized = np.moveaxis(np.tensordot(columns, resized, axes=(1, 1)), 0, 1)
    return _round8(resized)


def _area_weights(old: int, new: int) -> np.ndarray:
    """Return (new, old): the share of each old pixel in each new one."""
    scale = old / new
    edges = np.arange(new + 1) * scale
    low, high = np.maximum(edges[:-1, None], np.arange(old)), np.minimum(edges[1:, None], np.arange(old) + 1)
    return np.clip(high - low, 0.0, None) / scale


def _area_weights_growing(old: int, new: int) -> np.ndarray:
    """Return (new, old): OpenCV's emulation of area weights where a side grows, a kind of bilinear interpolation."""
    scale = old / new
    left = np.floor(np.arange(new) * scale).astype(int)
    share = (np.arange(new) + 1) - (left + 1) / scale
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    weights = np.zeros((new, old))
    for offset, part in ((0, 1.0 - share), (1, share)):
        np.add.at(weights, (np.arange(new), np.clip(left + offset, 0, old - 1)), part)
    return weights


def _lanczos_weights(old: int, new: int) -> np.ndarray:
    """Return (new, old): Lanczos taps of radius 4, normalised, with the edge pixel repeated outside."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(place).astype(int) - (_LANCZOS_RADIUS - 1)
    taps = first[:, None] + np.arange(2 * _LANCZOS_RADIUS)
    distance = place[:, None] - taps
    kernel = np.sinc(distance) * np.sinc(distance / _LANCZOS_RADIUS)
    kernel /= kernel.sum(axis=1, keepdims=True)
    # OpenCV keeps eleven bits of each tap.
    kernel = np.rint(kernel * 2048.0) / 2048.0
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(taps, 0, old - 1)), kernel)
    return weights


def _check_rgb8(picture: np.ndarray) -> None:
    """Raise unless a picture is (H, W, 3) uint8."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ShapeError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (H, W, 3).")


def _round8(values: np.ndarray) -> np.ndarray:
    """Round to the nearest level, halves up, and cut to 0 to 255."""
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)
