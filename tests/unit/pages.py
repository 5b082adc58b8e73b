"""Plays the browser for widgets: events as the page sends them, confirmations as it makes them."""

from typing import Any

import ipywidgets


def send(page: Any, event: str, **values: Any) -> None:
    """Send an event of a component to Python."""
    page._handle_custom_msg({"event": event, **values}, [])


def confirm(picture: Any) -> None:
    """Confirm every frame, as a page that keeps up does."""
    while picture.shown != picture.frame:
        picture.set_state({"shown": picture.frame})


def number_of_widgets() -> int:
    """Return how many widgets are alive in the kernel."""
    return len(ipywidgets.widgets.widget._instances)
