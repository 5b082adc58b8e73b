"""What kind of thing a vision token shows: patches learn to say so, and the class token which color each kind has.

ColorizeDiffusion finds the like of a sketched thing in an exemplar by its kind, and the contrast with words teaches the
family's CLIP next to nothing about kinds: its "the red car" and "the red boat" have a cosine of 0.996, a linear reader
of its patches found the right one of sixteen kinds in 22 of 100 held-out objects, and the right color in 99.

Source: ours; scenes tell exactly what every patch shows.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from colorlab.color import COLORS
from colorlab.training.scene_kinds import KINDS

__all__ = ["TokenKindReader", "kind_colors"]

_UNKNOWN = -100
_ABSENT = 0


class TokenKindReader(nn.Module):
    """Reads kinds from patches, and from the class token the color of every kind; a part of the training alone.

    Args:
        width: D of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_patch = nn.Linear(width, len(KINDS))
        self.of_picture = nn.Linear(width, len(KINDS) * (1 + len(COLORS)))

    def forward(self, tokens: torch.Tensor, labels: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tell how far tokens are from saying what scenes show.

        Args:
            tokens: (S, 1 + N, D), the class token first.
            labels: S * N, "color kind" of the object that covers a patch, or "".

        Returns:
            Mean cross-entropy over the patches of objects; and over the kinds that are there and those that are not,
            which are many more, as much each. 0 where no scene has an object.
        """
        covered = torch.tensor([index for index, label in enumerate(labels) if label], device=tokens.device)
        if not len(covered):
            return tokens.sum() * 0, tokens.sum() * 0
        names = list(KINDS)
        kinds = [names.index(label.split(" ", 1)[1]) for label in labels if label]
        patches = self.of_patch(tokens[:, 1:].flatten(0, 1)[covered])
        colors = self.of_picture(tokens[:, 0]).unflatten(-1, (len(KINDS), -1)).transpose(1, 2)
        shown = kind_colors(labels, len(tokens)).to(tokens.device)
        errors = functional.cross_entropy(colors, shown, ignore_index=_UNKNOWN, reduction="none")
        parts = [errors[there] for there in (shown > _ABSENT, shown == _ABSENT) if there.any()]
        return (
            functional.cross_entropy(patches, torch.tensor(kinds, device=tokens.device)),
            torch.stack([part.mean() for part in parts]).mean() if parts else tokens.sum() * 0,
        )


def kind_colors(labels: Sequence[str], num_scenes: int) -> torch.Tensor:
    """Return which color each kind has in S scenes, (S, kinds) int64.

    One more than an index into `COLORS`, 0 for kinds that are not there; unknown, and counted for nothing, are those
    that are there in several colors, and everything in scenes without a label.

    Args:
        labels: as for `TokenKindReader`.
        num_scenes: S.
    """
    kinds, colors = list(KINDS), list(COLORS)
    found = torch.full((num_scenes, len(kinds)), _ABSENT)
    per_scene = len(labels) // num_scenes
    for row in range(num_scenes):
        seen = {label for label in labels[row * per_scene : (row + 1) * per_scene] if label}
        if not seen:
            found[row] = _UNKNOWN
        for label in seen:
            color, kind = label.split(" ", 1)
            column = kinds.index(kind)
            found[row, column] = 1 + colors.index(color) if found[row, column] == _ABSENT else _UNKNOWN
    return found
