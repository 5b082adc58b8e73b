"""What a tuning will take on this device: one iteration of each stage is measured, nothing of it is kept."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from colorlab.methods.cache import tensor_bytes
from colorlab.tuning.plan import STAGES
from colorlab.tuning.weights import tracked

if TYPE_CHECKING:
    from colorlab.tuning.wiring import Wiring

__all__ = ["Budget", "StageBudget", "measure_budget"]

# Weights, gradients, and the two moments of Adam; new ones are made beside the old ones.
_COPIES = 6


@dataclass(frozen=True)
class StageBudget:
    """One stage.

    Args:
        num_steps: iterations.
        seconds: of one iteration.
        num_bytes: of what is trained with its optimiser, and of what is kept for the gradient.
    """

    num_steps: int
    seconds: float
    num_bytes: int

    @property
    def minutes(self) -> float:
        """Of the whole stage."""
        return self.num_steps * self.seconds / 60


class Budget(dict[str, StageBudget]):
    """The stages by name, shown as a table.

    Args:
        stages: by name.
        checkpoint_bytes: what checkpoints may hold together.
    """

    def __init__(self, stages: Mapping[str, StageBudget], checkpoint_bytes: int) -> None:
        super().__init__(stages)
        self.checkpoint_bytes = checkpoint_bytes

    @property
    def minutes(self) -> float:
        """Of all stages, without the few pictures between them."""
        return sum(stage.minutes for stage in self.values())

    def __repr__(self) -> str:
        rows = [f"{'stage':<15} {'steps':>6} {'s/step':>8} {'minutes':>8} {'MiB':>8}"]
        rows += [
            f"{name:<15} {stage.num_steps:>6} {stage.seconds:>8.2f} {stage.minutes:>8.1f} "
            f"{stage.num_bytes / 2**20:>8.1f}"
            for name, stage in self.items()
        ]
        rows.append(f"{'in all':<15} {sum(s.num_steps for s in self.values()):>6} {'':>8} {self.minutes:>8.1f}")
        return "\n".join([*rows, f"checkpoints: at most {self.checkpoint_bytes / 2**20:.0f} MiB"])


def measure_budget(wiring: "Wiring") -> Budget:
    """Measure one iteration of every planned stage.

    Stage 2 is measured on the gray picture's latents: what it costs does not depend on the colors.
    """
    stages = {}
    for name in STAGES:
        num_steps = wiring.plan.num_steps[name]
        if not num_steps:
            continue
        stage = wiring.stage(name, {}, {})
        held: dict[int, int] = {}

        def pack(tensor: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        started_s = time.perf_counter()
        weights = stage.initial()
        with (
            wiring.method.lock,
            tracked(weights) as leaves,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        ):
            torch.autograd.grad(stage.evaluate(leaves, 0).loss, list(leaves.values()))
        seconds = time.perf_counter() - started_s
        stages[name] = StageBudget(num_steps, seconds, _COPIES * tensor_bytes(weights) + sum(held.values()))
    return Budget(stages, wiring.plan.max_checkpoint_bytes)
