"""The painter's buttons, sliders and cards: made here, wired in `widget`."""

import math
from collections.abc import Callable, Iterable
from html import escape

from ipywidgets import (
    HTML,
    Box,
    Button,
    ColorPicker,
    Dropdown,
    FileUpload,
    FloatLogSlider,
    FloatSlider,
    HBox,
    IntRangeSlider,
    Layout,
    Text,
    ToggleButton,
    ToggleButtons,
    VBox,
    Widget,
)

from colorlab_widgets.painter.colors import Color, color_to_hex
from colorlab_widgets.view import tell_label

__all__ = ["KEYS", "TOOLS", "Controls", "Swatches", "help_card"]

TOOLS = {
    # name: (button, icon, key, what it does)
    "brush": ("Brush", "paint-brush", "b", "Paint a stroke of color; with Alt held, take a color"),
    "eraser": ("Eraser", "eraser", "e", "Rub out what is painted under the pointer"),
    "lasso": ("Lasso", "object-ungroup", "l", "Draw around an object to make a mask with the name below"),
    "move": ("Move", "arrows", "v", "Click a stroke to choose it, drag it to move it"),
    "eyedropper": ("Pick", "eyedropper", "i", "Take the color under the pointer"),
    "look": ("Look", "crosshairs", "k", "Mark a pixel, to ask about its color"),
    "pan": ("Pan", "hand-paper-o", "h", "Move the view of the picture; the space bar does that with any tool"),
}
"""The tools, in the order of their buttons."""

_SHORTCUTS = (
    # key, what it does, words for the help card
    *((key, f"tool:{name}", f"{button}: {words}") for name, (button, _, key, words) in TOOLS.items()),
    ("[", "size:0.8", "Smaller brush"),
    ("]", "size:1.25", "Larger brush"),
    ("+", "zoom:1.25", "Zoom in (also =, Ctrl + wheel, or two fingers)"),
    ("-", "zoom:0.8", "Zoom out"),
    ("0", "command:whole", "Show the whole picture"),
    ("ctrl+z", "command:undo", "Undo"),
    ("ctrl+shift+z", "command:redo", "Redo (also ctrl+y)"),
    ("delete", "command:delete", "Delete the chosen stroke (also backspace)"),
    ("arrowleft", "command:left", "Move the chosen stroke by a pixel; so do the other arrows"),
    ("escape", "command:unchoose", "Give up the stroke that is being drawn, or the choice of one"),
    ("s", "command:strokes", "Show or hide the strokes"),
    ("m", "command:masks", "Show or hide the masks"),
    ("r", "command:result", "Show or hide the result"),
    ("?", "command:help", "Show or hide this card"),
)

KEYS = {key: action for key, action, _ in _SHORTCUTS} | {
    "=": "zoom:1.25",
    "ctrl+y": "command:redo",
    "backspace": "command:delete",
    "arrowright": "command:right",
    "arrowup": "command:up",
    "arrowdown": "command:down",
}
"""Name of a key to what it does, as `PointerLayer` reads it; they work while the picture has the focus."""


def help_card() -> str:
    """Write the shortcuts as an HTML table."""
    rows = "".join(
        f"<tr><td style='padding-right:1em'><kbd>{escape(key)}</kbd></td><td>{escape(words)}</td></tr>"
        for key, _, words in _SHORTCUTS
    )
    return f"<p>While the picture has the focus (click it, or reach it with Tab):</p><table>{rows}</table>"


class Swatches(HBox):
    """A row of colors to click.

    The buttons are made once and shown as needed: a widget that is made anew for each color would stay in the kernel.

    Args:
        title: what the colors are.
        num_colors: at most this many.
    """

    def __init__(self, title: str, num_colors: int = 8) -> None:
        self.colors: tuple[Color, ...] = ()
        self._title = HTML(f"<small>{title}</small>", layout=Layout(width="56px"))
        self.buttons = [Button(layout=Layout(width="22px", height="22px", margin="1px")) for _ in range(num_colors)]
        super().__init__([self._title, *self.buttons])
        self.show(())

    def on_pick(self, callback: Callable[[Color], object]) -> None:
        """Call a function with each color that is clicked."""
        for index, button in enumerate(self.buttons):
            button.on_click(lambda _, index=index: callback(self.colors[index]))

    def show(self, colors: Iterable[Color]) -> None:
        """Show these colors, the first ones if they are too many."""
        self.colors = tuple(colors)[: len(self.buttons)]
        self.layout.display = None if self.colors else "none"
        for index, button in enumerate(self.buttons):
            is_used = index < len(self.colors)
            button.layout.display = None if is_used else "none"
            if is_used:
                button.style.button_color = color_to_hex(self.colors[index])
                button.tooltip = f"Paint in {color_to_hex(self.colors[index])}"


def _button(text: str, icon: str, tooltip: str) -> Button:
    """Make a button as wide as its text."""
    return Button(description=text, icon=icon, tooltip=tooltip, layout=Layout(width="auto"))


def _toggle(text: str, tooltip: str) -> ToggleButton:
    """Make a button that stays pressed."""
    return ToggleButton(True, description=text, tooltip=tooltip, layout=Layout(width="auto"))


