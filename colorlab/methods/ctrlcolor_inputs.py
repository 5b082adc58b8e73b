"""What CtrlColor's networks receive: words, lightness, strokes, exemplar and guide, encoded once for each picture."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from colorlab.color import gray_to_lightness
from colorlab.conditioning import Conditioning
from colorlab.images import resize_image
from colorlab.mechanisms.deformable_decoding import DeformableDecoding
from colorlab.mechanisms.local_edit import LocalEdit
from colorlab.mechanisms.published_uploads import working_size_as_published
from colorlab.mechanisms.stroke_encoding import StrokeEncoding, masked_picture
from colorlab.methods.base import Method, Prepared, gray_image
from colorlab.methods.hints import (
    Hint,
    edit_region,
    exemplar_notes,
    exemplar_picture,
    paint_hint,
    read_painted,
    stretches,
    stroke_notes,
    tensor_hash,
)
from colorlab.methods.text import EncodedText
from colorlab.networks.control import embed_control
from colorlab.networks.deformable import content_guide
from colorlab.networks.image_tokens import patch_features, pooled_token
from colorlab.networks.vgg19 import LAYER_WEIGHTS
from colorlab.sampling.noise import named_noise
from colorlab.settings import Settings

__all__ = ["ADDED_PROMPT", "NEGATIVE_PROMPT", "CtrlColorInputs", "PreparedCtrlColor"]

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
        control_features: (1, D, h, w), what the control network makes of that; None to leave it to the network.
        guide: (1, C, h, w), of the deformable decoder; None without one.
        gray: (1, 1, H, W), [0, 1], at working size; None without an exemplar.
        exemplar: features of the exemplar by layer; empty without one.
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
    control_features: torch.Tensor | None = None
    guide: torch.Tensor | None = None
    gray: torch.Tensor | None = None
    exemplar: Mapping[str, torch.Tensor] = field(default_factory=dict)
    region: torch.Tensor | None = None

    def hint_at(self, timestep: float) -> int:
        """Return which hint counts at a timestep: that of the step in whose stretch of timesteps it lies."""
        step = int((self.timesteps > timestep).sum())
        return self.hint_of_step[min(step, len(self.hint_of_step) - 1)]


class CtrlColorInputs(Method):
    """The part of CtrlColor that runs once for each picture; `CtrlColor` adds the steps and the decoding."""

    strokes = StrokeEncoding()
    edit = LocalEdit()
    deformable = DeformableDecoding()
    exemplar_layers: ClassVar[tuple[int, ...]] = (-2, -1)

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
        parts: Any = {"encoding": self.strokes, "edit": self.edit}
        sizes: Any = {"working_px": self.working_px, "cell_px": self.latent_factor}
        hints = [paint_hint(conditioning, part, size, settings, **parts, **sizes) for part in sets]
        encoded = [self.encode_hint(hint, settings) for hint in hints]
        notes = (*ignored, *prompt.notes, *negative.notes, *stroke_notes(self.edit, conditioning, settings))
        gray, reference, told = self.encode_exemplar(conditioning, size)
        return PreparedCtrlColor(
            latent_shape=(self.vae.config.latent_channels, *encoded[0][1].shape[-2:]),
            notes=tuple(dict.fromkeys((*notes, *told))),
            text=self.append_exemplar({"uncond": negative.tokens, "cond": prompt.tokens}, conditioning),
            control_image=control,
            hints=tuple(hint.picture for hint in hints),
            known=tuple(hint.known for hint in hints),
            painted=tuple(hint.painted for hint in hints),
            masks=tuple(mask for mask, _ in encoded),
            masked_latents=tuple(latents for _, latents in encoded),
            hint_of_step=hint_of_step,
            timesteps=timesteps,
            control_features=self.encode_control(control),
            guide=self.encode_guide(control, settings),
            gray=gray,
            exemplar=reference,
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

    def encode_control(self, control: torch.Tensor) -> torch.Tensor | None:
        """Embed what the control network sees, once for all steps and passes."""

        def encode() -> torch.Tensor | None:
            return embed_control(self.components["control_network"], control.to(self.device, self.dtype))

        return self.cache.get("control_features", tensor_hash(control), encode)

    def encode_hint(self, hint: Hint, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask (1, 1, h, w), 1 where the network is free, and the latents of the masked picture."""
        mask = self.strokes.latent_mask(hint.known, self.latent_factor, settings)
        seed = settings.seed if settings.as_published else None

        def encode() -> torch.Tensor:
            masked = masked_picture(hint.picture, hint.known)
            noise = None if seed is None else named_noise(seed, "masked picture", self._latent_shape(masked))
            return self.encode_picture(masked, noise)

        return mask, self.cache.get("hint", (tensor_hash(hint.picture, hint.known), seed), encode)

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

    def fields_read(self) -> tuple[str, ...]:
        """Return the fields it reads: an exemplar too, where the model has a network that looks at it."""
        return (*super().fields_read(), *(["exemplar"] if self.exemplar_reader else []))

    def append_exemplar(self, text: dict[str, torch.Tensor], conditioning: Conditioning) -> dict[str, torch.Tensor]:
        """Append the exemplar's token to the words of `cond`; zeros elsewhere and where there is no exemplar.

        A model without an image encoder reads words alone, as the released weights do.
        """
        encoder = self.components.get("image_encoder")
        if encoder is None:
            return text
        token = torch.zeros_like(text["cond"][:, :1])
        tokens = dict.fromkeys(text, token)
        if conditioning.exemplar is not None:

            def encode() -> torch.Tensor:
                self.network_calls["image_encoder"] += 1
                return pooled_token(encoder, exemplar_picture(conditioning).to(token))

            tokens["cond"] = self.cache.get("exemplar_token", conditioning.content_hash("exemplar"), encode)
        return {name: torch.cat([part, tokens[name]], dim=1) for name, part in text.items()}

    def encode_exemplar(
        self, conditioning: Conditioning, size: tuple[int, int]
    ) -> tuple[torch.Tensor | None, Mapping[str, torch.Tensor], tuple[str, ...]]:
        """Return the gray picture at working size and the exemplar's features for its guidance, and notes on it."""
        if conditioning.exemplar is None or not self.exemplar_reader:
            return None, {}, ()
        picture = exemplar_picture(conditioning)

        def encode() -> Mapping[str, torch.Tensor]:
            self.network_calls[self.exemplar_reader] += 1
            return self.exemplar_features(picture.to(self.device, self.dtype))

        reference = self.cache.get("exemplar", conditioning.content_hash("exemplar"), encode)
        return resize_image(gray_image(conditioning), size), reference, exemplar_notes(picture)

    def exemplar_features(self, image: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the features by which pictures (B, 3, H, W) in [0, 1] are compared with the exemplar, by layer."""
        network = self.components[self.exemplar_reader]
        if self.exemplar_reader == "image_encoder":
            return patch_features(network, image, self.exemplar_layers)
        # A decoded picture is at working size; an exemplar may be huge.
        height, width = image.shape[-2:]
        if height * width > 2 * self.working_px**2:
            image = resize_image(image, self.working_size((height, width)))
        features: Mapping[str, torch.Tensor] = network(image)
        return features

    @property
    def exemplar_reader(self) -> str:
        """Name of the network whose features of an exemplar are compared; empty where there is none."""
        return next((name for name in ("exemplar_network", "image_encoder") if name in self.components), "")

    @property
    def exemplar_weights(self) -> Mapping[str, float] | None:
        """How much each layer of these features counts; None where all count alike."""
        return LAYER_WEIGHTS if self.exemplar_reader == "exemplar_network" else None

    @property
    def num_more_tokens(self) -> int:
        """The exemplar's, where the model reads one."""
        return int("image_encoder" in self.components)

    @property
    def has_deformable(self) -> bool:
        """Whether the model has a deformable decoder."""
        return {"deformable_vae", "deformable_units"} <= set(self.components)

    def _latent_shape(self, picture: torch.Tensor) -> tuple[int, ...]:
        """Return the shape of the latents of a picture."""
        cells = (picture.shape[-2] // self.latent_factor, picture.shape[-1] // self.latent_factor)
        return (1, int(self.vae.config.latent_channels), *cells)
