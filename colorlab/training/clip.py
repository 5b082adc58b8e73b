"""Recipe `clip`: the family's tiny CLIP, whose patch tokens are aligned to text one by one.

Four contrasts are learned at once: picture against caption (as CLIP); each patch against the phrases of the objects in
the batch (exact masks say which is where; without this, position weights would mean nothing); each patch of an object
against the nouns inside full captions, those with exchanged colors among them (without this, a noun's hidden state need
not know its color, and cross-attention cannot tell whose color is whose); and colored pictures against the same with
their color taken away, each with a caption that says so (without this, DiffColor's first stage would have no gradient).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from colorlab.networks.image_tokens import PIXEL_MEAN, PIXEL_STD
from colorlab.networks.libraries import CLIPConfig, CLIPModel, CLIPTokenizer
from colorlab.training.captions import FADED_TEMPLATES, fade, faded_caption, photo_caption
from colorlab.training.corpus import CAPTION_KINDS, GROUND_INDEX, NO_THING, PATCH_PX, SKY_INDEX
from colorlab.training.grids import picture_grid
from colorlab.training.mentions import Mentions, Things, exchange_colors, find_mentions
from colorlab.training.pixels import Pictures
from colorlab.training.scene_captions import BACKDROP_PHRASES
from colorlab.training.token_kinds import TokenKindReader

IMAGE_PX = 128
FADED_SHARE = 0.3
"""Share of pictures shown without their color. Ours."""
KINDS_FADED_SHARE = 0.05
"""The same of `clip-kinds`: no stage of DiffColor hangs on it, and a faded scene says nothing of colors. Ours."""
PATCH_WEIGHT = 0.5
"""Weight of the patch contrast against the picture contrast. Ours."""
MENTION_WEIGHT = 0.5
"""Weight of the contrast between patches and nouns inside captions. Ours."""
KIND_WEIGHT = 1.0
"""Weight of what patches say of kinds, where they are told. Ours."""
KIND_COLOR_WEIGHT = 2.0
"""Weight of what the class token says of the color of each kind. Ours."""
NUM_WRONG = 3
"""Wrong captions of each picture. Ours: a picture in color has to win against the best of several."""
PHRASES = (("the {color} {kind}", 0.55), ("the {kind}", 0.8), ("something {color}", 1.0))
"""How the objects of a batch are named, with the rising shares of each way. Ours."""


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


def encode_mentions(model: CLIPModel, tokenizer: CLIPTokenizer, mentions: Mentions) -> torch.Tensor:
    """Project the hidden states of nouns into the joint space.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        mentions: M nouns in full captions.

    Returns:
        (M, D), normalised.
    """
    tokens = tokenizer(mentions.texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
    hidden = model.text_model(input_ids=tokens["input_ids"]).last_hidden_state
    return F.normalize(model.text_projection(hidden[mentions.rows, mentions.positions]), dim=-1)


Frozen = Literal["nothing", "words", "vision"]


class _Towers(nn.Module):
    """Both towers behind one `forward`, and what teaches the vision tower kinds."""

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, frozen: Frozen, kind_reader: TokenKindReader | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.kind_reader = model, tokenizer, kind_reader
        parts = {
            "nothing": (),
            "words": (model.text_model, model.text_projection),
            "vision": (model.vision_model, model.visual_projection),
        }
        for part in parts[frozen]:
            part.requires_grad_(False)

    def forward(
        self, images: torch.Tensor, texts: list[str], mentions: Mentions
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return vision tokens, vectors of texts and of mentions, and the logit scale."""
        tokens, words = encode_images(self.model, images), encode_texts(self.model, self.tokenizer, texts)
        nouns = encode_mentions(self.model, self.tokenizer, mentions)
        return tokens, words, nouns, self.model.logit_scale.exp().clamp(max=100)


@dataclass(frozen=True)
class _Batch:
    """One batch.

    Args:
        images: (B, 3, 128, 128) float, [0, 1]; photographs first, then S scenes.
        captions: what each shows.
        wrong: B * `NUM_WRONG`: of a picture in color that it has none, of a faded one that it is in color.
        phrases: names of what the scenes show.
        targets: (S, 256) int64, index of the phrase that names each patch, or `NO_THING`.
        mentions: nouns in complete captions of the scenes in color, and in the same with exchanged colors.
        labels: S * 256 strings, "color kind" of the object that covers a patch, or "".
    """

    images: torch.Tensor
    captions: list[str]
    wrong: list[str]
    phrases: list[str]
    targets: torch.Tensor
    mentions: Mentions
    labels: list[str]


