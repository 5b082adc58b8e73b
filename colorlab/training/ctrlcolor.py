"""Recipes `ctrlcolor-lightness`, `ctrlcolor-inpaint` and `ctrlcolor`: CtrlColor's stages at small width.

| recipe | trains | on |
| --- | --- | --- |
| `ctrlcolor-lightness` | the control network's embedding of lightness | what L-CAD's tap tells its first layer |
| `ctrlcolor-inpaint` | input blocks and middle of the nine-channel UNet | words and simulated hints, no lightness |
| `ctrlcolor` | control network and UNet | words, hints and exemplars, with lightness |

Source: CtrlColor, arXiv 2402.10855; what the released configuration tells of its training: AdamW, the control network
    alone or with the UNet's output blocks, `ZhexinLiang/Control-Color@f21054a`.
Deviation (ours, for few samples): both networks begin as L-CAD's UNet, which knows objects by their lightness. Its
    input blocks make the control network, and the first recipe gives them lightness in the form that they are used to;
    what they say is added whole from the start, where the paper begins with zero convolutions, so that the output
    blocks hear what they heard in L-CAD. The prior's output blocks wait for the lightness, and then nothing of the UNet
    is locked: the prior has seen too little to know how far a hint reaches. Object cells look at the words that name
    them and at the strokes on them (see `grounding`), and count more; the prediction is the family's.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from colorlab.color import rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.images import load_image
from colorlab.methods.components import load_component
from colorlab.networks.libraries import ControlNetModel, UNet2DConditionModel
from colorlab.networks.luminance import LuminanceEncoder, extend_conv_in, lightness_hint, narrow_conv_in
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training.denoising import DenoisingRecipe, FrozenText, export_model
from colorlab.training.encoded_hints import EncodedHints
from colorlab.training.grids import picture_grid, run_pictures
from colorlab.training.grounding import NUM_THINGS, AttentionReader, grounding_loss, stroke_grounding_loss
from colorlab.training.latents import EncodedPictures, picture_at
from colorlab.training.pixels import Pictures
from colorlab.training.prior import SHARED
from colorlab.training.scenes import TEST_SEEDS, make_scene, simulated_strokes

LATENT_CHANNELS = 4

DEFORMABLE_PARTS = {"deformable_vae": "../vae", "deformable_units": "deformable_units"}
"""Folders of the deformable decoder in a model folder; its autoencoder is the family's."""

EMBEDDING_CHANNELS = (16, 32, 64, 96)
"""Widths of the control network's embedding of lightness. Ours: half of the published ones and less."""

EXEMPLAR_EVERY = 5
"""Every so manieth picture of a batch has its exemplar."""

UNHINTED_EVERY = 4
"""Every so manieth picture of a batch has no hint. Ours; words alone were learned before."""

WORDLESS_SHARE = 0.75
"""Share of pictures with hint or exemplar that have no caption, so that these are obeyed without words, too."""

STROKED_WEIGHT = 6.0
"""Weight of a latent cell on an object with a stroke; see `OBJECT_WEIGHT`. Ours: strokes spread over whole objects."""

STROKE_GROUNDING_WEIGHT = 0.1
"""Weight of `stroke_grounding_loss`. Ours."""


