"""Worker: one thread that owns the model. Callbacks enqueue jobs and return at once; between two slices of a long job a
more urgent one is served, a stop takes effect, and stale work is dropped.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from colorlab.errors import RangeError, StateError

__all__ = ["Job", "Worker"]

Job = Callable[[], Iterator[None] | None]
"""What the thread calls: a function, or one that returns an iterator whose every `next` is one slice of the work."""

Failed = Callable[[BaseException], None]


@dataclass(eq=False)
class _Task:
    """One job in the queue.

    Args:
        kind: of which only the newest waits.
        job: what is called.
        urgency: higher is served first.
        failed: told when the job raises.
        number: in the order of submission.
        slices: what is left of a job that has begun.
        is_stopped: whether it ends before its next slice.
    """

    kind: str
    job: Job
    urgency: int
    failed: Failed
    number: int
    slices: Iterator[None] | None = None
    is_stopped: bool = field(default=False)


class Worker:
    """One thread for everything that needs the model.

    Of each kind of job at most one is under way and one waits: a newer one takes the place of the one that waits, so
    that whoever asks faster than the model answers gets the newest answer and never a queue of stale ones. A kind that
    should rather be broken off is stopped first (`stop`, then `submit`). The thread starts with the first job.

    Args:
        changed: called, in either thread, when the set of busy kinds may have changed.
        failed: called in the worker's thread with what a job, or `rested`, raised; by default nobody is told but by
            `submit`.
        rested: called in the worker's thread when nothing is left to do, after `changed`.
    """

    def __init__(
        self,
        *,
        changed: Callable[[], None] | None = None,
        failed: Failed | None = None,
        rested: Callable[[], None] | None = None,
    ) -> None:
        self._changed = changed or (lambda: None)
        self._failed = failed or (lambda error: None)
        self._rested = rested or (lambda: None)
        self._condition = threading.Condition()
        self._waiting: dict[str, _Task] = {}
        self._begun: dict[str, _Task] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # Whether the end of a job is just being told.
        self._is_telling = False

    def submit(self, kind: str, job: Job, *, urgency: int = 0, failed: Failed | None = None) -> None:
        """Enqueue a job; it replaces one of the same kind that has not begun.

        Args:
            kind: what it is for: "run", "attention" ...
            job: called in the worker's thread.
            urgency: higher is served first, between the slices of others too; equals in the order they came.
            failed: called in the worker's thread with what the job raises, instead of the worker's own.

        Raises:
            StateError: the worker is closed.
        """
        with self._condition:
            if self._is_closed:
                raise StateError("This laboratory is closed; open a new one.")
            self._waiting[kind] = _Task(kind, job, urgency, failed or self._failed, next(self._numbers))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="colorlab worker", daemon=True)
                self._thread.start()
            self._condition.notify_all()
        self._changed()

    def stop(self, *kinds: str) -> None:
        """Drop jobs of these kinds, or of all: those that wait at once, the one under way before its next slice."""
        with self._condition:
            for kind in kinds or (*self._waiting, *self._begun):
                self._waiting.pop(kind, None)
                if kind in self._begun:
                    self._begun[kind].is_stopped = True
            self._condition.notify_all()
        self._changed()

    @property
    def busy_kinds(self) -> tuple[str, ...]:
        """Kinds that wait or are under way and were not stopped, in alphabetical order."""
        with self._condition:
            begun = [kind for kind, task in self._begun.items() if not task.is_stopped]
            return tuple(sorted({*self._waiting, *begun}))

    def is_waiting(self, kind: str) -> bool:
        """Whether a newer job of this kind waits for the one under way."""
        with self._condition:
            return kind in self._waiting

    def join(self, timeout_s: float = 60.0) -> bool:
        """Wait until nothing is left to do and everybody was told so; return whether it came to that.

        Raises:
            RangeError: called from the worker's own thread, which would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RangeError("A job waits for its own end; call join from another thread.")
        with self._condition:
            return self._condition.wait_for(lambda: not (self._waiting or self._begun or self._is_telling), timeout_s)

    def close(self, timeout_s: float = 60.0) -> None:
        """Drop everything and end the thread after the slice under way; closing twice does nothing."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    # In the thread.

    def _serve(self) -> None:
        """Serve slice after slice until the worker is closed."""
        while (task := self._next()) is not None:
            try:
                is_over = self._advance(task)
            except BaseException as error:
                # A thread that dies of one job would leave every later click without an answer.
                is_over = True
                if not task.is_stopped:
                    task.failed(error)
            if is_over:
                self._end(task)
            # Else the loop would hold the last job, and with it a run, until the next one comes.
            del task

    def _end(self, task: _Task) -> None:
        """Forget a task that is over, and say so before anybody who joins goes on."""
        with self._condition:
            self._begun.pop(task.kind, None)
            self._is_telling = True
        try:
            self._changed()
            if not self.busy_kinds:
                self._rest()
        finally:
            with self._condition:
                self._is_telling = False
                self._condition.notify_all()

    def _rest(self) -> None:
        """Say that nothing is left to do; what fails there is told as of a job, and ends the thread as little."""
        try:
            self._rested()
        except Exception as error:
            self._failed(error)

    def _next(self) -> _Task | None:
        """Wait for the most urgent task and mark it as begun; None once the worker is closed."""
        with self._condition:
            while not self._is_closed:
                free = [task for kind, task in self._waiting.items() if kind not in self._begun]
                candidates = [*self._begun.values(), *free]
                if candidates:
                    task = max(candidates, key=lambda task: (task.is_stopped, task.urgency, -task.number))
                    if self._begun.setdefault(task.kind, task) is task:
                        self._waiting = {kind: other for kind, other in self._waiting.items() if other is not task}
                    return task
                self._condition.wait()
            for task in self._begun.values():
                task.is_stopped = True
            left = list(self._begun.values())
            self._begun.clear()
            self._waiting.clear()
            self._condition.notify_all()
        for task in left:
            _close(task)
        return None

    @staticmethod
    def _advance(task: _Task) -> bool:
        """Do one slice; return whether the task is over."""
        if task.is_stopped:
            _close(task)
            return True
        if task.slices is None:
            slices = task.job()
            if slices is None:
                return True
            task.slices = iter(slices)
        try:
            next(task.slices)
        except StopIteration:
            return True
        return False


def _close(task: _Task) -> None:
    """End a job that was broken off, so that its `finally` runs in this thread."""
    close = getattr(task.slices, "close", None)
    if close is not None:
        close()
