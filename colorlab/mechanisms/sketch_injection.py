"""Sketch injection: hints from the line drawing are added to the features on the UNet's way down."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, cast

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, SWITCH, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["SketchInjection"]


class SketchInjection(Mechanism):
    """Add one hint for each size of features; later blocks and skip connections both see the sum.

    The strength multiplies the hints of blank paper, which stand for "no sketch", as well. Off, no hint is added.

    Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@c9bd9fb; strengths by level from the
        authors' later code.
    """

    name = "sketch_injection"
    phase: ClassVar[Phase] = "prepare"
    parameters = (
        Parameter("strength", 1.0, high=3.0, doc="Factor on all hints."),
        Parameter("level_strengths", (), high=3.0, doc="A factor for each hint, finest first; empty for 1."),
    )

    def scale(self, hints: Sequence[torch.Tensor], settings: Settings) -> tuple[torch.Tensor, ...]:
        """Return the hints as they are added.

        Raises:
            RangeError: another number of level strengths than there are hints.
        """
        values = self.in_force(settings)
        levels = cast(tuple[float, ...], values["level_strengths"]) or (1.0,) * len(hints)
        if len(levels) != len(hints):
            raise RangeError(
                f"{self.name}.level_strengths has {len(levels)} factors, but this model has {len(hints)} hints; give "
                "one for each."
            )
        strength = cast(float, values["strength"]) if values[SWITCH] else 0.0
        return tuple(hint * (strength * level) for hint, level in zip(hints, levels, strict=True))

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show how much each hint of the drawing differs from that of blank paper."""
        if call.record is not None or "hints.0" not in call.prepared:
            return {}
        exhibits = {}
        index = 0
        while f"hints.{index}" in call.prepared:
            hint, blank = (call.prepared[f"{name}.{index}"].float() for name in ("hints", "blank_hints"))
            exhibits[f"hint_{index}"] = Exhibit(
                torch.linalg.vector_norm(hint - blank, dim=1)[0].numpy(),
                ("h", "w"),
                "",
                f"Hint {index}: length over the channels of its difference to that of blank paper.",
                provenance=dict(call.provenance),
            )
            index += 1
        return exhibits
