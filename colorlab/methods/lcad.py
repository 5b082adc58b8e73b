"""L-CAD: a gray picture colored by words at any level of detail, with the picture's own luminance inside the model.

| paper | here |
| --- | --- |
| luminance encoder, taps g | `luminance_encoder`, `Prepared.taps` (finest first, the two middle blocks last) |
| channel-extended convolution [z_t, g] | `ChannelExtension`: latents and the deepest tap |
| classifier-free guidance, w | `ClassifierFreeGuidance`, `guidance_scale`; the empty prompt keeps the picture |
| luminance-guided decoder | `LuminanceGuidance`: the taps enter the frozen decoder |

Source: L-CAD, arXiv 2305.15217; where it is silent, `changzheng123/L-CAD@3e1d8d6`.
Deviation: the luminance is encoded once, not at every step; the input's lightness is kept in the finished picture
    (`as_published` leaves the decoder's own); attention logits are not carried from one step to the next.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from colorlab.conditioning import Conditioning
from colorlab.images import resize_image
from colorlab.mechanisms.channel_extension import ChannelExtension
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.mechanisms.luminance_guidance import LuminanceGuidance
from colorlab.methods.base import Finish, Method, Prepared, gray_image
from colorlab.networks.luminance import decode_with_taps, lightness_hint
from colorlab.settings import Settings

__all__ = ["Lcad", "PreparedLcad"]


@dataclass(frozen=True, eq=False)
class PreparedLcad(Prepared):
    """Words and picture as L-CAD's networks receive them.

    Args:
        text: tokens (1, N, D) by guidance pass.
        taps: luminance features (1, C_i, H_i, W_i), finest first; the last is as large as the latents.
    """

    text: Mapping[str, torch.Tensor]
    taps: tuple[torch.Tensor, ...]


class Lcad(Method):
    """Colorize a gray picture by a text (L-CAD without instance guidance)."""

    name = "lcad"
    requires = ("gray",)
    reads = ("gray", "prompt", "negative_prompt")
    finish: ClassVar[Finish] = "keep_lightness"
    component_names = ("unet", "luminance_encoder", "vae", "text_encoder", "tokenizer", "scheduler")

    extension = ChannelExtension()
    guidance = ClassifierFreeGuidance()
    luminance = LuminanceGuidance()
    mechanisms = (extension, guidance, luminance)

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedLcad:
        """Encode the words and the luminance, each only if it is new."""
        ignored = self.check(conditioning, settings)
        size = self.working_size(conditioning.size)
        prompt = self.encode_prompt(conditioning.prompt)
        negative = self.encode_prompt(conditioning.negative_prompt)
        taps = self.cache.get(
            "luminance",
            (conditioning.content_hash("gray"), size),
            lambda: self.encode_luminance(resize_image(gray_image(conditioning), size)),
        )
        return PreparedLcad(
            latent_shape=(self.vae.config.latent_channels, *taps[-1].shape[-2:]),
            notes=tuple(dict.fromkeys((*ignored, *prompt.notes, *negative.notes))),
            text={"uncond": negative.tokens, "cond": prompt.tokens},
            taps=taps,
        )

    def encode_luminance(self, gray: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode (B, 1, H, W) gray of the working size into taps."""
        self.network_calls["luminance_encoder"] += 1
        taps: tuple[torch.Tensor, ...] = self.components["luminance_encoder"](
            lightness_hint(gray).to(self.device, self.dtype)
        )
        return taps

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`uncond`, `cond`; without guidance `cond` alone."""
        return self.guidance.passes(settings)

    def predict(
        self, prepared: PreparedLcad, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call; all passes see the picture, only the words differ."""
        tap = prepared.taps[-1]
        sample = self.extension.extend(latents.to(tap), tap, settings)
        tokens = {name: prepared.text[name] for name in self.guidance_passes(settings)}
        outputs = self.predict_passes(sample, timestep, tokens)
        return {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply classifier-free guidance."""
        return self.guidance.guide(predictions, settings)

    def decode(self, latents: torch.Tensor, prepared: PreparedLcad, settings: Settings) -> torch.Tensor:
        """Decode with the luminance taps inside the decoder."""
        gains = self.luminance.gains(len(prepared.taps), settings)
        taps: Any = None if gains is None else prepared.taps
        self.network_calls["vae"] += 1
        decoded = decode_with_taps(self.vae, latents.to(self.device, self.dtype), taps, gains=gains)
        return (decoded.float().cpu().clamp(-1, 1) + 1) / 2
