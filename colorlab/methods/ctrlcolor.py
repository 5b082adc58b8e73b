"""CtrlColor: a gray picture colored by words, strokes and an exemplar in any mixture; local edits of a colored one.

| paper | here |
| --- | --- |
| control network on lightness | `LightnessControl`, `Prepared.control_image` |
| stroke mask and masked image in nine input channels | `StrokeEncoding`: [x_t, mask, z_m] |
| streamlined self-attention guidance | `SelfAttentionGuidance`: the passes `degraded_uncond`, `degraded_cond` |
| classifier-free guidance | `ClassifierFreeGuidance`: words differ, picture and strokes stay in both passes |
| content-guided deformable autoencoder | `DeformableDecoding`, components `deformable_vae`, `deformable_units` |
| iterative editing | `LocalEdit` |

Source: CtrlColor, arXiv 2402.10855; where it is silent, `ZhexinLiang/Control-Color@f21054a`.
Deviation: no caption is made for an empty prompt; strokes may count for some steps only; the latents are not decoded at
    every step; the input's lightness is kept in floats, within the gamut (`as_published` in 8 bits, as released).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from colorlab.color import gray_to_lightness
from colorlab.conditioning import Conditioning
from colorlab.images import finish_keep_lightness, resize_image
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.mechanisms.deformable_decoding import DeformableDecoding
from colorlab.mechanisms.lightness_control import LightnessControl
from colorlab.mechanisms.local_edit import LocalEdit
from colorlab.mechanisms.published_uploads import upload_lightness, working_size_as_published, write_result
from colorlab.mechanisms.self_attention_guidance import (
    DEGRADED,
    SAG_DEGRADED,
    SAG_RECEIVED,
    SelfAttentionGuidance,
)
from colorlab.mechanisms.stroke_encoding import StrokeEncoding, masked_picture
from colorlab.methods.base import Finish, Method, Prepared, gray_image
from colorlab.methods.hints import (
    Hint,
    base_picture,
    edit_region,
    paint_hint,
    read_painted,
    stretches,
    stroke_notes,
    tensor_hash,
    upload_pictures,
)
from colorlab.methods.text import EncodedText
from colorlab.networks.deformable import content_guide, decode_deformable
from colorlab.networks.probe import Probe
from colorlab.sampling.noise import named_noise
from colorlab.sampling.records import Predictions
from colorlab.settings import Settings

__all__ = ["ADDED_PROMPT", "NEGATIVE_PROMPT", "CtrlColor", "PreparedCtrlColor"]

ADDED_PROMPT = "best quality, detailed, real"
"""Words that the released demo adds to every prompt; here only `as_published`."""
NEGATIVE_PROMPT = (
    "a black and white photo, longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality"
)
"""Negative prompt of the released demo, for those who give none `as_published`."""


@dataclass(frozen=True, eq=False)
class PreparedCtrlColor(Prepared):
    """Everything CtrlColor's networks receive; parts of a tuple belong to one stretch of steps with equal strokes.

    Args:
        text: tokens (1, N, D) by guidance pass.
        control_image: (1, 3, H, W), lightness, [0, 1].
        hints: (1, 3, H, W), [0, 1], the colors given.
        known: (1, 1, H, W), 1 where a color is given.
        painted: (1, 1, H, W), 1 where the user painted.
        masks: (1, 1, h, w), 1 where the network is free.
        masked_latents: (1, C, h, w), the picture of the given colors, encoded and scaled.
        hint_of_step: which part counts at each step.
        timesteps: (steps,), of the run.
        guide: (1, C, h, w), of the deformable decoder; None without one.
        region: (1, 1, H, W) at the picture's own size, where a local edit may change something; None for everywhere.
    """

    text: Mapping[str, torch.Tensor]
    control_image: torch.Tensor
    hints: tuple[torch.Tensor, ...]
    known: tuple[torch.Tensor, ...]
    painted: tuple[torch.Tensor, ...]
    masks: tuple[torch.Tensor, ...]
    masked_latents: tuple[torch.Tensor, ...]
    hint_of_step: tuple[int, ...]
    timesteps: torch.Tensor
    guide: torch.Tensor | None = None
    region: torch.Tensor | None = None

    def hint_at(self, timestep: float) -> int:
        """Return which hint counts at a timestep: that of the step in whose stretch of timesteps it lies."""
        step = int((self.timesteps > timestep).sum())
        return self.hint_of_step[min(step, len(self.hint_of_step) - 1)]


class CtrlColor(Method):
    """Colorize a gray picture by words, strokes and a reference picture, or edit a colored one."""

    name = "ctrlcolor"
    requires = ("gray",)
    reads = ("gray", "base_image", "prompt", "negative_prompt", "strokes", "masks")
    finish: ClassVar[Finish] = "keep_lightness"
    component_names = ("unet", "control_network", "vae", "text_encoder", "tokenizer", "scheduler")
    optional_component_names = ("deformable_vae", "deformable_units")
    default_settings: ClassVar[Settings] = Settings(guidance_scale=7.0)

    strokes = StrokeEncoding()
    edit = LocalEdit()
    control = LightnessControl()
    guidance = ClassifierFreeGuidance()
    attention = SelfAttentionGuidance()
    deformable = DeformableDecoding()
    mechanisms = (strokes, edit, control, guidance, attention, deformable)

    # 1. Prepare.

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedCtrlColor:
        """Encode words, lightness and strokes, each only if it is new."""
        ignored = self.check(conditioning, settings)
        size = self.size_for(conditioning, settings)
        prompt, negative = self.encode_words(conditioning, settings)
        control = self.control_picture(conditioning, size, settings)
        timesteps = self.schedule.timesteps(
            settings.num_inference_steps,
            settings.timestep_spacing,  # type: ignore[arg-type]
            solver=settings.solver,  # type: ignore[arg-type]
            as_published=settings.as_published,
        )
        sets, hint_of_step = stretches(conditioning.strokes, len(timesteps))
        mechanisms: Any = {"encoding": self.strokes, "edit": self.edit, "working_px": self.working_px}
        hints = [paint_hint(conditioning, part, size, settings, **mechanisms) for part in sets]
        encoded = [self.encode_hint(hint, settings) for hint in hints]
        notes = (*ignored, *prompt.notes, *negative.notes, *stroke_notes(self.edit, conditioning, settings))
        return PreparedCtrlColor(
            latent_shape=(self.vae.config.latent_channels, *encoded[0][1].shape[-2:]),
            notes=tuple(dict.fromkeys(notes)),
            text={"uncond": negative.tokens, "cond": prompt.tokens},
            control_image=control,
            hints=tuple(hint.picture for hint in hints),
            known=tuple(hint.known for hint in hints),
            painted=tuple(hint.painted for hint in hints),
            masks=tuple(mask for mask, _ in encoded),
            masked_latents=tuple(latents for _, latents in encoded),
            hint_of_step=hint_of_step,
            timesteps=timesteps,
            guide=self.encode_guide(control, settings),
            region=edit_region(self.edit, conditioning, settings),
        )

    def size_for(self, conditioning: Conditioning, settings: Settings) -> tuple[int, int]:
        """Return the working (height, width); the released code has a rule of its own."""
        if settings.as_published and conditioning.size is not None:
            return working_size_as_published(*conditioning.size, self.working_px)
        return self.working_size(conditioning.size)

    def encode_words(self, conditioning: Conditioning, settings: Settings) -> tuple[EncodedText, EncodedText]:
        """Encode prompt and negative prompt; as published with the words that the released demo adds."""
        prompt, negative = conditioning.prompt, conditioning.negative_prompt
        if settings.as_published:
            prompt, negative = f"{prompt}, {ADDED_PROMPT}", negative or NEGATIVE_PROMPT
        return self.encode_prompt(prompt), self.encode_prompt(negative)

    def control_picture(self, conditioning: Conditioning, size: tuple[int, int], settings: Settings) -> torch.Tensor:
        """Return what the control network sees, (1, 3, H, W): L / 100; as published 8-bit, a gray upload as it is."""
        if settings.as_published:
            return read_painted(conditioning, conditioning.strokes, self.working_px).control

        def shrink() -> torch.Tensor:
            return (gray_to_lightness(resize_image(gray_image(conditioning), size)) / 100.0).repeat(1, 3, 1, 1)

        return self.cache.get("control_image", (conditioning.content_hash("gray"), size), shrink)

    def encode_hint(self, hint: Hint, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask (1, 1, h, w), 1 where the network is free, and the latents of the masked picture."""
        mask = self.strokes.latent_mask(hint.known, self.latent_factor, settings)
        seed = settings.seed if settings.as_published else None

        def encode() -> torch.Tensor:
            masked = masked_picture(hint.picture, hint.known)
            noise = None if seed is None else named_noise(seed, "masked picture", self._latent_shape(masked))
            return self.encode_picture(masked, noise)

        return mask, self.cache.get("hint", (tensor_hash(hint.picture, hint.known), seed), encode)

    def encode_picture(self, picture: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Encode (1, 3, H, W) in [-1, 1] into scaled latents: the posterior's mean, or a sample of it by `noise`."""
        self.network_calls["vae_encoder"] += 1
        posterior = self.vae.encode(picture.to(self.device, self.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        shift = self.vae.config.shift_factor or 0.0
        scaled: torch.Tensor = (latents - shift) * self.vae.config.scaling_factor
        return scaled

    def encode_guide(self, control: torch.Tensor, settings: Settings) -> torch.Tensor | None:
        """Encode the guide of the deformable decoder; None where it is not used."""
        if not self.has_deformable or self.deformable.gain(settings) is None:
            return None
        seed = settings.seed if settings.as_published else None

        def encode() -> torch.Tensor:
            noise = None if seed is None else named_noise(seed, "guide", self._latent_shape(control))
            self.network_calls["deformable_encoder"] += 1
            lightness = control.mean(dim=1, keepdim=True) if seed is None else control[:, :1]
            return content_guide(self.components["deformable_vae"], lightness.to(self.device, self.dtype), noise)

        return self.cache.get("guide", (tensor_hash(control), seed), encode)

    @property
    def has_deformable(self) -> bool:
        """Whether the model has a deformable decoder."""
        return {"deformable_vae", "deformable_units"} <= set(self.components)

    def _latent_shape(self, picture: torch.Tensor) -> tuple[int, ...]:
        """Return the shape of the latents of a picture."""
        cells = (picture.shape[-2] // self.latent_factor, picture.shape[-1] // self.latent_factor)
        return (1, int(self.vae.config.latent_channels), *cells)

    # 2. Predict and guide.

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`uncond`, `cond`; where self-attention guidance acts also `degraded_uncond`, `degraded_cond`."""
        names = self.guidance.passes(settings)
        return (*names, *self.attention.passes(names, settings, timestep))

    def predict(
        self, prepared: PreparedCtrlColor, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call, and one more where self-attention guidance acts."""
        names = self.guidance.passes(settings)
        degraded = self.attention.passes(names, settings, timestep)
        if not degraded:
            return self.predict_noise(prepared, latents, timestep, settings, names)

        # 1. The first call, with the attention of its first pass read.
        site = self.attention.find_site(self.unet, latents.shape, settings)
        with Probe(
            self.unet, [site], guidance_passes=names, wanted_passes=names[:1], num_samples=len(latents)
        ) as probe:
            predictions = self.predict_noise(prepared, latents, timestep, settings, names)
        received = self.attention.received(self.attention.reading_of(probe), settings)
        # 2. The clean picture that it implies, blurred where the attention goes.
        is_original = self.attention.is_original(settings)
        noise_pred = predictions[names[0]] if is_original else self.guidance.guide(predictions, settings)
        clean = self.schedule.to_original_sample(noise_pred, latents, timestep)
        blurred = self.attention.degrade(clean, received, settings)
        if is_original:
            blurred = self.schedule.add_noise(blurred, noise_pred, timestep)
        # 3. The second call.
        predictions |= self.predict_noise(prepared, blurred, timestep, settings, degraded)
        return Predictions(predictions, network_inputs={SAG_RECEIVED: received, SAG_DEGRADED: blurred})

    def predict_noise(
        self,
        prepared: PreparedCtrlColor,
        latents: torch.Tensor,
        timestep: int | float,
        settings: Settings,
        names: tuple[str, ...],
    ) -> dict[str, torch.Tensor]:
        """Ask control network and denoising network once for the named passes; only their words differ."""
        tokens = {name: prepared.text[name.removeprefix(DEGRADED)] for name in names}
        residuals = self.control_residuals(prepared.control_image, latents, timestep, tokens, settings)
        index = prepared.hint_at(timestep)
        around = [prepared.masks[index], prepared.masked_latents[index]]
        sample = torch.cat(
            [latents.to(around[1]), *(part.to(around[1]).expand(len(latents), -1, -1, -1) for part in around)], dim=1
        )
        outputs = self.predict_passes(sample, timestep, tokens, residuals=residuals)
        return {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}

    def control_residuals(
        self,
        control_image: torch.Tensor,
        latents: torch.Tensor,
        timestep: int | float,
        tokens: Mapping[str, torch.Tensor],
        settings: Settings,
    ) -> list[torch.Tensor] | None:
        """Ask the control network for all passes at once, finest level first, middle last; None where it is off."""
        network: Any = self.components["control_network"]
        scales = self.control.scales(len(network.controlnet_down_blocks) + 1, settings)
        if scales is None:
            return None
        batch = latents.to(self.device, self.dtype).repeat(len(tokens), 1, 1, 1)
        self.network_calls["control_network"] += 1
        down, middle = network(
            batch,
            torch.tensor(timestep, device=self.device),
            encoder_hidden_states=torch.cat([part.expand(len(latents), -1, -1) for part in tokens.values()]),
            controlnet_cond=control_image.to(batch).expand(len(latents), -1, -1, -1).repeat(len(tokens), 1, 1, 1),
            return_dict=False,
        )
        return [residual * scale for residual, scale in zip((*down, middle), scales, strict=True)]

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply classifier-free guidance, then self-attention guidance where it acted."""
        noise_pred = self.guidance.guide(predictions, settings)
        degraded = {
            name.removeprefix(DEGRADED): pred for name, pred in predictions.items() if name.startswith(DEGRADED)
        }
        if not degraded:
            return noise_pred
        if self.attention.is_original(settings):
            (name, prediction), *_ = degraded.items()
            return self.attention.guide(noise_pred, prediction, settings, base=predictions[name])
        return self.attention.guide(noise_pred, self.guidance.guide(degraded, settings), settings, base=noise_pred)

    # 3. Decode and finish.

    def decode(self, latents: torch.Tensor, prepared: PreparedCtrlColor, settings: Settings) -> torch.Tensor:
        """Decode with the deformable decoder, or with the plain one where it is off or the model has none."""
        gain = self.deformable.gain(settings)
        latents = latents.to(self.device, self.dtype)
        if not self.has_deformable or gain is None:
            self.network_calls["vae"] += 1
            shift = self.vae.config.shift_factor or 0.0
            decoded = self.vae.decode(latents / self.vae.config.scaling_factor + shift).sample
        else:
            self.network_calls["deformable_vae"] += 1
            decoded, _ = self._bend(latents, prepared, settings, gain)
        return (decoded.float().cpu().clamp(-1, 1) + 1) / 2

    def read_decoder(
        self, latents: torch.Tensor, prepared: PreparedCtrlColor, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Return `unit_K.offset` and `unit_K.modulation` of every deformable convolution; nothing without them."""
        gain = self.deformable.gain(settings)
        if not self.has_deformable or gain is None:
            return {}
        _, done = self._bend(latents.to(self.device, self.dtype), prepared, settings, gain)
        return {
            f"unit_{index}.{part}": getattr(deformation, part).float().cpu()
            for index, deformation in enumerate(done)
            for part in ("offset", "modulation")
        }

    def _bend(self, latents: torch.Tensor, prepared: PreparedCtrlColor, settings: Settings, gain: float) -> Any:
        """Decode by the deformable decoder; the guide is made now if it was off when the run was prepared."""
        guide = self.encode_guide(prepared.control_image, settings) if prepared.guide is None else prepared.guide
        vae, units = (self.components[name] for name in ("deformable_vae", "deformable_units"))
        return decode_deformable(vae, units, latents, guide, gain=gain)

    def finish_image(self, decoded: torch.Tensor, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Keep the input's lightness, and outside of the region of a local edit the base image's colors."""
        if settings.as_published:
            picture, _ = upload_pictures(conditioning, conditioning.strokes)
            finished = write_result(decoded, upload_lightness(picture))
            return torch.from_numpy(finished.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
        region = edit_region(self.edit, conditioning, settings)
        finished_image = finish_keep_lightness(decoded, gray_image(conditioning))
        if region is None:
            return finished_image
        base = finish_keep_lightness(base_picture(conditioning), gray_image(conditioning))
        return region * finished_image + (1 - region) * base
