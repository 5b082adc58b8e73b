"""Widgets of colorlab."""

from colorlab_widgets.painter.widget import StrokePainter

__all__ = ["StrokePainter"]
