"""A run as one self-contained page: a slider over its steps and the maps of its words, without a kernel."""

import base64
import contextlib
import io
import json
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from colorlab import __version__
from colorlab.atomic import atomic_file
from colorlab.errors import ColorlabError, RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.places import word_tokens
from colorlab.plotting.figures import value_range
from colorlab.runs.run import Run

__all__ = ["write_page"]

_MAX_BYTES = 5_000_000
_MAX_FRAMES = 50
_MAX_WORDS = 16
_SIDES_PX = (768, 512, 384, 256, 128)
_QUALITY = 88
_HINT = "Move the slider: each picture is what the model had in mind at that step. Choose a word to see where it looks."


class _Page(Template):
    """A template whose places begin with two percent signs: scripts use the dollar themselves."""

    delimiter = "%%"


def write_page(run: Run, path: Path, *, max_bytes: int = _MAX_BYTES) -> Path:
    """Write the page of a run.

    Word maps are replayed, one network call for each step shown. The picture is made smaller until the page fits.

    Args:
        run: has taken at least one step.
        path: of the page.
        max_bytes: largest size of the page.

    Returns:
        The path.

    Raises:
        StateError: the run has taken no step.
        ColorlabError: the page cannot be written, or does not fit at any size.
    """
    if not run.step_index:
        raise StateError("The run has taken no step, so there is nothing to show; step() or finish() it.")
    last = run.num_steps if run.is_finished else run.step_index - 1
    steps = np.unique(np.linspace(0, last, min(last + 1, _MAX_FRAMES)).round().astype(int)).tolist()
    words = _words(run)
    exhibits = {step: [_ask(run, step, *word) for word in words] for step in steps}
    # Kept no larger than they will ever be shown: decoded pictures of a large photograph are many megabytes.
    pictures = [_smaller(Image.fromarray(run.preview(step)), _SIDES_PX[0]) for step in steps]
    for side_px in _SIDES_PX:
        page = _page(run, steps, words, exhibits, [_smaller(picture, side_px) for picture in pictures]).encode()
        if len(page) <= max_bytes:
            break
    else:
        raise ColorlabError(
            f"The page has {len(page)} bytes with pictures of {_SIDES_PX[-1]} px, but at most {max_bytes} are allowed; "
            "raise max_bytes, or run fewer steps."
        )
    try:
        with atomic_file(path) as file:
            file.write(page)
    except OSError as error:
        reason = error.strerror or error
        raise ColorlabError(f"{str(path)!r} cannot be written ({reason}); choose a folder you may write to.") from error
    return path


def _words(run: Run) -> list[tuple[str, int]]:
    """Return the words of the prompt that the model reads, with their occurrence; none where it reads none."""
    if "prompt" not in run.method.fields_read():
        return []
    text = run.conditioning.prompt
    found = re.findall(r"\w+", text)[:_MAX_WORDS]
    lower = [word.lower() for word in found]
    words: list[tuple[str, int]] = []
    for index, word in enumerate(found):
        occurrence = lower[:index].count(lower[index])
        # Beyond the length of the model there is nothing to show, and the user was told so.
        with contextlib.suppress(RangeError):
            if word_tokens(run.method, text, word, occurrence):
                words.append((word, occurrence))
    return words


def _ask(run: Run, step: int, word: str, occurrence: int) -> Exhibit:
    """Ask where the model looks for a word; the finished picture is asked at the last step."""
    return run.attention(min(step, run.step_index - 1), word=word, occurrence=occurrence)


def _page(
    run: Run,
    steps: list[int],
    words: list[tuple[str, int]],
    exhibits: dict[int, list[Exhibit]],
    pictures: list[Image.Image],
) -> str:
    """Fill the template."""
    frames = [
        {
            "label": f"finished after {run.num_steps} steps"
            if step == run.num_steps
            else f"step {step} of {run.num_steps}",
            "picture": _address(picture, "jpeg", quality=_QUALITY, subsampling=0),
            "maps": [_map(exhibit.array) for exhibit in exhibits[step]],
        }
        for step, picture in zip(steps, pictures, strict=True)
    ]
    verdicts = sorted({str(exhibit.verdict) for found in exhibits.values() for exhibit in found})
    data: dict[str, Any] = {
        "frames": frames,
        "words": [word for word, _ in words],
        "hint": _HINT,
        "verdict": f"Replay: {', '.join(verdicts)}." if verdicts else "",
    }
    settings = {"model": run.method.model_name, **run.settings.to_dict()}
    shown = {name: value for name, value in settings.items() if value not in ({}, "")}
    rows = "".join(
        f"<tr><td class='soft'>{escape(name.replace('_', ' '))}</td><td>{escape(str(value))}</td></tr>"
        for name, value in shown.items()
    )
    template = _Page((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(run.conditioning.prompt or run.name),
        subject=escape(f"{run.name}, {run.subject}"),
        rows=rows,
        version=__version__,
        # A closing tag inside the data would end it.
        data=json.dumps(data).replace("</", "<\\/"),
    )


def _smaller(image: Image.Image, side_px: int) -> Image.Image:
    """Return a copy of a picture that is at most `side_px` long."""
    copy = image.copy()
    copy.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return copy


def _map(values: np.ndarray) -> str:
    """Encode a map in colors as an address that holds it."""
    low, high = value_range(values)
    colors = matplotlib.colormaps["magma"]((np.nan_to_num(values, nan=low) - low) / (high - low), bytes=True)
    return _address(Image.fromarray(np.ascontiguousarray(colors[..., :3])), "png")


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    """Encode an image as a data address."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
