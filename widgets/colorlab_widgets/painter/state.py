"""What the painter knows and does, without anything that is seen: traits, tools and their history."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from traitlets import Bool, Float, HasTraits, Instance, Int, Tuple, Unicode, observe, validate

from colorlab.errors import ColorlabError, RangeError, ShapeError
from colorlab.strokes import Stroke, Strokes
from colorlab_widgets.painter import tools
from colorlab_widgets.painter.colors import text_to_color
from colorlab_widgets.painter.drawing import Drawing, History
from colorlab_widgets.painter.files import json_to_drawing, png_to_strokes
from colorlab_widgets.painter.gesture import Gesture

__all__ = ["FIRST_COLOR", "PainterState"]

FIRST_COLOR = (200, 40, 40)
"""Of the brush before the user takes another, sRGB."""

_NUM_RECENT = 8
# The arrow keys: (right, down) in image pixels.
_NUDGES = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


class PainterState(HasTraits):
    """The drawing, what it lies on, the brush, and what every tool and command makes of it.

    Each change of strokes and masks is one step of the history, whether a gesture, a command or code made it.
    """

    picture = Instance(np.ndarray, help="(H, W, 3) uint8. Another size starts an empty drawing. Written by code")
    strokes = Instance(Strokes, (), help="In image pixels. Written by user and code")
    masks = Instance(Mapping, help="Name to (H, W) bool. Written by user and code")  # type: ignore[type-abstract]
    draft = Instance(
        Strokes, (), help="Strokes with what is being drawn now; `strokes` otherwise. Written by the painter"
    )
    is_drawing = Bool(False, help="Whether a gesture is known to go on. Written by the painter")
    result = Instance(
        np.ndarray, allow_none=True, help="Colored picture (h, w, 3) uint8, None for none. Written by code"
    )
    result_label = Unicode(help="Written in a corner of the result, such as preview. Written by code")
    exemplar = Instance(
        np.ndarray, allow_none=True, help="(h, w, 3) uint8 that swatches are taken from. Written by code"
    )

    chosen = Int(None, allow_none=True, help="Index of the chosen stroke. Written by user and code")
    chosen_mask = Unicode(None, allow_none=True, help="Name of the chosen mask. Written by user and code")
    pixel = Instance(tuple, allow_none=True, help="Marked (x, y) of the picture. Written by user and code")

    color = Tuple(FIRST_COLOR, help="Of the brush, sRGB, 0 to 255. Written by user and code")
    radius_px = Float(4.0, help="Of the brush, in image pixels. Written by user and code")
    num_steps = Int(20, help="Steps of a run, for step ranges. Written by code")
    steps = Tuple((None, None), help="First and last step of what is painted next; None: no limit. Written by user")
    mask_name = Unicode(help="Of the next lasso mask; empty for a number. Written by user and code")
    recent_colors = Tuple((), help="Colors painted with, the latest first. Written by the painter")

    opacity = Float(1.0, help="Of the strokes as they are shown, 0 to 1. Written by user and code")
    has_strokes = Bool(True, help="Whether strokes are shown. Written by user and code")
    has_masks = Bool(True, help="Whether masks are shown. Written by user and code")
    has_result = Bool(True, help="Whether the result is shown. Written by user and code")
    is_live = Bool(False, help="Whether `draft` follows the pointer, for a live preview. Written by code")
    message = Unicode(help="What went wrong last, in one sentence; empty when nothing did. Written by the painter")

    def __init__(self, picture: np.ndarray, **traits: Any) -> None:
        self._is_loading = False
        self.history = History(Drawing())
        super().__init__(**traits)
        self.masks = self.history.present.masks
        self.picture = picture

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width) of the picture in pixels."""
        return self.picture.shape[0], self.picture.shape[1]

    # The history.

    def undo(self) -> None:
        """Take the last change back."""
        self._go(self.history.undo())

    def redo(self) -> None:
        """Do again what was taken back."""
        self._go(self.history.redo())

    def start(self, drawing: Drawing) -> None:
        """Begin with a drawing, and with nothing to take back."""
        self._go(History(drawing))

    def do(self, drawing: Drawing) -> None:
        """Go on to another drawing, as one step of the history."""
        self._go(self.history.then(drawing))

    def _do_strokes(self, strokes: Strokes) -> None:
        """Go on to other strokes."""
        self.do(self.history.present.with_strokes(strokes))

    def _go(self, history: History) -> None:
        """Take another place in the history."""
        self.history = history
        # Held, so that both have changed before anyone looks.
        with self.hold_trait_notifications():
            self.strokes, self.masks = history.present.strokes, history.present.masks

    @validate("masks")
    def _check_masks(self, proposal: Any) -> Mapping[str, np.ndarray]:
        """Take masks of the picture's size only, and keep them read-only."""
        for name, mask in proposal["value"].items():
            if mask.shape != self.size or mask.dtype != bool:
                raise ShapeError(
                    f"The mask {name!r} is {mask.dtype} of shape {mask.shape}, but bool of shape {self.size} is "
                    f"expected, as the picture has."
                )
        present = self.history.present.masks
        return present if proposal["value"] is present else Drawing(masks=proposal["value"]).masks

    @observe("strokes", "masks")
    def _follow_drawing(self, _: Any) -> None:
        """Keep a change that code has made, and what depends on the drawing."""
        present = self.history.present
        if present.strokes is not self.strokes or present.masks is not self.masks:
            self.history = self.history.then(Drawing(self.strokes, self.masks))
        if self.chosen is not None and self.chosen >= len(self.strokes):
            self.chosen = None
        if self.chosen_mask not in self.masks:
            self.chosen_mask = None
        self.draft = self.strokes

    @observe("picture")
    def _follow_picture(self, change: Any) -> None:
        """Start anew on a picture of another size, where the strokes mean nothing."""
        if isinstance(change["old"], np.ndarray) and change["old"].shape[:2] != self.size:
            self.pixel = None
            self.start(Drawing())

    # The chosen stroke.

    @observe("chosen")
    def _load_chosen(self, _: Any) -> None:
        """Let the brush look like the chosen stroke, so that changing the brush changes it."""
        if self.chosen is None:
            return
        stroke = self.strokes[self.chosen]
        self._is_loading = True
        try:
            self.color, self.radius_px = stroke.color, stroke.radius_px
            self.steps = (stroke.first_step, stroke.last_step)
        finally:
            self._is_loading = False

    @observe("color", "radius_px", "steps")
    def _change_chosen(self, change: Any) -> None:
        """Give the chosen stroke what the brush was given."""
        if self.chosen is None or self._is_loading:
            return
        with self.told_errors():
            name = change["name"]
            values = self._step_range() if name == "steps" else {name: change["new"]}
            self._do_strokes(tools.change(self.strokes, self.chosen, **values))

    def _step_range(self) -> dict[str, int | None]:
        """Return the step range as fields of a stroke."""
        return {"first_step": self.steps[0], "last_step": self.steps[1]}

    # The tools.

    def use(self, gesture: Gesture, reach_px: float = 0.0) -> None:
        """Use the tool of a gesture; an error is told in `message`.

        Args:
            gesture: what the pointer did.
            reach_px: how far beside a stroke a click still means it, in image pixels.
        """
        used: dict[str, Callable[[], None]] = {
            "brush": lambda: self._brush(gesture),
            "eraser": lambda: self._take_strokes(tools.erase(self.strokes, gesture.points, gesture.radius_px), gesture),
            "lasso": lambda: self._lasso(gesture),
            "move": lambda: self._move(gesture, reach_px),
            "eyedropper": lambda: self._take_color(gesture.points[-1]),
            "look": lambda: self._look(gesture.points[-1]),
        }
        self.is_drawing = self.is_drawing or gesture.phase == "going"
        with self.told_errors():
            if gesture.phase == "cancelled":
                self.draft = self.strokes
            else:
                used[gesture.tool]()
        self.is_drawing = gesture.phase == "going"

    def _take_strokes(self, strokes: Strokes, gesture: Gesture) -> None:
        """Take over what a gesture makes of the strokes when it is done, and show it before."""
        if gesture.is_done:
            self._do_strokes(strokes)
        self.draft = strokes

    def _brush(self, gesture: Gesture) -> None:
        """Paint a stroke."""
        color = text_to_color(gesture.color)
        stroke = Stroke(gesture.points, color, gesture.radius_px, **self._step_range())
        if gesture.is_done:
            self.chosen = None
            self.recent_colors = tuple(dict.fromkeys((color, *self.recent_colors)))[:_NUM_RECENT]
        self._take_strokes(Strokes([*self.strokes, stroke]), gesture)

    def _move(self, gesture: Gesture, reach_px: float) -> None:
        """Choose the stroke under the pointer, and move it as far as the pointer went."""
        (x, y), (to_x, to_y) = gesture.points[0], gesture.points[-1]
        self.chosen = tools.stroke_at(self.strokes, (x, y), reach_px)
        if self.chosen is not None and (to_x, to_y) != (x, y):
            self._take_strokes(tools.move(self.strokes, self.chosen, (to_x - x, to_y - y)), gesture)

    def _lasso(self, gesture: Gesture) -> None:
        """Make a mask, with the name that is written, or a number."""
        if not gesture.is_done:
            return
        mask = tools.lasso(gesture.points, self.size)
        free = (f"object {number}" for number in range(1, len(self.masks) + 2))
        name = self.mask_name.strip() or next(name for name in free if name not in self.masks)
        self.do(self.history.present.with_mask(name, mask))
        self.chosen_mask = name

    def _take_color(self, point: tuple[float, float]) -> None:
        """Take the color that is seen at a point: of a stroke, of the result, or of the picture."""
        index = tools.stroke_at(self.strokes, point) if self.has_strokes else None
        if index is not None:
            self.color = self.strokes[index].color
            return
        seen = self.picture if self.result is None or not self.has_result else self.result
        self.color = tuple(seen[self.pixel_at(point, seen)].tolist())

    def _look(self, point: tuple[float, float]) -> None:
        """Mark a pixel."""
        row, column = self.pixel_at(point, self.picture)
        self.pixel = (column, row)

    def pixel_at(self, point: tuple[float, float], seen: np.ndarray) -> tuple[int, int]:
        """Return (row, column) in a picture of any size that lies under a point of the painter's picture."""
        (height, width), (x, y) = self.size, point
        row, column = int(y * seen.shape[0] / height), int(x * seen.shape[1] / width)
        return min(max(row, 0), seen.shape[0] - 1), min(max(column, 0), seen.shape[1] - 1)

    # Commands.

    def command(self, name: str) -> None:
        """Do what a button or a key asks for; an error is told in `message`.

        Args:
            name: undo, redo, clear, delete, unchoose, remove_mask; left, right, up, down by a pixel; strokes, masks,
                result to show or hide them.
        """
        commands: dict[str, Callable[[], None]] = {
            "undo": self.undo,
            "redo": self.redo,
            "clear": lambda: self._do_strokes(Strokes()),
            "delete": self._delete_chosen,
            "unchoose": self._unchoose,
            "remove_mask": lambda: self.do(self.history.present.without_mask(self.chosen_mask or "")),
        }
        with self.told_errors():
            if name in commands:
                commands[name]()
            elif name in _NUDGES:
                self._do_strokes(tools.move(self.strokes, self._chosen(), _NUDGES[name]))
            else:
                shown: bool = getattr(self, f"has_{name}")
                setattr(self, f"has_{name}", not shown)

    def take_file(self, name: str, data: bytes) -> None:
        """Take a drawing from a file; a PNG brings strokes and leaves the masks. An error is told in `message`."""
        with self.told_errors():
            if name.lower().endswith(".png"):
                self._do_strokes(png_to_strokes(data, self.size))
            else:
                self.do(json_to_drawing(data.decode("utf-8", errors="replace"), self.size))

    def _delete_chosen(self) -> None:
        """Delete the chosen stroke."""
        strokes, self.chosen = tools.delete(self.strokes, self._chosen()), None
        self._do_strokes(strokes)

    def _unchoose(self) -> None:
        """Let nothing be chosen or marked."""
        self.chosen = self.chosen_mask = self.pixel = None

    def _chosen(self) -> int:
        """Return the index of the chosen stroke."""
        if self.chosen is None:
            raise RangeError("No stroke is chosen; take Move (V) and click one.")
        return int(self.chosen)

    @contextmanager
    def told_errors(self) -> Iterator[None]:
        """Tell an error where the user looks; one that is not the user's goes on to the kernel's log as well."""
        self.message = ""
        try:
            yield
        except ColorlabError as error:
            self.message = str(error)
        except Exception as error:
            self.message = f"This should not happen ({type(error).__name__}: {error}); the drawing is as before."
            raise
