"""The stroke painter, from vector strokes to what is seen in the page."""

from colorlab_widgets.painter.widget import StrokePainter

__all__ = ["StrokePainter"]
