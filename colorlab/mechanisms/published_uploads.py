"""Uploads as the released CtrlColor demo reads and writes them: 8-bit pictures, painted over, compared, resized.

| step | function |
| --- | --- |
| is the upload gray, and what is its lightness | `is_gray_upload`, `upload_lightness` |
| which pixels were painted | `find_unpainted` |
| what may change, and which colors are given | `read_upload` |
| working size | `working_size_as_published` |
| decoded picture to result | `write_result` |

Its quirks: only red is compared; a gray value counts as lightness; a mask is resized like a picture.

Source: CtrlColor, arXiv 2402.10855; `ZhexinLiang/Control-Color@f21054a`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from colorlab.eight_bit import (
    lab8_to_rgb8,
    resize8_area,
    resize8_lanczos4,
    rgb8_to_lab8,
    to_truncated8,
)
from colorlab.errors import ShapeError

__all__ = [
    "Upload",
    "find_unpainted",
    "is_gray_upload",
    "put_lightness",
    "read_upload",
    "resize_upload",
    "upload_lightness",
    "working_size_as_published",
    "write_result",
]

_MULTIPLE_PX = 64
_LONGEST_PX, _SHORTENED_PX = 800, 768
_GRAY_VARIANCE = 10.0
_OPENING_PX = 3
_RIM_PX = 15


@dataclass(frozen=True, eq=False)
class Upload:
    """What the demo makes of a picture and the same picture painted over; all uint8.

    Args:
        lightness: (H, W, 3) at the picture's size; three different channels for a nearly gray upload.
        unpainted: (H, W), 255 where no stroke was found.
        free: (H, W), 255 where colors are to be made.
        hint: (H, W, 3), the colors given, gray where none is.
        lightness_work: (h, w, 3) at working size.
        free_work: (h, w), with values between 0 and 255 along its edges.
        hint_work: (h, w, 3).
    """

    lightness: np.ndarray
    unpainted: np.ndarray
    free: np.ndarray
    hint: np.ndarray
    lightness_work: np.ndarray
    free_work: np.ndarray
    hint_work: np.ndarray

    @property
    def control(self) -> torch.Tensor:
        """(1, 3, h, w) float32, [0, 1]: what the control network sees."""
        return _to_tensor(self.lightness_work)

    @property
    def given(self) -> torch.Tensor:
        """(1, 3, h, w) float32, [0, 1]: the colors given."""
        return _to_tensor(self.hint_work)

    @property
    def known(self) -> torch.Tensor:
        """(1, 1, h, w) float32, 1 where a color is given."""
        return torch.from_numpy((self.free_work < 127.5).astype(np.float32))[None, None]


def read_upload(picture: np.ndarray, painted: np.ndarray, resolution_px: int, *, edit: str = "off") -> Upload:
    """Find the strokes and prepare what the networks get.

    Args:
        picture: (H, W, 3) uint8, as it was uploaded.
        painted: (H, W, 3) uint8, the same with strokes over it.
        resolution_px: wanted length of the shorter side.
        edit: "off" colors all but the strokes anew; "rim" only a band along the edge of the strokes; "area" only what
            lies under them, in colors of the model's choice.

    Raises:
        ShapeError: the pictures differ in size.
    """
    if painted.shape != picture.shape:
        raise ShapeError(f"painted is {painted.shape}, but that of the picture, {picture.shape}, is expected.")
    lightness = upload_lightness(picture)
    unpainted = find_unpainted(picture, painted)
    is_unpainted = (unpainted == 255)[:, :, None]
    if edit == "rim":
        strokes = 255 - unpainted
        free, hint = _widen(strokes, _RIM_PX) - _narrow(strokes, _RIM_PX), painted
    elif edit == "area":
        free, hint = 255 - unpainted, np.where(is_unpainted, picture, lightness)
    else:
        free, hint = unpainted, np.where(is_unpainted, lightness, painted)
    work = [resize_upload(part, resolution_px) for part in (lightness, free, hint)]
    return Upload(lightness, unpainted, free, hint, *work)


def find_unpainted(picture: np.ndarray, painted: np.ndarray) -> np.ndarray:
    """Return (H, W) uint8, 255 where the red of two pictures agrees, opened: gaps in strokes of 2 px are closed."""
    unpainted = np.where(picture[:, :, 0] == painted[:, :, 0], 255, 0).astype(np.uint8)
    return _widen(_narrow(unpainted, _OPENING_PX), _OPENING_PX)


def is_gray_upload(picture: np.ndarray) -> bool:
    """Return whether an upload counts as gray: its channels differ by a nearly constant amount, be it large."""
    red, green, blue = (picture[:, :, channel].astype(np.float64) for channel in range(3))
    return float(np.mean([(one - other).var() for one, other in ((red, green), (green, blue), (red, blue))])) <= (
        _GRAY_VARIANCE
    )


def upload_lightness(picture: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8: 8-bit lightness of a color upload; of a gray one the picture itself."""
    if is_gray_upload(picture):
        return picture
    return np.repeat(rgb8_to_lab8(picture)[:, :, :1], 3, axis=2)


def working_size_as_published(height: int, width: int, resolution_px: int) -> tuple[int, int]:
    """Return the working (height, width): multiples of 64, the shorter side near the resolution, a long one 768.

    Deviation: a side is at least 64; the released code fails at resolutions below 33.
    """
    scale = resolution_px / min(height, width)
    sides = [max(1, round(side * scale / _MULTIPLE_PX)) * _MULTIPLE_PX for side in (height, width)]
    rows, columns = (_SHORTENED_PX if side >= _LONGEST_PX else side for side in sides)
    return rows, columns


def resize_upload(picture: np.ndarray, resolution_px: int) -> np.ndarray:
    """Bring a picture or a mask to working size: Lanczos where the resolution is above the shorter side, else area."""
    height, width = picture.shape[:2]
    resize = resize8_lanczos4 if resolution_px > min(height, width) else resize8_area
    return resize(picture, working_size_as_published(height, width, resolution_px))


def write_result(decoded: torch.Tensor, lightness: np.ndarray) -> np.ndarray:
    """Finish a decoded picture: cut to 8 bits, resize, put the upload's lightness in, all in 8 bits.

    Args:
        decoded: (1, 3, h, w) float, [0, 1].
        lightness: (H, W, 3) uint8, `Upload.lightness`; its first channel counts.

    Returns:
        (H, W, 3) uint8. Colors outside the gamut are cut, so that their lightness is not the upload's.
    """
    return put_lightness(resize8_lanczos4(to_truncated8(decoded), lightness.shape[:2]), lightness)


def put_lightness(picture: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """Give a picture (H, W, 3) uint8 the lightness of an upload, through 8-bit CIELAB."""
    lab8 = rgb8_to_lab8(picture)
    return lab8_to_rgb8(np.concatenate([lightness[:, :, :1], lab8[:, :, 1:]], axis=2))


def _widen(mask: np.ndarray, size_px: int) -> np.ndarray:
    """Return the largest value of a mask within a square window; outside of the picture there is nothing."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return functional.max_pool2d(values, size_px, stride=1, padding=size_px // 2)[0, 0].numpy().astype(np.uint8)


def _narrow(mask: np.ndarray, size_px: int) -> np.ndarray:
    """Return the smallest value of a mask within a square window."""
    return 255 - _widen(255 - mask, size_px)


def _to_tensor(picture: np.ndarray) -> torch.Tensor:
    """Return (1, 3, h, w) float32, [0, 1]."""
    return torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)[None].contiguous()
