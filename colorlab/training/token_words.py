"""Words that the patches of exemplars stand for: phrases, the map from patches to nouns, and measures of likeness."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from colorlab.color import COLORS
from colorlab.images import load_image
from colorlab.methods.text import encode_text_vector
from colorlab.networks.exemplar_projection import Polarity
from colorlab.networks.image_tokens import projected_tokens
from colorlab.training.corpus import CAPTION_KINDS, SceneCorpus, corpus_scene, patch_map
from colorlab.training.denoising import FrozenText
from colorlab.training.exemplars import SketchedPictures
from colorlab.training.mentions import find_mentions
from colorlab.training.scene_captions import BACKDROP_PHRASES
from colorlab.training.scene_kinds import KINDS
from colorlab.training.sketched_unet import fit_token_map

__all__ = ["NAMED_SIMILARITY", "measure_similarity", "named_patches", "phrase_vectors", "token_map_of"]

NAMED_SIMILARITY = 0.45
"""Smallest cosine at which a patch counts as showing what a phrase names. Ours."""

_PRESENT_SHARE = 0.05


def phrase_vectors(tokenizer: Any, text_encoder: torch.nn.Module) -> dict[tuple[str, str], torch.Tensor]:
    """Encode "the red car" of every color and kind, ("color", name), ("kind", name), ("sky", name), ("ground", name).

    Returns:
        (D,) unit vectors.
    """
    texts = {(color, kind): f"the {color} {kind}" for color in COLORS for kind in KINDS}
    texts |= {("color", color): f"something {color}" for color in COLORS}
    texts |= {("kind", kind): f"the {kind}" for kind in KINDS} | BACKDROP_PHRASES
    with torch.no_grad():
        return {
            name: encode_text_vector(text, tokenizer, text_encoder).tokens[0, 0].float().cpu()
            for name, text in texts.items()
        }


def named_patches(tokens: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Find the patches (N, D) that show each of several things, told by their phrases (K, D): (K, N) bool.

    A patch belongs to the phrase it is most similar to, if the cosine is at least `NAMED_SIMILARITY`; one of zeros to
    none.
    """
    cosines = functional.normalize(tokens, dim=-1) @ vectors.T
    best, which = cosines.max(dim=-1)
    return (which[None] == torch.arange(len(vectors))[:, None]) & (best > NAMED_SIMILARITY)


@torch.no_grad()
def token_map_of(
    sketched: SketchedPictures,
    scenes: SceneCorpus,
    num_before: int,
    text: FrozenText,
    phrases: Mapping[tuple[str, str], torch.Tensor],
    *,
    num_scenes: int = 600,
) -> torch.Tensor:
    """Fit the map from patches to the hidden states of the nouns that name them in complete captions.

    Args:
        sketched: exemplar tokens.
        scenes: their captions and things.
        num_before: photographs in front of the scenes in the numbering of `sketched.indices`.
        text: frozen text tower, the one UNets read.
        phrases: see `phrase_vectors`.
        num_scenes: how many exemplars to fit on.

    Returns:
        (E, D).
    """
    found: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    first = sketched.num_photographs
    for row in range(first, min(first + num_scenes, len(sketched.indices))):
        index = int(sketched.indices[row]) - num_before
        things, (sky, ground) = scenes.things[index], scenes.backdrops[index]
        caption = scenes.captions[index][CAPTION_KINDS.index("complete")]
        ids = text.token_ids([caption])
        hidden = text.encode(ids)[0]
        mentions = find_mentions(text.tokenizer, [caption], [things])
        # A complete caption ends with its sky, and names its ground in front of it.
        named = {("sky", sky): int((ids[0] == text.tokenizer.eos_token_id).nonzero()[0, 0]) - 1}
        named |= {("ground", ground): int((ids[0] == text.word_id(ground)).nonzero()[0, 0])}
        for label, position in zip(mentions.labels, mentions.positions.tolist(), strict=True):
            color, kind = label.split(" ", 1)
            named[color, kind] = position
        tokens = torch.from_numpy(sketched.tokens[row, 1:]).float()
        covered = named_patches(tokens, torch.stack([phrases[key] for key in named]))
        for patches, position in zip(covered, named.values(), strict=True):
            found.append(tokens[patches])
            wanted.append(hidden[position].cpu().expand(int(patches.sum()), -1))
    return fit_token_map(torch.cat(found), torch.cat(wanted))


@torch.no_grad()
def measure_similarity(
    encoder: torch.nn.Module, phrases: Mapping[tuple[str, str], torch.Tensor], *, num_scenes: int = 12
) -> tuple[Polarity, float, float]:
    """Measure on training scenes what the similarity of a patch with a phrase says, against exact masks.

    Args:
        encoder: CLIP vision tower with its projection.
        phrases: see `phrase_vectors`.
        num_scenes: how many scenes of the corpus.

    Returns:
        The polarity, `high` if patches inside are more similar than those outside; the AUC of the dot product; and the
        cosine that the best patch of all but a twentieth of the things reaches: the least of those with their phrases,
        with their colors alone, and with their kinds alone.
    """
    aucs, best = [], []
    for index in range(num_scenes):
        scene = corpus_scene(index)
        tokens = projected_tokens(encoder, load_image(scene.image))[0, 1:]
        patches = torch.from_numpy(patch_map(scene)).flatten()
        for number, instance in enumerate(scene.instances):
            vector = phrases[instance.color, instance.kind]
            is_inside = patches == number
            inside, outside = tokens[is_inside] @ vector, tokens[(patches >= 0) & ~is_inside] @ vector
            if len(inside) and len(outside):
                aucs.append(float((inside[:, None] > outside[None]).float().mean()))
                texts = torch.stack([vector, phrases["color", instance.color], phrases["kind", instance.kind]])
                best.append((functional.normalize(tokens, dim=-1) @ texts.T).amax(dim=0))
    auc = sum(aucs) / len(aucs)
    return "high" if auc >= 0.5 else "low", auc, float(torch.stack(best).quantile(_PRESENT_SHARE, dim=0).min())
