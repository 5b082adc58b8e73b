"""ProvenanceView: click a place: why this color, by taking its sources away and running again."""

from collections.abc import Iterator
from typing import Any

import ipywidgets

from colorlab.errors import StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.study import Study
from colorlab_widgets.page import Bars, Picture
from colorlab_widgets.view import View, button, caption, row
from colorlab_widgets.view_model import ViewModel

__all__ = ["ProvenanceView"]

_STUDY = "provenance"
_HINT = "Click a place of the picture, then ask."


class ProvenanceView(View):
    """Shares of words and strokes in the color of a place; a study: the cost is told first, and it can be stopped.

    Args:
        model: the view-model; its `pixel` or `region` is the place.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        self.picture = Picture(
            {"click": self._click}, description="Click a place: why does it have this color?", max_height_px=320
        )
        self.cost = caption(_HINT)
        self.is_fast = ipywidgets.Checkbox(True, description="stop where the color is decided", indent=False)
        self.is_fast.tooltip = "Faster and approximate: ablated runs end at the step where the color was decided"
        self.ask = button("Why this color?", "Take each source away and run again", self._begin, "question")
        self.cancel = button(
            "Cancel", "Stop after the network call under way; what is done is shown", self._cancel, "times"
        )
        self.progress = ipywidgets.FloatProgress(0.0, min=0.0, max=1.0, layout=ipywidgets.Layout(width="140px"))
        self.bars = Bars(description="Share of each source in the color of the place")
        self.caption = caption()
        self._study: Study[Any] | None = None
        self.children = [
            self.picture,
            row(self.ask, self.cancel, self.progress, self.is_fast),
            self.cost,
            self.bars,
            self.caption,
        ]
        self.is_fast.observe(lambda change: self._plan(), "value")
        self.follow(("picture",), lambda: self.picture.show(model.picture), only_shown=True)
        self.follow(("pixel", "region", "run", "is_running"), self._plan, only_shown=True)
        self.follow(("activity",), self._show_work)

    def _click(self, x: float, y: float) -> None:
        """Select a place."""
        self.model.pixel = (x, y)

    def _plan(self) -> None:
        """Tell what the study would cost."""
        model, run = self.model, self.model.run
        self.picture.marks = [list(model.pixel)] if model.pixel else []
        place = (
            {"pixel": model.pixel} if model.pixel else {"region": model.region} if model.region is not None else None
        )
        is_ready = run is not None and run.is_finished and not model.is_running and place is not None
        self.ask.disabled = True
        if not is_ready:
            self.cost.value = _HINT if place is None else "The run is asked when it is finished."
            return

        def planned(study: Study[Any]) -> None:
            self._study = study
            self.cost.value = f"Asking takes {study.cost}."
            self.ask.disabled = False

        is_fast = self.is_fast.value
        model.ask(
            "cost of provenance",
            lambda: run.study.plan.provenance(fast=is_fast, baseline=True, **place),
            planned,
            failed=self._say,
        )

    def _begin(self) -> None:
        """Do the study, one network call at a time, so that others are served in between."""
        study = self._study
        if study is None:
            return
        self._study, self.ask.disabled = None, True

        def walk() -> Iterator[None]:
            done = 0
            try:
                for _ in study:
                    done += 1
                    self.progress.value = min(1.0, done / max(study.cost.calls, 1))
                    yield
            finally:
                self._conclude(study)

        self.model.worker.submit(_STUDY, walk, urgency=-1)

    def _show_work(self) -> None:
        """Offer to cancel what is under way, and nothing else."""
        self.cancel.disabled = _STUDY not in self.model.worker.busy_kinds

    def _cancel(self) -> None:
        """Stop the study."""
        self.model.worker.stop(_STUDY)

    def _conclude(self, study: Study[Any]) -> None:
        """Show what was done, however far it came."""
        self.progress.value = 0.0
        try:
            self._show(study.exhibit)
        except StateError as problem:
            self._say(str(problem))
        self._plan()

    def _show(self, exhibit: Exhibit) -> None:
        """Show the shares as bars."""
        labels = exhibit.provenance["labels"]
        chance = exhibit.baseline
        self.bars.bars = [
            {
                "name": str(labels[index]),
                "value": float(exhibit.array[index]),
                "baseline": None if chance is None else float(chance[index]),
                "text": f"{exhibit.array[index]:+.0%}",
            }
            for index in range(len(labels))
        ]
        self.caption.value = exhibit.caption

    def _say(self, why: str) -> None:
        """Say why there is no answer."""
        self.cost.value = why

    def close(self) -> None:
        """Stop following the model, and let the run go."""
        self._study = None
        super().close()
