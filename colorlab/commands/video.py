"""`colorlab video`: a gray video in, a colored one out."""

from pathlib import Path
from typing import Any

import colorlab
from colorlab.commands.catalog import load_colorizer
from colorlab.commands.files import writable_folder
from colorlab.commands.problems import BadUsageError, InterruptedRunError, as_bad_usage
from colorlab.errors import RangeError
from colorlab.video.colorize import colorize_video, journal_folder
from colorlab.video.files import check_source, check_target
from colorlab.video.journal import count_frames


def color_video_file(
    source: Path,
    out: Path,
    *,
    model: str,
    given: dict[str, Any],
    strokes: Path | None,
    settings: dict[str, Any],
    propagate: bool,
    device: str,
) -> None:
    """Color a video file and say where it is.

    Args:
        source: the video.
        out: the result.
        model: name or folder of the model.
        given: fields of the conditioning beside the strokes.
        strokes: JSON file of strokes on the first frame; None for none.
        settings: values for `colorlab.Settings`; those that are None keep the method's own.
        propagate: whether colors are carried from frame to frame.
        device: where to compute, as torch names it.

    Raises:
        BadUsageError: names or values make no sense together, or the model cannot do it.
        InterruptedRunError: Ctrl-C; what is finished is kept for the next try.
        ColorlabError: the video cannot be read, colored or written.
    """
    with as_bad_usage():
        chosen = {name: value for name, value in settings.items() if value is not None}
        colorlab.Settings(**chosen)
        painted = () if strokes is None else colorlab.Strokes.from_json(strokes.read_text(encoding="utf-8"))
        check_target(out, source)
    with writable_folder(out.parent):
        check_source(source)
        colorizer = load_colorizer(model, device=device)
        try:
            done = colorize_video(
                source, out, colorizer, colorlab.Conditioning(strokes=painted, **given), propagate=propagate, **chosen
            )
        except RangeError as error:
            raise BadUsageError(str(error)) from error
        except KeyboardInterrupt:
            raise InterruptedRunError(_what_is_kept(out)) from None
    print(done.path)
    print(f"{done.num_frames} frames, {len(done.shots)} colored anew: {', '.join(map(str, done.shots[:20]))}")


def _what_is_kept(out: Path) -> str:
    """Say how far an interrupted video came and where its frames are."""
    folder = journal_folder(out)
    number = count_frames(folder)
    if not number:
        return "Interrupted before the first frame was finished; nothing was written."
    return f"Interrupted after {number} frames, which are kept in {folder}; the same command goes on from there."
