"""The worker: newest wins, urgent first, stop within a slice, errors told, everything freed when closed."""

import threading
import weakref

import pytest
from colorlab_widgets.worker import Worker

from colorlab.errors import RangeError, StateError


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


class Gate:
    """A job that has begun and waits to be let go on."""

    def __init__(self):
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.may_go_on.wait(30)


def test_of_the_jobs_that_wait_only_the_newest_of_a_kind_is_done(worker):
    gate, done = Gate(), []
    worker.submit("look", gate)
    assert gate.begun.wait(30)
    for number in range(20):
        worker.submit("look", lambda number=number: done.append(number))
    worker.submit("other", lambda: done.append("other"))
    gate.may_go_on.set()
    assert worker.join()
    assert done == [19, "other"]


def test_it_rests_when_nothing_is_left_and_not_before():
    gate, told = Gate(), []
    worker = Worker(rested=lambda: told.append("rest"))
    worker.submit("look", gate)
    assert gate.begun.wait(30)
    worker.submit("other", lambda: told.append("other"))
    gate.may_go_on.set()
    assert worker.join()
    assert told == ["other", "rest"]
    worker.close()


def test_a_rest_that_fails_is_told_and_does_not_end_the_thread():
    done, told = [], []

    def rested():
        raise OSError("no such library")

    worker = Worker(failed=told.append, rested=rested)
    for number in range(2):
        worker.submit("look", lambda number=number: done.append(number))
        assert worker.join(30)
    assert done == [0, 1]
    assert [str(error) for error in told] == ["no such library"] * 2
    worker.close()


def test_an_urgent_job_is_served_between_two_slices_of_a_long_one(worker):
    gate, order = Gate(), []

    def long():
        gate()
        for number in range(3):
            order.append(number)
            yield

    worker.submit("run", long)
    assert gate.begun.wait(30)
    worker.submit("later", lambda: order.append("later"), urgency=-1)
    worker.submit("look", lambda: order.append("look"), urgency=2)
    gate.may_go_on.set()
    assert worker.join()
    assert order == [0, "look", 1, 2, "later"] or order == ["look", 0, 1, 2, "later"]


def test_a_stop_takes_effect_before_the_next_slice_and_lets_the_job_clean_up(worker):
    gate, slices, cleaned = Gate(), [], []

    def long():
        try:
            for number in range(1000):
                slices.append(number)
                if number == 3:
                    gate()
                yield
        finally:
            cleaned.append(threading.current_thread().name)

    worker.submit("run", long)
    assert gate.begun.wait(30)
    worker.submit("run", lambda: slices.append("stale"))
    worker.stop("run")
    assert worker.busy_kinds == ()
    worker.submit("run", lambda: slices.append("new"))
    gate.may_go_on.set()
    assert worker.join()
    assert slices == [0, 1, 2, 3, "new"]
    assert cleaned == ["colorlab worker"]


def test_what_a_job_raises_is_told_and_the_thread_lives_on():
    told, done = [], []
    worker = Worker(failed=lambda error: told.append(("worker", error)))

    def raises(error):
        raise error

    worker.submit("a", lambda: raises(ValueError("one")))
    worker.submit("b", lambda: raises(KeyboardInterrupt()), failed=lambda error: told.append(("job", error)))
    worker.submit("c", lambda: done.append(1))
    assert worker.join()
    assert [(who, type(error)) for who, error in told] == [("worker", ValueError), ("job", KeyboardInterrupt)]
    assert done == [1]
    worker.close()


def test_the_change_of_busy_kinds_is_told():
    seen = []
    worker = Worker(changed=lambda: seen.append(worker.busy_kinds))
    gate = Gate()
    worker.submit("run", gate)
    assert gate.begun.wait(30)
    gate.may_go_on.set()
    assert worker.join()
    worker.close()
    assert seen[0] == ("run",)
    assert seen[-1] == ()


def test_a_closed_worker_refuses_frees_its_jobs_and_ends_its_thread():
    worker, gate = Worker(), Gate()

    class Heavy:
        pass

    heavy = Heavy()
    kept, cleaned = weakref.ref(heavy), []

    def long(heavy=heavy):
        try:
            while True:
                gate()
                yield
        finally:
            cleaned.append(1)

    worker.submit("run", long)
    assert gate.begun.wait(30)
    worker.submit("next", lambda heavy=heavy: None)
    del heavy, long
    gate.may_go_on.set()
    worker.close()
    worker.close()
    assert cleaned == [1]
    assert kept() is None
    assert not any(thread.name == "colorlab worker" and thread.is_alive() for thread in threading.enumerate())
    with pytest.raises(StateError, match="closed"):
        worker.submit("run", lambda: None)


def test_a_job_does_not_wait_for_itself(worker):
    told = []
    worker.submit("a", lambda: worker.join() and None, failed=told.append)
    assert worker.join()
    assert isinstance(told[0], RangeError)


def test_who_joins_goes_on_when_the_end_was_told():
    told = []

    def tell():
        # The end is told in the worker's thread, slowly enough to be overtaken.
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait(0.2)
            told.append(worker.busy_kinds)

    worker = Worker(changed=tell)
    worker.submit("a", lambda: None)
    assert worker.join()
    assert told == [()]
    worker.close()
