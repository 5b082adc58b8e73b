"""ColorizeDiffusion: a sketch colored like an exemplar, whose tokens texts can edit.

| paper | here |
| --- | --- |
| sketch encoder, added to the UNet's features | `SketchInjection`; "no sketch" is blank paper through the encoder |
| CLIP image tokens in cross-attention | `exemplar_projection`: the patches (Attention model) or the class token (CLS) |
| reference and sketch guidance | `DualGuidance`: the passes `full`, `no_exemplar`, `no_sketch` |
| cross-attention scales, guidance windows | `ExemplarAttention` |
| reference noise | `ExemplarStart` |
| attention injection | `AttentionInjection`: the passes `lending_full` ... |
| global text manipulation | `GlobalManipulation`, of CLS models |
| local text manipulation, position weight matrix | `PositionWeights`, of Attention models |
| - | `LineGuidance`: lines of the sketch inside the decoder, of models that have a `line_encoder` |

A gray picture may stand for the sketch: its lines are drawn from it, and the finished picture keeps its lightness. With
a sketch alone the picture is left as it is decoded, because only the model knows how light things are.

Source: ColorizeDiffusion, arXiv 2401.01456; where it is silent, tellurion-kanata/colorizeDiffusion@c9bd9fb.
Deviation: the sketch keeps its aspect without paper around it; guidance windows are asked at every step.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import ClassVar

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.eight_bit import to_truncated8
from colorlab.images import finish_keep_lightness, resize_image, to_uint8
from colorlab.mechanisms.attention_injection import LENDING
from colorlab.mechanisms.dual_guidance import NO_EXEMPLAR, NO_SKETCH_PASS, DualGuidance
from colorlab.mechanisms.published_sketches import place_sketch
from colorlab.methods.base import Finish, gray_image
from colorlab.methods.colorizediffusion_inputs import ColorizeDiffusionInputs, PreparedColorizeDiffusion
from colorlab.networks.attention_bank import lent_attention, self_attention_inputs
from colorlab.networks.sketch_encoder import injected_hints
from colorlab.sampling.noise import named_noise
from colorlab.settings import Settings

__all__ = ["ColorizeDiffusion", "PreparedColorizeDiffusion"]


class ColorizeDiffusion(ColorizeDiffusionInputs):
    """Color a sketch, or the lines of a gray picture, like an exemplar."""

    name = "colorizediffusion"
    reads = ("sketch", "gray", "exemplar", "manipulations")
    finish: ClassVar[Finish] = "as_decoded"
    component_names = (
        "unet",
        "sketch_encoder",
        "exemplar_projection",
        "vae",
        "projected_image_encoder",
        "projected_text_encoder",
        "tokenizer",
        "scheduler",
    )
    optional_component_names = ("line_encoder",)
    default_settings: ClassVar[Settings] = Settings(guidance_scale=4.0, solver="dpmpp_2m")

    guidance = DualGuidance()
    mechanisms = (
        ColorizeDiffusionInputs.injection,
        ColorizeDiffusionInputs.position_weights,
        ColorizeDiffusionInputs.global_manipulation,
        ColorizeDiffusionInputs.start,
        ColorizeDiffusionInputs.attention,
        ColorizeDiffusionInputs.lending,
        guidance,
        ColorizeDiffusionInputs.lines,
    )

    def guidance_passes(self, settings: Settings, timestep: float | None = None) -> tuple[str, ...]:
        """`full`; with guidance by the exemplar `no_exemplar`, by the sketch `no_sketch`.

        With attention injection each has a pass before it that lends its features, `lending_full` and so on.
        """
        names = self.guidance.passes(settings)
        return (*self.lending.passes(names, settings), *names)

    def start_noise(self, prepared: PreparedColorizeDiffusion, noise: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Return the noise, or the exemplar's latents under the noise of the last training timestep."""
        if prepared.exemplar_latents is None or not self.start.is_wanted(settings):
            return noise
        last = self.schedule.num_train_timesteps - 1
        return self.schedule.add_noise(prepared.exemplar_latents.expand_as(noise), noise, last)

    def predict(
        self, prepared: PreparedColorizeDiffusion, latents: torch.Tensor, timestep: int | float, settings: Settings
    ) -> dict[str, torch.Tensor]:
        """Predict the noise of every pass in one call; with attention injection that of the exemplar in one before."""
        names = self.guidance.passes(settings)
        tokens = {name: self.tokens_of(name, prepared, timestep, settings) for name in names}
        hints = [
            torch.cat([(blank if name == NO_SKETCH_PASS else hint).expand(len(latents), -1, -1, -1) for name in names])
            for hint, blank in zip(prepared.hints, prepared.blank_hints, strict=True)
        ]
        lent: dict[str, torch.Tensor] = {}
        predictions: dict[str, torch.Tensor] = {}
        with ExitStack() as stack:
            if self.lending.is_wanted(settings):
                lent, predictions = self.denoise_exemplar(prepared, latents, timestep, tokens, settings)
            if lent and self.lending.acts(timestep, settings, self.schedule.num_train_timesteps):
                shares = self.lending.own_shares(names, len(latents), settings)
                stack.enter_context(lent_attention(self.unet, lent, shares))
            stack.enter_context(injected_hints(self.unet, hints))
            outputs = self.predict_passes(latents, timestep, tokens)
        noise = {name: self.schedule.to_noise_pred(output, latents, timestep) for name, output in outputs.items()}
        return {**predictions, **noise}

    def denoise_exemplar(
        self,
        prepared: PreparedColorizeDiffusion,
        latents: torch.Tensor,
        timestep: int | float,
        tokens: Mapping[str, torch.Tensor],
        settings: Settings,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Denoise the exemplar, as noisy as the latents are.

        Returns:
            What entered every self-attention layer, by path, and the predicted noise of each pass `lending_...`.
        """
        clean = torch.as_tensor(prepared.exemplar_latents).expand_as(latents)
        noise = named_noise(settings.seed, f"exemplar at {timestep}", (1, *clean.shape[1:])).expand_as(clean)
        noisy = self.schedule.add_noise(clean, noise, timestep)
        num_rows = len(tokens) * len(latents)
        with ExitStack() as stack:
            kept = stack.enter_context(self_attention_inputs(self.unet))
            if prepared.exemplar_hints:
                hints = [hint.expand(num_rows, -1, -1, -1) for hint in prepared.exemplar_hints]
                stack.enter_context(injected_hints(self.unet, hints))
            outputs = self.predict_passes(noisy, timestep, tokens)
        named = {f"{LENDING}{name}": output for name, output in outputs.items()}
        return dict(kept), {name: self.schedule.to_noise_pred(out, noisy, timestep) for name, out in named.items()}

    def tokens_of(
        self, guidance_pass: str, prepared: PreparedColorizeDiffusion, timestep: int | float, settings: Settings
    ) -> torch.Tensor:
        """Return what cross-attention receives in a pass: the exemplar, or zeros where it does not count."""
        context = prepared.context
        if not self.is_exemplar_seen(prepared, timestep, settings):
            return torch.zeros_like(context[:, :1])
        if guidance_pass == NO_EXEMPLAR:
            context = torch.zeros_like(context)
        if not self.attention.is_noisy(timestep, settings, self.schedule.num_train_timesteps):
            return context
        noise = named_noise(settings.seed, f"{guidance_pass} tokens at {int(timestep)}", (1, *context.shape[1:]))
        alpha, sigma = self.schedule.alpha_sigma_at(int(timestep))
        return alpha * context + sigma * noise.to(context)

    def is_exemplar_seen(self, prepared: PreparedColorizeDiffusion, timestep: int | float, settings: Settings) -> bool:
        """Return whether the exemplar counts; as published it never comes back once it did not."""
        total = self.schedule.num_train_timesteps
        asked = [timestep]
        if settings.as_published:
            asked += [earlier for earlier in prepared.timesteps.tolist() if earlier > timestep]
        return all(self.attention.is_seen(one, settings, total) for one in asked)

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Apply dual guidance."""
        return self.guidance.guide(predictions, settings)

    def decode(self, latents: torch.Tensor, prepared: PreparedColorizeDiffusion, settings: Settings) -> torch.Tensor:
        """Decode with the autoencoder, with the sketch's lines inside it where the model reads them."""
        gains = self.lines.gains(len(prepared.taps), settings)
        return self.decode_latents(latents, None if gains is None else prepared.taps, gains)

    def finish_image(self, decoded: torch.Tensor, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Bring the picture to the input's size; keep the lightness of a gray picture where there is one.

        As published the paper around the sketch is cut off, and values are truncated to 8 bits.
        """
        if settings.as_published:
            lines = to_uint8(self.read_sketch(conditioning).repeat(1, 3, 1, 1))
            rows, columns = place_sketch(lines, (int(decoded.shape[-2]), int(decoded.shape[-1]))).area
            picture = to_truncated8(decoded[:, :, rows, columns])
            return torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)[None]
        if conditioning.gray is not None:
            return finish_keep_lightness(decoded, gray_image(conditioning))
        return decoded if conditioning.size is None else resize_image(decoded, conditioning.size)
