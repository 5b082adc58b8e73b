"""Recipe `clip`: the family's tiny CLIP, whose patch tokens are aligned to text one by one.

Three contrasts are learned at once: picture against caption (as CLIP), each patch against the phrases of the objects in
the batch (exact masks say which is where; without this, position weights would mean nothing), and colored pictures
against the same with their color taken away, each with a caption that says so (without this, DiffColor's first stage
would have no gradient).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from colorlab.networks.libraries import CLIPConfig, CLIPModel, CLIPTokenizer
from colorlab.training.captions import FADED_TEMPLATES, fade, faded_caption, photo_caption
from colorlab.training.corpus import CAPTION_KINDS, GROUND_INDEX, NO_THING, PATCH_PX, SKY_INDEX
from colorlab.training.grids import picture_grid
from colorlab.training.pixels import Pictures
from colorlab.training.scene_captions import GROUND_PHRASES

IMAGE_PX = 128
FADED_SHARE = 0.3
"""Share of pictures shown without their color. Ours."""
PATCH_WEIGHT = 0.5
"""Weight of the patch contrast against the picture contrast. Ours."""
PHRASES = (("the {color} {kind}", 0.55), ("the {kind}", 0.8), ("something {color}", 1.0))
"""How the objects of a batch are named, with the rising shares of each way. Ours."""
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""CLIP's published picture mean, so that its processors fit this model too."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def mini_clip(tokenizer: CLIPTokenizer, *, width: int = 128) -> CLIPModel:
    """Make the untrained model: 128 px, 16x16 patch tokens, 77 text tokens.

    Args:
        tokenizer: gives the vocabulary and the special tokens.
        width: of both towers and of the joint space.

    Returns:
        The model.
    """
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": tokenizer.model_max_length, "projection_dim": width,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "hidden_act": "gelu",
    }  # fmt: skip
    vision = {
        "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": IMAGE_PX, "patch_size": PATCH_PX, "projection_dim": width, "hidden_act": "gelu",
    }  # fmt: skip
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=2.66)
    )


def normalize_pixels(images: torch.Tensor) -> torch.Tensor:
    """Bring pictures to CLIP's pixel statistics.

    Args:
        images: (B, 3, H, W) float, [0, 1].

    Returns:
        The same shape, about standard normal.
    """
    mean, std = (torch.tensor(numbers, device=images.device).view(1, 3, 1, 1) for numbers in (PIXEL_MEAN, PIXEL_STD))
    return (images - mean) / std


def encode_images(model: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    """Project every vision token into the joint space, as ColorizeDiffusion does.

    Args:
        model: the model.
        images: (B, 3, 128, 128) float, [0, 1].

    Returns:
        (B, 257, D), index 0 the class token; not normalised.
    """
    hidden = model.vision_model(pixel_values=normalize_pixels(images)).last_hidden_state
    return model.visual_projection(model.vision_model.post_layernorm(hidden))


def encode_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Project texts into the joint space.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        texts: B texts.

    Returns:
        (B, D), normalised.
    """
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
    pooled = model.text_model(input_ids=tokens["input_ids"]).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


class _Towers(nn.Module):
    """Both towers behind one `forward`, so that the loop's parallel wrappers see every parameter used."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    def forward(self, images: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return vision tokens, text vectors and the logit scale."""
        tokens = encode_images(self.model, images)
        return tokens, encode_texts(self.model, self.tokenizer, texts), self.model.logit_scale.exp().clamp(max=100)


