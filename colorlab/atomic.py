"""Files that are written as a whole or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

__all__ = ["PART_SUFFIX", "atomic_file", "part_path"]

PART_SUFFIX = ".part"
"""Ending of a file that is being written; one that stays behind belongs to a process that was killed."""


def part_path(path: Path) -> Path:
    """Return a name beside `path` for writing it, a new one each time: two processes never write into one file."""
    return path.with_name(f".{path.name[:100]}-{secrets.token_hex(4)}{PART_SUFFIX}")


@contextmanager
def atomic_file(path: Path, *, is_durable: bool = False) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of `path` when the block ends well; otherwise `path` stays as it was.

    Readers and killed writers see the old file or the new one, nothing between.

    Args:
        path: where the file is to be; its folder exists. A link is followed.
        is_durable: whether to wait until the disk has it, so that it outlives a power failure as well.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    part = part_path(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if is_durable and os.name == "posix":
        # The new name is in the folder, which is a file of its own.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
