"""Dual guidance: away from what the model would paint without the exemplar, and from what it would without the sketch.

| symbol | variable, guidance pass |
| --- | --- |
| e, of sketch and exemplar | `full` |
| e_r, of the sketch alone | `no_exemplar` |
| e_s, of the exemplar alone | `no_sketch` |
| g_r, g_s | `Settings.guidance_scale`, `sketch_guidance_scale` |
"""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch.nn import functional

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase, Value
from colorlab.settings import Settings

__all__ = ["FULL", "NO_EXEMPLAR", "NO_SKETCH_PASS", "DualGuidance", "dual_guidance"]

FULL, NO_EXEMPLAR, NO_SKETCH_PASS = "full", "no_exemplar", "no_sketch"

_FORMULAS = ("corrected", "published")


class DualGuidance(Mechanism):
    """Extrapolate along two fields: what the exemplar changes in the prediction, and what the sketch changes in it.

    A scale of 1 switches its field, and the network call for it, off. The published formula is the mean of two
    single ones, so that switching a second field on halves the first: it jumps at a scale of 1. The corrected one adds
    both fields in full, and is the published one wherever a single field is on.

    The exemplar's scale is `Settings.guidance_scale`, the name the whole field uses.

    Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@c9bd9fb.
    """

    name = "dual_guidance"
    phase: ClassVar[Phase] = "guide"
    parameters = (
        Parameter("sketch_guidance_scale", 1.0, low=1.0, high=15.0, doc="Guidance by the sketch; 1 is off."),
        Parameter(
            "formula",
            "corrected",
            choices=_FORMULAS,
            doc="Whether two fields are added, or averaged as published.",
        ),
    )

    def in_force(self, settings: Settings) -> dict[str, Value]:
        """Return the switch, both scales and the formula; as published the formula is."""
        values = {**super().in_force(settings), "exemplar_guidance_scale": float(settings.guidance_scale)}
        return values | ({"formula": "published"} if settings.as_published else {})

    def scales(self, settings: Settings) -> tuple[float, float]:
        """Return (g_r, g_s); (1, 1) when it is off."""
        values = self.in_force(settings)
        if not self.is_on(settings):
            return 1.0, 1.0
        return float(settings.guidance_scale), cast(float, values["sketch_guidance_scale"])

    def passes(self, settings: Settings) -> tuple[str, ...]:
        """Return the guidance passes in batch order: `full`, and one more for each scale above 1."""
        exemplar, sketch = self.scales(settings)
        return (FULL, *([NO_EXEMPLAR] if exemplar > 1 else []), *([NO_SKETCH_PASS] if sketch > 1 else []))

    def guide(self, predictions: Mapping[str, torch.Tensor], settings: Settings) -> torch.Tensor:
        """Combine the named predictions (B, C, h, w) of `passes` into one."""
        return dual_guidance(
            predictions, *self.scales(settings), is_published=self.in_force(settings)["formula"] == "published"
        )

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show both fields, and with both the angle between them and what each formula makes of them."""
        if call.record is None or FULL not in call.record.predictions:
            return {}
        predictions, step = call.record.predictions, call.record.step_index
        fields = {
            name: predictions[FULL] - predictions[without]
            for name, without in (("exemplar", NO_EXEMPLAR), ("sketch", NO_SKETCH_PASS))
            if without in predictions
        }
        exhibits = {
            f"{name}_field": _exhibit(
                call,
                torch.linalg.vector_norm(field, dim=1)[0],
                ("h", "w"),
                "noise standard deviations",
                f"How far the {name} moves the predicted noise at step {step}: the length over the latent channels, "
                "before its scale.",
            )
            for name, field in fields.items()
        }
        if len(fields) == 2:
            exemplar, sketch = fields.values()
            cosine = functional.cosine_similarity(exemplar, sketch, dim=1)[0].clamp(-1, 1)
            whole = functional.cosine_similarity(exemplar.flatten(), sketch.flatten(), dim=0).clamp(-1, 1)
            exhibits["angle"] = _exhibit(
                call,
                torch.rad2deg(torch.arccos(cosine)),
                ("h", "w"),
                "degrees",
                f"Angle between the two fields in each cell at step {step}; {float(torch.rad2deg(whole.arccos())):.0f} "
                "degrees between the whole fields.",
            )
            scales = self.scales(call.settings)
            both = {kind: dual_guidance(predictions, *scales, is_published=kind == "published") for kind in _FORMULAS}
            exhibits["formulas"] = _exhibit(
                call,
                torch.stack([_rms(value - predictions[FULL]) for value in both.values()]),
                ("formula",),
                "noise standard deviations",
                f"How far guidance moves the prediction at step {step}, root mean square: {' and '.join(_FORMULAS)}.",
                kind="ranking",
                labels=_FORMULAS,
            )
        return exhibits


def dual_guidance(
    predictions: Mapping[str, torch.Tensor], exemplar_scale: float, sketch_scale: float, *, is_published: bool
) -> torch.Tensor:
    """Combine predictions by their two scales.

    published, both scales above 1: ((e_r + g_r (e - e_r)) + (e_s + g_s (e - e_s))) / 2
    corrected: e + (g_r - 1) (e - e_r) + (g_s - 1) (e - e_s)
    one scale above 1: e_r + g_r (e - e_r), or the same of the sketch; none: e

    Args:
        predictions: `full`, and what the scales above 1 need; each (B, C, h, w).
        exemplar_scale: g_r.
        sketch_scale: g_s.
        is_published: which formula.

    Returns:
        (B, C, h, w).

    Source: tellurion-kanata/colorizeDiffusion@c9bd9fb; the corrected one is ours.
    """
    full = predictions[FULL]
    guided = [
        predictions[without] + scale * (full - predictions[without])
        for without, scale in ((NO_EXEMPLAR, exemplar_scale), (NO_SKETCH_PASS, sketch_scale))
        if scale > 1
    ]
    if len(guided) < 2:
        return guided[0] if guided else full
    total = guided[0] + guided[1]
    return total / 2 if is_published else total - full


def _rms(field: torch.Tensor) -> torch.Tensor:
    """Return the root mean square."""
    return field.square().mean().sqrt()


def _exhibit(
    call: Call,
    array: torch.Tensor,
    axes: tuple[str, ...],
    unit: str,
    caption: str,
    *,
    kind: str = "heatmap",
    labels: tuple[str, ...] = (),
) -> Exhibit:
    """Put a tensor on show."""
    provenance = {**call.provenance, **({"labels": labels} if labels else {})}
    return Exhibit(array.numpy(), axes, unit, caption, provenance=provenance, kind=kind)
