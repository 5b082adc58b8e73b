"""StepRecord: what happened between two states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from colorlab.errors import ShapeError
from colorlab.networks.environment import Environment
from colorlab.sampling.state import check_same_shape
from colorlab.shapes import check_shape

__all__ = ["Predictions", "StepRecord"]


class Predictions(dict[str, torch.Tensor]):
    """Predicted noise by guidance pass, with what a method wants to be remembered or done beside it.

    A method that has neither may return a plain dictionary.

    Attributes:
        network_inputs: what decided or entered the calls of the network beside the latents; it goes into the record.
        steer: guided noise (B, C, h, w) -> what is added to it, computed once when the step is taken and kept in the
            record as `steering`; a replay of the call does not need it. None for nothing.
    """

    network_inputs: Mapping[str, torch.Tensor]
    steer: Callable[[torch.Tensor], torch.Tensor] | None

    def __init__(
        self,
        predictions: Mapping[str, torch.Tensor],
        *,
        network_inputs: Mapping[str, torch.Tensor] | None = None,
        steer: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__(predictions)
        self.network_inputs = dict(network_inputs or {})
        self.steer = steer


@dataclass(frozen=True, eq=False)
class StepRecord:
    """The edge between two states: what the network said at one step, and what was made of it.

    Args:
        step_index: index of the step; its state before has the same index, its state after one more.
        timestep: training timestep at which the network was asked.
        predictions: predicted noise of each guidance pass, by the name of the pass; (B, C, h, w) each.
        noise_pred: (B, C, h, w), predicted noise after guidance.
        pred_original_sample: (B, C, h, w), the clean latents that `noise_pred` implies.
        network_inputs: what entered the network beside the latents and cannot be recomputed; normally empty.
        environment: in which the network was asked; None where nobody took note of it.

    Raises:
        ShapeError: there is no prediction, or the tensors differ in shape.
    """

    step_index: int
    timestep: int | float
    predictions: Mapping[str, torch.Tensor]
    noise_pred: torch.Tensor
    pred_original_sample: torch.Tensor
    network_inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    environment: Environment | None = None

    def __post_init__(self) -> None:
        check_shape(self.noise_pred, "B C h w", "noise_pred")
        if not self.predictions:
            raise ShapeError("predictions is empty, but at least one named guidance pass is expected.")
        for name, prediction in self.predictions.items():
            check_same_shape(prediction, self.noise_pred, f"predictions[{name!r}]")
        check_same_shape(self.pred_original_sample, self.noise_pred, "pred_original_sample")
        # Copies, so that nobody who keeps the mapping can change the record.
        object.__setattr__(self, "predictions", dict(self.predictions))
        object.__setattr__(self, "network_inputs", dict(self.network_inputs))

    def to(self, device: torch.device | str) -> "StepRecord":
        """Return this record with its tensors on another device."""
        return StepRecord(
            self.step_index,
            self.timestep,
            {name: prediction.to(device) for name, prediction in self.predictions.items()},
            self.noise_pred.to(device),
            self.pred_original_sample.to(device),
            {name: tensor.to(device) for name, tensor in self.network_inputs.items()},
            self.environment,
        )

    @property
    def num_bytes(self) -> int:
        """Size of all tensors of this record."""
        tensors = (
            *self.predictions.values(),
            self.noise_pred,
            self.pred_original_sample,
            *self.network_inputs.values(),
        )
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
