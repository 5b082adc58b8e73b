"""Masks from clicks with nothing but the picture's own edges: offline, for whoever has no weights of SAM."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.segmentation.base import Target

__all__ = ["RegionSegmenter"]

_SCALES_PX = 128


class RegionSegmenter:
    """Find objects by clicks: the superpixel of the gray picture under the click, its holes filled.

    It ends where the lightness changes, so that it takes a plain object whole and of a textured one a part.

    Args:
        scale: of the superpixels at 128 px; larger ones are larger. Ours, chosen among 10 to 4000 on scenes.
        smallest_px: pixels of the smallest superpixel at 128 px.

    Source: superpixels of Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", 2004.
    """

    def __init__(self, *, scale: float = 400.0, smallest_px: int = 40) -> None:
        self.scale, self.smallest_px = scale, smallest_px

    def segment(self, conditioning: Conditioning, targets: Sequence[Target]) -> list[np.ndarray]:
        """Find objects by the pixels where they were clicked; see `Segmenter`.

        Raises:
            RangeError: an object was not clicked.
        """
        for target in targets:
            if target.pixel is None:
                raise RangeError(f"Regions are found by clicks, but {target.name!r} has none; pass pixels={{...}}.")
        gray = np.asarray(conditioning.gray)
        factor = max(gray.shape) / _SCALES_PX
        labels = felzenszwalb(
            gray, scale=self.scale * factor, sigma=0.5 * factor, min_size=round(self.smallest_px * factor**2)
        )
        clicked = [labels[int(y), int(x)] for x, y in (target.pixel for target in targets)]  # type: ignore[misc]
        return [ndimage.binary_fill_holes(labels == label) for label in clicked]
