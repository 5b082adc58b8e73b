"""The painter's five layers, drawn with ipycanvas from one frozen value."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ipycanvas import Canvas, MultiCanvas
from ipywidgets import Image, Layout
from PIL import Image as PILImage
from skimage.measure import find_contours

from colorlab.strokes import MIN_RADIUS_PX, Stroke, Strokes
from colorlab_widgets.held_canvas import held_canvas
from colorlab_widgets.painter.colors import color_to_hex
from colorlab_widgets.pictures import encode_png
from colorlab_widgets.view import close_parts

__all__ = ["LAYERS", "MASK_COLORS", "PainterCanvas", "Shown", "View"]

LAYERS = ("picture", "result", "strokes", "overlay", "cursor")
"""From the bottom up. The overlay holds the masks, the cursor layer marks what is chosen; the moving brush itself is
drawn by the page (see `pointer`)."""

MASK_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Okabe and Ito's colors, which people with any kind of color vision tell apart."""

# Larger pictures are shown smaller: the page never gets more than this.
_MAX_BITMAP_PX = 1024
# From this magnification on single pixels are shown as squares.
_PIXELATED_FROM = 12.0


@dataclass(frozen=True)
class View:
    """Which part of the picture is seen.

    Args:
        zoom: 1 shows the whole picture, 2 half of its width.
        left: x of the left border of the view, in image pixels.
        top: y of the upper border of the view, in image pixels.
    """

    zoom: float = 1.0
    left: float = 0.0
    top: float = 0.0


@dataclass(frozen=True, eq=False)
class Shown:
    """Everything that is to be seen.

    Args:
        picture: (H, W, 3) uint8, sRGB.
        fit: CSS pixels for each image pixel at zoom 1.
        result: (h, w, 3) uint8, sRGB, of any size; None for none.
        result_label: written in the upper left corner of the result; empty for nothing.
        strokes: in image pixels.
        masks: name to (H, W) bool.
        chosen: index of the chosen stroke; None for none.
        pixel: (x, y) of the marked pixel; None for none.
        opacity: of the strokes, 0 to 1.
        has_result: show the result.
        has_strokes: show the strokes.
        has_masks: show the masks.
        view: the part that is seen.
        pixel_ratio: device pixels for each CSS pixel.
    """

    picture: np.ndarray
    fit: float
    result: np.ndarray | None = None
    result_label: str = ""
    strokes: Strokes = field(default_factory=Strokes)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    chosen: int | None = None
    pixel: tuple[int, int] | None = None
    opacity: float = 1.0
    has_result: bool = True
    has_strokes: bool = True
    has_masks: bool = True
    view: View = View()
    pixel_ratio: float = 1.0

    @property
    def scale(self) -> float:
        """Return the device pixels for each image pixel."""
        return self.fit * self.view.zoom * self.pixel_ratio

    @property
    def stage_size(self) -> tuple[int, int]:
        """Return (height, width) of the stage in CSS pixels."""
        height, width = self.picture.shape[:2]
        return max(1, round(height * self.fit)), max(1, round(width * self.fit))


# What each layer depends on; a layer is painted again when one of these changes.
_VIEW = ("view", "pixel_ratio", "fit")
_DEPENDS: dict[str, tuple[str, ...]] = {
    "picture": ("picture", *_VIEW),
    "result": ("result", "result_label", "has_result", *_VIEW),
    "strokes": ("strokes", "opacity", "has_strokes", *_VIEW),
    "overlay": ("masks", "has_masks", *_VIEW),
    "cursor": ("chosen", "pixel", "strokes", "has_strokes", *_VIEW),
}


