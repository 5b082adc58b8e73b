"""The chroma wheel: the colors that one lightness allows, to look at and to take from."""

from collections.abc import Callable

from ipycanvas import Canvas
from ipywidgets import HTML, GridBox, Image, Layout, VBox

from colorlab_widgets.held_canvas import held_canvas
from colorlab_widgets.painter.colors import (
    WHEEL_CHROMA,
    Color,
    allowed_color,
    chroma_of,
    color_to_hex,
    wheel_picture,
)
from colorlab_widgets.painter.gesture import Gesture
from colorlab_widgets.painter.pointer import PointerLayer
from colorlab_widgets.pictures import encode_png
from colorlab_widgets.view import close_parts

__all__ = ["ChromaWheel"]

# The wheel is drawn for every second lightness: nobody sees the difference, and half of them are drawn.
_LIGHTNESS_STEP = 2


class ChromaWheel(VBox):
    """Show which colors a lightness allows, and let the user take one.

    CIELAB a runs to the right and b up, gray is in the middle. Colors that a pixel of this lightness cannot have are
    left out. A click outside of them takes the nearest color of that hue. A ring marks the color of the brush; where
    the lightness does not allow it, a line leads to the color that would be shown instead.

    Args:
        on_pick: called with the color that was taken.
        side_px: sides of the wheel in CSS pixels.
    """

    def __init__(self, on_pick: Callable[[Color], None], side_px: int = 160) -> None:
        self._on_pick = on_pick
        self._lightness, self._color = 50.0, (0, 0, 0)
        self._canvas = Canvas(layout=Layout(width=f"{side_px}px", height=f"{side_px}px", grid_area="1 / 1 / 2 / 2"))
        self._image = Image(format="png")
        self._side_px = side_px
        self.layer = PointerLayer(
            on_gesture=self._picked,
            on_ready=self._paint,
            label="Chroma wheel: click a color that this lightness allows",
            tools=["point"],
            streamed_tools=["point"],
            stage_size=[side_px, side_px],
            fit=side_px / (2.0 * WHEEL_CHROMA),
            layout=Layout(width=f"{side_px}px", height=f"{side_px}px", grid_area="1 / 1 / 2 / 2"),
            hint="Colors that the lightness under the pointer allows: CIELAB a to the right, b up",
        )
        self.layer.observe(lambda _: self._paint(), "pixel_ratio")
        self._caption = HTML()
        self._paint()
        stage = GridBox([self._canvas, self.layer], layout=Layout(grid_template_columns=f"{side_px}px"))
        super().__init__([stage, self._caption])

    @property
    def lightness(self) -> float:
        """Return the lightness whose colors are shown, L [0, 100]."""
        return self._lightness

    def show(self, *, lightness: float | None = None, color: Color | None = None) -> None:
        """Show the colors of another lightness, or mark another color of the brush.

        Args:
            lightness: L [0, 100]; None leaves it.
            color: (red, green, blue), sRGB, 0 to 255; None leaves it.
        """
        before = (self._lightness, self._color)
        self._lightness = self._lightness if lightness is None else lightness
        self._color = self._color if color is None else color
        if (round(self._lightness), self._color) != (round(before[0]), before[1]):
            self._paint()

    def close(self) -> None:
        """Close the picture of the wheel as well."""
        close_parts(self._image)
        self._image.close()
        super().close()

    def _picked(self, gesture: Gesture) -> None:
        """Take the color under the pointer, while it is pressed."""
        if gesture.phase == "cancelled":
            return
        x, y = gesture.points[-1]
        self._on_pick(allowed_color(self._lightness, (x - WHEEL_CHROMA, WHEEL_CHROMA - y)))

    def _paint(self) -> None:
        """Draw wheel and marks, and say what is shown."""
        side = round(self._side_px * self.layer.pixel_ratio)
        per_chroma = side / (2.0 * WHEEL_CHROMA)
        level = round(self._lightness / _LIGHTNESS_STEP) * _LIGHTNESS_STEP
        nearest = allowed_color(self._lightness, chroma_of(self._color))
        places = [
            ((a + WHEEL_CHROMA) * per_chroma, (WHEEL_CHROMA - b) * per_chroma)
            for a, b in (chroma_of(self._color), chroma_of(nearest))
        ]
        with held_canvas():
            canvas = self._canvas
            canvas.width = canvas.height = side
            canvas.clear()
            # Gray around the colors: they look the same in light and dark theme.
            canvas.fill_style = "#7f7f7f"
            canvas.fill_circle(side / 2, side / 2, side / 2)
            self._image.value = encode_png(wheel_picture(level, side))
            canvas.draw_image(self._image, 0, 0)
            for style, width in (("#000000", 3.0), ("#ffffff", 1.5)):
                canvas.stroke_style, canvas.line_width = style, width * self.layer.pixel_ratio
                canvas.stroke_line(*places[0], *places[1])
                canvas.stroke_circle(*places[0], 5.0 * self.layer.pixel_ratio)
        self._caption.value = (
            f"Lightness {self._lightness:.0f} shows the brush as "
            f'<span style="background:{color_to_hex(nearest)};padding:0 0.8em;border:1px solid">&nbsp;</span>'
        )