@dataclass
class LightnessRecipe:
    """Teach the control network's embedding of lightness what the luminance tap adds to L-CAD's first features.

    Args:
        pictures: what to train on.
        lcad: L-CAD's UNet.
        luminance_encoder: L-CAD's, frozen.
        crop_px: side of the training crops.
        seed: of the initial weights.
    """

    pictures: Pictures
    lcad: UNet2DConditionModel
    luminance_encoder: LuminanceEncoder
    crop_px: int = 64
    seed: int = 0
    name: str = "ctrlcolor-lightness"

    def trainable(self) -> nn.Module:
        """Return a control network made of L-CAD's blocks; all but its embedding is locked."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = ControlNetModel.from_unet(
                narrow_conv_in(self.lcad, LATENT_CHANNELS),
                conditioning_embedding_out_channels=EMBEDDING_CHANNELS,
            )
        for convolution in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            nn.init.dirac_(convolution.weight)
        network.requires_grad_(False)
        network.controlnet_cond_embedding.requires_grad_(True)
        return network

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Compare the embedding of crops with what the tap adds, relative to its size."""
        device = next(module.parameters()).device
        image = self.pictures.draw(batch_size, self.crop_px, generator).images.to(device)
        with torch.no_grad():
            tap = self.luminance_encoder.to(device)(lightness_hint(image))[-1]
            added = functional.conv2d(tap, self.lcad.conv_in.weight.to(device)[:, LATENT_CHANNELS:], padding=1)
        embedded = module.controlnet_cond_embedding(control_image(image))
        loss = (embedded - added).square().mean() / added.square().mean()
        return loss, {"unexplained": float(loss.detach())}

    @torch.no_grad()
    def sample_grid(self, module: Any, folder: Path) -> Image.Image:
        """Show pictures, the length of what the tap adds in each cell, and of what the embedding gives."""
        image = self.pictures.draw(8, 128, torch.Generator().manual_seed(1)).images
        tap = self.luminance_encoder(lightness_hint(image))[-1]
        added = functional.conv2d(tap, self.lcad.conv_in.weight[:, LATENT_CHANNELS:], padding=1)
        embedded = module.controlnet_cond_embedding(control_image(image))
        longest = torch.linalg.vector_norm(added, dim=1).max()
        maps = [torch.linalg.vector_norm(part, dim=1, keepdim=True) / longest for part in (added, embedded)]
        return picture_grid([image, *(functional.interpolate(part, size=image.shape[-2:]) for part in maps)])

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Save the control network."""
        module.to(torch.float16).save_pretrained(folder)
        module.to(torch.float32)


def control_image(image: torch.Tensor) -> torch.Tensor:
    """Return what the control network sees of pictures (B, 3, H, W) in [0, 1]: L / 100 in three equal channels."""
    return (rgb_to_lab(image)[:, :1] / 100).expand(-1, 3, -1, -1)


class HintedRecipe(DenoisingRecipe):
    """Denoise with nine input channels: three of four pictures of a batch have their hint.

    Args:
        encoded: latents of the pictures.
        hints: what is given with each of them.
        text: frozen text encoder.
        schedule: noise schedule.
    """

    def __init__(
        self, encoded: EncodedPictures, hints: EncodedHints, text: FrozenText, schedule: NoiseSchedule
    ) -> None:
        super().__init__(encoded, text, schedule)
        self.hints = hints

    def network_input(self, noisy: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Return noisy latents, mask and latents of the masked picture."""
        around = self.hints.around(indices, self.is_hinted(len(indices)))
        return torch.cat([noisy, around.to(noisy.device)], dim=1)

    def draw_captions(self, indices: list[int], generator: torch.Generator) -> list[str]:
        """Draw captions; most of those beside a hint or an exemplar are taken away."""
        captions = super().draw_captions(indices, generator)
        is_wordless = self.is_helped(len(indices)) & (torch.rand(len(indices), generator=generator) < WORDLESS_SHARE)
        return ["" if wordless else caption for caption, wordless in zip(captions, is_wordless, strict=True)]

    def cell_weights(self, indices: list[int]) -> torch.Tensor:
        """Return (B, 1, h, w): cells of an object with a stroke count most."""
        owners, patches = self.owners(indices), self.encoded.patches(indices)
        has_stroke = torch.stack([(owners == thing).flatten(1).any(1) for thing in range(NUM_THINGS)], dim=1)
        is_thing = (patches >= 0) & (patches < NUM_THINGS)
        is_stroked = is_thing & has_stroke.gather(1, patches.clamp(0, NUM_THINGS - 1).flatten(1)).view_as(patches)
        return super().cell_weights(indices).where(~is_stroked[:, None], torch.tensor(STROKED_WEIGHT))

    def owners(self, indices: list[int]) -> torch.Tensor:
        """Return (B, h, w) int64, the instance on which the stroke in each cell lies, if any and if it is given."""
        owners = torch.from_numpy(self.hints.owners[self.hints.rows(indices)]).long()
        return owners.where(self.is_hinted(len(indices))[:, None, None], torch.tensor(-1))

    def _indices(self, batch_size: int, generator: torch.Generator) -> list[int]:
        """Draw pictures; where a hint or an exemplar is needed, one of its kind that has them stands in."""
        indices = super()._indices(batch_size, generator)
        first_scene = len(self.encoded.pictures.photographs)
        photographs, scenes = np.split(self.hints.indices, [np.searchsorted(self.hints.indices, first_scene)])
        pools = [photographs if index < first_scene else scenes for index in indices]
        needed = self.is_helped(batch_size).tolist()
        return [
            int(pool[index % len(pool)]) if need else index
            for index, pool, need in zip(indices, pools, needed, strict=True)
        ]

    def is_helped(self, batch_size: int) -> torch.Tensor:
        """Tell which pictures of a batch have their hint or their exemplar, (B,) bool."""
        return self.is_hinted(batch_size) | self.has_exemplar(batch_size)

    def is_hinted(self, batch_size: int) -> torch.Tensor:
        """Tell which pictures of a batch have their hint, (B,) bool."""
        return torch.arange(batch_size) % UNHINTED_EVERY != 0

    @abstractmethod
    def has_exemplar(self, batch_size: int) -> torch.Tensor:
        """Tell which pictures of a batch have their exemplar, (B,) bool."""


