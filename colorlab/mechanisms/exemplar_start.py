"""Reference noise: a run that starts from the exemplar's own latents, noised to the last timestep."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["ExemplarStart"]


class ExemplarStart(Mechanism):
    """Start from the exemplar's latents instead of from pure noise.

    Even at the noisiest timestep a trace of a picture is left, above all of its mean color.

    Source: tellurion-kanata/colorizeDiffusion@d876b7e ("reference noise").
    """

    name = "exemplar_start"
    phase: ClassVar[Phase] = "prepare"
    parameters = (Parameter("is_used", False, doc="Whether runs start from the exemplar's latents."),)

    def is_wanted(self, settings: Settings) -> bool:
        """Return whether a run starts from the exemplar."""
        return self.is_on(settings) and bool(self.in_force(settings)["is_used"])

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the exemplar's latents that a run starts from: their length over the channels."""
        # Attention injection prepares the same latents, for runs that start from noise.
        if call.record is not None or "exemplar_latents" not in call.prepared or not self.is_wanted(call.settings):
            return {}
        return {
            "latents": Exhibit(
                torch.linalg.vector_norm(call.prepared["exemplar_latents"].float(), dim=1)[0].numpy(),
                ("h", "w"),
                "",
                "The exemplar's latents: their length over the channels.",
                provenance=dict(call.provenance),
            )
        }
