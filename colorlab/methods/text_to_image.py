"""Plain latent diffusion from words: the prior that the colorization methods are grown from.

Source: Rombach et al., arXiv 2112.10752; guidance by Ho and Salimans, arXiv 2207.12598.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from colorlab.conditioning import Conditioning
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.methods.base import Finish, Method, Prepared
from colorlab.networks.luminance import decode_with_taps
from colorlab.settings import Settings

__all__ = ["PreparedTextToImage", "TextToImage"]


@dataclass(frozen=True, eq=False)
class PreparedTextToImage(Prepared):
    """Words as the network receives them.

    Args:
        text: tokens (1, N, D) by guidance pass.
    """

    text: Mapping[str, torch.Tensor]


class TextToImage(Method):
    """Paint a picture from a text alone."""

    name = "text_to_image"
    reads = ("prompt", "negative_prompt")
    finish: ClassVar[Finish] = "as_decoded"
    component_names = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

    guidance = ClassifierFreeGuidance()
    mechanisms = (guidance,)

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedTextToImage:
        """Encode the words; the picture is square."""
        ignored = self.check(conditioning, settings)
        height, width = self.working_size(None)
        prompt = self.encode_prompt(conditioning.prompt)
        negative = self.encode_prompt(conditioning.negative_prompt)
        return PreparedTextToImage(
            latent_shape=(
                self.vae.config.latent_channels,
                height // self.latent_factor,
                width // self.latent_factor,
            ),
            notes=tuple(dict.fromkeys((*ignored, *prompt.notes, *negative.notes))),
            text={"uncond": negative.tokens, "cond": prompt.tokens},
        )

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`uncond`, `cond`; without guidance `cond` alone."""
        return self.guidance.passes(settings)

    def predict(
        self, prepared: PreparedTextToImage, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call."""
        tokens = {name: prepared.text[name] for name in self.guidance_passes(settings)}
        outputs = self.predict_passes(latents, timestep, tokens)
        return {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply classifier-free guidance."""
        return self.guidance.guide(predictions, settings)

    def decode(self, latents: torch.Tensor, prepared: PreparedTextToImage, settings: Settings) -> torch.Tensor:
        """Decode with the plain decoder."""
        self.network_calls["vae"] += 1
        decoded = decode_with_taps(self.vae, latents.to(self.device, self.dtype))
        return (decoded.float().cpu().clamp(-1, 1) + 1) / 2
