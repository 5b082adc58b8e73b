"""Finished pictures by step, the ones used last, within a byte budget."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from colorlab.errors import RangeError

__all__ = ["PictureShelf"]


class PictureShelf:
    """Keeps what was decoded, so that looking twice decodes once. Not locked; the owner holds its lock.

    Args:
        max_bytes: budget; the picture asked for last stays even if it alone is larger.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        if max_bytes < 0:
            raise RangeError(f"max_bytes is {max_bytes}, but at least 0 is expected.")
        self.max_bytes = max_bytes
        self._pictures: OrderedDict[int, np.ndarray] = OrderedDict()

    def get(self, step: int, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the picture of a step, read-only, decoding it only if it is not there."""
        if step not in self._pictures:
            picture = decode()
            picture.setflags(write=False)
            self._pictures[step] = picture
        self._pictures.move_to_end(step)
        while len(self._pictures) > 1 and self.num_bytes > self.max_bytes:
            self._pictures.popitem(last=False)
        return self._pictures[step]

    def forget_from(self, step: int) -> None:
        """Drop the pictures of this step and all later ones."""
        for later in [key for key in self._pictures if key >= step]:
            del self._pictures[later]

    @property
    def num_bytes(self) -> int:
        """Bytes of all pictures kept."""
        return sum(picture.nbytes for picture in tuple(self._pictures.values()))
