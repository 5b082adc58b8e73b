"""Recipe `prior`: text to image in the mini world, the base that the colorization methods are grown from."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from colorlab.colorizer import Colorizer
from colorlab.training.denoising import DenoisingRecipe, export_model, mini_unet
from colorlab.training.grids import picture_grid, run_pictures

PROMPTS = (
    "a red car and a blue house on the grass under a clear sky",
    "a yellow balloon over the sand at sunset",
    "a purple fish and a green cup in the snow under a cloudy sky",
    "a photo of a yellow sunflower",
    "a photo of a red rose",
    "a photo of an airplane",
)
SHARED = {"vae": "../vae", "text_encoder": "../clip", "tokenizer": "../clip"}


class PriorRecipe(DenoisingRecipe):
    """Train text to image; see `DenoisingRecipe`."""

    name = "prior"

    def beginning(self) -> nn.Module:
        """Return the untrained UNet."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return mini_unet(in_channels=4, cross_attention_dim=self.text.encoder.config.hidden_size)

    def network_input(self, noisy: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Return the noisy latents alone."""
        return noisy

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Write the model folder; the shared components lie beside it."""
        own = {"unet": module, "scheduler": self.schedule}
        export_model(folder, method="text_to_image", own=own, shared=SHARED, settings={}, card=dict(card))

    def sample_grid(self, module: nn.Module, folder: Path) -> Image.Image:
        """Paint a few prompts with the exported model."""
        colorizer = Colorizer.from_pretrained(folder)
        return picture_grid([run_pictures(colorizer.start(prompt=prompt), (2, 6, 12)) for prompt in PROMPTS])
