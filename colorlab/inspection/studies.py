"""The studies of a run: `run.study.NAME(...)` makes one and finishes it, `run.study.plan.NAME(...)` only plans it."""

import threading
from typing import Generic, TypeVar

from colorlab.exhibits import Exhibit
from colorlab.inspection.study import Study
from colorlab.runs.run import Run

__all__ = ["Studies", "StudyMenu", "StudyPlans"]

Answer = TypeVar("Answer")


class StudyMenu(Generic[Answer]):
    """Every study there is, once; what becomes of a planned study is the subclass's business.

    Args:
        run: what the studies are about.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def _answer(self, study: Study, progress: bool) -> Answer:
        """Do with a planned study what this menu is for."""
        raise NotImplementedError


class StudyPlans(StudyMenu[Study]):
    """Plans studies: nothing is computed, and the `cost` of a plan can be read before it is finished."""

    def _answer(self, study: Study, progress: bool) -> Study:
        return study


class Studies(StudyMenu[Exhibit]):
    """Makes studies: each tells its estimated cost on its bar, and ends early when cancelled or interrupted (Ctrl-C).

    What was done until then is returned with a warning; the run is only read, and stays usable.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._running: list[Study] = []
        self._lock = threading.Lock()

    @property
    def plan(self) -> StudyPlans:
        """The same studies, planned and not started: `run.study.plan.seeds(n=8).cost`."""
        return StudyPlans(self.run)

    @property
    def running(self) -> tuple[Study, ...]:
        """Studies of this run that are under way, in whatever thread."""
        with self._lock:
            return tuple(self._running)

    def cancel(self) -> None:
        """Stop all studies of this run that are under way, each after its present network call; from any thread."""
        for study in self.running:
            study.cancel()

    def _answer(self, study: Study, progress: bool) -> Exhibit:
        with self._lock:
            self._running.append(study)
        try:
            return study.finish(progress=progress)
        finally:
            with self._lock:
                self._running.remove(study)
