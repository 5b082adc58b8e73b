"""What the recipes of all UNets share: denoise a latent, given words.

Source: the objective of Ho et al., arXiv 2006.11239, with caption dropout (Ho and Salimans, arXiv 2207.12598) and the
    v parameterisation of Salimans and Ho, arXiv 2202.00512.
Deviation (ours, for few samples): the papers of this package predict the noise. There an error of the clean picture
    counts abar / (1 - abar) times, next to nothing at the noisy timesteps, which are the only ones where a color must
    be taken from words, because later the noisy latent shows it. Predicting v, it counts at every timestep. Timesteps
    are drawn with density rising as t for the same reason, and cells that show an object of a scene count more,
    because scenes are mostly sky and ground.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colorlab.color import COLORS
from colorlab.methods.components import load_component, save_component
from colorlab.methods.folder import ModelIndex, write_index
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training.grounding import AttentionReader, grounding_loss, naming_tokens
from colorlab.training.latents import WORKING_PX, CaptionMix, EncodedPictures
from colorlab.training.scene_kinds import KINDS

OBJECT_WEIGHT = 3.0
"""Weight of a latent cell on an object against 1 elsewhere. Ours."""

PHOTOGRAPH_SHARE = 0.3
"""Share of photographs in a batch of a UNet. Ours."""


def mini_unet(*, in_channels: int, cross_attention_dim: int) -> UNet2DConditionModel:
    """Make the family's untrained UNet: Stable Diffusion's blocks on 16x16 latents, 7.3 M parameters.

    Args:
        in_channels: 4 for the latents, and whatever a method adds.
        cross_attention_dim: width of the text tokens.

    Returns:
        The network.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=4,
        norm_num_groups=16,
    )


