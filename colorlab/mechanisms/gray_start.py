"""Where a DiffColor run starts: from the gray picture inverted, from the gray picture noised, or from noise alone."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["STARTS", "GrayStart"]

STARTS = ("invert", "noise_gray", "noise")
"""DDIM inversion of the tuned picture (without one of the gray one), the gray picture noised, and pure noise."""


class GrayStart(Mechanism):
    """Start from the latents of the gray picture instead of from pure noise.

    The share of the steps that is done is the setting `strength`: 0.6 starts at the timestep 600 of 1000.

    Source: DiffColor, arXiv 2308.01655: samples from the latent code of the gray picture; the three ways are ours.
    """

    name = "gray_start"
    phase: ClassVar[Phase] = "prepare"
    parameters = (Parameter("start", "invert", choices=STARTS, doc="What a run starts from."),)

    def start(self, settings: Settings) -> str:
        """Return one of `STARTS`; `noise` where the mechanism is off.

        Raises:
            RangeError: pure noise is asked for together with a strength below 1.
        """
        start = str(self.in_force(settings)["start"]) if self.is_on(settings) else "noise"
        if start == "noise" and settings.strength < 1:
            raise RangeError(
                f"{self.name} starts from pure noise, but strength is {settings.strength:g}; use strength=1, or start "
                "from 'noise_gray' or 'invert'."
            )
        return start

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the gray picture's latents that a run starts from: their length over the channels."""
        if call.record is not None or "gray_latents" not in call.prepared or self.start(call.settings) == "noise":
            return {}
        return {
            "latents": Exhibit(
                torch.linalg.vector_norm(call.prepared["gray_latents"].float(), dim=1)[0].numpy(),
                ("h", "w"),
                "",
                f"Latents of the gray picture that the run starts from ({self.start(call.settings)}, strength "
                f"{call.settings.strength:g}): their length over the channels.",
                provenance=dict(call.provenance),
            )
        }
