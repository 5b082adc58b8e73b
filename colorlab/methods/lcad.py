"""L-CAD: a gray picture colored by words at any level of detail, with the picture's own luminance inside the model.

| paper | here |
| --- | --- |
| luminance encoder, taps g | `luminance_encoder`, `Prepared.taps` (finest first, the two middle blocks last) |
| channel-extended convolution [z_t, g] | `ChannelExtension`: latents and the deepest tap |
| classifier-free guidance, w | `ClassifierFreeGuidance`, `guidance_scale`; the empty prompt keeps the picture |
| luminance-guided decoder | `LuminanceGuidance`: the taps enter the frozen decoder |
| instance-aware sampling | `InstanceGuidance`: each phrase is kept to its mask |

Source: L-CAD, arXiv 2305.15217; where it is silent, `changzheng123/L-CAD@3e1d8d6`.
Deviation: the luminance is encoded once, not at every step; the input's lightness is kept in the finished picture
    (`as_published` leaves the decoder's own); attention scores are carried from one step to the next as published
    alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import resize_image
from colorlab.mechanisms.channel_extension import ChannelExtension
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.mechanisms.instance_guidance import GUIDED, InstanceGuidance
from colorlab.mechanisms.instance_updates import resize_masks
from colorlab.mechanisms.luminance_guidance import LuminanceGuidance
from colorlab.mechanisms.stale_attention import StaleAttention
from colorlab.methods.base import Finish, Method, Prepared, gray_image
from colorlab.methods.phrases import pair_masks, phrase_mask_arrays
from colorlab.networks.kept_scores import keep_scores
from colorlab.networks.luminance import lightness_hint
from colorlab.networks.patching import patched
from colorlab.settings import Settings

__all__ = ["Lcad", "PreparedLcad"]


@dataclass(frozen=True, eq=False)
class PreparedLcad(Prepared):
    """Words and picture as L-CAD's networks receive them.

    Args:
        text: tokens (1, N, D) by guidance pass.
        taps: luminance features (1, C_i, H_i, W_i), finest first; the last is as large as the latents.
        phrase_tokens: (1, K, N), 1 at the tokens of each phrase that has a mask; None without masks.
        instance_masks: (1, K, H, W) at working size, [0, 1], where each phrase belongs; None without masks.
    """

    text: Mapping[str, torch.Tensor]
    taps: tuple[torch.Tensor, ...]
    phrase_tokens: torch.Tensor | None = None
    instance_masks: torch.Tensor | None = None


class Lcad(Method):
    """Colorize a gray picture by a text, and where masks are given each object by its own words."""

    name = "lcad"
    requires = ("gray",)
    reads = ("gray", "prompt", "negative_prompt", "masks")
    finish: ClassVar[Finish] = "keep_lightness"
    component_names = ("unet", "luminance_encoder", "vae", "text_encoder", "tokenizer", "scheduler")

    extension = ChannelExtension()
    guidance = ClassifierFreeGuidance()
    instances = InstanceGuidance()
    luminance = LuminanceGuidance()
    stale = StaleAttention()
    mechanisms = (extension, guidance, stale, instances, luminance)

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
        phrase_tokens, instance_masks, notes = self.prepare_instances(conditioning, size, settings)
        return PreparedLcad(
            latent_shape=(self.vae.config.latent_channels, *taps[-1].shape[-2:]),
            notes=tuple(dict.fromkeys((*ignored, *prompt.notes, *negative.notes, *notes))),
            text={"uncond": negative.tokens, "cond": prompt.tokens},
            taps=taps,
            phrase_tokens=phrase_tokens,
            instance_masks=instance_masks,
        )

    def prepare_instances(
        self, conditioning: Conditioning, size: tuple[int, int], settings: Settings
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[str, ...]]:
        """Return tokens and masks of the phrases as `PreparedLcad` holds them, and notes.

        Raises:
            RangeError: phrases and masks do not fit each other, or a second pass is asked for without masks.
        """
        if not self.instances.is_on(settings):
            return None, None, ()
        if not conditioning.masks:
            if self.instances.passes(settings):
                raise RangeError(
                    f"{self.instances.name} asks for a second pass, but the conditioning has no masks; give masks, "
                    "such as masks={'red cup': mask}, or leave passes at 'one' and variant at 'strength'."
                )
            return None, None, ()
        pairs, notes = pair_masks(conditioning, self.components, as_published=settings.as_published)
        tokens, masks = phrase_mask_arrays(conditioning, pairs, len(self.encode_prompt("").tokens[0]))
        resized = resize_masks(torch.from_numpy(masks)[None], size, as_published=settings.as_published)
        return torch.from_numpy(tokens)[None].to(self.device), resized.to(self.device), notes

    def encode_luminance(self, gray: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode (B, 1, H, W) gray of the working size into taps."""
        self.network_calls["luminance_encoder"] += 1
        taps: tuple[torch.Tensor, ...] = self.components["luminance_encoder"](
            lightness_hint(gray).to(self.device, self.dtype)
        )
        return taps

    def remembers_latents(self, settings: Settings) -> bool:
        """As published, unless instance guidance uses the kept scores up within the step."""
        return self.stale.remembers(settings) and not self.instances.passes(settings)

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`uncond`, `cond`; without guidance `cond` alone; where instances take two passes also `guided_cond`."""
        return (*self.guidance.passes(settings), *self.instances.passes(settings, timestep))

    def predict(
        self, prepared: PreparedLcad, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call; all passes see the picture, only the words differ.

        Where instance guidance takes two passes, one more call follows, with what the first one told.
        """
        names = self.guidance.passes(settings)
        if not self.instances.passes(settings, timestep):
            return self.predict_noise(prepared, latents, timestep, settings, names)
        # 1. The prediction without guidance, its scores kept.
        is_latent = self.instances.is_latent(settings)
        entering = latents.to(self.device).detach().clone().requires_grad_(is_latent)
        keep = keep_scores(self.unet, latents.shape, names, wanted_passes=("cond",))
        with torch.set_grad_enabled(is_latent), keep as kept:
            predictions = self.predict_noise(prepared, entering, timestep, settings, names)
        # 2. The prediction with guided scores, or from moved latents.
        if is_latent:
            entering = self.instances.moved_latents(entering, kept, self.unet, prepared, settings)
        patches = self.instances.second_patches(kept, self.unet, latents.shape, prepared, settings)
        with patched(self.unet, patches, guidance_passes=(GUIDED,), step_index=0, num_samples=len(latents)):
            predictions |= self.predict_noise(prepared, entering, timestep, settings, (GUIDED,))
        return {name: prediction.detach() for name, prediction in predictions.items()}

    def predict_noise(
        self,
        prepared: PreparedLcad,
        latents: torch.Tensor,
        timestep: int | float,
        settings: Settings,
        names: tuple[str, ...],
    ) -> dict[str, torch.Tensor]:
        """Ask the denoising network once for the named passes."""
        tap = prepared.taps[-1]
        sample = self.extension.extend(latents.to(tap), tap, settings)
        tokens = {name: prepared.text["cond" if name == GUIDED else name] for name in names}
        outputs = self.predict_passes(sample, timestep, tokens)
        return {name: self.schedule.to_noise_pred(output, latents.cpu(), timestep) for name, output in outputs.items()}

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply classifier-free guidance, with the second pass in the place of the first where there is one."""
        cond = predictions.get(GUIDED, predictions["cond"])
        return self.guidance.guide({**predictions, "cond": cond}, settings)

    def decode(self, latents: torch.Tensor, prepared: PreparedLcad, settings: Settings) -> torch.Tensor:
        """Decode with the luminance taps inside the decoder."""
        gains = self.luminance.gains(len(prepared.taps), settings)
        return self.decode_latents(latents, None if gains is None else prepared.taps, gains)
