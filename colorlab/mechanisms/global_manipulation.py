"""Global manipulation: a text edits the exemplar's class token, and with it the whole picture.

| symbol | variable |
| --- | --- |
| v | `cls`, the class token, not normalised |
| t, a | `target`, `anchor`, unit text vectors |
| s | `target_scale` |
| proj(v, t) = v . t | `projection` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from colorlab.conditioning import Manipulation
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Phase

__all__ = ["GlobalManipulation", "TextEdit", "manipulate_class_token", "projection"]


@dataclass(frozen=True, eq=False)
class TextEdit:
    """A manipulation with its texts encoded.

    Args:
        manipulation: what the user gave.
        target: (D,) unit vector.
        anchor: (D,) unit vector; None for no anchor.
        control: (D,) unit vector of the region; None for everything.
    """

    manipulation: Manipulation
    target: torch.Tensor
    anchor: torch.Tensor | None = None
    control: torch.Tensor | None = None


class GlobalManipulation(Mechanism):
    """Move the class token along text directions, one manipulation after the other.

    Without an anchor the projection on the target becomes the target scale exactly; with one, the token moves from the
    anchor to the target by the scale; with `enhance` the anchor is erased first, and the scale is added. Only models
    that read the class token (CLS) see any of it.

    Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@d876b7e.
    """

    name = "global_manipulation"
    phase: ClassVar[Phase] = "prepare"

    def apply(self, cls: torch.Tensor, edits: Sequence[TextEdit]) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply all edits in order.

        Args:
            cls: (1, 1, D).
            edits: in order; each sees what those before it made.

        Returns:
            The edited token, and (edits, 2, 2): projections on (target, anchor) before and after each; NaN without an
            anchor.
        """
        told = []
        for edit in edits:
            before, cls = cls, manipulate_class_token(cls, edit)
            told.append([[_project(token, text) for text in (edit.target, edit.anchor)] for token in (before, cls)])
        return cls, torch.tensor(told).transpose(1, 2) if told else torch.zeros(0, 2, 2)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the projections before and after every edit. No network call."""
        if call.record is not None or "projections" not in call.prepared:
            return {}
        projections = call.prepared["projections"]
        return {
            f"projections_{index}": Exhibit(
                values[~values.isnan().any(-1)].flatten().numpy(),
                ("projection",),
                "",
                f"Projection of the class token on the texts of edit {index}, before and after it.",
                provenance={
                    **call.provenance,
                    "labels": tuple(f"{text} {when}" for text in ("target", "anchor") for when in ("before", "after")),
                },
                kind="ranking",
            )
            for index, values in enumerate(projections)
        }


def projection(tokens: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the dot products (B, N, 1) of tokens (B, N, D), not normalised, with a unit text vector (D,)."""
    return (tokens @ text.to(tokens))[..., None]


def manipulate_class_token(cls: torch.Tensor, edit: TextEdit) -> torch.Tensor:
    """Apply one edit to the class token.

    | anchor | enhance | update |
    | --- | --- | --- |
    | no | no | v += (s - v . t) t |
    | no | yes | v += s t |
    | yes | no | v += s (t - a) |
    | yes | yes | v -= (v . a) a, then v += s t |

    Args:
        cls: (B, 1, D).
        edit: its control text and thresholds are not read.

    Returns:
        (B, 1, D).

    Source: tellurion-kanata/colorizeDiffusion@d876b7e and @c9bd9fb, which agree.
    """
    scale, target, anchor = edit.manipulation.target_scale, edit.target.to(cls), edit.anchor
    if anchor is None:
        shift = scale if edit.manipulation.enhance else scale - projection(cls, target)
        return cls + shift * target
    anchor = anchor.to(cls)
    if edit.manipulation.enhance:
        return cls - projection(cls, anchor) * anchor + scale * target
    return cls + scale * (target - anchor)


def _project(cls: torch.Tensor, text: torch.Tensor | None) -> float:
    """Return one projection as a number; NaN on no text."""
    return float("nan") if text is None else float(projection(cls, text))
