"""Dual guidance over a whole run: how long both fields are, and how far they point apart, step by step (record)."""

from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.views import origin
from colorlab.mechanisms.dual_guidance import FULL, NO_EXEMPLAR, NO_SKETCH_PASS
from colorlab.runs.run import Run

__all__ = ["guidance_fields"]

Shown = Literal["lengths", "angle"]

_FIELDS = {"exemplar": NO_EXEMPLAR, "sketch": NO_SKETCH_PASS}


def guidance_fields(run: Run, *, shown: Shown = "lengths") -> Exhibit:
    """Show the fields of dual guidance by step: what exemplar and sketch change in the prediction (record).

    Args:
        run: a run of ColorizeDiffusion that has taken a step.
        shown: `lengths` (root mean square of each field, before its scale) or the `angle` between the two.

    Returns:
        (field, step), or (step,) in degrees; NaN at steps without the passes that are needed.

    Raises:
        StateError: no step has a field, or none has both where the angle is asked for.
        RangeError: `shown` is none of these.
    """
    if shown not in get_args(Shown):
        raise RangeError(f"shown is {shown!r}, but one of {', '.join(get_args(Shown))} is expected.")
    steps = [
        {
            name: record.predictions[FULL] - record.predictions[without]
            for name, without in _FIELDS.items()
            if FULL in record.predictions and without in record.predictions
        }
        for record in run.records
    ]
    names = [name for name in _FIELDS if any(name in fields for fields in steps)]
    if not names:
        raise StateError(
            "The run has no guidance field; take a step of ColorizeDiffusion with guidance_scale above 1, or "
            "dual_guidance's sketch_guidance_scale."
        )
    if shown == "angle":
        return _angles(run, steps)
    lengths = np.array([[_length(fields.get(name)) for fields in steps] for name in names])
    return Exhibit(
        lengths,
        ("field", "step"),
        "noise standard deviations",
        f"What {' and '.join(names)} change in the predicted noise, root mean square at each step, before the scales.",
        provenance={**origin(run, None, "guidance_fields"), "labels": names},
        kind="curves",
    )


def _angles(run: Run, steps: list[dict[str, torch.Tensor]]) -> Exhibit:
    """Put the angle between both fields on show."""
    if not any(len(fields) == len(_FIELDS) for fields in steps):
        raise StateError(
            "The run has one guidance field only, so that there is no angle; raise both guidance_scale and "
            "dual_guidance's sketch_guidance_scale above 1."
        )
    return Exhibit(
        np.array([_angle(fields) for fields in steps]),
        ("step",),
        "degrees",
        "Angle between the field of the exemplar and that of the sketch at each step; 90 degrees are independent.",
        provenance={**origin(run, None, "guidance_fields"), "labels": ["angle"]},
        kind="curves",
    )


def _length(field: torch.Tensor | None) -> float:
    """Return the root mean square of a field; NaN of none."""
    return float("nan") if field is None else float(field.float().square().mean().sqrt())


def _angle(fields: dict[str, torch.Tensor]) -> float:
    """Return the angle between two fields in degrees; NaN where one is missing or zero."""
    if len(fields) < len(_FIELDS) or not all(bool(field.any()) for field in fields.values()):
        return float("nan")
    one, other = (field.float().flatten() for field in fields.values())
    return float(torch.rad2deg(functional.cosine_similarity(one, other, dim=0).clamp(-1, 1).arccos()))
