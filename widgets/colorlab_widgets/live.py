"""LiveMode: while something is painted or dragged a quick preview follows; at rest a full run replaces it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from colorlab.conditioning import Conditioning
from colorlab.runs.quick import quick_preview
from colorlab.runs.run import Run
from colorlab.settings import Settings
from colorlab_widgets.view_model import LOOK, ViewModel, in_words

__all__ = ["LiveMode"]

_PREVIEW = "preview"
_SETTLE_S = 0.4


class LiveMode:
    """Follows the changes of a view-model while its `is_live` is set.

    Every change asks for a preview; a newer one waits for the one under way, and takes the place of any that waits.
    While a pointer is down (`is_held`), or a newer preview is wanted already, it is made in fewer steps, so that the
    picture keeps up. A full run starts when nothing has changed for a moment and no pointer is down.

    Args:
        model: the view-model.
        num_steps: of a preview.
        num_hasty_steps: of one that will soon be overtaken.
        settle_s: how long nothing must change before the full run.
    """

    def __init__(
        self, model: ViewModel, *, num_steps: int = 4, num_hasty_steps: int = 2, settle_s: float = _SETTLE_S
    ) -> None:
        self.model = model
        self.num_steps = num_steps
        self.num_hasty_steps = num_hasty_steps
        self.settle_s = settle_s
        self._is_closed = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        model.observe(self._changed, ["conditioning", "settings", "is_live"])
        model.observe(self._released, "is_held")

    def close(self) -> None:
        """Follow nothing any more; closing twice does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self.model.unobserve(self._changed, ["conditioning", "settings", "is_live"])
            self.model.unobserve(self._released, "is_held")
        self._wait_no_more()

    def _changed(self, change: Any) -> None:
        """Ask for a preview of what is given now, and for the full run later."""
        model = self.model
        self._wait_no_more()
        if not model.is_live or not model.is_changed:
            return
        model.pause()
        run, conditioning, settings = model.run, model.conditioning, model.settings
        if run is not None and run.step_index and not model.changes_decoding_only:

            def failed(problem: BaseException) -> None:
                model.error = in_words(problem)

            model.worker.submit(
                _PREVIEW, lambda: self._preview(run, conditioning, settings), urgency=LOOK - 1, failed=failed
            )
        self._settle_later()

    def _released(self, change: Any) -> None:
        """Let the full run come when the pointer is up."""
        if not change.new and self.model.is_live and self.model.is_changed:
            self._settle_later()

    def _preview(self, run: Run, conditioning: Conditioning, settings: Settings) -> Iterator[None]:
        """Show what a few steps give; in the worker's thread."""
        model = self.model
        was_held = model.is_held
        num_steps = self.num_hasty_steps if was_held or model.worker.is_waiting(_PREVIEW) else self.num_steps
        for picture in quick_preview(run, conditioning, settings, num_steps=num_steps):
            if picture is not None and model.run is run:
                model.is_preview = True
                model.picture = picture
            yield
            if was_held and not model.is_held and model.worker.is_waiting(_PREVIEW):
                # The pointer was lifted: now the last one counts.
                return

    def _settle_later(self) -> None:
        """Start the full run after a moment in which nothing changes."""
        self._wait_no_more()
        if self.model.is_held:
            return
        with self._lock:
            self._timer = threading.Timer(self.settle_s, self._settle)
            self._timer.daemon = True
            self._timer.start()

    def _settle(self) -> None:
        """Start the full run, if it is still wanted."""
        model = self.model
        if model.is_live and model.is_changed and not model.is_held:
            # The laboratory may have been closed while the timer ran.
            with contextlib.suppress(RuntimeError):
                model.apply()

    def _wait_no_more(self) -> None:
        """Forget the full run that was to come."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
