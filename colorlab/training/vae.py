"""Recipe `vae`: the family's f8 autoencoder, Stable Diffusion's architecture at small width.

Chroma counts more than lightness in its loss: the finished picture gets its lightness from the input, and with
luminance taps the decoder does too, so the four latent channels are best spent on color.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from colorlab.networks.libraries import AutoencoderKL
from colorlab.training.grids import picture_grid
from colorlab.training.initialization import pass_through
from colorlab.training.pixels import Pictures

KL_WEIGHT = 1e-3
"""Weight of the mean divergence per latent number. Ours: posteriors stay narrow (standard deviation about 0.05)."""

CHROMA_WEIGHT = 3.0
"""Weight of each of the two color differences against luma. Ours, see the module text."""

LUMA = (0.299, 0.587, 0.114)


def mini_vae() -> AutoencoderKL:
    """Make the untrained autoencoder: f8, 4 latent channels, 1.3 M parameters."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=128,
    )


def picture_loss(
    predicted: torch.Tensor, image: torch.Tensor, *, luma_weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare pictures in luma and two color differences.

    Args:
        predicted: (B, 3, H, W) float, about [-1, 1].
        image: (B, 3, H, W) float, [-1, 1].
        luma_weight: weight of the luma term.

    Returns:
        The mean absolute and squared errors of luma and of the color differences, weighted, as one scalar; and the
        mean squared error of the color differences alone.
    """
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device)[None, :, None, None]
    error = predicted - image
    luma = (error * weights).sum(1)
    # Blue and red minus luma: the color differences of every video standard, up to scale.
    chroma = torch.stack([error[:, 0] - luma, error[:, 2] - luma], dim=1)
    chroma_squared = chroma.square().mean()
    loss = luma_weight * (luma.abs().mean() + luma.square().mean())
    return loss + CHROMA_WEIGHT * (chroma.abs().mean() + 2 * chroma_squared), chroma_squared


@torch.no_grad()
def slightly_noisy_latents(
    vae: AutoencoderKL, image: torch.Tensor, generator: torch.Generator, *, most_noise: float
) -> torch.Tensor:
    """Encode pictures into latents that are slightly wrong, as a diffusion model's are.

    Args:
        vae: frozen autoencoder.
        image: (B, 3, H, W) float, [-1, 1].
        generator: random source.
        most_noise: largest standard deviation of the noise; each picture draws its own below it.

    Returns:
        (B, C, h, w), scaled.
    """
    latents = vae.encode(image).latent_dist.mean * vae.config.scaling_factor
    spread = most_noise * torch.rand(len(image), 1, 1, 1, generator=generator)
    noise = spread * torch.randn(latents.shape, generator=generator)
    noisy: torch.Tensor = latents + noise.to(latents.device)
    return noisy


@dataclass
class VaeRecipe:
    """Train the autoencoder on crops.

    Args:
        pictures: what to train on.
        crop_px: side of the training crops; the network is convolutional but for one attention layer.
        seed: of the initial weights.
    """

    pictures: Pictures
    crop_px: int = 64
    seed: int = 0
    name: str = field(default="vae", init=False)

    def trainable(self) -> nn.Module:
        """Return the untrained autoencoder."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            vae = mini_vae()
        pass_through(vae)
        return vae.to(memory_format=torch.channels_last)

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Reconstruct one batch of crops."""
        device = next(module.parameters()).device
        image = self.pictures.draw(batch_size, self.crop_px, generator).images.to(device) * 2 - 1
        image = image.contiguous(memory_format=torch.channels_last)
        posterior = module.encode(image).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        predicted = module.decode(posterior.mean + posterior.std * noise).sample
        reconstruction, chroma = picture_loss(predicted, image)
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction + KL_WEIGHT * divergence, {
            "chroma_mse": float(chroma.detach()),
            "mse": float((predicted - image).detach().square().mean()),
            "divergence": float(divergence.detach()),
        }

    @torch.no_grad()
    def sample_grid(self, module: Any, folder: Path) -> Image.Image:
        """Show pictures above their reconstructions."""
        device = next(module.parameters()).device
        image = self.pictures.draw(8, 128, torch.Generator().manual_seed(1)).images.to(device)
        rebuilt = module.decode(module.encode(image * 2 - 1).latent_dist.mean).sample
        return picture_grid([image, (rebuilt / 2 + 0.5).clamp(0, 1)])

    @torch.no_grad()
    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Measure the latents' scale, store it in the config, and save."""
        device = next(module.parameters()).device
        image = self.pictures.draw(256, 128, torch.Generator().manual_seed(2)).images.to(device)
        latents = torch.cat([module.encode(part * 2 - 1).latent_dist.mean for part in image.split(32)])
        module.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
        module.to(torch.float16).save_pretrained(folder)
        module.to(torch.float32)