class InpaintRecipe(HintedRecipe):
    """Stage 0: the prior that knows hints; see `HintedRecipe`.

    Args:
        encoded: as there.
        hints: as there.
        text: as there.
        schedule: as there.
        lcad: L-CAD's UNet, from whose weights it begins.
    """

    name = "ctrlcolor-inpaint"

    def __init__(
        self,
        encoded: EncodedPictures,
        hints: EncodedHints,
        text: FrozenText,
        schedule: NoiseSchedule,
        *,
        lcad: UNet2DConditionModel,
    ) -> None:
        super().__init__(encoded, hints, text, schedule)
        self.lcad = lcad

    def beginning(self) -> nn.Module:
        """Return L-CAD's UNet without luminance; hint channels begin at zero, output blocks are locked."""
        unet = extend_conv_in(narrow_conv_in(self.lcad, LATENT_CHANNELS), 1 + LATENT_CHANNELS)
        for part in (unet.up_blocks, unet.conv_norm_out, unet.conv_out):
            part.requires_grad_(False)
        return unet

    def has_exemplar(self, batch_size: int) -> torch.Tensor:
        """No picture has one yet."""
        return torch.zeros(batch_size, dtype=torch.bool)

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Save the UNet; it is no model by itself."""
        network: Any = module
        network.to(torch.float16).save_pretrained(folder)
        network.to(torch.float32)

    @torch.no_grad()
    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Show pictures as far as the hint gives them, as latents: what is known, and one guess from pure noise."""
        network: Any = module
        indices = self.hints.indices[-8:].tolist()
        noise = torch.randn(len(indices), LATENT_CHANNELS, 16, 16, generator=torch.Generator().manual_seed(1))
        words = self.text.encode(self.text.token_ids([""] * len(indices)))
        around = self.hints.around(indices, torch.ones(len(indices), dtype=torch.bool))
        timestep = self.schedule.num_train_timesteps - 1
        output = network(torch.cat([noise, around], dim=1), timestep, encoder_hidden_states=words).sample
        clean = self.schedule.to_original_sample(self.schedule.to_noise_pred(output, noise, timestep), noise, timestep)
        truth = torch.from_numpy(self.encoded.latents[indices]).float()
        shown = [(part[:, :3] / 6 + 0.5).clamp(0, 1) for part in (around[:, 1:], clean, truth)]
        return picture_grid([functional.interpolate(part, scale_factor=8.0) for part in shown])


