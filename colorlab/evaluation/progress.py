"""How far a measurement is: a bar on a terminal, and lines where the output goes into a file or a pipe."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tqdm

__all__ = ["progress"]

LINE_EVERY_S = 20.0
"""Seconds between two lines of one part. Ours."""


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """Tell how far a part of a measurement is, on stderr.

    Args:
        label: of the part.
        total: of what is done in it.
        unit: what is counted, such as "picture".

    Yields:
        A function that is told how many more are done.
    """
    if sys.stderr.isatty():
        with tqdm.tqdm(total=total, desc=label, unit=unit, leave=False) as bar:
            yield bar.update
        return
    done, told = 0, time.monotonic()

    def update(number: int) -> None:
        nonlocal done, told
        done += number
        now = time.monotonic()
        if now - told >= LINE_EVERY_S:
            told = now
            _say(f"{label}: {done} of {total} {unit}s")

    if total:
        _say(f"{label}: {total} {unit}s")
    yield update


def _say(line: str) -> None:
    """Write a line at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
