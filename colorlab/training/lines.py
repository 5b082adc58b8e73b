"""Recipe `colorizediffusion-lines`: an encoder of the sketch's lines whose features enter the frozen decoder.

A latent cell of 8 px does not say where in it a line lies, so that a decoder cannot follow a sketch more closely than
its cells: what the shipped autoencoder makes of scenes has an edge F1 of 0.63 against their sketches, the scenes
themselves have 0.85. The encoder is L-CAD's for luminance, and sees lines instead.

Source: ours, after the luminance-guided decoder of L-CAD, arXiv 2305.15217; ColorizeDiffusion decodes plainly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from colorlab.methods.components import save_component
from colorlab.methods.folder import read_index, write_index
from colorlab.networks.libraries import AutoencoderKL
from colorlab.networks.luminance import decode_with_taps
from colorlab.training.colorizediffusion import LINE_ENCODER, draw_rows, pixels_of
from colorlab.training.exemplars import SketchedPictures
from colorlab.training.grids import picture_grid
from colorlab.training.initialization import fresh_tap_encoder
from colorlab.training.latents import picture_at
from colorlab.training.pixels import Pictures
from colorlab.training.vae import picture_loss, slightly_noisy_latents

__all__ = ["LineRecipe"]

LATENT_NOISE = 0.3
"""Largest standard deviation of the noise put on scaled latents, so that the decoder leans on the lines rather than on
latents that a diffusion model gets wrong. Ours."""


@dataclass
class LineRecipe:
    """Train the line encoder against the frozen autoencoder, on slightly noisy latents and exact lines.

    Args:
        pictures: the corpus.
        sketched: sketches of a part of it.
        vae: frozen autoencoder.
        crop_px: side of the training crops.
        seed: of the initial weights.
    """

    pictures: Pictures
    sketched: SketchedPictures
    vae: AutoencoderKL
    crop_px: int = 64
    seed: int = 0
    name: str = field(default="colorizediffusion-lines", init=False)

    def trainable(self) -> nn.Module:
        """Return the untrained line encoder; its taps are zero."""
        return fresh_tap_encoder(self.vae, seed=self.seed)

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Decode one batch of crops with their lines."""
        device = next(module.parameters()).device
        vae = self.vae.to(device)
        image, lines = self._crops(draw_rows(self.sketched, batch_size, generator), generator)
        image, lines = (part.to(device).contiguous(memory_format=torch.channels_last) for part in (image, lines))
        latents = slightly_noisy_latents(vae, image, generator, most_noise=LATENT_NOISE)
        predicted = decode_with_taps(vae, latents, module(lines))
        loss, _ = picture_loss(predicted, image)
        return loss, {"mse": float((predicted - image).detach().square().mean())}

    @torch.no_grad()
    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Show pictures, their lines, their plain reconstructions and those with lines."""
        rows = draw_rows(self.sketched, 8, torch.Generator().manual_seed(1))
        image, lines = self._pictures(rows), pixels_of(self.sketched, rows)
        latents = self.vae.encode(image).latent_dist.mean * self.vae.config.scaling_factor
        rebuilt = [decode_with_taps(self.vae, latents, used) for used in (None, module(lines))]
        return picture_grid([(part / 2 + 0.5).clamp(0, 1) for part in (image, -lines, *rebuilt)])

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Add the line encoder to the model."""
        save_component(LINE_ENCODER, module.to(torch.float16), folder / LINE_ENCODER)
        module.to(torch.float32)
        index = read_index(folder)
        parts, cards = index.components | {LINE_ENCODER: LINE_ENCODER}, index.card | {"lines": dict(card)}
        write_index(folder, replace(index, components=parts, card=cards))

    def _pictures(self, rows: torch.Tensor) -> torch.Tensor:
        """Return pictures (B, 3, H, W) in [-1, 1]."""
        indices = self.sketched.indices[rows.numpy()].tolist()
        return torch.stack([picture_at(self.pictures, index) for index in indices]) * 2 - 1

    def _crops(self, rows: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut the same random square out of each picture and its lines."""
        both = torch.cat([self._pictures(rows), pixels_of(self.sketched, rows)], dim=1)
        corners = torch.randint(0, both.shape[-1] - self.crop_px + 1, (len(rows), 2), generator=generator).tolist()
        cut = [part[:, y : y + self.crop_px, x : x + self.crop_px] for part, (y, x) in zip(both, corners, strict=True)]
        image, lines = torch.stack(cut).split(3, dim=1)
        return image, lines