@dataclass
class ClipRecipe:
    """Train the tiny CLIP.

    Args:
        pictures: what to train on.
        tokenizer: see `train_tokenizer`.
        start: a trained model to train on; None begins from nothing.
        frozen: what of `start` stays as it is, bit for bit; with "words", networks trained on them stay valid.
        tells_kinds: tell the vision tower what kind of thing each patch shows, see `token_kinds`.
        name: what the recipe is called: `clip`, or one that trains a part of it on.
        seed: of the initial weights.
    """

    pictures: Pictures
    tokenizer: CLIPTokenizer
    start: CLIPModel | None = None
    frozen: Frozen = "nothing"
    tells_kinds: bool = False
    name: str = "clip"
    seed: int = 0

    def trainable(self) -> nn.Module:
        """Return the untrained model, or the one to start from with a part of it frozen."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self.start or mini_clip(self.tokenizer)
            reader = TokenKindReader(model.config.projection_dim) if self.tells_kinds else None
            return _Towers(model, self.tokenizer, self.frozen, reader)

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Contrast one batch of pictures with captions, and its scene patches with phrases and with mentions."""
        batch = self._batch(generator, batch_size)
        device = next(module.parameters()).device
        texts = [*batch.captions, *batch.wrong, *batch.phrases]
        tokens, text, nouns, scale = module(batch.images.to(device), texts, batch.mentions)
        caption_vectors, wrong_vectors, phrase_vectors = text.split(
            [len(batch.captions), len(batch.wrong), len(batch.phrases)]
        )
        picture_vectors = F.normalize(tokens[:, 0], dim=-1)
        logits = scale * picture_vectors @ caption_vectors.T
        same = _shares(batch.captions, batch.captions).to(device)
        against_wrong = scale * torch.einsum("bd,bwd->bw", picture_vectors, wrong_vectors.unflatten(0, (-1, NUM_WRONG)))
        to_text = F.cross_entropy(torch.cat([logits, against_wrong], 1), F.pad(same, (0, NUM_WRONG)))
        picture_loss = (to_text + F.cross_entropy(logits.T, same)) / 2

        patches = F.normalize(tokens[-batch.targets.shape[0] :, 1:], dim=-1).flatten(0, 1)
        targets = batch.targets.flatten().to(device)
        patch_logits = scale * patches[targets >= 0] @ phrase_vectors.T
        patch_loss = F.cross_entropy(patch_logits, targets[targets >= 0])

        named = [index for index, label in enumerate(batch.labels) if label]
        noun_targets = _shares([batch.labels[index] for index in named], batch.mentions.labels).to(device)
        noun_logits = scale * patches[named] @ nouns.T
        noun_loss = F.cross_entropy(noun_logits, noun_targets)
        loss = picture_loss + PATCH_WEIGHT * patch_loss + MENTION_WEIGHT * noun_loss
        numbers = {
            "picture_loss": float(picture_loss.detach()),
            "patch_loss": float(patch_loss.detach()),
            "noun_loss": float(noun_loss.detach()),
            "picture_top1": float((logits.argmax(-1) == torch.arange(len(logits), device=device)).float().mean()),
            "patch_top1": float((patch_logits.argmax(-1) == targets[targets >= 0]).float().mean()),
            "noun_top1": float((noun_targets.gather(1, noun_logits.argmax(-1, keepdim=True)) > 0).float().mean()),
            "scale": float(scale.detach()),
        }
        if module.kind_reader is not None:
            kinds, colors = module.kind_reader(tokens[-batch.targets.shape[0] :], batch.labels)
            loss = loss + KIND_WEIGHT * kinds + KIND_COLOR_WEIGHT * colors
            numbers |= {"kind_loss": float(kinds.detach()), "kind_color_loss": float(colors.detach())}
        return loss, numbers

    def _batch(self, generator: torch.Generator, batch_size: int) -> _Batch:
        """Draw pictures and everything that is said about them."""
        draws = self.pictures.draw(batch_size, IMAGE_PX, generator)
        images, captions, wrong = draws.images, [], []
        share = KINDS_FADED_SHARE if self.tells_kinds else FADED_SHARE
        fading = [self._fading(generator, share=share) for _ in range(batch_size)]
        for position, kind in enumerate(fading):
            if kind:
                images[position : position + 1] = fade(images[position : position + 1], kind)
        num_photographs = len(draws.photographs)
        for position, index in enumerate(draws.photographs):
            label, color = self.pictures.photographs.labels[index], self.pictures.colors[index]
            faded = fading[position] or ("gray" if color == "none" else "")
            named = bool(torch.rand(1, generator=generator) < 0.7)
            plain = photo_caption(label, "" if faded else color, generator, name_color=named)
            captions.append(faded_caption(label, faded, generator) if faded else plain)
            wrong += self._wrong(plain, label, faded, generator)
        phrases: dict[str, int] = {}
        template = self._phrase(generator)
        targets = torch.full((len(draws.scenes), (IMAGE_PX // PATCH_PX) ** 2), NO_THING, dtype=torch.long)
        full: list[tuple[str, Things]] = []
        labels: list[str] = []
        for position, index in enumerate(draws.scenes):
            texts, things = self.pictures.scenes.captions[index], self.pictures.scenes.things[index]
            content = texts[CAPTION_KINDS.index("scarce")]
            faded = fading[num_photographs + position]
            plain = content if faded else texts[int(torch.randint(len(texts), (1,), generator=generator))]
            captions.append(faded_caption(content, faded, generator) if faded else plain)
            wrong += self._wrong(plain, content, faded, generator)
            if faded:
                labels += [""] * targets.shape[1]
                continue
            patches = self._patches(index, draws.mirrored[position])
            targets[position] = self._patch_targets(index, patches, phrases, template)
            labels += [" ".join(things[number]) if 0 <= number < len(things) else "" for number in patches.tolist()]
            complete = texts[CAPTION_KINDS.index("complete")]
            full += [(complete, things), exchange_colors(complete, things)]
        mentions = find_mentions(self.tokenizer, [text for text, _ in full], [things for _, things in full])
        return _Batch(images, captions, wrong, list(phrases), targets, mentions, labels)

    def _patches(self, index: int, mirrored: bool) -> torch.Tensor:
        """Return what covers each patch of a scene as it was drawn, (256,) int64."""
        patches = torch.from_numpy(self.pictures.scenes.patches[index]).long()
        return (patches.flip(1) if mirrored else patches).flatten()

    def _patch_targets(self, index: int, patches: torch.Tensor, phrases: dict[str, int], template: str) -> torch.Tensor:
        """Give each patch of a scene the index of the phrase that names it; new phrases are added."""
        scenes = self.pictures.scenes
        sky, ground = scenes.backdrops[index]
        names = {SKY_INDEX: BACKDROP_PHRASES["sky", sky], GROUND_INDEX: BACKDROP_PHRASES["ground", ground]}
        things = enumerate(scenes.things[index])
        names |= {number: template.format(color=color, kind=kind) for number, (color, kind) in things}
        targets = torch.full_like(patches, NO_THING)
        for number, phrase in names.items():
            covered = patches == number
            if covered.any():
                targets[covered] = phrases.setdefault(phrase, len(phrases))
        return targets

    @staticmethod
    def _phrase(generator: torch.Generator) -> str:
        """Draw how the objects of a batch are named: one way for all, so that no two phrases fit one patch."""
        draw = float(torch.rand(1, generator=generator))
        return next(template for template, bound in PHRASES if draw < bound)

    @classmethod
    def _wrong(cls, plain: str, content: str, faded: str, generator: torch.Generator) -> list[str]:
        """Draw the wrong captions of a picture."""
        if faded:
            return [plain] * NUM_WRONG
        return [faded_caption(content, cls._fading(generator, share=1.0), generator) for _ in range(NUM_WRONG)]

    @staticmethod
    def _fading(generator: torch.Generator, *, share: float) -> str:
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


def _shares(wanted: list[str], offered: list[str]) -> torch.Tensor:
    """Spread each target over all equal texts, which are equally right: (len(wanted), len(offered)), rows sum to 1."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(offered))}
    columns = torch.tensor([numbers[text] for text in offered])
    equal = (torch.tensor([numbers[text] for text in wanted])[:, None] == columns[None]).float()
    return equal / equal.sum(1, keepdim=True)
