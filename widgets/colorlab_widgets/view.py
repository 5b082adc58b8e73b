"""View: what all views of a view-model share."""

import html
import threading
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets
import traitlets

from colorlab_widgets.view_model import ViewModel

__all__ = ["View", "button", "caption", "close_parts", "heading", "row", "tell_label"]


class View(ipywidgets.VBox):
    """A thin view: maps events to verbs of the model, and traits to what is shown. It keeps no truth of its own.

    Args:
        model: the view-model; several views share one.
    """

    def __init__(self, model: ViewModel, **layout: Any) -> None:
        self.model = model
        self.is_shown = True
        # Held while the page is brought to what the model says: two threads change that, and the slower one would leave
        # what it had read before. Nothing in it may change the model.
        self.showing = threading.RLock()
        # What was left out while the view was hidden.
        self._late: dict[Callable[[], None], None] = {}
        self._links: list[traitlets.link] = []
        self._followed: list[tuple[Callable[[Any], None], list[str]]] = []
        super().__init__(layout=ipywidgets.Layout(width="100%", **layout))
        self.add_class("colorlab-studio")

    def follow(self, names: Iterable[str], update: Callable[[], None], *, only_shown: bool = False) -> None:
        """Call `update` now and whenever one of these traits of the model changes, until the view is closed.

        Args:
            names: of the traits.
            update: brings the view to what the model says.
            only_shown: whether it waits while the view is hidden; when it is shown again it is called once.
        """

        def observer(change: Any = None) -> None:
            if only_shown and not self.is_shown:
                self._late[update] = None
            else:
                update()

        self._followed.append((observer, list(names)))
        self.model.observe(observer, list(names))
        observer()

    def link(self, name: str, control: ipywidgets.Widget) -> None:
        """Let a control's value and a trait of the model follow each other, until the view is closed."""
        self._links.append(traitlets.link((self.model, name), (control, "value")))

    def set_shown(self, is_shown: bool) -> None:
        """Tell the view whether it can be seen, so that what is hidden asks for nothing."""
        self.is_shown = is_shown
        while is_shown and self._late:
            update, _ = self._late.popitem()
            update()

    def close(self) -> None:
        """Stop following the model and close every widget of this view, so that nothing of it stays in memory.

        Closing twice does nothing, as `ipywidgets` closes once more what is freed.
        """
        for observer, names in self._followed:
            self.model.unobserve(observer, names)
        self._followed.clear()
        for link in self._links:
            link.unlink()
        self._links.clear()
        close_parts(self)
        super().close()


def close_parts(widget: ipywidgets.Widget) -> None:
    """Close everything below a widget, with layouts and styles, its own among them."""
    for each in _family(widget):
        each.unobserve_all()
        for part in (getattr(each, "layout", None), getattr(each, "style", None)):
            if isinstance(part, ipywidgets.Widget):
                part.close()
        if each is not widget:
            each.close()


def _family(widget: Any) -> list[Any]:
    """Return a widget and everything below it, each once, children first."""
    below = [part for child in getattr(widget, "children", ()) for part in _family(child)]
    return [*dict.fromkeys(below), widget]


def button(label: str, tooltip: str, action: Callable[[], None], icon: str = "", style: str = "") -> ipywidgets.Button:
    """Make a button."""
    made = ipywidgets.Button(description=label, tooltip=tooltip, icon=icon, button_style=style)
    made.layout.width = "auto"
    made.on_click(lambda _: action())
    return made


def heading(text: str) -> ipywidgets.HTML:
    """Make a small heading."""
    return ipywidgets.HTML(f"<b>{text}</b>")


def caption(text: str = "") -> ipywidgets.Label:
    """Make a line of words that wraps."""
    made = ipywidgets.Label(text)
    made.add_class("colorlab-caption")
    return made


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Put controls into a row that wraps where it is narrow."""
    made = ipywidgets.HBox(children, layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"))
    made.add_class("colorlab-controls")
    return made


def tell_label(control: Any) -> None:
    """Put the tooltip of a text field or a choice on the words before it.

    ipywidgets shows the tooltip of these two kinds only where there are no words before them.

    Args:
        control: with a description, as plain text, and a tooltip.
    """
    words, tooltip = html.escape(control.description), html.escape(control.tooltip)
    control.description_allow_html = True
    control.description = f'<span title="{tooltip}">{words}</span>'