class PainterCanvas:
    """Show a picture, a result, strokes and masks on a canvas of five layers.

    Pictures travel to the page once and stay there as bitmaps of their own, so that zooming sends a few bytes. Strokes
    are drawn at the resolution of the screen, not of the picture. The pixels are never read back.

    Args:
        shown: what to show first.

    Attributes:
        widget: the `MultiCanvas` to display.
        shown: what is shown now.
    """

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self.widget = MultiCanvas(
            len(LAYERS), layout=Layout(grid_area="1 / 1 / 2 / 2", margin="0", width="100%", height="auto")
        )
        self._layers = {name: self.widget[index] for index, name in enumerate(LAYERS)}
        # Bitmaps at the resolution of their pictures, and the opaque strokes: canvases that are drawn from, not shown.
        self._bitmaps = {name: _Bitmap() for name in ("picture", "result")}
        self._opaque = Canvas()
        self._painted = Strokes()
        self._outlines: dict[str, _Outline] = {}
        self.repaint()

    def show(self, **changes: Any) -> None:
        """Change fields of `shown` and paint the layers that depend on them."""
        with held_canvas():
            before, self.shown = self.shown, replace(self.shown, **changes)
            names = {name for name in changes if getattr(before, name) is not getattr(self.shown, name)}
            if {"picture", "fit", "pixel_ratio"} & names:
                self._resize()
            for layer, depends in _DEPENDS.items():
                if names & set(depends):
                    self._paint(layer, is_appended=layer == "strokes" and names == {"strokes"})

    def repaint(self) -> None:
        """Paint everything anew, for a page that was just loaded and is empty."""
        with held_canvas():
            self._resize()
            for bitmap in self._bitmaps.values():
                bitmap.forget()
            for layer in LAYERS:
                self._paint(layer)

    def close(self) -> None:
        """Close the canvases that are drawn from, and the layers; the one that is displayed is closed by its parent."""
        bitmaps = (part for bitmap in self._bitmaps.values() for part in (bitmap.image, bitmap.canvas))
        for widget in (*bitmaps, self._opaque, *self._layers.values()):
            close_parts(widget)
            widget.close()

    def _resize(self) -> None:
        """Give the canvases the resolution of the screen; this empties them."""
        height, width = self.shown.stage_size
        pixels = {"height": round(height * self.shown.pixel_ratio), "width": round(width * self.shown.pixel_ratio)}
        for canvas in (self.widget, self._opaque):
            for name, value in pixels.items():
                setattr(canvas, name, value)

    def _paint(self, layer: str, *, is_appended: bool = False) -> None:
        """Paint one layer."""
        painters: dict[str, Callable[[Canvas], None]] = {
            "picture": lambda canvas: self._paint_bitmap(canvas, "picture", self.shown.picture),
            "result": self._paint_result,
            "strokes": lambda canvas: self._paint_strokes(canvas, is_appended=is_appended),
            "overlay": self._paint_masks,
            "cursor": self._paint_marks,
        }
        canvas = self._layers[layer]
        _empty(canvas)
        painters[layer](canvas)

    def _paint_result(self, canvas: Canvas) -> None:
        """Paint the result and what it is called."""
        shown = self.shown
        if shown.result is None or not shown.has_result:
            return
        self._paint_bitmap(canvas, "result", shown.result)
        if shown.result_label:
            canvas.reset_transform()
            place = np.array([4.0 * len(shown.result_label) + 12.0, 16.0]) * shown.pixel_ratio
            _draw_label(canvas, shown.result_label, place, MASK_COLORS[0], shown.pixel_ratio)

    def _paint_bitmap(self, canvas: Canvas, name: str, picture: np.ndarray) -> None:
        """Paint a picture over the whole area of `shown.picture`."""
        bitmap = self._bitmaps[name]
        bitmap.take(picture)
        height, width = self.shown.picture.shape[:2]
        _look(canvas, self.shown)
        canvas.image_smoothing_enabled = self.shown.scale < _PIXELATED_FROM
        canvas.draw_image(bitmap.canvas, 0, 0, width, height)

    def _paint_strokes(self, canvas: Canvas, *, is_appended: bool) -> None:
        """Paint the strokes opaquely, later ones on top, and lay the whole over the picture with one opacity."""
        strokes = self.shown.strokes
        num_painted = len(self._painted)
        if not (is_appended and strokes[:num_painted] == self._painted):
            _empty(self._opaque)
            num_painted = 0
        _look(self._opaque, self.shown)
        for stroke in strokes[num_painted:]:
            _draw_stroke(self._opaque, stroke)
        self._painted = strokes
        if self.shown.has_strokes:
            canvas.global_alpha = self.shown.opacity
            canvas.draw_image(self._opaque, 0, 0)

    def _paint_masks(self, canvas: Canvas) -> None:
        """Outline each mask and write its name."""
        if not self.shown.has_masks:
            return
        shown = self.shown
        known = self._outlines
        self._outlines = {
            name: known[name] if name in known and known[name].mask is mask else _Outline.of(mask)
            for name, mask in shown.masks.items()
        }
        for index, (name, outline) in enumerate(self._outlines.items()):
            color = MASK_COLORS[index % len(MASK_COLORS)]
            for line in outline.lines:
                for style, width in (("#000000", 3.0), (color, 1.5)):
                    canvas.stroke_style, canvas.line_width = style, width * shown.pixel_ratio
                    canvas.stroke_polygon(_to_canvas(line, shown))
            _draw_label(canvas, name, _to_canvas(outline.center, shown)[0], color, shown.pixel_ratio)

    def _paint_marks(self, canvas: Canvas) -> None:
        """Mark the chosen stroke by its path, and the marked pixel by a cross."""
        shown = self.shown
        lines = []
        if shown.chosen is not None and shown.chosen < len(shown.strokes) and shown.has_strokes:
            lines.append(np.array(shown.strokes[shown.chosen].points))
        if shown.pixel is not None:
            center, arm = np.array(shown.pixel) + 0.5, 8.0 * shown.pixel_ratio / shown.scale
            lines.extend(center + np.outer((-arm, arm), way) for way in ((1, 0), (0, 1)))
        for line in lines:
            for style, width, dash in (("#ffffff", 3.0, []), ("#000000", 1.5, [4.0, 4.0])):
                canvas.stroke_style, canvas.line_width = style, width * shown.pixel_ratio
                canvas.set_line_dash([part * shown.pixel_ratio for part in dash])
                canvas.stroke_lines(_to_canvas(line, shown))
        if lines:
            x, y = _to_canvas(lines[0][:1], shown)[0].tolist()
            canvas.stroke_circle(x, y, 4.0 * shown.pixel_ratio)


