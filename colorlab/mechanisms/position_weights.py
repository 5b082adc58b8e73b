"""Local manipulation: a text edits the exemplar's patch tokens, each by a weight of its own.

| symbol | variable |
| --- | --- |
| L | `patches`, not normalised |
| t, a, c | unit text vectors `target`, `anchor`, `control` |
| m = L . c | `similarity` |
| u = (m - min m) / (max m - min m) | `relative_similarity` |
| d | `shift`, the wanted change of the projection on the target |
| w | `weights`, the position weight matrix |
| ts0 < ts1 < ts2 < ts3 | `thresholds` |

| u | published w | corrected w |
| --- | --- | --- |
| to ts0 | -2 d | 0 |
| to ts1 | -d to 0 | 0 |
| to ts2 | 0 to d / 2 | 0 to d / 2 |
| to ts3 | d / 2 to d | d / 2 to d |
| above | d | d |

The published thresholds call a *low* similarity "most related to the control text" and give it the largest weight,
against the sign of what the user wants, and push everything else the other way. The corrected mode turns u around where
the model's patches are similar to texts that name them (the model's `polarity`, measured against masks), does nothing
outside, and never goes below 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase, Value
from colorlab.mechanisms.global_manipulation import TextEdit, projection
from colorlab.networks.exemplar_projection import Polarity
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = [
    "LocalEdit",
    "PositionWeights",
    "corrected_position_weights",
    "published_position_weights",
    "relative_similarity",
]

Thresholds = tuple[float, float, float, float]
_MODES = ("corrected", "published")
# Two texts whose unit vectors are apart by less are one text; rounding of a text that is encoded twice stays below.
_SAME_TEXT = 1e-3


@dataclass(frozen=True, eq=False)
class LocalEdit:
    """One local edit, done.

    Args:
        similarity: m, (1, N, 1).
        weights: w, (1, N, 1).
        patches: (1, N, D), after it.
        projections: (1, N, 2, 2), of every patch on (target, anchor), before and after it; NaN without an anchor.
    """

    similarity: torch.Tensor
    weights: torch.Tensor
    patches: torch.Tensor
    projections: torch.Tensor | None = None


class PositionWeights(Mechanism):
    """Edit the patches that a control text names: by the weight of each, toward the target, away from the anchor.

    `published` is the released algorithm with its sign, its 0/0 where all patches are equally similar, and its one
    scalar d for all patches, read off the class token. `corrected` edits what the text names and nothing else, and
    reads d off each patch.

    Source: ColorizeDiffusion, arXiv 2401.01456 (position weight matrix); tellurion-kanata/colorizeDiffusion@c9bd9fb.
    """

    name = "position_weights"
    phase: ClassVar[Phase] = "prepare"
    parameters = (
        Parameter("mode", "corrected", choices=_MODES, doc="Which weights: see the table of `position_weights`."),
        Parameter(
            "polarity",
            "model",
            choices=("model", "high", "low"),
            doc="Which similarity is the region in the corrected mode; `model` takes what was measured for the model.",
        ),
    )

    def in_force(self, settings: Settings) -> dict[str, Value]:
        """Return the parameters; as published the mode is."""
        return super().in_force(settings) | ({"mode": "published"} if settings.as_published else {})

    def apply(
        self, tokens: torch.Tensor, edits: Sequence[TextEdit], settings: Settings, *, polarity: Polarity
    ) -> tuple[torch.Tensor, tuple[LocalEdit, ...]]:
        """Apply all edits in order; each sees the patches that those before it made.

        Args:
            tokens: (1, 1 + N, D), class token first; it is read but never changed.
            edits: in order.
            settings: what is in force.
            polarity: of the model.

        Returns:
            The edited tokens, and what each edit did.
        """
        values = self.in_force(settings)
        chosen = polarity if values["polarity"] == "model" else cast(Polarity, values["polarity"])
        cls, patches = tokens[:, :1], tokens[:, 1:]
        done = []
        for edit in edits:
            one = (
                published_edit(cls, patches, edit)
                if values["mode"] == "published"
                else corrected_edit(patches, edit, polarity=chosen)
            )
            moved = [_on_texts(each, edit) for each in (patches, one.patches)]
            done.append(replace(one, projections=torch.stack(moved, dim=-1)))
            patches = one.patches
        return torch.cat([cls, patches], dim=1), tuple(done)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show similarity and weights of every edit over the exemplar, and its tokens before and after.

        What the weights come to in the picture that is made needs attention: `run.position_weights(step)`.
        """
        if call.record is not None or "similarities.0" not in call.prepared:
            return {}
        exhibits = {}
        num_edits = sum(name.startswith("similarities.") for name in call.prepared)
        for index in range(num_edits):
            similarity = call.prepared[f"similarities.{index}"]
            shown = {
                "similarities": (similarity, "Similarity m of each patch with the control text"),
                "relative": (relative_similarity(similarity), "Place u of each similarity from the least to the most"),
                "weights": (call.prepared[f"weights.{index}"], "Position weight w of each patch"),
            }
            for name, (values, what) in shown.items():
                caption = f"{what} in edit {index}."
                exhibits[f"{name}_{index}"] = _on_grid(call, values, caption, is_signed=name == "weights")
            exhibits[f"tokens_{index}"] = _before_and_after(call, call.prepared[f"token_projections.{index}"], index)
        moved = call.prepared["edited_tokens"][:, 1:] - call.prepared["exemplar_tokens"][:, 1:]
        lengths = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
        exhibits["moved"] = _on_grid(call, lengths, "How far all edits moved each patch token.")
        return exhibits


