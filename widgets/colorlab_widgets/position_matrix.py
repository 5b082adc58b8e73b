"""PositionMatrix: the patches of an exemplar as cells over it, their weights, and the thresholds as handles to drag."""

from pathlib import Path
from typing import Any

import traitlets

from colorlab.conditioning import USUAL_THRESHOLDS
from colorlab_widgets.page import PageView

__all__ = ["PositionMatrix"]

_STYLE = Path(__file__).parent / "static" / "matrix.css"


class PositionMatrix(PageView):
    """Position weights over the exemplar; events "move" and "drop" with the four thresholds as `values`.

    "move" comes while a handle is dragged, at most every 40 ms and the newest only; "drop" when it is let go.
    """

    script = "matrix"
    image = traitlets.Bytes(help="PNG of the exemplar, squeezed to a square").tag(sync=True)
    rows = traitlets.Int(help="Of patches").tag(sync=True)
    columns = traitlets.Int(help="Of patches").tag(sync=True)
    similarity = traitlets.List(help="With the control text, of each patch, row by row").tag(sync=True)
    relative = traitlets.List(help="Place of each similarity between the least and the most, [0, 1]").tag(sync=True)
    weights = traitlets.List(help="Position weight of each patch").tag(sync=True)
    thresholds = traitlets.List(list(USUAL_THRESHOLDS), help="Four, rising within [0, 1]").tag(sync=True)
    unread = traitlets.List([], help="Indexes of the thresholds that mean nothing here, gray; all: none moves").tag(
        sync=True
    )
    shown = traitlets.Enum(("weights", "similarity"), "weights", help="What colors the cells").tag(sync=True)

    @traitlets.default("_css")
    def _read_style(self) -> Any:
        """Return the style that all components share, and its own."""
        return f"{super()._read_style()}\n{_STYLE.read_text(encoding='utf-8')}"
