"""Finished pictures by step, the ones used last, within a byte budget."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from colorlab.errors import RangeError
from colorlab.networks.environment import Environment

__all__ = ["Decoded", "PictureShelf"]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded picture.

    Args:
        image: (H, W, 3) uint8, made read-only.
        environment: in which it was decoded.
    """

    image: np.ndarray
    environment: Environment

    def __post_init__(self) -> None:
        self.image.setflags(write=False)


class PictureShelf:
    """Keeps what was decoded, so that looking twice decodes once. Not locked; the owner holds its lock.

    Args:
        max_bytes: budget; the picture asked for last stays even if it alone is larger.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        if max_bytes < 0:
            raise RangeError(f"max_bytes is {max_bytes}, but at least 0 is expected.")
        self.max_bytes = max_bytes
        self._pictures: OrderedDict[int, Decoded] = OrderedDict()

    def get(self, step: int, decode: Callable[[], Decoded]) -> Decoded:
        """Return the picture of a step, decoding it only if it is not there."""
        if step not in self._pictures:
            self._pictures[step] = decode()
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
        return sum(picture.image.nbytes for picture in tuple(self._pictures.values()))
