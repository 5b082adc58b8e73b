"""CtrlColor: a gray picture colored by words, strokes and an exemplar in any mixture; local edits of a colored one.

| paper | here |
| --- | --- |
| control network on lightness | `LightnessControl`, `Prepared.control_image` |
| stroke mask and masked image in nine input channels | `StrokeEncoding`: [x_t, mask, z_m] |
| streamlined self-attention guidance | `SelfAttentionGuidance`: the passes `degraded_uncond`, `degraded_cond` |
| classifier-free guidance | `ClassifierFreeGuidance`: words differ, picture and strokes stay in both passes |
| content-guided deformable autoencoder | `DeformableDecoding`, components `deformable_vae`, `deformable_units` |
| iterative editing | `LocalEdit` |
| exemplar | a token behind those of the words, from `image_encoder`; `ExemplarGuidance` |
| features of the contextual loss | VGG19's where there is an `exemplar_network`, else those of `image_encoder` |

Source: CtrlColor, arXiv 2402.10855; where it is silent, `ZhexinLiang/Control-Color@f21054a`.
Deviation: no caption is made for an empty prompt; strokes may count for some steps only; the latents are not decoded at
    every step; the input's lightness is kept in floats, within the gamut (`as_published` in 8 bits, as released).
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.images import finish_keep_lightness
from colorlab.mechanisms.classifier_free_guidance import ClassifierFreeGuidance
from colorlab.mechanisms.exemplar_guidance import ExemplarGuidance
from colorlab.mechanisms.lightness_control import LightnessControl
from colorlab.mechanisms.published_uploads import upload_lightness, write_result
from colorlab.mechanisms.self_attention_guidance import (
    DEGRADED,
    SAG_DEGRADED,
    SAG_RECEIVED,
    SelfAttentionGuidance,
)
from colorlab.methods.base import Finish, gray_image
from colorlab.methods.ctrlcolor_inputs import CtrlColorInputs, PreparedCtrlColor
from colorlab.methods.hints import base_picture, edit_region, upload_pictures
from colorlab.networks.control import embedded_before
from colorlab.networks.deformable import decode_deformable
from colorlab.networks.probe import Probe
from colorlab.sampling.records import Predictions
from colorlab.settings import Settings

__all__ = ["CtrlColor", "PreparedCtrlColor"]


class CtrlColor(CtrlColorInputs):
    """Colorize a gray picture by words, strokes and a reference picture, or edit a colored one."""

    name = "ctrlcolor"
    requires = ("gray",)
    reads = ("gray", "base_image", "prompt", "negative_prompt", "strokes", "masks")
    finish: ClassVar[Finish] = "keep_lightness"
    component_names = ("unet", "control_network", "vae", "text_encoder", "tokenizer", "scheduler")
    optional_component_names = ("deformable_vae", "deformable_units", "image_encoder", "exemplar_network")
    default_settings: ClassVar[Settings] = Settings(guidance_scale=7.0)

    control = LightnessControl()
    guidance = ClassifierFreeGuidance()
    attention = SelfAttentionGuidance()
    exemplar = ExemplarGuidance()
    mechanisms = (
        CtrlColorInputs.strokes,
        CtrlColorInputs.edit,
        control,
        guidance,
        attention,
        exemplar,
        CtrlColorInputs.deformable,
    )

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
        steer = self.steering_of(prepared, latents, timestep, settings)
        if not degraded:
            return Predictions(self.predict_noise(prepared, latents, timestep, settings, names), steer=steer)

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
        inputs = {SAG_RECEIVED: received, SAG_DEGRADED: blurred}
        return Predictions(predictions, network_inputs=inputs, steer=steer)

    def steering_of(
        self, prepared: PreparedCtrlColor, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return what the exemplar does to the guided prediction; None where it does nothing."""
        if prepared.gray is None or not self.exemplar.acts(settings, timestep):
            return None
        gray = prepared.gray.to(self.device, self.dtype)

        def loss(clean: torch.Tensor) -> torch.Tensor:
            image = (self.decode_raw(clean.to(self.device, self.dtype), prepared, settings).clamp(-1, 1) + 1) / 2
            features, weights = self.exemplar_features, self.exemplar_weights
            return self.exemplar.loss(image, gray, prepared.exemplar, features, settings, weights=weights).float()

        def loss_of_noisy(noisy: torch.Tensor) -> torch.Tensor:
            names = self.guidance.passes(settings)
            noise_pred = self.guidance.guide(self.predict_noise(prepared, noisy, timestep, settings, names), settings)
            return loss(self.schedule.to_original_sample(noise_pred, noisy, timestep))

        def steer(noise_pred: torch.Tensor) -> torch.Tensor:
            alpha, sigma = self.schedule.alpha_sigma_at(timestep)
            clean = self.schedule.to_original_sample(noise_pred, latents, timestep)
            if self.exemplar.is_through_unet(settings):
                return self.exemplar.steering(clean, loss_of_noisy, settings, alpha=alpha, sigma=sigma, at=latents)
            return self.exemplar.steering(clean, loss, settings, alpha=alpha, sigma=sigma)

        return steer

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
        residuals = self.control_residuals(prepared, latents, timestep, tokens, settings)
        index = prepared.hint_at(timestep)
        around = [prepared.masks[index], prepared.masked_latents[index]]
        sample = torch.cat(
            [latents.to(around[1]), *(part.to(around[1]).expand(len(latents), -1, -1, -1) for part in around)], dim=1
        )
        outputs = self.predict_passes(sample, timestep, tokens, residuals=residuals)
        return {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}

    def control_residuals(
        self,
        prepared: PreparedCtrlColor,
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
        features = prepared.control_features
        picture = prepared.control_image if features is None else features
        self.network_calls["control_network"] += 1
        with nullcontext() if features is None else embedded_before(network):
            down, middle = network(
                batch,
                torch.tensor(timestep, device=self.device),
                encoder_hidden_states=torch.cat([part.expand(len(latents), -1, -1) for part in tokens.values()]),
                controlnet_cond=picture.to(batch).expand(len(latents), -1, -1, -1).repeat(len(tokens), 1, 1, 1),
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

    def decode(self, latents: torch.Tensor, prepared: PreparedCtrlColor, settings: Settings) -> torch.Tensor:
        """Decode with the deformable decoder, or with the plain one where it is off or the model has none."""
        decoded = self.decode_raw(latents.to(self.device, self.dtype), prepared, settings)
        return (decoded.float().cpu().clamp(-1, 1) + 1) / 2

    def decode_raw(self, latents: torch.Tensor, prepared: PreparedCtrlColor, settings: Settings) -> torch.Tensor:
        """Decode latents to (B, 3, H, W), nominally [-1, 1], on the model's device; differentiable."""
        gain = self.deformable.gain(settings)
        if not self.has_deformable or gain is None:
            self.network_calls["vae"] += 1
            shift = self.vae.config.shift_factor or 0.0
            plain: torch.Tensor = self.vae.decode(latents / self.vae.config.scaling_factor + shift).sample
            return plain
        self.network_calls["deformable_vae"] += 1
        bent: torch.Tensor = self._bend(latents, prepared, settings, gain)[0]
        return bent

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
        guide: Any = self.encode_guide(prepared.control_image, settings) if prepared.guide is None else prepared.guide
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
