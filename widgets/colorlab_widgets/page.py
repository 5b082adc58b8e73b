"""PageView: a component that is drawn by a script of ours in the page; Python holds its state and hears its events."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import numpy as np
import traitlets

from colorlab_widgets.pictures import encode_png
from colorlab_widgets.view_model import in_words

__all__ = ["Bars", "Chips", "Compare", "Curves", "Gallery", "PageView", "Path2D", "Picture"]

_STATIC = Path(__file__).parent / "static"
_MAX_UNCONFIRMED = 2


class PageView(anywidget.AnyWidget):
    """One component of the page.

    Events of the page arrive as messages and go to the function that was given for them; what it raises is shown below
    the component, in words.
    """

    script: ClassVar[str]
    _esm = traitlets.Unicode().tag(sync=True)
    _css = traitlets.Unicode().tag(sync=True)
    problem = traitlets.Unicode(help="What went wrong in the last event, in one sentence").tag(sync=True)
    description = traitlets.Unicode(help="What is shown, for tooltips and screen readers").tag(sync=True)

    def __init__(self, on: dict[str, Callable[..., None]] | None = None, **state: Any) -> None:
        self._on = on or {}
        super().__init__(**state)
        self.on_msg(self._receive)

    @traitlets.default("_esm")
    def _read_script(self) -> str:
        """Return the component's script; those of all begin with the shared part."""
        return "\n".join((_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in ("toolkit", self.script))

    @traitlets.default("_css")
    def _read_style(self) -> str:
        """Return the style that all components share."""
        return (_STATIC / "style.css").read_text(encoding="utf-8")

    def _receive(self, _: Any, message: Any, buffers: Any) -> None:
        """Hand an event of the page on to its function."""
        values = dict(message)
        action = self._on.get(values.pop("event", ""))
        if action is not None:
            try:
                action(**values)
                self.problem = ""
            except Exception as error:
                self.problem = in_words(error)


class Picture(PageView):
    """A picture with a map, marks and arrows over it; events "click" and "hover" with x and y in its pixels.

    Frames are sent no faster than the page confirms them: at most two are under way, and what is overtaken is dropped.
    """

    script = "picture"
    image = traitlets.Bytes(help="PNG").tag(sync=True)
    frame = traitlets.Int(help="Counts what was sent. Written by Python").tag(sync=True)
    shown = traitlets.Int(help="The frame that was drawn last. Written by the page").tag(sync=True)
    size = traitlets.Tuple((1, 1), help="(height, width) in pixels of the picture").tag(sync=True)
    overlay = traitlets.Bytes(help="PNG over the picture, stretched to it; empty for none").tag(sync=True)
    opacity = traitlets.Float(0.65, help="Of the overlay, [0, 1]").tag(sync=True)
    marks = traitlets.List(help="Points [x, y] that are ringed").tag(sync=True)
    arrows = traitlets.List(help="[x1, y1, x2, y2], from and to").tag(sync=True)
    label = traitlets.Unicode(help="Words in the corner").tag(sync=True)
    max_height_px = traitlets.Int(440, help="Of the component in the page").tag(sync=True)
    is_clickable = traitlets.Bool(help="Whether a click means something").tag(sync=True)
    is_hover_sent = traitlets.Bool(help="Whether pointer moves are told, at most eight a second").tag(sync=True)

    def __init__(self, on: dict[str, Callable[..., None]] | None = None, **state: Any) -> None:
        self._lock = threading.RLock()
        self._newest: np.ndarray | None = None
        super().__init__(on, is_clickable=bool(on), **state)

    def show(self, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8, now or as soon as the page has drawn what is under way."""
        with self._lock:
            self._newest = picture
            self._send_newest()

    @traitlets.observe("shown")
    def _send_newest(self, change: Any = None) -> None:
        """Send what waits, if the page keeps up."""
        with self._lock:
            if self._newest is None or self.frame - self.shown >= _MAX_UNCONFIRMED:
                return
            picture, self._newest = self._newest, None
            # One message for what belongs together.
            with self.hold_sync():
                self.size = picture.shape[:2]
                self.image = encode_png(picture)
                self.frame += 1


class Gallery(PageView):
    """Small pictures with names; event "select" with the index."""

    script = "gallery"
    items = traitlets.List(help="[name, tooltip] of each picture").tag(sync=True)
    images = traitlets.List(help="PNG of each picture").tag(sync=True)
    selected = traitlets.Int(-1, help="Index, or -1").tag(sync=True)
    card_px = traitlets.Int(84, help="Least width of a picture").tag(sync=True)

    def show(self, pictures: list[tuple[str, str, np.ndarray]]) -> None:
        """Show (name, tooltip, picture) of each."""
        with self.hold_sync():
            self.images = [encode_png(picture) for _, _, picture in pictures]
            self.items = [[name, tooltip] for name, tooltip, _ in pictures]


class Chips(PageView):
    """Words to choose from; event "select" with the index, -1 for none."""

    script = "chips"
    words = traitlets.List(help="Texts").tag(sync=True)
    selected = traitlets.Int(-1, help="Index, or -1").tag(sync=True)
    tooltip = traitlets.Unicode(help="What choosing does").tag(sync=True)


class Compare(PageView):
    """Two pictures and a line between them that is dragged."""

    script = "compare"
    first = traitlets.Bytes(help="PNG").tag(sync=True)
    second = traitlets.Bytes(help="PNG").tag(sync=True)
    overlay = traitlets.Bytes(help="PNG over both; empty for none").tag(sync=True)
    names = traitlets.List(help="Of the two pictures").tag(sync=True)
    size = traitlets.Tuple((1, 1), help="(height, width) in pixels of the pictures").tag(sync=True)
    max_height_px = traitlets.Int(440, help="Of the component in the page").tag(sync=True)


class Bars(PageView):
    """Values by name as bars, each with what chance would give."""

    script = "bars"
    bars = traitlets.List(help="name, value, text, and maybe baseline and color of each").tag(sync=True)


class Path2D(PageView):
    """A path through a plane; event "select" with the index of a point."""

    script = "path"
    points = traitlets.List(help="[x, y] of each state").tag(sync=True)
    baseline = traitlets.List(help="[x, y] of a path that chance would take").tag(sync=True)
    names = traitlets.List(help="Of the points").tag(sync=True)
    selected = traitlets.Int(-1, help="Index, or -1").tag(sync=True)


class Curves(PageView):
    """Curves in small charts."""

    script = "curves"
    charts = traitlets.List(
        help="title, unit, tooltip, first and last place, and lines of each; a line has name, values, and kind: "
        '"first", "second", "third" or "weak"'
    ).tag(sync=True)
