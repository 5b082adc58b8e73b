"""One moment of a tuning as a frozen value, and how it is written into a file."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from colorlab.methods.cache import tensor_bytes
from colorlab.tuning.optimizer import Moments

__all__ = ["Row", "TuningState", "decode_state", "encode_state"]

Row = Mapping[str, Any]
"""One iteration: `stage`, `iteration`, and numbers."""


@dataclass(frozen=True, eq=False)
class TuningState:
    """One moment: from it alone, and what the tuning was started with, every later one follows.

    Args:
        stage: the present one; None when all are done.
        iteration: iterations done of it.
        weights: what it trains.
        moments: of its optimiser.
        results: tensors that finished stages left, as an `Adaptation` names them.
        kept: what later stages begin with: the tensors that stage 1 trained.
        rows: every iteration so far, of all stages.
        thumbnails: (number of rows, picture (H, W, 3) uint8), small: of stage 1's iterations; in stage 2, what the
            network makes of the noised colored picture.
    """

    stage: str | None
    iteration: int = 0
    weights: Mapping[str, torch.Tensor] = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    results: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    thumbnails: tuple[tuple[int, np.ndarray], ...] = ()

    @property
    def number(self) -> int:
        """Iterations of all stages so far."""
        return len(self.rows)

    def comes_by(self, earlier: "TuningState") -> bool:
        """Return whether this state has the last iteration of an earlier one, or is itself an earlier one.

        Numbers count as equal within 1e-4 of them, which other orders of summation change less.
        """
        if not 0 < earlier.number <= self.number:
            return True
        one, other = self.rows[earlier.number - 1], earlier.rows[-1]
        # A stage's end adds to the last row.
        return one is other or all(_is_alike(one[name], other[name]) for name in one.keys() & other)

    def __repr__(self) -> str:
        where = "all stages done" if self.stage is None else f"{self.stage} {self.iteration}"
        numbers = self.rows[-1].items() if self.rows else ()
        told = "".join(f", {name} {value:.4g}" for name, value in numbers if isinstance(value, float))
        return f"TuningState after {self.number} iterations: {where}{told}; {self.num_bytes / 2**20:.1f} MiB"

    @property
    def num_bytes(self) -> int:
        """Bytes of its tensors."""
        moments = tensor_bytes(dict(self.moments.first)) + tensor_bytes(dict(self.moments.second))
        return moments + sum(tensor_bytes(dict(part)) for part in (self.weights, self.results, self.kept))


def _is_alike(one: Any, other: Any) -> bool:
    """Return whether two values of a row are equal, numbers within rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def encode_state(state: TuningState, tensor: Callable[[torch.Tensor], str]) -> dict[str, Any]:
    """Write a state as plain values.

    Args:
        state: any state.
        tensor: takes in a tensor and returns its name.
    """

    def names(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
        return {name: tensor(value) for name, value in tensors.items()}

    return {
        "stage": state.stage,
        "iteration": state.iteration,
        "weights": names(state.weights),
        "first": names(state.moments.first),
        "second": names(state.moments.second),
        "num_steps": state.moments.num_steps,
        "results": names(state.results),
        "kept": names(state.kept),
        "num_rows": len(state.rows),
        "thumbnails": [[number, tensor(torch.from_numpy(picture.copy()))] for number, picture in state.thumbnails],
    }


def decode_state(values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], rows: tuple[Row, ...]) -> TuningState:
    """Make a state from plain values, the tensors by name, and the rows of the whole tuning."""

    def found(names: Mapping[str, str]) -> dict[str, torch.Tensor]:
        return {name: tensors[value] for name, value in names.items()}

    return TuningState(
        stage=values["stage"],
        iteration=int(values["iteration"]),
        weights=found(values["weights"]),
        moments=Moments(found(values["first"]), found(values["second"]), int(values["num_steps"])),
        results=found(values["results"]),
        kept=found(values["kept"]),
        rows=rows[: int(values["num_rows"])],
        thumbnails=tuple((int(number), tensors[name].numpy()) for number, name in values["thumbnails"]),
    )
