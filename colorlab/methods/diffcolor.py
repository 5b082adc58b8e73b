"""DiffColor: plain latent diffusion that is tuned on one gray picture, then recolored by words without more tuning.

| paper | here |
| --- | --- |
| latent code z_g of the gray picture | `Prepared.gray_latents`; runs start from it (`GrayStart`) |
| stage 1, generative color prior | `ContrastiveTuning`, by `colorizer.tune` |
| spatial alignment | `SpatialAlignment`, at the end of every run |
| stage 2, e_opt and eta | `EmbeddingPath`: the prompt is the target text |

Source: DiffColor, arXiv 2308.01655, re-implemented from a summary: no code was published. What the summary leaves open
    is a parameter, never a constant.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import StateError
from colorlab.images import finish_keep_lightness, load_image, resize_image
from colorlab.mechanisms.contrastive_tuning import ContrastiveTuning
from colorlab.mechanisms.embedding_path import EmbeddingPath
from colorlab.mechanisms.gray_start import GrayStart
from colorlab.mechanisms.spatial_alignment import SpatialAlignment
from colorlab.methods.adaptation import Adaptation, install_weights
from colorlab.methods.base import Finish, gray_image
from colorlab.methods.guided_by_words import GuidedByWords, PreparedWords
from colorlab.methods.identifiers import AlignedTarget, Rewriting
from colorlab.sampling.inversion import ddim_invert
from colorlab.settings import Settings

__all__ = ["DiffColor", "PreparedDiffColor"]


@dataclass(frozen=True, eq=False)
class PreparedDiffColor(PreparedWords):
    """Words and picture as the networks receive them.

    Args:
        gray: (1, 1, H, W) at working size, [0, 1].
        gray_latents: (1, C, h, w), scaled, of the gray picture.
        colored_latents: the same of the picture that was tuned for, or of the gray one where there is none.
        path: `optimized` and `target`, (1, N, D): the ends of the embedding path; empty where it is not gone.
    """

    gray: torch.Tensor
    gray_latents: torch.Tensor
    colored_latents: torch.Tensor
    path: Mapping[str, torch.Tensor] = field(default_factory=dict)


class DiffColor(GuidedByWords):
    """Color one gray picture by a model that was tuned on it, and change its colors by words.

    Attributes:
        base_unet: the denoising network before any adaptation.
        base_hash: identifies the weights before any adaptation.
    """

    name = "diffcolor"
    requires = ("gray",)
    reads = ("gray", "prompt", "negative_prompt")
    finish: ClassVar[Finish] = "keep_lightness"
    starts_from_picture: ClassVar[bool] = True
    optional_component_names = ("projected_text_encoder", "projected_image_encoder")
    default_settings: ClassVar[Settings] = Settings(guidance_scale=3.0, strength=0.7)

    start = GrayStart()
    path = EmbeddingPath()
    tuning = ContrastiveTuning()
    alignment = SpatialAlignment()
    mechanisms = (start, path, GuidedByWords.guidance, tuning, alignment)

    def __init__(
        self, components: Mapping[str, Any], working_px: int, *, model_name: str = "", weights_hash: str = ""
    ) -> None:
        super().__init__(components, working_px, model_name=model_name, weights_hash=weights_hash)
        self.base_unet, self.base_hash = self.unet, weights_hash
        self._plain: DiffColor | None = None

    @property
    def plain(self) -> "DiffColor":
        """This model before any adaptation."""
        return self._plain or self

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedDiffColor:
        """Encode the words and the gray picture, each only if it is new."""
        ignored = self.check(conditioning, settings)
        self.start.start(settings)
        size = self.working_size(conditioning.size)
        gray = resize_image(gray_image(conditioning), size)
        latents = self.cache.get(
            "gray",
            (conditioning.content_hash("gray"), size),
            lambda: self.encode_picture(gray.repeat(1, 3, 1, 1) * 2 - 1),
        )
        negative = self.encode_prompt(conditioning.negative_prompt)
        tokens, path, notes = self.walk_path(conditioning.prompt, settings)
        return PreparedDiffColor(
            latent_shape=(latents.shape[1], latents.shape[2], latents.shape[3]),
            notes=tuple(dict.fromkeys((*ignored, *notes, *negative.notes, *self._notes_on_picture(conditioning)))),
            text={"uncond": negative.tokens, "cond": tokens},
            gray=gray,
            gray_latents=latents,
            colored_latents=self.encode_tuned(conditioning, size, latents),
            path=path,
        )

    def encode_tuned(
        self, conditioning: Conditioning, size: tuple[int, int], gray_latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the latents of the picture that the adaptation is for; the gray ones for any other picture."""
        adaptation = self.adaptation
        picture = None if adaptation is None else adaptation.tensors.get("picture/aligned")
        if adaptation is None or picture is None or not adaptation.is_of(conditioning):
            return gray_latents
        image = resize_image(load_image(picture.numpy()), size)
        return self.cache.get("tuned", (adaptation.content_hash, size), lambda: self.encode_picture(image * 2 - 1))

    def _notes_on_picture(self, conditioning: Conditioning) -> tuple[str, ...]:
        """Say that there is no adaptation, or that it belongs to another picture than the one to color."""
        if self.adaptation is None:
            return (
                "This model was tuned on no picture yet, so that it colors this one weakly, if at all; tune it first, "
                "by colorizer.tune(...), the Studio's Tuning or colorlab tune.",
            )
        if self.adaptation.is_of(conditioning):
            return ()
        return (
            f"The adaptation was tuned on another picture (as {self.adaptation.context!r}), or on this one at another "
            "size: it colors this one, but less well; tune on this picture.",
        )

    def walk_path(
        self, prompt: str, settings: Settings
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[str, ...]]:
        """Return the tokens of a prompt under the adaptation, the ends of the path, and notes.

        Raises:
            RangeError: the prompt does not fit the context that the model was tuned with.
        """
        beginning = self._beginning_of_path(settings)
        if beginning is None:
            encoded = self.encode_prompt(prompt)
            return encoded.tokens, {}, encoded.notes
        optimized, rewriting = beginning
        if rewriting.is_context(prompt):
            note = "The prompt names no color of its own, so the picture of the tuning is reproduced."
            return optimized, {}, (note,) if prompt.strip() else ()
        target = self.encode_prompt(self.text_in_force(prompt, settings))
        tokens = self.path.embedding(optimized, target.tokens, settings)
        return tokens, {"optimized": optimized, "target": target.tokens}, target.notes

    def text_in_force(self, prompt: str, settings: Settings) -> str:
        """Return the text with identifiers where no color is named: its tokens are those that the network receives.

        Raises:
            RangeError: the prompt does not fit the context that the model was tuned with.
        """
        beginning = self._beginning_of_path(settings)
        if beginning is None:
            return prompt
        _, rewriting = beginning
        return rewriting.text if rewriting.is_context(prompt) else rewriting.align(prompt, self.components).text

    def prepare_other_text(self, conditioning: Conditioning, settings: Settings) -> PreparedDiffColor:
        """Prepare a text as the text encoder reads it: words in another order are no target of the path."""
        return self.prepare(conditioning, settings.with_mechanism(self.path.name, is_on=False))

    def _beginning_of_path(self, settings: Settings) -> tuple[torch.Tensor, Rewriting] | None:
        """Return the embedding that reproduces the picture, and its text; None where prompts are read as they stand."""
        adaptation = self.adaptation
        optimized = None if adaptation is None else adaptation.optimized
        rewriting = None if adaptation is None else adaptation.rewriting
        if optimized is None or rewriting is None or not self.path.is_on(settings):
            return None
        return optimized.to(self.device, self.dtype), rewriting

    def align_target(self, target: str) -> AlignedTarget:
        """Lay a target text onto the context of the adaptation: the table of tokens, and etas by object.

        Raises:
            RangeError: the target does not fit.
            StateError: no second stage was tuned.
        """
        rewriting = None if self.adaptation is None else self.adaptation.rewriting
        if rewriting is None:
            raise StateError(
                f"{self.model_name!r} has no adaptation with a context to lay a target on; tune it first, stage 2 "
                "included, or take one with colorizer.with_adaptation(...)."
            )
        return rewriting.align(target, self.components)

    def start_noise(self, prepared: PreparedDiffColor, noise: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Return the inverted or the noised gray latents, or the noise itself."""
        start = self.start.start(settings)
        if start == "noise":
            return noise
        timesteps = self.timesteps(settings)
        if start == "noise_gray":
            return self.schedule.add_noise(prepared.gray_latents.float().cpu(), noise, int(timesteps[0]))
        # Under the embedding that reproduces the picture, without guidance: the way back then leads to it.
        tokens = {"cond": prepared.path.get("optimized", prepared.text["cond"])}

        def predict(latents: torch.Tensor, timestep: int) -> torch.Tensor:
            output = self.predict_passes(latents, timestep, tokens)["cond"]
            return self.schedule.to_noise_pred(output, latents, timestep)

        with self.lock, torch.no_grad():
            latents = prepared.colored_latents.float().cpu()
            return ddim_invert(latents, predict, schedule=self.schedule, timesteps=timesteps)

    def finish_image(self, decoded: torch.Tensor, conditioning: Conditioning, settings: Settings) -> torch.Tensor:
        """Align the colors with the gray picture, at the size of the networks, then keep the input's lightness."""
        if settings.as_published or not self.alignment.is_on(settings):
            return decoded
        gray = gray_image(conditioning)
        size = (decoded.shape[-2], decoded.shape[-1])
        aligned = self.alignment.aligned(decoded, resize_image(gray, size), settings)
        return finish_keep_lightness(aligned, gray)

    def adapted(self, adaptation: Adaptation) -> "DiffColor":
        """Return this model with an adaptation in the place of the one it has; only the denoising network is copied.

        Raises:
            RangeError: the adaptation belongs to other weights.
            WeightsError: it does not fit the network.
        """
        adaptation.check_base(self.base_hash, self.model_name)
        with self.lock:
            unet = copy.deepcopy(self.base_unet)
        install_weights(unet, adaptation.weights_in_force)
        mark = hashlib.sha256(f"{self.base_hash} {adaptation.content_hash}".encode()).hexdigest()
        other = DiffColor(
            {**self.components, "unet": unet}, self.working_px, model_name=self.model_name, weights_hash=mark
        )
        other.adaptation, other.base_unet, other.base_hash = adaptation, self.base_unet, self.base_hash
        # The networks beside the denoising one are the same modules.
        other.lock, other._plain = self.lock, self.plain
        return other
