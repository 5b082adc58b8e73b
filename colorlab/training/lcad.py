"""Recipes `lcad-luminance` and `lcad`: L-CAD's two training stages at small width.

Source: L-CAD, arXiv 2305.15217, two stages; changzheng123/L-CAD@3e1d8d6.
Deviation: stage 1 compares luma and color differences (the released artifact-weighted loss cannot be run as released);
    stage 2 trains the whole UNet, because the prior it starts from has seen little, drops captions, because guidance
    needs an empty prompt, and grounds words in the objects that the luminance shows, because few samples do not teach
    whose color is whose (see `grounding`); the released recipe does none of these.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from colorlab.colorizer import Colorizer
from colorlab.errors import StateError
from colorlab.images import load_image
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.networks.luminance import LuminanceEncoder, decode_with_taps, extend_conv_in, lightness_hint
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training.denoising import DenoisingRecipe, FrozenText, export_model
from colorlab.training.grids import picture_grid, run_pictures
from colorlab.training.initialization import fresh_tap_encoder
from colorlab.training.latents import EncodedPictures
from colorlab.training.pixels import Pictures
from colorlab.training.prior import SHARED
from colorlab.training.scenes import TEST_SEEDS, caption, make_scene
from colorlab.training.vae import picture_loss, slightly_noisy_latents

LATENT_NOISE = 0.1
"""Largest standard deviation of the noise put on scaled latents in stage 1, so that the decoder leans on the picture's
own luminance rather than on latents that a diffusion model gets slightly wrong. Ours."""

LUMA_WEIGHT = 0.5
"""Weight of luma in stage 1. Ours: the finished picture takes its lightness from the input, so chroma counts more."""


@dataclass
class LuminanceRecipe:
    """Stage 1: train the luminance encoder against the frozen autoencoder.

    Args:
        pictures: what to train on.
        vae: frozen autoencoder.
        crop_px: side of the training crops.
        seed: of the initial weights.
    """

    pictures: Pictures
    vae: AutoencoderKL
    crop_px: int = 64
    seed: int = 0
    name: str = field(default="lcad-luminance", init=False)

    def trainable(self) -> nn.Module:
        """Return the untrained luminance encoder; its taps are zero."""
        return fresh_tap_encoder(self.vae, seed=self.seed)

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Decode one batch of crops from slightly noisy latents and exact luminance."""
        device = next(module.parameters()).device
        vae = self.vae.to(device)
        image = self.pictures.draw(batch_size, self.crop_px, generator).images.to(device)
        image = image.contiguous(memory_format=torch.channels_last)
        latents = slightly_noisy_latents(vae, image * 2 - 1, generator, most_noise=LATENT_NOISE)
        predicted = decode_with_taps(vae, latents, module(lightness_hint(image)))
        loss, chroma = picture_loss(predicted, image * 2 - 1, luma_weight=LUMA_WEIGHT)
        return loss, {
            "chroma_mse": float(chroma.detach()),
            "mse": float((predicted - (image * 2 - 1)).detach().square().mean()),
        }

    @torch.no_grad()
    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Show pictures, their plain reconstructions and those with taps."""
        image = self.pictures.draw(8, 128, torch.Generator().manual_seed(1)).images.to(self.vae.device)
        latents = self.vae.encode(image * 2 - 1).latent_dist.mean * self.vae.config.scaling_factor
        taps = module(lightness_hint(image))
        rebuilt = [decode_with_taps(self.vae, latents, used) / 2 + 0.5 for used in (None, taps)]
        return picture_grid([image, *rebuilt])

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Save the luminance encoder."""
        module.to(torch.float16).save_pretrained(folder)
        module.to(torch.float32)


class LcadRecipe(DenoisingRecipe):
    """Stage 2: train the UNet that sees the deepest luminance tap; see `DenoisingRecipe`.

    Args:
        encoded: must hold taps.
        text: frozen text encoder.
        schedule: noise schedule.
        prior: the text-to-image UNet to start from.
        luminance_encoder: frozen, for the export.
        start: a UNet of this recipe to go on from, instead of the prior.
    """

    name = "lcad"
    grounding_weight = 0.6

    def __init__(
        self,
        encoded: EncodedPictures,
        text: FrozenText,
        schedule: NoiseSchedule,
        *,
        prior: UNet2DConditionModel,
        luminance_encoder: LuminanceEncoder,
        start: UNet2DConditionModel | None = None,
    ) -> None:
        super().__init__(encoded, text, schedule, start=start)
        self.prior, self.luminance_encoder = prior, luminance_encoder

    def beginning(self) -> nn.Module:
        """Return the prior with a widened first convolution; the new channels begin at zero."""
        return extend_conv_in(self.prior, self.luminance_encoder.tap_channels[-1])

    def network_input(self, noisy: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Return noisy latents and the deepest tap."""
        if self.encoded.taps is None:
            raise StateError("lcad trains on pictures that were encoded with a luminance encoder.")
        taps = torch.from_numpy(self.encoded.taps[indices]).float().to(noisy.device)
        return torch.cat([noisy, taps], dim=1)

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Write the model folder; the shared components lie beside it."""
        own = {"unet": module, "luminance_encoder": self.luminance_encoder, "scheduler": self.schedule}
        export_model(
            folder, method="lcad", own=own, shared=SHARED, settings={}, card={**card, "captions": asdict(self.captions)}
        )

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Colorize a few held-out scenes by their complete captions; the truth stands last."""
        colorizer = Colorizer.from_pretrained(folder)
        rows = []
        for seed in TEST_SEEDS[:6]:
            scene = make_scene(seed)
            run = colorizer.start(gray=scene.image, prompt=caption(scene, "complete", seed=0))
            truth = load_image(scene.image)
            rows.append(torch.cat([run_pictures(run, (2, 6, 12)), truth]))
        return picture_grid(rows)
