"""What a command line gives beside the picture: words, strokes, an exemplar and its text edits, a sketch."""

from collections.abc import Sequence
from pathlib import Path

from colorlab.commands.problems import BadUsageError, as_bad_usage
from colorlab.conditioning import USUAL_TARGET_SCALE, Conditioning, Manipulation
from colorlab.errors import ColorlabError, RangeError
from colorlab.sketches import invert_sketch
from colorlab.strokes import Strokes


def read_conditioning(
    *,
    prompt: str,
    negative_prompt: str,
    strokes: Path | None = None,
    exemplar: Path | None = None,
    sketch: Path | None = None,
    inverts_sketch: bool = False,
    edits: Sequence[str] = (),
    edit_scale: float = USUAL_TARGET_SCALE,
) -> Conditioning:
    """Read what is the same for every picture; the gray picture itself is put in later.

    Args:
        prompt: what to paint.
        negative_prompt: what not to paint.
        strokes: JSON file, as `Strokes.to_json` writes it; None for none.
        exemplar: picture whose colors are borrowed; None for none.
        sketch: line drawing, black on white, of the size of the picture; None for none.
        inverts_sketch: whether the drawing has white lines on black, and is turned around.
        edits: text edits of the exemplar, in order, see `read_edit`.
        edit_scale: how strongly they act.

    Raises:
        BadUsageError: the file of strokes is missing or holds something else; an edit cannot be read.
        ImageError: a picture cannot be read.
    """
    painted = Strokes() if strokes is None else read_strokes(strokes)
    manipulations = tuple(read_edit(edit, scale=edit_scale) for edit in edits)
    return Conditioning(
        prompt=prompt,
        negative_prompt=negative_prompt,
        strokes=painted,
        exemplar=exemplar,
        sketch=invert_sketch(sketch) if inverts_sketch and sketch is not None else sketch,
        manipulations=manipulations,
    )


def read_edit(text: str, *, scale: float) -> Manipulation:
    """Read a text edit: `the red car -> the blue car`, or `-> at sunset` for the whole exemplar.

    What stands before the arrow is what the exemplar shows: it tells where the edit acts, and is what is taken away.

    Raises:
        BadUsageError: there is no arrow, or nothing behind it.
    """
    before, arrow, after = (part.strip() for part in text.partition("->"))
    if not arrow or not after:
        raise BadUsageError(f'--edit is "{text}"; expected "the red car -> the blue car", or "-> at sunset".')
    with as_bad_usage():
        return Manipulation(after, scale, anchor_text=before, control_text=before)


def read_strokes(path: Path) -> Strokes:
    """Read a JSON file of strokes.

    Raises:
        BadUsageError: it is missing, unreadable, or no list of strokes; the message begins with the file.
    """
    try:
        return Strokes.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadUsageError(f"{path} cannot be read ({reason}); name a JSON file of strokes.") from error
    except (UnicodeDecodeError, RangeError) as error:
        reason = str(error) if isinstance(error, ColorlabError) else "it is no text; give what Strokes.to_json wrote."
        raise BadUsageError(f"{path}: {reason}") from error
