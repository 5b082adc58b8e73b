"""8-bit pictures as OpenCV computes them: what released code does before and after its networks.

For runs that follow a released code (`as_published`) and for comparisons with it; everything else works on floats.
Equal to OpenCV but for single levels at rounding boundaries.
"""

import kornia.color
import numpy as np
import torch

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError, ShapeError

__all__ = ["lab8_to_rgb8", "resize8_area", "resize8_lanczos4", "rgb8_to_lab8", "to_truncated8"]

_LANCZOS_RADIUS = 4
_WHITE_X, _WHITE_Z = 0.95047, 1.08883


def rgb8_to_lab8(picture: np.ndarray) -> np.ndarray:
    """Convert sRGB to CIELAB in 8 bits: L 255 / 100, a + 128, b + 128, each rounded.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ShapeError: `picture` is not (H, W, 3) uint8.
    """
    lab = rgb_to_lab(_to_tensor(picture, 255.0))[0].permute(1, 2, 0).numpy()
    return _round8(lab * [255.0 / 100.0, 1.0, 1.0] + [0.0, 128.0, 128.0])


def lab8_to_rgb8(lab8: np.ndarray) -> np.ndarray:
    """Invert `rgb8_to_lab8`; colors outside sRGB are cut channel by channel, which moves their lightness.

    Args:
        lab8: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ShapeError: `lab8` is not (H, W, 3) uint8.
    """
    lightness, a, b = (_to_tensor(lab8, 1.0) - torch.tensor([0.0, 128.0, 128.0])[:, None, None]).unbind(1)
    y = (lightness * 100.0 / 255.0 + 16.0) / 116.0
    # Not kornia's inverse, which cuts a negative f(z) to 0 where OpenCV goes on along the line.
    xyz = [white * _inverse_lab(f) for white, f in ((_WHITE_X, y + a / 500.0), (1.0, y), (_WHITE_Z, y - b / 200.0))]
    linear = kornia.color.xyz_to_rgb(torch.stack(xyz, dim=1)).clamp(0.0, 1.0)
    return _round8(kornia.color.linear_rgb_to_rgb(linear)[0].permute(1, 2, 0).numpy() * 255.0)


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
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(taps, 0, old - 1)), kernel)
    return weights


def _inverse_lab(value: torch.Tensor) -> torch.Tensor:
    """Invert the compressive function of CIELAB, the line below its threshold continued to any value."""
    return torch.where(value > 0.2068966, value**3, (value - 4.0 / 29.0) / 7.787)


def _to_tensor(picture: np.ndarray, white: float) -> torch.Tensor:
    """Return (1, 3, H, W) float64."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ShapeError(f"picture is {picture.dtype} {picture.shape}, expected uint8 (H, W, 3).")
    return torch.from_numpy(picture.astype(np.float64) / white).permute(2, 0, 1)[None]


def _round8(values: np.ndarray) -> np.ndarray:
    """Round to the nearest level, halves to even, and cut to 0 to 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