@dataclass
class FrozenText:
    """The family's tokenizer and frozen text tower.

    Args:
        tokenizer: CLIP tokenizer.
        encoder: CLIP text tower.
    """

    tokenizer: Any
    encoder: Any

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> "FrozenText":
        """Read both from the CLIP's folder."""
        encoder = load_component("text_encoder", folder, device=device, dtype=torch.float32)
        tokenizer = load_component("tokenizer", folder, device=device, dtype=torch.float32)
        return cls(tokenizer, encoder.requires_grad_(False).eval())

    def token_ids(self, texts: list[str]) -> torch.Tensor:
        """Spell B texts as (B, N) int64, padded to full length as at sampling time."""
        ids: torch.Tensor = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )["input_ids"]
        return ids

    def word_id(self, word: str) -> int:
        """Return the first token of a word; every color and kind is one token."""
        return int(self.tokenizer(word)["input_ids"][1])

    @torch.no_grad()
    def encode(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Encode (B, N) tokens into (B, N, D) hidden states."""
        device = next(self.encoder.parameters()).device
        hidden: torch.Tensor = self.encoder(token_ids.to(device)).last_hidden_state
        return hidden


class DenoisingRecipe(ABC):
    """Train a UNet to denoise encoded pictures.

    Args:
        encoded: latents (and taps) of all pictures.
        text: frozen text encoder.
        schedule: noise schedule, which says what is predicted.
        start: a UNet of this recipe to go on from; None begins as the recipe does.
        seed: of the initial weights.
    """

    name: str
    captions: CaptionMix = CaptionMix()
    """How often captions of each level are drawn."""
    progress: float = 0.0
    """Share of the training that is done; the loop writes it."""
    grounding_weight: float = 0.0
    """Weight of `grounding_loss`; 0 for none."""

    def __init__(
        self,
        encoded: EncodedPictures,
        text: FrozenText,
        schedule: NoiseSchedule,
        *,
        start: UNet2DConditionModel | None = None,
        seed: int = 0,
    ) -> None:
        self.encoded, self.text, self.schedule, self.start, self.seed = encoded, text, schedule, start, seed

    def go_on_from(self, folder: Path, device: torch.device) -> None:
        """Begin with the UNet of a model folder instead of the recipe's own beginning."""
        self.start = load_component("unet", folder / "unet", device=device, dtype=torch.float32)

    def trainable(self) -> nn.Module:
        """Return the UNet to go on from, or the recipe's own beginning."""
        return self.beginning() if self.start is None else self.start

    @abstractmethod
    def beginning(self) -> nn.Module:
        """Return the UNet that the recipe begins with."""

    @abstractmethod
    def network_input(self, noisy: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Return what enters the UNet beside words and timestep: (B, in_channels, h, w)."""

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Denoise one batch."""
        device = next(module.parameters()).device
        indices = self._indices(batch_size, generator)
        latents = torch.from_numpy(self.encoded.latents[indices]).float().to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        total = self.schedule.num_train_timesteps
        timesteps = draw_timesteps(batch_size, total, generator).to(device)
        noisy = self.schedule.add_noise(latents, noise, timesteps)
        token_ids = self.text.token_ids(self.draw_captions(indices, generator))
        predicted, attention_loss, numbers = self.predict(module, noisy, timesteps, token_ids, indices)
        squared = (predicted - self.schedule.training_target(latents, noise, timesteps)).square()
        loss = weighted_mean(squared, self.cell_weights(indices).to(device)) + attention_loss
        early = timesteps > total // 2
        mse = {"mse": float(squared.detach().mean()), "mse_early": float(squared.detach()[early].mean())}
        return loss, mse | numbers

    def draw_captions(self, indices: list[int], generator: torch.Generator) -> list[str]:
        """Draw one caption for each picture of a batch."""
        return self.encoded.captions(indices, generator, self.captions, self.progress)

    def predict(
        self,
        module: nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        token_ids: torch.Tensor,
        indices: list[int],
    ) -> tuple[torch.Tensor, torch.Tensor | float, dict[str, float]]:
        """Ask the network; return what it predicts, what its attention adds to the loss, and numbers for the log."""
        words = self.text.encode(token_ids)
        with AttentionReader(module, noisy.shape) as reader:
            predicted = module(self.network_input(noisy, indices), timesteps, encoder_hidden_states=words).sample
        if not self.grounding_weight:
            return predicted, 0.0, {}
        grounding = grounding_loss(
            reader.probabilities(), self._named(token_ids, indices), self.encoded.patches(indices)
        )
        return predicted, self.grounding_weight * grounding, {"grounding": float(grounding.detach())}

    def cell_weights(self, indices: list[int]) -> torch.Tensor:
        """Return (B, 1, h, w), how much each latent cell counts."""
        return object_weights(self.encoded.object_cells(indices))

    def _named(self, token_ids: torch.Tensor, indices: list[int]) -> torch.Tensor:
        """Find the tokens that name the instances of each picture, (B, 4, N) bool."""
        kinds = [[self._word_ids[kind] for _, kind in self.encoded.things(index)] for index in indices]
        return naming_tokens(token_ids, kinds, [self._word_ids[color] for color in COLORS])

    @cached_property
    def _word_ids(self) -> dict[str, int]:
        """Tokens of the words that name objects and colors."""
        return {word: self.text.word_id(word) for word in (*COLORS, *KINDS)}

    def _indices(self, batch_size: int, generator: torch.Generator) -> list[int]:
        """Draw pictures: a fixed share of photographs, the rest scenes."""
        photographs, scenes = len(self.encoded.pictures.photographs), len(self.encoded.pictures.scenes)
        number = round(batch_size * PHOTOGRAPH_SHARE)
        first = torch.randint(0, photographs, (number,), generator=generator)
        second = torch.randint(0, scenes, (batch_size - number,), generator=generator) + photographs
        return torch.cat([first, second]).tolist()


def draw_timesteps(count: int, num_train_timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Draw (B,) timesteps with density 2 t / T: the inverse of its distribution function is the square root."""
    drawn = torch.rand(count, generator=generator).sqrt() * num_train_timesteps
    return drawn.long().clamp(max=num_train_timesteps - 1)


def object_weighted_mean(values: torch.Tensor, object_cells: torch.Tensor) -> torch.Tensor:
    """Average (B, C, h, w) with `OBJECT_WEIGHT` for the cells (B, 1, h, w) that show an object."""
    return weighted_mean(values, object_weights(object_cells))


def object_weights(object_cells: torch.Tensor) -> torch.Tensor:
    """Return `OBJECT_WEIGHT` for the cells (B, 1, h, w) that show an object, 1 elsewhere."""
    return 1 + (OBJECT_WEIGHT - 1) * object_cells


def weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Average (B, C, h, w) with weights (B, 1, h, w)."""
    return (weights * values).mean() / weights.mean()


def export_model(
    folder: Path,
    *,
    method: str,
    own: dict[str, Any],
    shared: dict[str, str],
    settings: dict[str, Any],
    card: dict[str, Any],
) -> None:
    """Write a model folder of the family.

    Args:
        folder: the model's.
        method: name of its method.
        own: components that are stored in the folder, in float16.
        shared: components that lie beside it, as relative folders; they must exist for their hashes to be written.
        settings: fields of Settings in which it differs from its method's defaults.
        card: its model card.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, component in own.items():
        if isinstance(component, nn.Module):
            save_component(name, component.to(torch.float16), folder / name)
            component.to(torch.float32)
        else:
            save_component(name, component, folder / name)
    components = {name: name for name in own} | shared
    write_index(folder, ModelIndex(method, components, {}, WORKING_PX, settings, card))
