"""Study: a question in many network calls that tells its cost, can be watched, and can be stopped.

A study is planned first (nothing is computed), then walked one network call at a time, as a run is. What is done stays
when it is stopped, whatever stopped it: `cancel` from any thread, Ctrl-C, or an error.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from tqdm.auto import tqdm

from colorlab.errors import StateError
from colorlab.exhibits import Exhibit
from colorlab.runs.cost import StepPhase
from colorlab.runs.run import Run

__all__ = ["Study", "StudyCost", "StudyWarning", "estimate_cost"]

Part = TypeVar("Part")


class StudyWarning(UserWarning):
    """A study was stopped, and what is shown is only what was done until then."""


@dataclass(frozen=True, repr=False)
class StudyCost:
    """What a study will cost.

    Args:
        calls: calls of the denoising network, each for all guidance passes of one or several pictures.
        decodings: pictures decoded.
        seconds: wall clock, from what this run's own steps and pictures took; None where there is nothing to go by.
            Pictures that share a call count singly, so that it may be less.
    """

    calls: int
    decodings: int = 0
    seconds: float | None = None

    def __repr__(self) -> str:
        return f"StudyCost: {self}"

    def __str__(self) -> str:
        parts = [f"{self.calls} calls"] + ([f"{self.decodings} decodings"] if self.decodings else [])
        duration = "duration not known yet" if self.seconds is None else f"about {max(1, math.ceil(self.seconds))} s"
        return f"{', '.join(parts)}, {duration}"


def estimate_cost(run: Run, *, calls: int, predictions: int | None = None, decodings: int = 0) -> StudyCost:
    """Estimate a cost from what a run measured, or else the nearest run that it branched from.

    Args:
        run: what the study is about.
        calls: calls of the denoising network.
        predictions: pictures in all these calls together; one each by default.
        decodings: pictures decoded.
    """
    predict_s, decode_s = _seconds_each(run, "predict"), _seconds_each(run, "decode")
    if predict_s is None:
        return StudyCost(calls, decodings)
    # Where no picture was decoded yet, the estimate is that of the calls alone.
    seconds = (calls if predictions is None else predictions) * predict_s + decodings * (decode_s or 0.0)
    return StudyCost(calls, decodings, seconds)


def _seconds_each(run: Run, phase: StepPhase) -> float | None:
    """Return the mean seconds of one prediction or decoding; None where none was measured."""
    ancestor: Run | None = run
    while ancestor is not None:
        spent = ancestor.cost[phase]
        if spent.num_times:
            return spent.seconds / spent.num_times
        ancestor = ancestor.tree.parent(ancestor) if ancestor in ancestor.tree else None
    return None


class Study(Generic[Part]):
    """A question in many network calls: iterate to take them one at a time, or `finish` it.

    `for _ in study` makes one call each and may be left at any moment; it goes on where it stands. After `cancel`, an
    interrupt or an error nothing more is computed, and `exhibit` shows what was done. The run it is about is only read,
    and the model is held during a call, not between calls.

    Args:
        run: what the study is about.
        name: of the study.
        cost: estimated.
        num_parts: how many parts there will be.
        work: called once, when the study starts. Its iterator makes one network call (under the lock of the method) at
            a time and then yields the parts that are finished by it: often none, but `cost.calls` times in all.
        conclude: makes the exhibit of the finished parts, at least one.
    """

    def __init__(
        self,
        run: Run,
        name: str,
        *,
        cost: StudyCost,
        num_parts: int,
        work: Callable[[], Iterator[list[Part]]],
        conclude: Callable[[list[Part]], Exhibit],
    ) -> None:
        self.run = run
        self.name = name
        self.cost = cost
        self.num_parts = num_parts
        self.num_calls = 0
        self.seconds = 0.0
        self._work = work
        self._conclude = conclude
        self._parts: list[Part] = []
        self._iterator: Iterator[list[Part]] | None = None
        self._is_over = False
        self._cancelled = threading.Event()
        self._lock = threading.Lock()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is done."""
        return tuple(self._parts)

    @property
    def num_done(self) -> int:
        """Number of parts that are done."""
        return len(self._parts)

    @property
    def is_complete(self) -> bool:
        """Whether all parts are done."""
        return self.num_done == self.num_parts

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def __repr__(self) -> str:
        return f"Study {self.name!r} of {self.run.name!r}: {self.num_done} of {self.num_parts} parts, {self.cost}"

    def cancel(self) -> None:
        """Stop after the network call that is under way; from any thread, without waiting."""
        self._cancelled.set()

    def __iter__(self) -> Iterator[list[Part]]:
        while (finished := self._advance()) is not None:
            yield finished

    def finish(self, *, progress: bool = True) -> Exhibit:
        """Make the remaining calls and return the exhibit.

        When it is cancelled, or interrupted (Ctrl-C), it warns and returns what was done until then.

        Args:
            progress: whether to show a bar; its label tells the estimated cost.

        Raises:
            StateError: it was cancelled before anything was done.
            KeyboardInterrupt: it was interrupted before anything was done.
        """
        label = f"{self.name} ({self.cost})"
        interrupt: KeyboardInterrupt | None = None
        with tqdm(total=self.cost.calls, initial=self.num_calls, desc=label, unit="call", disable=not progress) as bar:
            try:
                for _ in self:
                    bar.update()
            except KeyboardInterrupt as caught:
                interrupt = caught
        if interrupt is not None and not self._parts:
            raise interrupt
        if not self.is_complete and self._parts:
            warnings.warn(f"{self._how_far()}; this is what was done.", StudyWarning, stacklevel=2)
        return self.exhibit

    @property
    def exhibit(self) -> Exhibit:
        """What the finished parts show; its provenance and caption say how many of them there are.

        Raises:
            StateError: nothing is done yet.
        """
        if not self._parts:
            raise StateError(f"{self._how_far()}, so there is nothing to show; finish() a new one.")
        exhibit = self._conclude(list(self._parts))
        provenance = {
            **exhibit.provenance,
            "num_parts": self.num_parts,
            "num_done": self.num_done,
            "is_complete": self.is_complete,
            "seconds": self.seconds,
        }
        caption = exhibit.caption if self.is_complete else f"{exhibit.caption} {self._how_far()}."
        return replace(exhibit, caption=caption, provenance=provenance)

    def _how_far(self) -> str:
        """Say how far the study came."""
        stopped = "was stopped" if self._is_over or self.is_cancelled else "stands"
        return f"The study {self.name!r} {stopped} after {self.num_done} of {self.num_parts} parts"

    def _advance(self) -> list[Part] | None:
        """Make one network call and return the parts that it finished; None when there is nothing left to do."""
        with self._lock:
            if self._is_over or self.is_cancelled:
                self._is_over = True
                return None
            if self._iterator is None:
                self._iterator = self._work()
            started_s = time.perf_counter()
            try:
                finished = next(self._iterator, None)
            except BaseException:
                # An iterator that failed cannot go on.
                self._is_over = True
                raise
            finally:
                self.seconds += time.perf_counter() - started_s
            if finished is None:
                self._is_over = True
                return None
            self.num_calls += 1
            self._parts.extend(finished)
            return finished