def relative_similarity(similarity: torch.Tensor) -> torch.Tensor:
    """Return u, the place of each similarity between the smallest and the largest.

    Args:
        similarity: (B, N, 1), m.

    Returns:
        (B, N, 1), [0, 1]; NaN where all are equal.

    Raises:
        ShapeError: `similarity` has another shape.
    """
    check_shape(similarity, "B N 1", "similarity")
    low, high = similarity.amin(dim=1, keepdim=True), similarity.amax(dim=1, keepdim=True)
    return (similarity - low) / (high - low)


def published_position_weights(
    similarity: torch.Tensor, shift: torch.Tensor | float, *, thresholds: Thresholds
) -> torch.Tensor:
    """Return the published weights; the only jump is at ts0, from -2 d to -d.

    Args:
        similarity: (B, N, 1), m.
        shift: d, a number, or (B, 1, 1) or (B, N, 1).
        thresholds: ts0 to ts3; not checked, as published.

    Returns:
        (B, N, 1); NaN where all similarities are equal, as published.

    Raises:
        ShapeError: `similarity` has another shape.

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb.
    """
    u = relative_similarity(similarity)
    ts0, ts1, ts2, ts3 = thresholds
    factors = torch.where(u <= ts0, -2.0, -1 + (u - ts0) / (ts1 - ts0))
    factors = torch.where(u > ts1, 0.5 * (u - ts1) / (ts2 - ts1), factors)
    factors = torch.where(u > ts2, 0.5 + 0.5 * (u - ts2) / (ts3 - ts2), factors)
    factors = torch.where(u > ts3, 1.0, factors)
    return torch.where(u.isnan(), u, factors) * shift


def corrected_position_weights(
    similarity: torch.Tensor, shift: torch.Tensor | float, *, thresholds: Thresholds, polarity: Polarity = "high"
) -> torch.Tensor:
    """Return weights of at least 0 inside of the region and 0 outside.

    Args:
        similarity: (B, N, 1), m.
        shift: d, a number, or (B, 1, 1) or (B, N, 1); below 0 it counts as 0.
        thresholds: ts0 to ts3; ts1 is where the region begins, ts0 is not read.
        polarity: which end of the similarities is the region.

    Returns:
        (B, N, 1), 0 to d.

    Raises:
        ShapeError: `similarity` has another shape.
        RangeError: the thresholds do not rise strictly within [0, 1].

    Deviation: all 0 where all similarities are equal, 0 / 0 as published: then there is no region.
    """
    ts0, ts1, ts2, ts3 = thresholds
    if not 0 <= ts0 < ts1 < ts2 < ts3 <= 1:
        raise RangeError(f"thresholds are {thresholds}, but four numbers that rise within [0, 1] are expected.")
    u = relative_similarity(similarity)
    u = (u if polarity == "high" else 1 - u).nan_to_num(0.0)
    half = 0.5 * ((u - ts1) / (ts2 - ts1)).clamp(0, 1)
    factors = half + 0.5 * ((u - ts2) / (ts3 - ts2)).clamp(0, 1)
    return factors * torch.as_tensor(shift).clamp(min=0)


