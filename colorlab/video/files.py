"""Video files: frames out of any container that FFmpeg reads, and frames into a new file; by imageio and PyAV."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from colorlab.atomic import atomic_file
from colorlab.errors import ColorlabError, ImageError, MissingExtraError, RangeError

__all__ = ["VIDEO_SUFFIXES", "VideoSource", "check_source", "check_target", "open_video", "write_video"]

VIDEO_SUFFIXES = {".mp4": "libx264", ".mov": "libx264", ".mkv": "ffv1"}
"""File endings a result can have, and the codec of each: H.264, or FFV1, which loses nothing."""

_DEFAULT_FPS = 25.0


@dataclass(frozen=True, eq=False)
class VideoSource:
    """A video file that is open for reading.

    Args:
        frames: its frames in order, (H, W, 4) uint8, alpha last; each is decoded when it is asked for.
        fps: frames per second, on average.
        num_frames: their number as the file tells it, or None; files may be wrong.
    """

    frames: Iterator[np.ndarray]
    fps: float
    num_frames: int | None


@contextmanager
def open_video(path: Path) -> Iterator[VideoSource]:
    """Open a video file for reading.

    Args:
        path: of any kind that FFmpeg reads.

    Raises:
        MissingExtraError: PyAV is not installed.
        ImageError: there is no such file, it is no video, or, from `frames`, it is damaged or has no frames.
    """
    imageio = _imageio()
    check_source(path)
    try:
        file = imageio.imopen(path, "r", plugin="pyav")
        facts = file.metadata()
    except Exception as error:  # FFmpeg, PyAV and imageio have many words for a file that is no video.
        raise ImageError(
            f"{str(path)!r} is no video that can be read; give an undamaged file with pictures."
        ) from error
    with file:
        fps = float(facts.get("fps") or _DEFAULT_FPS)
        duration = float(facts.get("duration") or 0)
        yield VideoSource(_frames(file, path), fps, round(fps * duration) or None)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    """Write frames (H, W, 3) uint8 into a new file, which takes the place of `path` when all are written.

    Color is stored at half the resolution, as players expect, where both sides are even; `.mkv` stores every pixel.

    Raises:
        MissingExtraError: PyAV is not installed.
        RangeError: `path` has an ending that is not in `VIDEO_SUFFIXES`.
        ColorlabError: the file cannot be written.
    """
    imageio = _imageio()
    check_target(path)
    codec = VIDEO_SUFFIXES[path.suffix.lower()]
    container = {".mkv": "matroska"}.get(path.suffix.lower(), path.suffix.lower()[1:])
    try:
        with (
            atomic_file(path) as target,
            imageio.imopen(target, "w", plugin="pyav", extension=path.suffix, container=container) as file,
        ):
            for index, frame in enumerate(frames):
                if index == 0:
                    is_even = not (frame.shape[0] % 2 or frame.shape[1] % 2)
                    pixels = "bgr0" if codec == "ffv1" else "yuv420p" if is_even else "yuv444p"
                    file.init_video_stream(codec, fps=fps, pixel_format=pixels)
                file.write_frame(np.ascontiguousarray(frame))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ColorlabError(f"{path} cannot be written ({reason}); name another place.") from error


def check_source(path: Path) -> None:
    """Refuse a name that is no file.

    Raises:
        ImageError: there is no such file, or it is a folder.
    """
    if not path.is_file():
        what = "is a folder, but a video file is expected" if path.is_dir() else "does not exist; check the path"
        raise ImageError(f"{str(path)!r} {what}.")


def check_target(path: Path, source: Path | None = None) -> None:
    """Refuse a name that no video can be written to.

    Args:
        path: where the video is to be.
        source: what it is made from, if from a file.

    Raises:
        RangeError: it is the source, its ending is not in `VIDEO_SUFFIXES`, it is a folder, or its folder does not
            exist.
    """
    if source is not None and path.resolve() == source.resolve():
        raise RangeError(f"{path} is input and output at once; name another output.")
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise RangeError(f"{path} ends in {path.suffix!r}, but one of {', '.join(VIDEO_SUFFIXES)} is expected.")
    if path.is_dir():
        raise RangeError(f"{path} is a folder, but the name of a video file is expected.")
    if not path.parent.is_dir():
        raise RangeError(f"There is no folder {path.parent} for the video; make it, or name another place.")


def _frames(file: Any, path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of an open file."""
    number = 0
    try:
        for frame in file.iter(format="rgba"):
            yield frame
            number += 1
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("av", "imageio"):
            raise
        raise ImageError(
            f"{str(path)!r} cannot be read behind its first {number} frames ({error}); give an undamaged file."
        ) from error
    if not number:
        raise ImageError(f"{str(path)!r} holds no frame; give a video with at least one.")


def _imageio() -> Any:
    """Import imageio when it is first needed, and check that it can read videos."""
    try:
        import av  # noqa: F401
        import imageio.v3
    except ImportError as error:
        raise MissingExtraError(
            "Videos are read and written by imageio with PyAV, which is not installed; pip install 'colorlab[video]'."
        ) from error
    return imageio.v3
