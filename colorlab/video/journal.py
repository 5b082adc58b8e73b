"""Journal of a video: a folder of its finished frames, so that an interrupted video goes on where it stood."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from colorlab.atomic import PART_SUFFIX, atomic_file
from colorlab.errors import ImageError, StateError

__all__ = ["FrameFacts", "VideoJournal", "count_frames"]

_PLAN = "plan.json"
_FACTS = "colorlab"
_FRAME_NAME = re.compile(r"\d{8}\.png")


@dataclass(frozen=True)
class FrameFacts:
    """What is remembered of a finished frame beside its picture.

    Args:
        starts_shot: whether it was colored anew.
        known: share of its pixels whose color came from the frame before, [0, 1].
    """

    starts_shot: bool
    known: float


class VideoJournal:
    """A folder with one PNG for each finished frame, written as a whole or not at all.

    Args:
        folder: made if it does not exist.
        plan: what the frames are made from and how, as plain values; one that differs from the folder's is refused.

    Raises:
        StateError: the folder holds the frames of something else.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, plan: dict[str, object]) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        text = json.dumps(plan, indent=2, sort_keys=True)
        kept = folder / _PLAN
        if not kept.exists():
            if any(path.suffix != PART_SUFFIX for path in folder.iterdir()):
                raise StateError(f"{folder} is in the way: it holds other files; move it, or name another output.")
            with atomic_file(kept) as file:
                file.write(text.encode())
        elif kept.read_text(encoding="utf-8") != text:
            raise StateError(
                f"{folder} holds finished frames of another video, model or settings; remove that folder to begin "
                "anew, or name another output."
            )

    def __len__(self) -> int:
        """Return how many frames are finished."""
        return count_frames(self.folder)

    def write(self, index: int, image: np.ndarray, facts: FrameFacts) -> None:
        """Keep a finished frame (H, W, 3) uint8."""
        notes = PngImagePlugin.PngInfo()
        notes.add_text(_FACTS, json.dumps(facts.__dict__))
        with atomic_file(_frame_path(self.folder, index)) as file:
            Image.fromarray(image).save(file, format="PNG", pnginfo=notes)

    def read(self, index: int) -> tuple[np.ndarray, FrameFacts]:
        """Return a finished frame (H, W, 3) uint8 and what is remembered of it.

        Raises:
            ImageError: it is damaged.
        """
        path = _frame_path(self.folder, index)
        try:
            with Image.open(path) as image:
                image.load()
                return np.asarray(image), FrameFacts(**json.loads(image.info[_FACTS]))
        except (OSError, SyntaxError, ValueError, KeyError, TypeError) as error:
            raise ImageError(f"The finished frame {path} is damaged ({error}); remove it, and start again.") from error

    def images(self) -> Iterator[np.ndarray]:
        """Yield all finished frames in order, one at a time."""
        return (self.read(index)[0] for index in range(len(self)))

    def remove(self) -> None:
        """Remove the folder, and nothing in it that is not the journal's own."""
        for path in self.folder.iterdir():
            if path.name == _PLAN or path.suffix == PART_SUFFIX or _FRAME_NAME.fullmatch(path.name):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def count_frames(folder: Path) -> int:
    """Return how many finished frames a folder holds, from the first one on without a gap."""
    number = 0
    while _frame_path(folder, number).exists():
        number += 1
    return number


def _frame_path(folder: Path, index: int) -> Path:
    """Return where a frame is kept."""
    return folder / f"{index:08d}.png"
