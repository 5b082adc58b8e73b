"""FramePace: how often a run may stop to show where it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["FramePace"]


class FramePace:
    """Frames come at an interval, and more seldom where showing one takes long: sampling has most of the time.

    Args:
        interval_s: from the end of one frame to the next, at least.
        share: of the time that frames may take, (0, 1].
    """

    def __init__(self, *, interval_s: float = 0.2, share: float = 0.1) -> None:
        self._interval_s = interval_s
        self._share = share
        self._next_s = time.monotonic() + interval_s

    @property
    def is_due(self) -> bool:
        """Whether it is time for a frame."""
        return time.monotonic() >= self._next_s

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Take note of how long a frame takes."""
        began_s = time.monotonic()
        yield
        ended_s = time.monotonic()
        self._next_s = ended_s + max(self._interval_s, (ended_s - began_s) * (1 / self._share - 1))
