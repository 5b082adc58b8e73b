"""Where the pictures of `colorlab colorize` go: names, checks before the work, and no half-written files."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from colorlab.atomic import atomic_file
from colorlab.commands.problems import BadUsageError
from colorlab.errors import ColorlabError

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""File endings a result can have, and the format each means."""

_SAVE_OPTIONS: dict[str, dict[str, int | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}


def plan_outputs(inputs: Sequence[Path], out: Path) -> list[Path]:
    """Decide where each result goes.

    Args:
        inputs: pictures to colorize.
        out: a file if there is one input and the name has an ending, else a folder.

    Returns:
        One path for each input. In a folder these are PNG files named after the inputs, numbered where names agree.

    Raises:
        BadUsageError: the names make no sense together.
    """
    if len(inputs) == 1 and out.suffix and not out.is_dir():
        if out.suffix.lower() not in SUFFIXES:
            raise BadUsageError(f"{out} ends in {out.suffix}; expected one of {', '.join(SUFFIXES)}, or a folder.")
        if out.resolve() == inputs[0].resolve():
            raise BadUsageError(f"{out} is input and output at once; name another output.")
        return [out]
    if out.is_file() or (out.suffix.lower() in SUFFIXES and not out.is_dir()):
        raise BadUsageError(f"{out} is one file for {len(inputs)} pictures; name a folder with -o.")
    uses = Counter(path.stem for path in inputs)
    taken = {stem for stem, number in uses.items() if number == 1}
    outputs = []
    for path in inputs:
        name = path.stem
        if uses[name] > 1:
            name = next(free for number in count(1) if (free := f"{path.stem}-{number}") not in taken)
            taken.add(name)
        outputs.append(out / f"{name}.png")
    sources = {path.resolve() for path in inputs}
    for output in outputs:
        if output.resolve() in sources:
            raise BadUsageError(f"{output} is input and output at once; name another folder with -o.")
    return outputs


def check_writable(folder: Path) -> None:
    """Make `folder` and check, before any work, that files can be written there.

    Raises:
        ColorlabError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ColorlabError(f"Nothing can be written in {folder} ({reason}); name another place with -o.") from error


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Make `folder` for the work within, checked as `check_writable` does; what was made and stays empty goes again.

    Raises:
        ColorlabError: nothing can be written there.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(folder)
        yield
    finally:
        for place in missing:
            with suppress(OSError):  # a folder with something in it is not removed
                place.rmdir()


def save_picture(image: np.ndarray, path: Path) -> None:
    """Write a picture (H, W, 3) uint8 so that `path` is either the whole new file or what it was before.

    Raises:
        ColorlabError: it cannot be written.
    """
    kind = SUFFIXES[path.suffix.lower()]
    try:
        with atomic_file(path) as file:
            Image.fromarray(image).save(file, format=kind, **_SAVE_OPTIONS.get(kind, {}))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ColorlabError(f"{path} cannot be written ({reason}); name another place with -o.") from error
