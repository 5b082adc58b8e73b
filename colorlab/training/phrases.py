"""Recipe `clip-phrases`: a text tower for which phrases of the same color and different kinds differ.

The family's CLIP learned its words from captions, where colors decide: its "the red car" and "the red boat" have a
cosine of 0.996, so that a text edit of ColorizeDiffusion that names the car finds the boat as well. No projection mends
that, because the states it would read have a cosine of 0.998. This recipe trains a text tower of ColorizeDiffusion's
own, against patches of scenes; what other models read of the family's CLIP stays as it is.

Source: ours; scenes tell exactly what every patch shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from colorlab.color import COLORS
from colorlab.methods.components import save_component
from colorlab.training.clip import IMAGE_PX, encode_images
from colorlab.training.corpus import GROUND_INDEX, NO_THING, SKY_INDEX
from colorlab.training.grids import picture_grid
from colorlab.training.members import PHRASE_ENCODER
from colorlab.training.pixels import Draws, Pictures
from colorlab.training.scene_captions import BACKDROP_PHRASES, with_article
from colorlab.training.scene_kinds import KINDS

__all__ = ["PhraseRecipe"]

LOGIT_SCALE = 0.5
"""Factor between the projection of a patch on a text and its logit. Ours: an object's patches come to lie at about 16
on their own phrase."""
WORDINGS = (
    ("the {color} {kind}", "a {color} {kind}", "{color} {kind}"),
    ("the {kind}", "a {kind}", "{kind}"),
    ("something {color}", "{color}"),
)
"""Ways to name an object, by what is named. Ours."""


@dataclass(frozen=True)
class _Names:
    """One wording of everything that scenes show.

    Args:
        texts: all different ones.
        index: of the text that names a thing; what it cannot name is left out.
    """

    texts: tuple[str, ...]
    index: Mapping[tuple[str, str], int]

    @classmethod
    def of(cls, wording: str) -> "_Names":
        """Word every thing; backdrops have names of their own, unless nothing but a color is named."""
        named = {(color, kind): _worded(wording, color, kind) for color in COLORS for kind in KINDS}
        if "{kind}" in wording:
            named |= BACKDROP_PHRASES
        texts = tuple(dict.fromkeys(named.values()))
        return cls(texts, {thing: texts.index(text) for thing, text in named.items()})


@dataclass
class PhraseRecipe:
    """Train a text tower against the patches of a frozen vision tower.

    Args:
        pictures: whose scenes to train on.
        tokenizer: of the text tower.
        text_encoder: text tower with its projection, to begin with; it is trained in place.
        image_encoder: frozen vision tower with its projection.
    """

    pictures: Pictures
    tokenizer: Any
    text_encoder: nn.Module
    image_encoder: nn.Module
    name: str = field(default="clip-phrases", init=False)

    def trainable(self) -> nn.Module:
        """Return the text tower."""
        return self.text_encoder.requires_grad_()

    def loss(self, module: Any, generator: torch.Generator, batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Contrast each patch of a batch of scenes with everything that one wording of each sort can name."""
        device = next(module.parameters()).device
        draws = self.pictures.draw(batch_size, IMAGE_PX, generator)
        with torch.no_grad():
            patches = encode_images(self.image_encoder, draws.images.to(device))[:, 1:].flatten(0, 1)
        shown = self._shown(draws)
        losses: list[torch.Tensor] = []
        numbers: dict[str, float] = {}
        for sort, wordings in zip(("phrase", "kind", "color"), self._named, strict=True):
            names = wordings[int(torch.randint(len(wordings), (1,), generator=generator))]
            targets = torch.tensor(
                [NO_THING if thing is None else names.index.get(thing, NO_THING) for thing in shown], device=device
            )
            logits = LOGIT_SCALE * patches @ self._encoded(module, names.texts).T
            # A sum over nothing is 0, where a mean would be none.
            total = functional.cross_entropy(logits, targets, ignore_index=NO_THING, reduction="sum")
            number = max(1, int((targets != NO_THING).sum()))
            losses.append(total / number)
            numbers[f"{sort}_loss"] = float(losses[-1].detach())
            numbers[f"{sort}_top1"] = float((logits.argmax(-1) == targets).sum()) / number
        return torch.stack(losses).mean(), numbers

    def export(self, folder: Path, module: nn.Module, card: Mapping[str, object]) -> None:
        """Save the text tower in float16."""
        save_component(PHRASE_ENCODER, module.to(torch.float16), folder)
        module.to(torch.float32)

    @torch.no_grad()
    def sample_grid(self, module: Any, folder: Path) -> Image.Image:
        """Show scenes above the projection of their patches on the phrase of their first object."""
        draws = self.pictures.draw(8, IMAGE_PX, torch.Generator().manual_seed(1))
        device = next(module.parameters()).device
        patches = encode_images(self.image_encoder, draws.images.to(device))[:, 1:]
        things = [self.pictures.scenes.things[index][0] for index in draws.scenes]
        vectors = self._encoded(module, [_worded(WORDINGS[0][0], *thing) for thing in things])
        side = round(patches.shape[1] ** 0.5)
        maps = torch.einsum("bnd,bd->bn", patches, vectors).view(-1, 1, side, side)
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        shown = (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
        return picture_grid([draws.images, functional.interpolate(shown, size=IMAGE_PX).cpu()])

    @cached_property
    def _named(self) -> tuple[tuple[_Names, ...], ...]:
        """Everything that scenes show in every wording."""
        return tuple(tuple(_Names.of(wording) for wording in sort) for sort in WORDINGS)

    def _encoded(self, encoder: Any, texts: Sequence[str]) -> torch.Tensor:
        """Encode K texts into unit vectors, (K, D)."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt").to(encoder.device)
        vectors: torch.Tensor = encoder(input_ids=tokens["input_ids"]).text_embeds
        return functional.normalize(vectors, dim=-1)

    def _shown(self, draws: Draws) -> list[tuple[str, str] | None]:
        """Tell what every patch of a batch shows, S * N of them; None where it is mixed."""
        scenes, shown = self.pictures.scenes, []
        for index, mirrored in zip(draws.scenes, draws.mirrored, strict=True):
            patches = scenes.patches[index]
            sky, ground = scenes.backdrops[index]
            named: dict[int, tuple[str, str]] = dict(enumerate(scenes.things[index]))
            named |= {SKY_INDEX: ("sky", sky), GROUND_INDEX: ("ground", ground)}
            shown += [named.get(number) for number in (patches[:, ::-1] if mirrored else patches).flatten().tolist()]
        return shown


def _worded(wording: str, color: str, kind: str) -> str:
    """Name a thing: "an orange umbrella" by "a {color} {kind}"."""
    article, _, rest = wording.format(color=color, kind=kind).partition(" ")
    return with_article(rest) if article == "a" else " ".join(filter(None, (article, rest)))
