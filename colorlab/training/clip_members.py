"""What the recipes of the family's CLIP, and of ColorizeDiffusion's own towers, are built from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from colorlab.networks.libraries import CLIPModel, CLIPTokenizer
from colorlab.training.captions import vocabulary
from colorlab.training.clip import ClipRecipe, Frozen
from colorlab.training.loop import Recipe
from colorlab.training.members import (
    EXEMPLAR_ENCODER,
    PHRASE_ENCODER,
    find_exemplar_encoder,
    find_member,
    load_frozen,
)
from colorlab.training.phrases import PhraseRecipe
from colorlab.training.pixels import Pictures
from colorlab.training.tokenizer import train_tokenizer

VISION_PHOTOGRAPH_SHARE = 0.7
"""Share of photographs in a batch of `clip-vision`; ours: they are harder to tell from gray than scenes are."""

KINDS_PHOTOGRAPH_SHARE = 0.125
"""Share of photographs in a batch of `clip-kinds` and `clip-class`: nobody tells what their patches show. Ours."""


def build_clip(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip` from pictures, the folder of the family, that of caches, and the device; so do the others."""
    return ClipRecipe(pictures, train_tokenizer(vocabulary(pictures.photographs.labels), cache / "tokenizer"))


def build_clip_words(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip-words`."""
    return _go_on_with_clip("clip-words", pictures, out, "vision")


def build_clip_vision(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip-vision`."""
    return _go_on_with_clip("clip-vision", replace(pictures, photograph_share=VISION_PHOTOGRAPH_SHARE), out, "words")


def build_clip_kinds(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip-kinds`."""
    return _told_kinds("clip-kinds", pictures, out)


def build_clip_class(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip-class`."""
    recipe = _told_kinds("clip-class", pictures, out)
    tower: Any = load_frozen(EXEMPLAR_ENCODER, find_exemplar_encoder(out), device)
    start: Any = recipe.start
    start.vision_model.load_state_dict(tower.vision_model.state_dict())
    start.visual_projection.load_state_dict(tower.visual_projection.state_dict())
    return recipe


def build_clip_phrases(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    """Build `clip-phrases`."""
    folder = find_member(out, "clip")
    return PhraseRecipe(
        replace(pictures, photograph_share=0.0),
        CLIPTokenizer.from_pretrained(folder),
        load_frozen(PHRASE_ENCODER, folder, device),
        load_frozen(EXEMPLAR_ENCODER, find_exemplar_encoder(out), device),
    )


def _told_kinds(name: str, pictures: Pictures, out: Path) -> ClipRecipe:
    """Build a recipe that tells the vision tower kinds."""
    told = replace(pictures, photograph_share=KINDS_PHOTOGRAPH_SHARE)
    return _go_on_with_clip(name, told, out, "words", tells_kinds=True)


def _go_on_with_clip(
    name: str, pictures: Pictures, out: Path, frozen: Frozen, *, tells_kinds: bool = False
) -> ClipRecipe:
    """Build a recipe that trains a part of the CLIP that is there."""
    folder = find_member(out, "clip")
    start = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return ClipRecipe(pictures, CLIPTokenizer.from_pretrained(folder), start, frozen, tells_kinds, name)
