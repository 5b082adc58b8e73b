"""The solvers by name."""

from dataclasses import dataclass
from typing import Protocol

import torch

from colorlab.errors import RangeError
from colorlab.sampling.ddim import ddim_step
from colorlab.sampling.dpmpp_2m import dpmpp_2m_step
from colorlab.sampling.euler import euler_step
from colorlab.sampling.schedules import NoiseSchedule, SolverName
from colorlab.sampling.state import State

__all__ = ["SOLVERS", "Solver", "StepFunction", "find_solver"]


class StepFunction(Protocol):
    """One pure step: equal arguments give bit-equal states, and nothing is kept outside the state."""

    def __call__(
        self,
        state: State,
        noise_pred: torch.Tensor,
        *,
        schedule: NoiseSchedule,
        timesteps: torch.Tensor,
        eta: float = 0.0,
        noise: torch.Tensor | None = None,
    ) -> State:
        """Return the state one step later."""
        ...


@dataclass(frozen=True)
class Solver:
    """A way to go from one state to the next.

    Args:
        name: what Settings call it.
        step: the step itself.
        takes_eta: whether the step can add noise (`eta` > 0).
    """

    name: SolverName
    step: StepFunction
    takes_eta: bool = False


SOLVERS: dict[str, Solver] = {
    "ddim": Solver("ddim", ddim_step, takes_eta=True),
    "euler": Solver("euler", euler_step),
    "dpmpp_2m": Solver("dpmpp_2m", dpmpp_2m_step),
}


def find_solver(name: str) -> Solver:
    """Return a solver by name.

    Raises:
        RangeError: no solver is called so.
    """
    if name not in SOLVERS:
        raise RangeError(f"solver is {name!r}, but one of {', '.join(map(repr, SOLVERS))} is expected.")
    return SOLVERS[name]