@dataclass
class ClipRecipe:
    """Train the tiny CLIP.

    Args:
        pictures: what to train on.
        tokenizer: see `train_tokenizer`.
        start: a trained model whose vision tower alone is trained on; its words stay as they are, bit for bit, so that
            networks that were trained on them stay valid. None trains both towers from nothing.
        seed: of the initial weights.
    """

    pictures: Pictures
    tokenizer: CLIPTokenizer
    start: CLIPModel | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """`clip`, or `clip-vision` when only the vision tower is trained on."""
        return "clip" if self.start is None else "clip-vision"

    def trainable(self) -> nn.Module:
        """Return the untrained model, or the one to start from with its text tower frozen."""
        if self.start is not None:
            for part in (self.start.text_model, self.start.text_projection):
                part.requires_grad_(False)
            return _Towers(self.start, self.tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return _Towers(mini_clip(self.tokenizer), self.tokenizer)

    def loss(
        self, module: nn.Module, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Contrast one batch of pictures with captions and its scene patches with phrases."""
        images, captions, wrong, phrases, targets = self._batch(generator, batch_size)
        device = next(module.parameters()).device
        tokens, text, scale = module(images.to(device), [*captions, *wrong, *phrases])
        caption_vectors, wrong_vectors, phrase_vectors = text.split([len(captions), len(wrong), len(phrases)])
        picture_vectors = F.normalize(tokens[:, 0], dim=-1)
        logits = scale * picture_vectors @ caption_vectors.T
        # Equal captions in one batch are equally right: each target is spread over them.
        same = torch.tensor([[a == b for b in captions] for a in captions], device=device).float()
        same = same / same.sum(1, keepdim=True)
        against_wrong = scale * (picture_vectors * wrong_vectors).sum(-1, keepdim=True)
        to_text = F.cross_entropy(torch.cat([logits, against_wrong], 1), F.pad(same, (0, 1)))
        picture_loss = (to_text + F.cross_entropy(logits.T, same)) / 2
        patches = F.normalize(tokens[-targets.shape[0] :, 1:], dim=-1)
        kept = targets.to(device) >= 0
        patch_logits = scale * patches[kept] @ phrase_vectors.T
        patch_loss = F.cross_entropy(patch_logits, targets.to(device)[kept])
        hits = (patch_logits.argmax(-1) == targets.to(device)[kept]).float().mean()
        return picture_loss + PATCH_WEIGHT * patch_loss, {
            "picture_loss": float(picture_loss.detach()),
            "patch_loss": float(patch_loss.detach()),
            "picture_top1": float((logits.argmax(-1) == torch.arange(len(captions), device=device)).float().mean()),
            "patch_top1": float(hits),
            "scale": float(scale.detach()),
        }

    def _batch(
        self, generator: torch.Generator, batch_size: int
    ) -> tuple[torch.Tensor, list[str], list[str], list[str], torch.Tensor]:
        """Draw pictures, their captions, wrong captions, phrases of scene objects, and each patch's phrase index.

        A wrong caption says of a picture in color that it has none, and of a faded one that it is in color.
        """
        draws = self.pictures.draw(batch_size, IMAGE_PX, generator)
        images, captions = draws.images, []
        fading = [self._fading(generator) for _ in range(batch_size)]
        for position, kind in enumerate(fading):
            if kind:
                images[position : position + 1] = fade(images[position : position + 1], kind)
        wrong = []
        num_photographs = len(draws.photographs)
        for position, index in enumerate(draws.photographs):
            label, color = self.pictures.photographs.labels[index], self.pictures.colors[index]
            faded = fading[position] or ("gray" if color == "none" else "")
            named = bool(torch.rand(1, generator=generator) < 0.7)
            plain = photo_caption(label, "" if faded else color, generator, name_color=named)
            captions.append(faded_caption(label, faded, generator) if faded else plain)
            wrong.append(plain if faded else faded_caption(label, self._fading(generator, share=1.0), generator))
        phrases: dict[str, int] = {}
        template = self._phrase(generator)
        targets = torch.full((len(draws.scenes), (IMAGE_PX // PATCH_PX) ** 2), NO_THING, dtype=torch.long)
        for position, index in enumerate(draws.scenes):
            texts = self.pictures.scenes.captions[index]
            content = texts[CAPTION_KINDS.index("scarce")]
            faded = fading[num_photographs + position]
            plain = content if faded else texts[int(torch.randint(len(texts), (1,), generator=generator))]
            captions.append(faded_caption(content, faded, generator) if faded else plain)
            wrong.append(plain if faded else faded_caption(content, self._fading(generator, share=1.0), generator))
            if not faded:
                targets[position] = self._patch_targets(index, draws.mirrored[position], phrases, template)
        return images, captions, wrong, list(phrases), targets

    def _patch_targets(self, index: int, mirrored: bool, phrases: dict[str, int], template: str) -> torch.Tensor:
        """Give each patch of a scene the index of the phrase that names it; new phrases are added."""
        scenes = self.pictures.scenes
        sky, ground = scenes.backdrops[index]
        names = {SKY_INDEX: f"the {sky} sky", GROUND_INDEX: GROUND_PHRASES[ground].split(" ", 1)[1]}
        things = enumerate(scenes.things[index])
        names |= {number: template.format(color=color, kind=kind) for number, (color, kind) in things}
        patches = torch.from_numpy(scenes.patches[index]).long()
        patches = patches.flip(1) if mirrored else patches
        targets = torch.full_like(patches, NO_THING)
        for number, phrase in names.items():
            covered = patches == number
            if covered.any():
                targets[covered] = phrases.setdefault(phrase, len(phrases))
        return targets.flatten()

    @staticmethod
    def _phrase(generator: torch.Generator) -> str:
        """Draw how the objects of a batch are named: one way for all, so that no two phrases fit one patch."""
        draw = float(torch.rand(1, generator=generator))
        return next(template for template, bound in PHRASES if draw < bound)

    @staticmethod
    def _fading(generator: torch.Generator, *, share: float = FADED_SHARE) -> str:
        """Draw whether and how a picture loses its color."""
        if torch.rand(1, generator=generator) >= share:
            return ""
        kinds = [*FADED_TEMPLATES, "gray"]
        return kinds[int(torch.randint(len(kinds), (1,), generator=generator))]

    @torch.no_grad()
    def sample_grid(self, module: Any, folder: Path) -> Image.Image:
        """Show scenes above the similarity of their patches to the phrase of their first object."""
        draws = self.pictures.draw(16, IMAGE_PX, torch.Generator().manual_seed(1))
        images = draws.images[len(draws.photographs) :]
        tokens = F.normalize(encode_images(module.model, images.to(module.model.device))[:, 1:], dim=-1)
        things = [self.pictures.scenes.things[index][0] for index in draws.scenes]
        text = encode_texts(module.model, self.tokenizer, [f"the {color} {kind}" for color, kind in things])
        side = math.isqrt(tokens.shape[1])
        maps = torch.einsum("bnd,bd->bn", tokens, text).view(-1, 1, side, side)
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        return picture_grid([images, F.interpolate((maps - low) / (high - low), scale_factor=PATCH_PX).cpu()])

    def export(self, folder: Path, module: Any, card: Mapping[str, object]) -> None:
        """Save model and tokenizer side by side."""
        module.model.to(torch.float16).save_pretrained(folder)
        module.model.to(torch.float32)
        self.tokenizer.save_pretrained(folder)
