"""LazyViews: views that are made when they are first seen."""

import threading
from collections.abc import Callable, Iterator, Mapping

import ipywidgets

from colorlab_widgets.view import View, close_parts

__all__ = ["LazyViews"]


class LazyViews(Mapping[str, View]):
    """Views by name, each made when it is first asked for, inside a place that is there from the start.

    A view brings up to five scripts. A page that gets those of all views at once has to load them all before it answers
    again, and anywidget gives up a script that takes more than two seconds; so what nobody looks at is not sent.

    Args:
        makers: makes the view, by its name.
    """

    def __init__(self, makers: Mapping[str, Callable[[], View]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, View] = {}
        # Where callbacks have a thread of their own two may ask at once.
        self._lock = threading.RLock()
        self.places = {name: ipywidgets.VBox(layout=ipywidgets.Layout(width="100%")) for name in self._makers}

    def __getitem__(self, name: str) -> View:
        with self._lock:
            if name not in self._made:
                self._made[name] = self._makers[name]()
                self.places[name].children = [self._made[name]]
            return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    @property
    def made(self) -> tuple[str, ...]:
        """Names of the views that there are so far, in the order of making."""
        return tuple(self._made)

    def show(self, name: str | None) -> None:
        """Let one view work, and be made if need be, and no other; None: none of them is seen."""
        if name is not None:
            self[name].set_shown(True)
        for other, view in self._made.items():
            if other != name:
                view.set_shown(False)

    def close(self) -> None:
        """Close every view that was made, and the places."""
        for view in self._made.values():
            view.close()
        for place in self.places.values():
            close_parts(place)
            place.close()