def _slider_layout() -> Layout:
    """Return the layout of a slider; each widget has its own, which is closed with it."""
    return Layout(width="320px")


def _wrapping() -> Layout:
    """Return the layout of a row that goes on in the next line."""
    return Layout(flex_flow="row wrap")


def _row(*widgets: Widget) -> HBox:
    """Put widgets in a row."""
    return HBox(widgets, layout=_wrapping())


class Controls:
    """Everything beside the picture.

    Args:
        radius_range: smallest and largest radius of the brush, in image pixels.
        radius_px: of the brush at first, in image pixels.
        color: of the brush at first, "#rrggbb".
        num_steps: steps of a run, for the step range of a stroke.
    """

    def __init__(self, radius_range: tuple[float, float], radius_px: float, color: str, num_steps: int) -> None:
        words = list(TOOLS.values())
        self.tool = ToggleButtons(
            options=[f"{button}\u00a0" for button, *_ in words],
            icons=[icon for _, icon, *_ in words],
            tooltips=[f"{text} ({key.upper()})" for *_, key, text in words],
            style={"button_width": "auto"},
        )
        self.undo = _button("Undo", "undo", "Undo (Ctrl+Z)")
        self.redo = _button("Redo", "repeat", "Redo (Ctrl+Shift+Z)")
        self.delete = _button("Delete", "trash", "Delete the chosen stroke (Del)")
        self.clear = _button("Clear", "ban", "Delete all strokes; Undo brings them back")
        self.whole = _button("Whole", "expand", "Show the whole picture (0)")
        self.help = _button("Keys", "keyboard-o", "Show or hide the keyboard shortcuts (?)")
        self.has_strokes = _toggle("Strokes", "Show or hide the strokes (S)")
        self.has_masks = _toggle("Masks", "Show or hide the masks (M)")
        self.has_result = _toggle("Result", "Show or hide the colored result (R)")
        self.message = HTML(layout=Layout(min_height="28px"))
        self.card = HTML(help_card(), layout=Layout(display="none"))
        self._make_brush(radius_range, radius_px, color, num_steps)
        self._make_masks_and_files()

    def _make_brush(self, radius_range: tuple[float, float], radius_px: float, color: str, num_steps: int) -> None:
        """Make what says how the next stroke, or the chosen one, looks."""
        low, high = radius_range
        self.size = FloatLogSlider(
            value=radius_px, min=math.log10(low), max=math.log10(high), step=0.01, description="Radius",
            readout_format=".1f", continuous_update=False, layout=_slider_layout(),
            tooltip="Half the width of brush and eraser, in pixels of the picture ([ and ])",
        )  # fmt: skip
        self.opacity = FloatSlider(
            value=1.0, min=0.1, max=1.0, step=0.05, description="Opacity", layout=_slider_layout(),
            tooltip="How strongly the strokes cover the picture here, 0.1 to 1; the model gets them all the same",
        )  # fmt: skip
        self.steps = IntRangeSlider(
            value=(0, num_steps - 1), min=0, max=num_steps - 1, description="Steps", continuous_update=False,
            layout=_slider_layout(), tooltip="Steps at which the chosen stroke, or what is painted next, counts",
        )  # fmt: skip
        self.color = ColorPicker(
            value=color, description="Color", layout=Layout(width="220px"),
            tooltip="Color of the brush: click the field, or write #rrggbb",
        )  # fmt: skip
        self.exemplar_colors = Swatches("Exemplar")
        self.recent_colors = Swatches("Recent")

    def _make_masks_and_files(self) -> None:
        """Make the controls of masks and files."""
        self.mask_name = Text(
            placeholder="words, such as red car", description="Mask", layout=_slider_layout(), continuous_update=False,
            tooltip="Name of the next lasso mask: the words of the object. Of a name that exists, the mask grows",
        )  # fmt: skip
        self.masks = Dropdown(options=[], description="Masks", layout=Layout(width="220px"), tooltip="Named masks")
        tell_label(self.mask_name)
        tell_label(self.masks)
        self.remove_mask = _button("Remove", "trash", "Remove the mask that is named beside this")
        self.upload = FileUpload(
            accept=".json,.png", description="Open", layout=Layout(width="auto"),
            tooltip="Open a drawing: JSON saved here, or a PNG that is transparent where nothing is painted",
        )  # fmt: skip
        self.save_json = _button("JSON", "download", "Save strokes and masks as JSON, without loss")
        self.save_png = _button("PNG", "download", "Save the strokes as a PNG picture with alpha")

    def panel(self, wheel: Box) -> Box:
        """Lay the controls out in two groups: below each other beside the picture, side by side below it."""
        brush = [
            self.size,
            self.opacity,
            self.steps,
            self.color,
            HBox([wheel, VBox([self.exemplar_colors, self.recent_colors])]),
        ]
        rest = [
            _row(self.undo, self.redo, self.delete, self.clear),
            _row(self.has_strokes, self.has_masks, self.has_result, self.whole),
            self.mask_name,
            _row(self.masks, self.remove_mask),
            _row(self.upload, self.save_json, self.save_png, self.help),
            self.card,
        ]
        return HBox([VBox(group, layout=Layout(width="340px")) for group in (brush, rest)], layout=_wrapping())
