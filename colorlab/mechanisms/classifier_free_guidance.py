"""Classifier-free guidance: away from what the model would paint without the words."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Phase, Value
from colorlab.sampling.guidance import classifier_free
from colorlab.settings import Settings

__all__ = ["ClassifierFreeGuidance"]


class ClassifierFreeGuidance(Mechanism):
    """Extrapolate from the prediction without the prompt to the one with it; a scale of 1 switches it off.

    The scale is `Settings.guidance_scale`, the name the whole field uses, rather than an entry of
    `Settings.mechanisms`; the switch lies there like that of every other mechanism.

    Source: Ho and Salimans, arXiv 2207.12598 v1, Eq. (6), with their w = guidance_scale - 1.
    """

    name = "classifier_free_guidance"
    phase: ClassVar[Phase] = "guide"

    def in_force(self, settings: Settings) -> dict[str, Value]:
        """Return the switch and the scale of `Settings`."""
        return {**super().in_force(settings), "guidance_scale": float(settings.guidance_scale)}

    def is_on(self, settings: Settings) -> bool:
        """Return whether the prediction without the prompt is needed at all."""
        return super().is_on(settings) and settings.guidance_scale != 1.0

    def passes(self, settings: Settings) -> tuple[str, ...]:
        """Return the guidance passes in batch order; without guidance the conditional one alone."""
        return ("uncond", "cond") if self.is_on(settings) else ("cond",)

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Combine the named predictions into one.

        Args:
            predictions: `cond`, and `uncond` where `passes` asks for it; each (B, C, h, w) float32 noise.
            settings: what is in force.

        Returns:
            (B, C, h, w), the noise the solver gets.
        """
        if not self.is_on(settings):
            return predictions["cond"]
        return classifier_free(predictions["uncond"], predictions["cond"], settings.guidance_scale)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show where the words pull: the length of `cond - uncond` in every latent cell. No network call."""
        if call.record is None or "uncond" not in call.record.predictions:
            return {}
        predictions = call.record.predictions
        field = torch.linalg.vector_norm(predictions["cond"] - predictions["uncond"], dim=1)[0]
        return {
            "guidance_field": Exhibit(
                array=field.numpy(),
                axes=("h", "w"),
                unit="noise standard deviations",
                caption=(
                    f"How far the prompt moves the predicted noise at step {call.record.step_index}: the length over "
                    f"the latent channels of cond - uncond, before the scale of {call.settings.guidance_scale:g}."
                ),
                provenance=dict(call.provenance),
            )
        }
