"""Exemplars in other colors whose tokens a text edit brings back: what an edited token means is learned from them.

The published model reads edited tokens without having met any, because the text and image vectors of its CLIP lie in
one space. Those of small towers do so less: an earlier linear probe that read the hue of unedited patches within 20
degrees in 98 of 100 objects read the wanted name of edited ones in a third. Edited tokens are unmistakable, though; the
network has to be told what they stand for.

Source: ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from colorlab.color import CHROMATIC_COLORS
from colorlab.conditioning import USUAL_TARGET_SCALE, Manipulation
from colorlab.images import load_image
from colorlab.mechanisms.global_manipulation import TextEdit
from colorlab.mechanisms.position_weights import corrected_edit
from colorlab.networks.exemplar_projection import Polarity
from colorlab.networks.image_tokens import projected_tokens
from colorlab.training.corpus import corpus_scene
from colorlab.training.exemplars import own_masks, patch_owners
from colorlab.training.scenes import exemplar_scene, recolored

__all__ = ["EditedExemplars", "color_edit"]

SCALES = (USUAL_TARGET_SCALE - 2, USUAL_TARGET_SCALE + 2)
"""Range of target scales that are trained on. Ours."""

MAX_EDITS = 3
"""Most edits of one exemplar. Ours."""


@dataclass(frozen=True)
class EditedExemplars:
    """Makes exemplars in which some things have other colors, and edits their patches toward those of the scene.

    Args:
        encoder: frozen CLIP vision tower with its projection.
        phrases: (D,) unit text vector of every "the color kind".
        polarity: which similarity of a patch with a text says that it shows what the text names.
    """

    encoder: torch.nn.Module
    phrases: Mapping[tuple[str, str], torch.Tensor]
    polarity: Polarity

    @torch.no_grad()
    def draw(self, number: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the edited exemplar of one scene of the corpus.

        Args:
            number: of the scene; its things are all of different kinds.
            generator: random source of the arrangement, the colors, the edits and their order.

        Returns:
            (1 + N, D) tokens, class token first, which is that of the unedited exemplar; and (N,) int64 owners of the
            patches as in `SketchedPictures`.
        """
        scene = corpus_scene(number)
        rng = np.random.default_rng(int(torch.randint(0, 2**31, (1,), generator=generator)))
        changes = _other_colors([(instance.color, instance.kind) for instance in scene.instances], rng)
        arranged = exemplar_scene(scene, seed=int(rng.integers(2**31)))
        colors = [changes.get(instance.kind, instance.color) for instance in arranged.instances]
        exemplar = recolored(arranged, colors)
        device = next(self.encoder.parameters()).device
        tokens = projected_tokens(self.encoder, load_image(exemplar.image).to(device)).float()
        patches = tokens[:, 1:]
        wanted = {instance.kind: instance.color for instance in scene.instances}
        for kind, present in changes.items():
            edit = self._edit(kind, present, wanted[kind], float(rng.uniform(*SCALES)))
            patches = corrected_edit(patches, edit, polarity=self.polarity).patches
        owners = torch.from_numpy(patch_owners(own_masks(scene, exemplar))).flatten().long()
        return torch.cat([tokens[:, :1], patches], dim=1)[0], owners

    def _edit(self, kind: str, present: str, wanted: str, scale: float) -> TextEdit:
        """Say "the present kind -> the wanted kind"."""
        target, anchor = (self.phrases[color, kind] for color in (wanted, present))
        return TextEdit(color_edit(present, kind, wanted, scale=scale), target, anchor, anchor)


def color_edit(color: str, kind: str, new: str, *, scale: float = USUAL_TARGET_SCALE) -> Manipulation:
    """Ask for another color of an object."""
    name = f"the {color} {kind}"
    return Manipulation(f"the {new} {kind}", scale, anchor_text=name, control_text=name)


def _other_colors(things: list[tuple[str, str]], rng: np.random.Generator) -> dict[str, str]:
    """Draw which kinds are shown in another chromatic color, and in which; in the order in which they are edited."""
    chromatic = [kind for color, kind in things if color in CHROMATIC_COLORS]
    count = min(len(chromatic), int(rng.integers(1, MAX_EDITS + 1)))
    kinds = [str(kind) for kind in rng.permutation(chromatic)[:count]]
    own = {kind: color for color, kind in things}
    return {kind: str(rng.choice([color for color in CHROMATIC_COLORS if color != own[kind]])) for kind in kinds}