class _Bitmap:
    """A picture that is kept in the page at its own resolution."""

    def __init__(self) -> None:
        self.canvas = Canvas()
        self.image = Image(format="png")
        self._taken: np.ndarray | None = None

    def forget(self) -> None:
        """Send the picture again at its next use."""
        self._taken = None

    def take(self, picture: np.ndarray) -> None:
        """Send (h, w, 3) uint8 to the page, unless it is there already."""
        if picture is self._taken:
            return
        image = PILImage.fromarray(picture)
        image.thumbnail((_MAX_BITMAP_PX, _MAX_BITMAP_PX))
        self.image.value = encode_png(np.asarray(image))
        self.canvas.width, self.canvas.height = image.size
        self.canvas.draw_image(self.image, 0, 0)
        self._taken = picture


@dataclass(frozen=True, eq=False)
class _Outline:
    """The border of a mask, in image pixels: closed lines (n, 2), and the middle (1, 2) for its name."""

    mask: np.ndarray
    lines: list[np.ndarray]
    center: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> "_Outline":
        """Trace a mask (H, W) bool."""
        # From (row, column) of pixel centers inside a border of 1 to (x, y).
        lines = [line[:, ::-1] - 0.5 for line in find_contours(np.pad(mask, 1).astype(np.float32), 0.5)]
        rows, columns = np.nonzero(mask)
        return cls(mask, lines, np.array([[columns.mean() + 0.5, rows.mean() + 0.5]]))


def _empty(canvas: Canvas) -> None:
    """Clear a canvas and forget its transformation, opacity and dashes."""
    canvas.reset_transform()
    canvas.global_alpha = 1.0
    canvas.set_line_dash([])
    canvas.clear()


def _look(canvas: Canvas, shown: Shown) -> None:
    """Let a canvas draw in image pixels."""
    scale, view = shown.scale, shown.view
    canvas.set_transform(scale, 0, 0, scale, -view.left * scale, -view.top * scale)


def _to_canvas(points: np.ndarray, shown: Shown) -> np.ndarray:
    """Turn (n, 2) image pixels into pixels of the canvas, float32."""
    moved = (points - [shown.view.left, shown.view.top]) * shown.scale
    return np.ascontiguousarray(moved, dtype=np.float32)


def _draw_stroke(canvas: Canvas, stroke: Stroke) -> None:
    """Draw one stroke, in image pixels, as wide as `Strokes.rasterize` paints it."""
    radius = max(stroke.radius_px, MIN_RADIUS_PX)
    points = np.array(stroke.points, dtype=np.float32)
    # A path without length has no round ends.
    if (points == points[0]).all():
        canvas.fill_style = color_to_hex(stroke.color)
        canvas.fill_circle(float(points[0, 0]), float(points[0, 1]), radius)
        return
    canvas.stroke_style = color_to_hex(stroke.color)
    canvas.line_width = 2.0 * radius
    canvas.line_cap = canvas.line_join = "round"
    canvas.stroke_lines(points)


def _draw_label(canvas: Canvas, text: str, place: np.ndarray, color: str, pixel_ratio: float) -> None:
    """Write black on a colored plate, readable on any picture."""
    x, y = float(place[0]), float(place[1])
    width, height = (8 * len(text) + 8) * pixel_ratio, 18 * pixel_ratio
    canvas.font = f"{round(13 * pixel_ratio)}px sans-serif"
    canvas.text_align, canvas.text_baseline = "center", "middle"
    canvas.fill_style = color
    canvas.fill_rect(x - width / 2, y - height / 2, width, height)
    canvas.fill_style = "#ffffff" if color in ("#0072b2", "#d55e00", "#009e73") else "#000000"
    canvas.fill_text(text, x, y)
