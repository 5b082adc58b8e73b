"""Drawing with ipycanvas in one message, safe against errors, threads and reloaded pages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ipycanvas.canvas import _CANVAS_MANAGER

__all__ = ["canvas_manager_id", "held_canvas"]

# ipycanvas sends everything through one manager of the process, so one lock stands before all canvases.
_LOCK = threading.RLock()


@contextmanager
def held_canvas() -> Iterator[None]:
    """Collect what is drawn on any canvas, and send it at the end in one message; may be nested.

    ipycanvas' own `hold_canvas` stays on after an error inside, so that nothing is ever drawn again, mixes what
    several threads draw, and names the canvas only when it changes, which a page that was loaded in between never
    heard. Here an error drops what was collected, other threads wait, and every message begins with its canvas.
    """
    manager = _CANVAS_MANAGER
    with _LOCK:
        if manager._caching:
            yield
            return
        manager._caching = True
        manager._current_canvas = None
        try:
            yield
            manager.flush()
        finally:
            manager._commands_cache, manager._buffers_cache = [], []
            manager._caching = False
            manager._current_canvas = None


def canvas_manager_id() -> str:
    """Return the model id of ipycanvas' manager, through which a page gets all drawing."""
    return str(_CANVAS_MANAGER.model_id)
