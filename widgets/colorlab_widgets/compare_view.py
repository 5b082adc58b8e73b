"""CompareView: two runs under a line that is dragged, and the map of their color differences."""

import ipywidgets
import numpy as np

from colorlab.exhibits import Exhibit
from colorlab.runs.run import Run
from colorlab.runs.tree import compare
from colorlab_widgets.page import Compare
from colorlab_widgets.pictures import as_colors, encode_png
from colorlab_widgets.view import View, caption, row, tell_label
from colorlab_widgets.view_model import ViewModel

__all__ = ["CompareView"]

_NOTHING = "Two finished runs are needed: change something and run again."
_LARGE_DIFFERENCE = 30.0


class CompareView(View):
    """Two finished runs side by side: their pictures, and Delta E at every pixel.

    Args:
        model: the view-model.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.page = Compare(description="Two runs, a line between them")
        self.caption = caption(_NOTHING)
        choice = ipywidgets.Layout(width="200px")
        self.first = ipywidgets.Dropdown(description="left", layout=choice, tooltip="The run on the left of the line")
        self.second = ipywidgets.Dropdown(
            description="right", layout=choice, tooltip="The run on the right of the line"
        )
        tell_label(self.first)
        tell_label(self.second)
        self.is_map_shown = ipywidgets.Checkbox(
            description="Delta E map", indent=False, layout=ipywidgets.Layout(width="130px")
        )
        self.is_map_shown.tooltip = "Color difference at every pixel, CIE 1976 units; bright is 30 or more"
        for control in (self.first, self.second):
            control.style.description_width = "36px"
        for control in (self.first, self.second, self.is_map_shown):
            control.observe(lambda change: self._ask(), "value")
        self.children = [
            row(self.first, self.second, self.is_map_shown),
            self.page,
            self.caption,
        ]
        self.follow(("tree_version", "is_running", "run"), self._offer, only_shown=True)

    def _offer(self) -> None:
        """Offer the finished runs; the one looked at and the one before it until another is chosen."""
        if self.model.is_running:
            return
        names = [run.name for run in self.model.tree.runs if run.is_finished]
        if tuple(names) == self.second.options:
            return
        kept = self.first.value if self.first.value in names else None
        newest = (
            self.model.run.name
            if self.model.run is not None and self.model.run.name in names
            else (names or [None])[-1]
        )
        others = [name for name in names if name != newest]
        self.first.options, self.second.options = names, names
        self.second.value = newest
        self.first.value = kept if kept and kept != newest else (others or [newest])[-1]
        self._ask()

    def _ask(self) -> None:
        """Ask for the difference of the two that are chosen."""
        tree, chosen = self.model.tree, (self.first.value, self.second.value)
        if (
            None in chosen
            or chosen[0] == chosen[1]
            or any(name not in [run.name for run in tree.runs] for name in chosen)
        ):
            self._show_nothing(_NOTHING)
            return
        first, second = (tree[name] for name in chosen)
        self.model.ask(
            "comparison", lambda: (first, second, compare(first, second)), self._show, failed=self._show_nothing
        )

    def _show(self, found: tuple[Run, Run, Exhibit]) -> None:
        """Show two pictures and, if it is wanted, the map."""
        first, second, exhibit = found
        with self.page.hold_sync():
            self.page.size = first.image.shape[:2]
            self.page.first, self.page.second = encode_png(first.image), encode_png(second.image)
            self.page.names = [first.name, second.name]
            self.page.overlay = encode_png(_difference_colors(exhibit.array)) if self.is_map_shown.value else b""
        self.caption.value = exhibit.caption

    def _show_nothing(self, why: str) -> None:
        """Say why there is nothing to compare."""
        with self.page.hold_sync():
            self.page.first = self.page.second = self.page.overlay = b""
            self.page.names = []
        self.caption.value = why


def _difference_colors(difference: np.ndarray) -> np.ndarray:
    """Return a map of Delta E as colors on a fixed scale, so that maps can be compared with each other."""
    return as_colors(difference, (0.0, _LARGE_DIFFERENCE))
