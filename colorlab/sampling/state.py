"""State: one moment of a run. From it alone, and what the user asks for, every later moment follows."""

from dataclasses import dataclass, replace

import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.shapes import check_shape

__all__ = ["State", "check_step"]


@dataclass(frozen=True, eq=False)
class State:
    """One moment of a run, before the step `step_index`.

    Args:
        step_index: index of the step that comes next, 0 first; the number of steps when all are done.
        timestep: training timestep of the latents, or None when all steps are done; an integer except where Euler's
            `linspace` falls between two.
        latents: (B, C, h, w) float, variance preserving, already scaled.
        history: what the solver remembers from earlier steps, each as `latents`; DPM-Solver++(2M) keeps its last x0.
            It belongs to one solver and one list of timesteps: empty it (`without_history`) when either changes.

    Raises:
        ShapeError: the latents are not (B, C, h, w) floats, or a history tensor has another shape.
        RangeError: the step index or the timestep is negative.
    """

    step_index: int
    timestep: int | float | None
    latents: torch.Tensor
    history: tuple[torch.Tensor, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.step_index, int) or self.step_index < 0:
            raise RangeError(f"step_index is {self.step_index!r}, but an integer of at least 0 is expected.")
        if self.timestep is not None and not self.timestep >= 0:
            raise RangeError(f"timestep is {self.timestep!r}, but a number of at least 0, or None, is expected.")
        check_shape(self.latents, "B C h w", "latents")
        if not self.latents.is_floating_point():
            raise ShapeError(f"latents are {self.latents.dtype}, but a floating-point dtype is expected.")
        for tensor in self.history:
            check_same_shape(tensor, self.latents, "history")

    @property
    def is_finished(self) -> bool:
        """Whether no step comes after this state."""
        return self.timestep is None

    def after_step(
        self, latents: torch.Tensor, timesteps: torch.Tensor, *, history: tuple[torch.Tensor, ...] = ()
    ) -> "State":
        """Return the state one step later; latents and history are cast to the dtype of this state's latents."""
        step_index = self.step_index + 1
        timestep = timesteps[step_index].item() if step_index < len(timesteps) else None
        dtype = self.latents.dtype
        return State(step_index, timestep, latents.to(dtype), tuple(tensor.to(dtype) for tensor in history))

    def without_history(self) -> "State":
        """Return the same moment with nothing remembered: a multistep solver starts anew from here."""
        return replace(self, history=())

    def to(self, device: torch.device | str) -> "State":
        """Return this state with its tensors on another device."""
        return replace(self, latents=self.latents.to(device), history=tuple(x.to(device) for x in self.history))

    def equals(self, other: "State") -> bool:
        """Return whether another state is the same moment, bit for bit."""
        mine, its = (self.latents, *self.history), (other.latents, *other.history)
        return (
            (self.step_index, self.timestep, len(mine)) == (other.step_index, other.timestep, len(its))
            and all(a.dtype == b.dtype for a, b in zip(mine, its, strict=True))
            and all(torch.equal(a, b) for a, b in zip(mine, its, strict=True))
        )


def check_same_shape(tensor: torch.Tensor, latents: torch.Tensor, name: str) -> None:
    """Raise ShapeError unless a tensor has the shape of the latents."""
    if tensor.shape != latents.shape:
        raise ShapeError(
            f"{name} has shape {tuple(tensor.shape)}, but that of the latents, {tuple(latents.shape)}, is expected."
        )


def check_step(state: State, noise_pred: torch.Tensor, timesteps: torch.Tensor) -> None:
    """Check that a solver may step from a state along a list of timesteps.

    Raises:
        StateError: the run is over, or the state belongs to another list.
        ShapeError: `noise_pred` has another shape than the latents.
    """
    if state.is_finished or state.step_index >= len(timesteps):
        raise StateError(f"All {len(timesteps)} steps are done; start a new run, or go back to an earlier state.")
    expected = timesteps[state.step_index].item()
    if state.timestep != expected:
        raise StateError(
            f"The state is at timestep {state.timestep}, but step {state.step_index} of this list of timesteps is "
            f"{expected}; pass the list that the run was started with."
        )
    check_same_shape(noise_pred, state.latents, "noise_pred")
