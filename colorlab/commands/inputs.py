"""What a command line gives beside the picture: words, strokes, an exemplar, a sketch."""

from pathlib import Path

from colorlab.commands.problems import BadUsageError
from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, RangeError
from colorlab.strokes import Strokes


def read_conditioning(
    *,
    prompt: str,
    negative_prompt: str,
    strokes: Path | None = None,
    exemplar: Path | None = None,
    sketch: Path | None = None,
) -> Conditioning:
    """Read what is the same for every picture; the gray picture itself is put in later.

    Args:
        prompt: what to paint.
        negative_prompt: what not to paint.
        strokes: JSON file, as `Strokes.to_json` writes it; None for none.
        exemplar: picture whose colors are borrowed; None for none.
        sketch: line drawing, black on white, of the size of the picture; None for none.

    Raises:
        BadUsageError: the file of strokes is missing or holds something else.
        ImageError: a picture can not be read.
    """
    painted = Strokes() if strokes is None else read_strokes(strokes)
    return Conditioning(
        prompt=prompt, negative_prompt=negative_prompt, strokes=painted, exemplar=exemplar, sketch=sketch
    )


def read_strokes(path: Path) -> Strokes:
    """Read a JSON file of strokes.

    Raises:
        BadUsageError: it is missing, unreadable, or no list of strokes; the message begins with the file.
    """
    try:
        return Strokes.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadUsageError(f"{path} can not be read ({reason}); name a JSON file of strokes.") from error
    except (UnicodeDecodeError, RangeError) as error:
        reason = str(error) if isinstance(error, ColorlabError) else "it is no text; give what Strokes.to_json wrote."
        raise BadUsageError(f"{path}: {reason}") from error
