"""Colors without lightness, which the gray picture fixes: chroma of pictures, and how far apart two chromas are."""

import numpy as np
import torch

from colorlab.color import delta_e_2000, rgb_to_lab
from colorlab.images import load_image

NEAR = 15.0
"""ΔE 2000 of chroma below which a pixel counts as having a color."""
VISIBLE_CHROMA = 3.0
"""Chroma below which nobody sees a hue. Ours."""

_HUE_BINS = 36
# Any lightness does: CIEDE2000 of two colors of equal lightness does not depend on it.
_LIGHTNESS = 50.0


def picture_ab(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to (H, W, 2) chroma, CIELAB a and b."""
    return rgb_to_lab(load_image(image))[0, 1:].permute(1, 2, 0).numpy()


def color_ab(color: tuple[int, int, int]) -> np.ndarray:
    """Convert one sRGB color, 0 to 255, to (2,) chroma."""
    return picture_ab(np.array([[color]], dtype=np.uint8))[0, 0]


def chroma_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compare chroma, as if both had one lightness.

    Args:
        first: (n, 2) CIELAB a and b.
        second: (n, 2), or (2,) for one color.

    Returns:
        (n,) ΔE 2000.
    """
    labs = []
    for ab in (first, np.broadcast_to(second, first.shape)):
        lab = np.concatenate([np.full((len(ab), 1), _LIGHTNESS), ab], axis=1)
        labs.append(torch.from_numpy(lab).T[None, :, :, None])
    return delta_e_2000(*labs)[0, 0, :, 0].numpy()


def share_near(ab: np.ndarray, color: np.ndarray) -> float:
    """Return the share of (n, 2) chromas within ΔE 15 of one; nan for none at all."""
    return float(np.mean(chroma_difference(ab, color) <= NEAR)) if len(ab) else float("nan")


def hue_histogram(ab: np.ndarray) -> np.ndarray:
    """Count the hues of pixels.

    Args:
        ab: (n, 2) CIELAB a and b.

    Returns:
        (36,) shares that sum to 1, from hue angle 0 in steps of 10 degrees. A pixel without visible chroma has no hue:
        it counts for all of them alike.
    """
    is_colored = np.hypot(*ab.T) >= VISIBLE_CHROMA
    angle = np.degrees(np.arctan2(ab[is_colored, 1], ab[is_colored, 0])) % 360.0
    counts = np.bincount((angle / (360.0 / _HUE_BINS)).astype(int) % _HUE_BINS, minlength=_HUE_BINS)
    return (counts + np.count_nonzero(~is_colored) / _HUE_BINS) / max(1, len(ab))


def hue_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return how far hues have to turn, on average, to make one histogram of another.

    | symbol | variable |
    | --- | --- |
    | F, G: running sums of the two from any bin | `first`, `second`, summed |
    | sum abs(F - G - median(F - G)) | the work, in bins |

    Args:
        first: (bins,) that sum to 1, see `hue_histogram`.
        second: as `first`.

    Returns:
        Degrees, 0 to 180: 0 for equal ones, 90 for one hue against all hues alike.

    Source: Werman, Peleg and Rosenfeld, "A distance metric for multidimensional histograms", 1985: the earth mover's
        distance on a circle.
    """
    gap = np.cumsum(first) - np.cumsum(second)
    return float(np.abs(gap - np.median(gap)).sum() * 360.0 / len(first))