def published_edit(cls: torch.Tensor, patches: torch.Tensor, edit: TextEdit) -> LocalEdit:
    """Edit (B, N, D) patches as published; an edit without a control text weighs every patch by d.

    d = s - v . t, or s - v . a with an anchor and enhance, of the class token v.
    """
    manipulation, target, anchor = edit.manipulation, edit.target.to(patches), edit.anchor
    erases = manipulation.enhance and anchor is not None
    shift = manipulation.target_scale - projection(cls, anchor if erases and anchor is not None else target)
    control = target if edit.control is None else edit.control
    similarity = projection(patches, control)
    weights = (
        shift.expand_as(similarity)
        if edit.control is None
        else published_position_weights(similarity, shift, thresholds=manipulation.thresholds)
    )
    if anchor is None:
        return LocalEdit(similarity, weights, patches + weights * target)
    anchor = anchor.to(patches)
    amount = weights + projection(patches, anchor) if erases else weights
    return LocalEdit(similarity, weights, patches + amount * (target - anchor))


def corrected_edit(patches: torch.Tensor, edit: TextEdit, *, polarity: Polarity) -> LocalEdit:
    """Edit (B, N, D) patches inside the region alone.

    With f from 0 outside to 1 inside and d = s - L . t of each patch: w = f max(d, 0); L += w t, so that the projection
    inside becomes s. With an anchor, L -= f max(L . o, 0) o, too, where o is the unit vector of a - (a . t) t: it takes
    away what the patch has of the anchor and not of the target; with enhance twice of it. What both texts name stays:
    "the red car -> the blue car" says nothing against the car. An anchor that is the target takes nothing away.
    """
    manipulation, target, anchor = edit.manipulation, edit.target.to(patches), edit.anchor
    similarity = projection(patches, target if edit.control is None else edit.control)
    share = (
        torch.ones_like(similarity)
        if edit.control is None
        else corrected_position_weights(similarity, 1.0, thresholds=manipulation.thresholds, polarity=polarity)
    )
    weights = share * (manipulation.target_scale - projection(patches, target)).clamp(min=0)
    edited = patches + weights * target
    if anchor is not None:
        own = _apart(anchor.to(patches), target)
        erased = share * projection(patches, own).clamp(min=0) * (2.0 if manipulation.enhance else 1.0)
        edited = edited - erased * own
    return LocalEdit(similarity, weights, edited)


def _apart(anchor: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the direction (D,) in which a unit vector differs from another one, of length 1; 0 where it does not."""
    own = anchor - (anchor @ target) * target
    length = torch.linalg.vector_norm(own)
    return own / length if length > _SAME_TEXT else torch.zeros_like(own)


def _on_texts(patches: torch.Tensor, edit: TextEdit) -> torch.Tensor:
    """Project (B, N, D) patches on target and anchor, (B, N, 2); NaN without an anchor."""
    on_target = projection(patches, edit.target)
    on_anchor = torch.full_like(on_target, torch.nan) if edit.anchor is None else projection(patches, edit.anchor)
    return torch.cat([on_target, on_anchor], dim=-1)


def _grid(values: torch.Tensor) -> torch.Tensor:
    """Lay one number for each of N patches out, (side, side); the grid is square, as CLIP's is."""
    side = round(values.shape[0] ** 0.5)
    return values.unflatten(0, (side, side)).float()


def _on_grid(call: Call, values: torch.Tensor, caption: str, *, is_signed: bool = False) -> Exhibit:
    """Put one number for each patch on show, over the exemplar as CLIP sees it."""
    return Exhibit(
        _grid(values[0, :, 0]).numpy(),
        ("row", "column"),
        "",
        caption,
        provenance={**call.provenance, "is_signed": is_signed},
        kind="matrix",
        pictures={"exemplar": call.prepared["exemplar_view"][0].permute(1, 2, 0).numpy()},
    )


def _before_and_after(call: Call, projections: torch.Tensor, index: int) -> Exhibit:
    """Put the projections (1, N, 2, 2) of the tokens on the texts of an edit on show, before and after it."""
    named = {
        f"{text}, {when}": _grid(projections[0, :, row, column])
        for row, text in enumerate(("target", "anchor"))
        for column, when in enumerate(("before", "after"))
    }
    shown = {name: values for name, values in named.items() if not values.isnan().any()}
    return Exhibit(
        torch.stack(list(shown.values())).numpy(),
        ("text", "row", "column"),
        "",
        f"Projection of each patch token on the texts of edit {index}, before and after it.",
        provenance={**call.provenance, "labels": list(shown)},
        kind="maps",
    )
