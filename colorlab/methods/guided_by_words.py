"""Latent diffusion guided by words alone: what methods share whose UNet sees the latents and nothing beside them.

Source: Rombach et al., arXiv 2112.10752; guidance by Ho and Salimans, arXiv 2207.12598.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.methods.base import Method, Prepared
from colorlab.settings import Settings

__all__ = ["GuidedByWords", "PreparedWords"]


@dataclass(frozen=True, eq=False)
class PreparedWords(Prepared):
    """Words as the network receives them.

    Args:
        text: tokens (1, N, D) by guidance pass.
    """

    text: Mapping[str, torch.Tensor]


class GuidedByWords(Method):
    """Predict under words and without them, guide, and decode plainly; how to prepare is left to the method."""

    component_names = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    guidance: ClassVar[ClassifierFreeGuidance] = ClassifierFreeGuidance()

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`uncond`, `cond`; without guidance `cond` alone."""
        return self.guidance.passes(settings)

    def predict(
        self, prepared: PreparedWords, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call."""
        tokens = {name: prepared.text[name] for name in self.guidance_passes(settings)}
        outputs = self.predict_passes(latents, timestep, tokens)
        return {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply classifier-free guidance."""
        return self.guidance.guide(predictions, settings)

    def decode(self, latents: torch.Tensor, prepared: PreparedWords, settings: Settings) -> torch.Tensor:
        """Decode with the plain decoder."""
        return self.decode_latents(latents)
