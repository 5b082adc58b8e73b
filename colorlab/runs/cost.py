"""What a run cost: network calls, seconds and bytes, by phase."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from colorlab.methods.base import Method

__all__ = ["Cost", "CostMeter", "PhaseCost", "StepPhase"]

StepPhase = Literal["prepare", "predict", "decode"]


@dataclass(frozen=True)
class PhaseCost:
    """What one phase took.

    Args:
        network_calls: calls of any network; a call for several guidance passes at once counts as one.
        seconds: wall clock, waiting for other runs of the same model not included.
        num_times: how often the phase was gone through: conditionings encoded, steps taken, pictures decoded.
        num_bytes: tensors and pictures kept.
    """

    network_calls: int = 0
    seconds: float = 0.0
    num_times: int = 0
    num_bytes: int = 0


class Cost(dict[str, PhaseCost]):
    """The cost of a run by phase; printed as a table."""

    def __repr__(self) -> str:
        rows = [f"{'phase':<8} {'calls':>6} {'seconds':>9} {'MiB':>9}"]
        rows += [
            f"{phase:<8} {cost.network_calls:>6} {cost.seconds:>9.3f} {cost.num_bytes / 2**20:>9.3f}"
            for phase, cost in self.items()
        ]
        return "\n".join(rows)


class CostMeter:
    """Adds up calls and seconds of one run, phase by phase.

    Args:
        method: the model whose calls are counted; measured under its lock, so that they are this run's own.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self._spent: dict[StepPhase, tuple[int, float, int]] = {}

    @contextmanager
    def measure(self, phase: StepPhase) -> Iterator[None]:
        """Hold the model and count what happens within as `phase`, also when it fails."""
        with self._method.lock:
            calls_before, started_s = self._method.network_calls.total(), time.perf_counter()
            try:
                yield
            finally:
                calls, seconds, times = self._spent.get(phase, (0, 0.0, 0))
                calls += self._method.network_calls.total() - calls_before
                self._spent[phase] = (calls, seconds + time.perf_counter() - started_s, times + 1)

    def cost(self, num_bytes: dict[StepPhase, int]) -> Cost:
        """Return what was measured so far, with the bytes kept now."""
        phases: tuple[StepPhase, ...] = ("prepare", "predict", "decode")
        spent = {phase: self._spent.get(phase, (0, 0.0, 0)) for phase in phases}
        return Cost({phase: PhaseCost(*spent[phase], num_bytes=num_bytes.get(phase, 0)) for phase in phases})
