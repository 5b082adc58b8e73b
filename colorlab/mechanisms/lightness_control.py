"""The control network: the picture's lightness added to every level of the denoising network."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["LightnessControl"]

_GUESS_BASE = 0.825


class LightnessControl(Mechanism):
    """Add the control network's residuals, so that what is painted has the picture's structure. Off, it is not asked.

    Source: CtrlColor, arXiv 2402.10855; strength and guess mode by `ZhexinLiang/Control-Color@f21054a`.
    Deviation: guess mode counts depth from the middle in networks of any depth (published for 13 residuals); the
        released demo fails in guess mode.
    """

    name = "lightness_control"
    phase: ClassVar[Phase] = "predict"
    parameters = (
        Parameter("strength", 1.0, high=2.0, doc="Factor on every residual."),
        Parameter("guess_mode", False, doc="Weaken the finer levels, so that words may change more."),
    )

    def scales(self, num_residuals: int, settings: Settings) -> tuple[float, ...] | None:
        """Return the factor on each residual, finest first, middle last; None where the network is not asked."""
        values = self.in_force(settings)
        strength = cast(float, values["strength"])
        if not self.is_on(settings) or strength == 0:
            return None
        if not values["guess_mode"]:
            return (strength,) * num_residuals
        return tuple(strength * _GUESS_BASE ** (num_residuals - 1 - index) for index in range(num_residuals))

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show what the control network sees. No network call."""
        if call.record is None or "control_image" not in call.prepared:
            return {}
        return {
            "control_image": Exhibit(
                array=call.prepared["control_image"][0].mean(dim=0).float().numpy(),
                axes=("y", "x"),
                unit="of white's lightness",
                caption="What the control network sees: lightness at working size.",
                provenance=dict(call.provenance),
            )
        }
