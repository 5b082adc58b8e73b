"""The pointer layer: what the user draws, one message for each gesture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Dict, Float, Int, List, Unicode, default

from colorlab_widgets.held_canvas import canvas_manager_id
from colorlab_widgets.painter.gesture import Gesture

__all__ = ["PointerLayer"]

_PAGE = Path(__file__).parent / "page"
_PARTS = ("stage", "pen", "outbox", "pointer")


class PointerLayer(anywidget.AnyWidget):
    """A transparent sheet over a canvas that draws in the page what is being drawn, and tells Python of it.

    Why not ipycanvas alone: it sends every move of the pointer to the kernel, which sends back what to draw, and
    neither drops nor joins any of them. What the user sees then lags by a whole round trip for each point, and falls
    behind while the kernel is busy or far away. So the page draws what is being drawn, as soon as the pointer
    tells of it and not only in the next frame, and ipycanvas shows what Python knows.

    Pen, touch and mouse are alike; the back end of a pen rubs out. Pressure is not used: a `Stroke` has one radius.

    The page writes `tool_index`, `color`, `radius_px`, `opacity` and `view`, as code does, and `pixel_ratio`; all
    other traits are written by code alone.

    Args:
        on_gesture: called for each gesture: when done, and for `streamed_tools` also while it goes on. A new one is
            sent only after the one before was handled.
        on_hover: called with (x, y) in image pixels while no button is pressed, as often as it returns.
        on_command: called with the name of a command whose key was pressed.
        on_ready: called when a page shows the layer for the first time, or anew after a reload.
        **traits: first values of the traits.
    """

    _esm = Unicode().tag(sync=True)
    label = Unicode("Picture to paint on", help="What a screen reader says.").tag(sync=True)
    hint = Unicode(help="Shown when the pointer rests; empty for nothing.").tag(sync=True)
    tools = List(Unicode(), help="Names of the tools, in the order of their buttons.").tag(sync=True)
    tool_index = Int(0, help="Which of the tools is in hand.").tag(sync=True)
    streamed_tools = List(Unicode(), help="Tools whose gestures are also told while they go on.").tag(sync=True)
    shortcuts = Dict(help="Key to what it does: tool:NAME, size:FACTOR, zoom:FACTOR or command:NAME.").tag(sync=True)
    color = Unicode("#000000", help="Color of the brush, as CSS writes it.").tag(sync=True)
    radius_px = Float(4.0, help="Half the width of brush and rubber, in image pixels.").tag(sync=True)
    radius_range = List(Float(), [0.5, 64.0], help="Smallest and largest radius, in image pixels.").tag(sync=True)
    opacity = Float(1.0, help="Of the strokes, 0 to 1.").tag(sync=True)
    stage_size = List(Int(), [1, 1], help="(height, width) of the sheet, in CSS pixels.").tag(sync=True)
    fit = Float(1.0, help="CSS pixels for each image pixel at zoom 1.").tag(sync=True)
    view = List(Float(), [1.0, 0.0, 0.0], help="Wanted zoom, left and top (image pixels).").tag(sync=True)
    painted_view = List(Float(), [1.0, 0.0, 0.0], help="The view for which the canvas below is painted.").tag(sync=True)
    pixel_ratio = Float(1.0, help="Device pixels for each CSS pixel.").tag(sync=True)
    canvas_manager = Unicode(help="Model id of ipycanvas' manager.").tag(sync=True)

    def __init__(
        self,
        *,
        on_gesture: Callable[[Gesture], None],
        on_ready: Callable[[], None],
        on_hover: Callable[[tuple[float, float]], None] | None = None,
        on_command: Callable[[str], None] | None = None,
        **traits: Any,
    ) -> None:
        super().__init__(canvas_manager=canvas_manager_id(), **traits)
        self._on_gesture, self._on_hover = on_gesture, on_hover
        self._on_command, self._on_ready = on_command, on_ready
        self.on_msg(self._receive)

    @default("_esm")
    def _read_script(self) -> str:
        """Return the layer's script: its parts in the order in which they build on each other."""
        return "\n".join((_PAGE / f"{name}.js").read_text(encoding="utf-8") for name in _PARTS)

    @property
    def tool(self) -> str:
        """Return the name of the tool in hand."""
        return str(self.tools[self.tool_index])

    def download(self, name: str, data: bytes, media_type: str) -> None:
        """Give the user a file."""
        self.send({"kind": "download", "name": name, "type": media_type}, [data])

    def _receive(self, _: Any, content: Mapping[str, Any], buffers: list[Any]) -> None:
        """Hand a message of the page on, and confirm it, whatever comes of it: the page waits for that."""
        kind = content.get("kind")
        what = content.get("phase", kind)
        try:
            if kind == "gesture":
                points = tuple((float(x), float(y)) for x, y in content["points"])
                self._on_gesture(
                    Gesture(content["tool"], points, content["phase"], content["color"], float(content["radius_px"]))
                )
            elif kind == "hover" and self._on_hover:
                x, y = content["point"]
                self._on_hover((float(x), float(y)))
            elif kind == "command" and self._on_command:
                self._on_command(content["name"])
            elif kind == "ready":
                self._on_ready()
        finally:
            self.send({"kind": "confirmed", "what": what, "id": content.get("id")})