class ControlledUNet(nn.Module):
    """A nine-channel UNet and the control network beside it, as one network to train.

    Args:
        unet: sees noisy latents and the hint.
        control_network: sees noisy latents and lightness; its embedding stays as `LightnessRecipe` made it.
    """

    def __init__(self, unet: UNet2DConditionModel, control_network: ControlNetModel) -> None:
        super().__init__()
        self.unet, self.control_network = unet.requires_grad_(True), control_network.requires_grad_(True)
        control_network.controlnet_cond_embedding.requires_grad_(False)

    def forward(
        self, sample: torch.Tensor, timesteps: torch.Tensor, words: torch.Tensor, lightness: torch.Tensor
    ) -> torch.Tensor:
        """Predict from (B, 9, h, w), (B,), tokens (B, N, D) and `control_image` (B, 3, H, W)."""
        down, middle = self.control_network(
            sample[:, :LATENT_CHANNELS],
            timesteps,
            encoder_hidden_states=words,
            controlnet_cond=lightness,
            return_dict=False,
        )
        predicted: torch.Tensor = self.unet(
            sample,
            timesteps,
            encoder_hidden_states=words,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return predicted


class CtrlColorRecipe(HintedRecipe):
    """Stage 1: train control network and UNet; see `HintedRecipe`.

    Args:
        encoded: as there.
        hints: as there.
        text: as there.
        schedule: as there.
        unet: of stage 0.
        control_network: made by `LightnessRecipe`.
    """

    name = "ctrlcolor"
    grounding_weight = 0.3

    def __init__(
        self,
        encoded: EncodedPictures,
        hints: EncodedHints,
        text: FrozenText,
        schedule: NoiseSchedule,
        *,
        unet: UNet2DConditionModel,
        control_network: ControlNetModel,
    ) -> None:
        super().__init__(encoded, hints, text, schedule)
        self.unet, self.control_network = unet, control_network

    def go_on_from(self, folder: Path, device: torch.device) -> None:
        """Begin with the networks of a model folder instead of those of the stages before."""
        for name in ("unet", "control_network"):
            setattr(self, name, load_component(name, folder / name, device=device, dtype=torch.float32))

    def beginning(self) -> nn.Module:
        """Return both networks as one."""
        return ControlledUNet(self.unet, self.control_network)

    def has_exemplar(self, batch_size: int) -> torch.Tensor:
        """Every fifth picture has one, with a hint or without."""
        return torch.arange(batch_size) % EXEMPLAR_EVERY == 0

    def predict(
        self,
        module: nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        token_ids: torch.Tensor,
        indices: list[int],
    ) -> tuple[torch.Tensor, torch.Tensor | float, dict[str, float]]:
        """Ask both networks; ground words and strokes in the output blocks."""
        networks: Any = module
        exemplars = torch.from_numpy(self.hints.exemplars[self.hints.rows(indices)]).float()
        exemplars = exemplars * self.has_exemplar(len(indices)).view(-1, 1, 1)
        words = torch.cat([self.text.encode(token_ids), exemplars.to(noisy.device)], dim=1)
        pictures = torch.stack([picture_at(self.encoded.pictures, index) for index in indices])
        lightness = control_image(pictures).to(noisy.device)
        with (
            AttentionReader(networks.unet, noisy.shape, kind="attn2", glob="up_blocks.*") as cross,
            AttentionReader(networks.unet, noisy.shape, kind="attn1", glob="up_blocks.*") as own,
        ):
            predicted = module(self.network_input(noisy, indices), timesteps, words, lightness)
        patches = self.encoded.patches(indices)
        # The exemplar's token names no object.
        named = functional.pad(self._named(token_ids, indices), (0, 1))
        by_words = grounding_loss(cross.probabilities(), named, patches)
        by_strokes = stroke_grounding_loss(own.probabilities(), self.owners(indices), patches)
        numbers = {"grounding": float(by_words.detach()), "stroke_grounding": float(by_strokes.detach())}
        return predicted, self.grounding_weight * by_words + STROKE_GROUNDING_WEIGHT * by_strokes, numbers

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Write the model folder; the shared components lie beside it. A deformable decoder that is there stays."""
        networks: Any = module
        own = {"unet": networks.unet, "control_network": networks.control_network, "scheduler": self.schedule}
        shared = SHARED | {"image_encoder": "../clip"}
        if (folder / DEFORMABLE_PARTS["deformable_units"]).is_dir():
            shared |= DEFORMABLE_PARTS
        export_model(folder, method="ctrlcolor", own=own, shared=shared, settings={}, card=dict(card))

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Colorize a few held-out scenes by strokes alone; strokes stand first, the truth last."""
        colorizer = Colorizer.from_pretrained(folder)
        rows = []
        for seed in TEST_SEEDS[:3]:
            scene = make_scene(seed)
            strokes = simulated_strokes(scene, seed=0)
            hint, mask = strokes.rasterize(*scene.image.shape[:2])
            truth = load_image(scene.image)
            run = colorizer.start(gray=scene.image, strokes=strokes)
            painted = truth.mean(1, keepdim=True) * (1 - mask) + hint
            rows.append(torch.cat([painted, run_pictures(run, (2, 6, 12)), truth]))
        return picture_grid(rows)
