"""Recipe `ctrlcolor-deformable`: the five deformable units learn to undo what the diffusion model gets slightly wrong.

| symbol | variable | meaning |
| --- | --- | --- |
| y, y^ | `image`, `decoded` | the picture, and what is decoded of its slightly wrong latents |
| D | `discriminator` | judges patches: above 0 for true |
| W | `last` | weight of the decoder's last convolution |
| lambda | `weight` | 0.025 |grad_W L_nll| / (|grad_W L_gan| + 1e-4), at most 1e4 |

Source: CtrlColor, arXiv 2402.10855 (content-guided deformable autoencoder); losses, weights and noise levels by
    `ZhexinLiang/Control-Color@f21054a`.
Deviation: features of the family's CLIP vision tower instead of VGG's; one prediction instead of the steps from the
    noise level down; smaller discriminator, which begins earlier; AdamW with the loop's moments; units begin at zero
    instead of at random, so that the decoder begins as the plain one.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from colorlab.color import rgb_to_lab
from colorlab.methods.components import save_component
from colorlab.methods.folder import read_index, write_index
from colorlab.networks.deformable import DeformableUnits, content_guide, decode_deformable
from colorlab.networks.image_tokens import patch_features
from colorlab.networks.libraries import AutoencoderKL
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training.ctrlcolor import DEFORMABLE_PARTS, ControlledUNet, control_image
from colorlab.training.denoising import FrozenText
from colorlab.training.encoded_hints import EncodedHints
from colorlab.training.grids import picture_grid
from colorlab.training.latents import EncodedPictures, picture_at

NOISE_LEVELS = (1, 121)
"""Timesteps at which the model is asked, the last one exclusive."""

ADVERSARIAL_FACTOR = 0.025
ADVERSARIAL_START = 60
"""Batches before the discriminator is heard; 500 as published."""

_MAX_WEIGHT = 1e4
_PERCEPTUAL_LAYERS = (1, 2, 3, 4)
_DISCRIMINATOR_WIDTHS = (16, 32, 64, 128)


class DeformableTraining(nn.Module):
    """The units and their judge, as one network to train, with the number of batches that it saw.

    Args:
        units: deformable units.
    """

    num_batches: torch.Tensor

    def __init__(self, units: DeformableUnits) -> None:
        super().__init__()
        self.units, self.discriminator = units, patch_discriminator()
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.long))


def patch_discriminator() -> nn.Sequential:
    """Make a PatchGAN of three strided layers: (B, 3, H, W) in [-1, 1] to (B, 1, H / 8 - 2, W / 8 - 2).

    Source: Isola et al., arXiv 1611.07004.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, _DISCRIMINATOR_WIDTHS[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for index, (narrow, wide) in enumerate(pairwise(_DISCRIMINATOR_WIDTHS)):
        stride = 2 if index < len(_DISCRIMINATOR_WIDTHS) - 2 else 1
        layers += [nn.Conv2d(narrow, wide, 4, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(_DISCRIMINATOR_WIDTHS[-1], 1, 4, 1, 1))


class DeformableRecipe:
    """Train the units against the frozen decoder.

    Args:
        encoded: latents of the pictures.
        hints: gives the blank hint.
        text: frozen text encoder.
        schedule: noise schedule.
        networks: the trained UNet and control network, frozen.
        vae: frozen autoencoder.
        image_encoder: frozen vision tower, by whose features pictures are compared.
        seed: of the initial weights.
    """

    name = "ctrlcolor-deformable"

    def __init__(
        self,
        encoded: EncodedPictures,
        hints: EncodedHints,
        text: FrozenText,
        schedule: NoiseSchedule,
        *,
        networks: ControlledUNet,
        vae: AutoencoderKL,
        image_encoder: Any,
        seed: int = 0,
    ) -> None:
        self.encoded, self.hints, self.text, self.schedule = encoded, hints, text, schedule
        self.networks, self.vae, self.image_encoder, self.seed = networks, vae, image_encoder, seed

    def trainable(self) -> nn.Module:
        """Return units that do nothing yet, and an untrained judge."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            units = DeformableUnits(self.vae.config.block_out_channels[-1], self.vae.config.latent_channels)
            for unit in units.units:
                nn.init.zeros_(unit.weight)
            return DeformableTraining(units)

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Decode one batch of slightly wrong latents, and judge it."""
        indices = torch.randint(0, len(self.encoded.latents), (batch_size,), generator=generator).tolist()
        image, wrong = self.slightly_wrong(indices, generator)
        image = image * 2 - 1
        last = self.vae.decoder.conv_out.weight.requires_grad_(True)
        last.grad = None  # filled by the backward pass, needed by nobody
        decoded = self.decode(module.units, wrong, image)
        difference = (decoded - image).abs().mean()
        perceptual = self.perceptual_distance(decoded, image)
        nll = difference + perceptual
        numbers = {"difference": float(difference.detach()), "perceptual": float(perceptual.detach())}
        numbers |= {"gan": 0.0, "judging": 0.0, "weight": 0.0}
        module.num_batches += 1
        if int(module.num_batches) <= ADVERSARIAL_START:
            return nll, numbers

        # 1. The units are told how to pass; the judge's own weights learn nothing from it.
        frozen = {name: weight.detach() for name, weight in module.discriminator.named_parameters()}
        gan = -functional_call(module.discriminator, frozen, (decoded,)).mean()
        slopes = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (nll, gan)]
        weight = ADVERSARIAL_FACTOR * (slopes[0] / (slopes[1] + 1e-4)).clamp(0, _MAX_WEIGHT)
        # 2. The judge learns from both, by hinges.
        true, false = module.discriminator(image), module.discriminator(decoded.detach())
        judging = (functional.relu(1 - true).mean() + functional.relu(1 + false).mean()) / 2
        numbers |= {"gan": float(gan.detach()), "judging": float(judging.detach()), "weight": float(weight)}
        return nll + weight * gan + judging, numbers

    @torch.no_grad()
    def slightly_wrong(self, indices: list[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pictures (B, 3, H, W) in [0, 1], and what the model makes of their slightly noisy latents."""
        device = self.vae.device
        image = torch.stack([picture_at(self.encoded.pictures, index) for index in indices]).to(device)
        latents = torch.from_numpy(self.encoded.latents[indices]).float().to(device)
        timesteps = torch.randint(*NOISE_LEVELS, (len(indices),), generator=generator).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        words = self.text.encode(self.text.token_ids(self.encoded.captions(indices, generator)))
        around = self.hints.around(indices, torch.zeros(len(indices), dtype=torch.bool)).to(device)
        output = self.networks(
            torch.cat([noisy, around], dim=1),
            timesteps,
            torch.cat([words, torch.zeros_like(words[:, :1])], dim=1),
            control_image(image),
        )
        noise_pred = self.schedule.to_noise_pred(output, noisy, timesteps)
        return image, self.schedule.to_original_sample(noise_pred, noisy, timesteps)

    def decode(self, units: DeformableUnits, latents: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Decode with the lightness of `image` (B, 3, H, W) in [-1, 1] as guide."""
        with torch.no_grad():
            guide = content_guide(self.vae, rgb_to_lab(image / 2 + 0.5)[:, :1] / 100)
        return decode_deformable(self.vae, units, latents, guide)[0]

    def perceptual_distance(self, decoded: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """Compare pictures (B, 3, H, W) in [-1, 1] by unit features of the vision tower, scalar."""
        with torch.no_grad():
            wanted = patch_features(self.image_encoder, image / 2 + 0.5, _PERCEPTUAL_LAYERS)
        found = patch_features(self.image_encoder, decoded / 2 + 0.5, _PERCEPTUAL_LAYERS)
        distances = [
            (functional.normalize(found[name], dim=1) - functional.normalize(wanted[name], dim=1)).square().sum(1)
            for name in wanted
        ]
        return torch.stack(distances).mean()

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Add the units to the model."""
        save_component("deformable_units", module.units.to(torch.float16), folder / "deformable_units")
        module.units.to(torch.float32)
        index = read_index(folder)
        parts, cards = index.components | DEFORMABLE_PARTS, index.card | {"deformable": dict(card)}
        write_index(folder, replace(index, components=parts, card=cards))

    @torch.no_grad()
    def sample_grid(self, module: Any, folder: Path) -> Image.Image:
        """Show pictures, their slightly wrong latents decoded plainly and by the units."""
        first = len(self.encoded.pictures.photographs)
        indices = [0, 1, 2, 3, first, first + 1, first + 2, first + 3]
        image, wrong = self.slightly_wrong(indices, torch.Generator().manual_seed(1))
        plain = self.vae.decode(wrong / self.vae.config.scaling_factor).sample
        bent = self.decode(module.units, wrong, image * 2 - 1)
        return picture_grid([image, *((part / 2 + 0.5).clamp(0, 1) for part in (plain, bent))])
