"""A video file in, a colored video file out."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from tqdm.auto import tqdm

from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.images import load_gray
from colorlab.runs.shortcuts import Shortcuts, apply_shortcuts
from colorlab.settings import Settings
from colorlab.video.files import VideoSource, check_target, open_video, write_video
from colorlab.video.journal import FrameFacts, VideoJournal
from colorlab.video.sequence import Carried, Sequence, carry, look_at

__all__ = ["ColoredVideo", "colorize_video", "journal_folder"]


@dataclass(frozen=True)
class ColoredVideo:
    """A finished video.

    Args:
        path: where it is.
        num_frames: its length.
        shots: numbers of the frames that were colored anew: the first one, and those behind cuts.
        known: for each frame the share of its pixels whose color came from the frame before, [0, 1].
    """

    path: Path
    num_frames: int
    shots: tuple[int, ...]
    known: tuple[float, ...]


def colorize_video(
    source: str | Path,
    target: str | Path,
    colorizer: Colorizer,
    conditioning: Conditioning | None = None,
    settings: Settings | None = None,
    *,
    propagate: bool = True,
    progress: bool = True,
    **shortcuts: Unpack[Shortcuts],
) -> ColoredVideo:
    """Color a video file: the first frame by the conditioning, each later one by the colors of the frame before.

    Frames are read, colored and kept one at a time, so that memory does not grow with the length. Every finished frame
    is kept in the folder `TARGET.frames` beside the result until that is complete: the same call after an interrupt
    goes on where it stood, and gives the same file. Sound is not copied.

    Args:
        source: video of any kind that FFmpeg reads; color frames count by their lightness, transparency is laid on
            white.
        target: `.mp4` or `.mov` (H.264), or `.mkv` (FFV1, which loses nothing); replaced if it exists.
        colorizer: a CtrlColor model, or with `propagate=False` any that colors gray pictures.
        conditioning: as for `Sequence`.
        settings: as for `Sequence`.
        propagate: False colors every frame by itself.
        progress: whether to show a bar.
        shortcuts: single fields of conditioning and settings: `prompt="a red car", seed=3`.

    Raises:
        MissingExtraError: PyAV is not installed.
        RangeError: the target is the source or has no ending of a video, or as for `Sequence`.
        ImageError: the source is no video, is damaged, or has no frame.
        ShapeError: its frames differ in size.
        StateError: the folder of finished frames belongs to another video, model or settings.
        ColorlabError: the target cannot be written.

    Example:
        >>> colorlab.colorize_video("in.mp4", "out.mp4", colorizer, prompt="a red car")  # doctest: +SKIP
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    check_target(target, source)
    conditioning, settings = apply_shortcuts(
        conditioning or Conditioning(), settings or colorizer.settings, **shortcuts
    )
    sequence = Sequence(colorizer, (), conditioning, settings, propagate)
    with open_video(source) as video:
        journal = VideoJournal(journal_folder(target), _plan(source, sequence))
        facts = list(_finish_frames(video, sequence, journal, progress=progress))
        write_video(target, journal.images(), video.fps)
    journal.remove()
    shots = tuple(index for index, fact in enumerate(facts) if fact.starts_shot)
    return ColoredVideo(target, len(facts), shots, tuple(fact.known for fact in facts))


def journal_folder(target: Path) -> Path:
    """Return where the finished frames of a video are kept until it is complete."""
    return target.with_name(f"{target.name}.frames")


def _finish_frames(
    video: VideoSource, sequence: Sequence, journal: VideoJournal, *, progress: bool
) -> Iterator[FrameFacts]:
    """Color the frames that are missing in the journal; yield what is known of each frame."""
    num_done = len(journal)
    with tqdm(total=video.num_frames, unit="frame", disable=not progress) as bar:
        # Only the last of the frames that are done is needed again.
        last = deque(islice(video.frames, num_done), maxlen=1)
        for index in range(num_done):
            yield journal.read(index)[1]
            bar.update()
        carried = _carried(sequence, last[0], journal.read(num_done - 1)[0]) if last else None
        going_on = Sequence(
            sequence.colorizer,
            video.frames,
            sequence.conditioning,
            sequence.settings,
            sequence.propagate,
            first_index=num_done,
            carried=carried,
        )
        for frame in going_on:
            facts = FrameFacts(frame.starts_shot, frame.known)
            journal.write(frame.index, frame.image, facts)
            yield facts
            bar.update()


def _carried(sequence: Sequence, frame: np.ndarray, image: np.ndarray) -> Carried:
    """Return what the last finished frame hands on."""
    return carry(look_at(sequence.colorizer.method, load_gray(frame)), image)


def _plan(source: Path, sequence: Sequence) -> dict[str, Any]:
    """Describe all that the finished frames depend on."""
    with source.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    method = sequence.colorizer.method
    return {
        "source": content,
        "model": method.model_name,
        "weights": method.weights_hash,
        "conditioning": sequence.conditioning.content_hash(),
        "settings": (sequence.settings or sequence.colorizer.settings).to_dict(),
        "propagate": sequence.propagate,
    }
