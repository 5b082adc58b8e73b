"""Attention injection: self-attention looks at the noisy exemplar, too."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.mechanisms.dual_guidance import NO_EXEMPLAR
from colorlab.settings import Settings

__all__ = ["LENDING", "AttentionInjection"]

LENDING = "lending_"
"""What the names of the passes begin with in which the exemplar itself is denoised, and its features are kept."""


class AttentionInjection(Mechanism):
    """Before each call denoise the exemplar, as noisy as the picture, and let self-attention see its features as well.

    The pass without the exemplar sees its own features with the share `fidelity`. Twice the cost.

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb.
    """

    name = "attention_injection"
    phase: ClassVar[Phase] = "predict"
    parameters = (
        Parameter("is_used", False, doc="Whether self-attention sees the exemplar."),
        Parameter("fidelity", 0.5, doc="Share of own features alone in the pass without the exemplar."),
        Parameter("sketch_fidelity", 0.0, doc="Strength of hints drawn from the exemplar while it is denoised."),
        Parameter("start", 0.0, unit="of the run", doc="Where the injection begins."),
    )

    def is_wanted(self, settings: Settings) -> bool:
        """Return whether it acts anywhere in a run."""
        return self.is_on(settings) and bool(self.in_force(settings)["is_used"])

    def acts(self, timestep: float, settings: Settings, num_train_timesteps: int) -> bool:
        """Return whether it acts at a timestep."""
        start = cast(float, self.in_force(settings)["start"])
        return self.is_wanted(settings) and 1 - timestep / (num_train_timesteps - 1) >= start

    def passes(self, names: Sequence[str], settings: Settings) -> tuple[str, ...]:
        """Return the passes in which the exemplar is denoised, one for each of `names`."""
        return tuple(f"{LENDING}{name}" for name in names) if self.is_wanted(settings) else ()

    def sketch_fidelity(self, settings: Settings) -> float:
        """Return the strength of hints drawn from the exemplar; 0 where it does not act."""
        return cast(float, self.in_force(settings)["sketch_fidelity"]) if self.is_wanted(settings) else 0.0

    def own_shares(self, names: Sequence[str], num_samples: int, settings: Settings) -> torch.Tensor:
        """Return the share of own features alone of every row, (passes * samples,)."""
        fidelity = cast(float, self.in_force(settings)["fidelity"])
        return torch.tensor([fidelity if name == NO_EXEMPLAR else 0.0 for name in names for _ in range(num_samples)])

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show nothing of its own: the predictions of the passes `lending_...` are in the record."""
        return {}
