"""Checkpoints: states of a tuning that it can go back to, within a budget of bytes."""

from collections.abc import Iterator

from colorlab.errors import RangeError
from colorlab.tuning.state import TuningState

__all__ = ["Checkpoints"]


class Checkpoints:
    """States by the number of iterations done, oldest first.

    The first and the last stay, and the one that was kept just now; where all are more than the budget, every second
    one between them goes, the oldest gaps last to grow.

    Args:
        max_bytes: of all tensors together.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._states: dict[int, TuningState] = {}

    def keep(self, state: TuningState, *, also: int | None = None) -> None:
        """Take in a state, and give others up until the budget holds, but for the one after `also` iterations."""
        self._states[state.number] = state
        while self.num_bytes > self.max_bytes:
            between = [number for number in self.numbers[1:-1] if number not in (state.number, also)]
            if not between:
                return
            for number in between[::2]:
                del self._states[number]

    def forget_other_ways(self, state: TuningState) -> tuple[int, ...]:
        """Forget the states that did not come by a new one, on another device for instance; return their numbers."""
        others = tuple(number for number in self.numbers if not self._states[number].comes_by(state))
        for number in others:
            del self._states[number]
        return others

    def at(self, number: int) -> TuningState:
        """Return the state after so many iterations.

        Raises:
            RangeError: there is no such checkpoint.
        """
        if number not in self._states:
            known = ", ".join(map(str, self.numbers)) or "none"
            raise RangeError(f"There is no checkpoint after {number!r} iterations; there are: {known}.")
        return self._states[number]

    @property
    def numbers(self) -> tuple[int, ...]:
        """After how many iterations there is one."""
        return tuple(sorted(self._states))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors; those that states share count once for each."""
        return sum(state.num_bytes for state in self._states.values())

    def __iter__(self) -> Iterator[TuningState]:
        return iter([self._states[number] for number in self.numbers])

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        places = ", ".join(map(str, self.numbers)) or "none"
        return f"Checkpoints after {places}: {self.num_bytes / 2**20:.1f} of {self.max_bytes / 2**20:.0f} MiB"
