"""The stroke painter as it is seen: canvas, pointer layer, wheel and controls around one state."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

import numpy as np
from ipywidgets import GridBox, HBox, Layout, VBox, Widget, jslink
from traitlets import link, observe

from colorlab.images import load_image, to_uint8
from colorlab.strokes import Strokes
from colorlab_widgets.painter.canvas import PainterCanvas, Shown, View
from colorlab_widgets.painter.colors import color_to_hex, main_colors, picture_lightness, text_to_color
from colorlab_widgets.painter.controls import KEYS, TOOLS, Controls
from colorlab_widgets.painter.drawing import Drawing
from colorlab_widgets.painter.files import drawing_to_json, strokes_to_png
from colorlab_widgets.painter.gesture import Gesture
from colorlab_widgets.painter.model_link import ModelLink
from colorlab_widgets.painter.pointer import PointerLayer
from colorlab_widgets.painter.state import FIRST_COLOR, PainterState
from colorlab_widgets.painter.wheel import ChromaWheel
from colorlab_widgets.pictures import as_shown
from colorlab_widgets.view import close_parts
from colorlab_widgets.view_model import ViewModel

__all__ = ["StrokePainter"]

# How far beside a stroke a click still means it, in CSS pixels.
_REACH_CSS_PX = 4.0
# Traits of the state that the canvas shows under the same name.
_SHOWN = (
    "result", "result_label", "masks", "chosen", "pixel", "opacity", "has_strokes", "has_masks", "has_result",
)  # fmt: skip
# Tools that are shown while they are used, by Python.
_STREAMED = ("move", "eyedropper")
_LINKED = ("has_strokes", "has_masks", "has_result", "mask_name")


class StrokePainter(PainterState, VBox):
    """Paint strokes of color on a picture, draw masks around its objects, and change both.

    The vector strokes here are the truth. The page draws a stroke while it is drawn and sends it when it is done;
    everything else that is seen is painted by `PainterCanvas` from the traits of `PainterState`, after a reload of the
    page as well.

    Args:
        source: the picture (path, PIL image or array, see `colorlab.images.load_image`), or a `ViewModel`: then what is
            painted is what the model is given, and its pictures are shown.
        strokes: what is painted already.
        masks: name of an object to its mask, (H, W) bool.
        max_px: longest side of the stage, in CSS pixels.
        num_steps: steps of a run, for the step range of a stroke.

    Raises:
        ImageError: the picture cannot be read.
        ShapeError: a mask has another size than the picture.

    Example:
        >>> painter = StrokePainter(np.zeros((48, 64, 3), dtype=np.uint8))
        >>> painter.strokes
        Strokes([])
    """

    _is_open = False

    def __init__(
        self,
        source: Any,
        *,
        strokes: Strokes | None = None,
        masks: Mapping[str, np.ndarray] | None = None,
        max_px: int = 512,
        num_steps: int = 20,
    ) -> None:
        model = source if isinstance(source, ViewModel) else None
        loaded = as_shown(model.conditioning) if model else to_uint8(load_image(source, "picture"))
        shorter, longer = min(loaded.shape[:2]), max(loaded.shape[:2])
        radius_px, radius_range = max(1.0, shorter / 32), (0.5, max(2.0, shorter / 4))
        self._max_px = max_px
        self._is_filling = self._is_shown_by_page = False
        self._canvas = PainterCanvas(Shown(loaded, max_px / longer))
        self._controls = Controls(radius_range, radius_px, color_to_hex(FIRST_COLOR), num_steps)
        self._wheel = ChromaWheel(lambda color: self.set_trait("color", color))
        self._layer = PointerLayer(
            on_gesture=self._used,
            on_ready=self._canvas.repaint,
            on_hover=self._hovered,
            on_command=self._pressed,
            tools=list(TOOLS),
            streamed_tools=list(_STREAMED),
            shortcuts=KEYS,
            radius_px=radius_px,
            radius_range=list(radius_range),
            layout=Layout(grid_area="1 / 1 / 2 / 2"),
        )
        # As wide as there is room beside its margin, and no wider than `max_px` allows.
        self._stage = GridBox(
            [self._canvas.widget, self._layer],
            layout=Layout(
                overflow="hidden", margin="2px", width="calc(100% - 4px)", grid_template_columns="minmax(0, 1fr)"
            ),
        )
        super().__init__(loaded, radius_px=radius_px, num_steps=num_steps)
        self.panel = self._controls.panel(self._wheel)
        self.children = [
            self._controls.tool,
            HBox([self._stage, self.panel], layout=Layout(flex_flow="row wrap")),
            self._controls.message,
        ]
        self._connect()
        self.start(Drawing(strokes or Strokes(), masks or {}))
        self._model_link = ModelLink(self, model) if model else None
        if model and "strokes" not in model.colorizer.method.fields_read():
            # Strokes would change nothing there: a first click asks about a pixel instead.
            self._controls.tool.index = self._layer.tool_index = list(TOOLS).index("look")
        self._is_open = True

    def detach_panel(self) -> Widget:
        """Take the controls of the brush out, so that they can stand elsewhere, and return them."""
        self.children = [self._controls.tool, self._stage, self._controls.message]
        return self.panel

    def close(self) -> None:
        """Close every widget of the painter, and leave the model alone from now on; closing twice does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        if self._model_link:
            self._model_link.close()
        for each in self._links:
            each.unlink()
        self._links.clear()
        self._canvas.close()
        self._wheel.close()
        close_parts(self)
        super().close()

    def _connect(self) -> None:
        """Join controls and state.

        What decides how the next stroke looks is joined in the page: there it takes effect at once, however busy the
        kernel is. The state then hears of it from the pointer layer.
        """
        controls, layer = self._controls, self._layer
        self._links: list[Any] = [
            jslink((controls.tool, "index"), (layer, "tool_index")),
            jslink((controls.size, "value"), (layer, "radius_px")),
            jslink((controls.color, "value"), (layer, "color")),
            jslink((controls.opacity, "value"), (layer, "opacity")),
        ]
        self._links += [link((self, name), (layer, name)) for name in ("radius_px", "opacity")]
        self._links += [link((self, name), (getattr(controls, name), "value")) for name in _LINKED]
        for name in ("undo", "redo", "delete", "clear", "remove_mask", "whole", "help"):
            getattr(controls, name).on_click(lambda _, name=name: self._pressed(name))
        controls.save_json.on_click(lambda _: self._save_json())
        controls.save_png.on_click(lambda _: self._save_png())
        controls.upload.observe(self._opened, "value")
        controls.masks.observe(self._mask_chosen, "value")
        controls.steps.observe(self._steps_chosen, "value")
        for swatches in (controls.exemplar_colors, controls.recent_colors):
            swatches.on_pick(lambda color: self.set_trait("color", color))
        layer.observe(self._color_written, "color")
        layer.observe(self._view_wanted, "view")
        layer.observe(lambda change: self._canvas.show(pixel_ratio=change["new"]), "pixel_ratio")
        self._show_color(None)
        self._show_picture(None)

    # From the page.

    def _used(self, gesture: Gesture) -> None:
        """Use a tool; a stroke that is being painted is shown by the page itself, and painted here when it is done."""
        self._is_shown_by_page = gesture.tool == "brush" and gesture.phase == "going"
        self.use(gesture, _REACH_CSS_PX / (self._layer.fit * self._layer.view[0]))
        # The draft of a stroke in live mode is what the stroke is in the end: no change of it would tell.
        self._show_draft(None)

    def _hovered(self, point: tuple[float, float]) -> None:
        """Show the colors that the lightness under the pointer allows."""
        self._wheel.show(lightness=float(self._lightness[self.pixel_at(point, self.picture)]))

    def _pressed(self, name: str) -> None:
        """Do what a button or a key stands for."""
        card = self._controls.card.layout
        if name == "help":
            card.display = None if card.display == "none" else "none"
        elif name == "whole":
            self._layer.view = [1.0, 0.0, 0.0]
        else:
            self.command(name)

    def _color_written(self, _: Any) -> None:
        """Take the color that the page names; words for it are told if they are none."""
        with self.told_errors():
            self.color = text_to_color(self._layer.color)

    def _view_wanted(self, _: Any) -> None:
        """Paint the part of the picture that the user wants to see."""
        self._canvas.show(view=View(*self._layer.view))
        self._layer.painted_view = self._layer.view

    def _mask_chosen(self, change: Any) -> None:
        """Choose a mask from the list, unless the list is just being filled."""
        if not self._is_filling:
            self.chosen_mask = change["new"]

    def _steps_chosen(self, change: Any) -> None:
        """Take the step range; the ends of the slider mean no limit."""
        first, last = change["new"]
        if not self._is_filling:
            self.steps = (first or None, None if last == self.num_steps - 1 else last)

    def _opened(self, change: Any) -> None:
        """Take a file in, once."""
        for file in change["new"]:
            self.take_file(file["name"], bytes(file["content"]))
        self._controls.upload.value = ()

    def _save_json(self) -> None:
        """Give the user strokes and masks."""
        data = drawing_to_json(self.history.present, self.size).encode()
        self._layer.download("drawing.json", data, "application/json")

    def _save_png(self) -> None:
        """Give the user the pixels of the strokes."""
        self._layer.download("strokes.png", strokes_to_png(self.strokes, self.size), "image/png")

    # To the page.

    @observe(*_SHOWN)
    def _show_trait(self, change: Any) -> None:
        self._canvas.show(**{change["name"]: change["new"]})

    @observe("draft")
    def _show_draft(self, _: Any) -> None:
        if not self._is_shown_by_page:
            self._canvas.show(strokes=self.draft)

    @observe("picture")
    def _show_picture(self, _: Any) -> None:
        """Give stage and layers the shape of the picture; the page scales them where its column is narrower."""
        self._lightness = picture_lightness(self.picture)
        fit = self._max_px / max(self.size)
        self._canvas.show(picture=self.picture, fit=fit, view=View())
        height, width = self._canvas.shown.stage_size
        self._stage.layout.max_width = f"{width}px"
        layer = self._layer
        layer.stage_size, layer.fit, layer.view = [height, width], fit, [1.0, 0.0, 0.0]

    @observe("color")
    def _show_color(self, _: Any) -> None:
        self._layer.color = color_to_hex(self.color)
        self._wheel.show(color=self.color)

    @observe("recent_colors")
    def _show_recent(self, _: Any) -> None:
        self._controls.recent_colors.show(self.recent_colors)

    @observe("exemplar")
    def _show_exemplar(self, _: Any) -> None:
        self._controls.exemplar_colors.show(() if self.exemplar is None else main_colors(self.exemplar))

    @observe("is_live")
    def _show_live(self, _: Any) -> None:
        self._layer.streamed_tools = [*_STREAMED, *(("brush", "eraser") if self.is_live else ())]

    @observe("steps", "num_steps")
    def _show_steps(self, _: Any) -> None:
        first, last = self.steps
        with self._filling():
            self._controls.steps.max = self.num_steps - 1
            self._controls.steps.value = (first or 0, self.num_steps - 1 if last is None else last)

    @observe("strokes", "masks", "chosen", "chosen_mask")
    def _show_choices(self, _: Any) -> None:
        """Let buttons and list follow the drawing."""
        controls, history = self._controls, self.history
        controls.undo.disabled, controls.redo.disabled = not history.past, not history.future
        controls.delete.disabled, controls.remove_mask.disabled = self.chosen is None, self.chosen_mask is None
        with self._filling():
            controls.masks.options = [("none chosen", None), *((name, name) for name in self.masks)]
            controls.masks.value = self.chosen_mask

    @observe("message")
    def _show_message(self, _: Any) -> None:
        style = "color: var(--jp-error-color1, #c62828)"
        self._controls.message.value = f'<span role="alert" style="{style}">{escape(self.message)}</span>'

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """Change controls without taking that for a choice of the user."""
        self._is_filling = True
        try:
            yield
        finally:
            self._is_filling = False
