"""Local editing: a colored picture, new strokes on it, and the rest left alone."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch.nn import functional

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.mechanisms.stroke_encoding import whole_cells
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes

__all__ = ["LocalEdit"]

_RIM_PX = 15


class LocalEdit(Mechanism):
    """Give the colors of the base image as hints everywhere but in the region of the edit.

    | `mode` | made anew | given as hints |
    | --- | --- | --- |
    | `keep_rest` | latent cells that touch the region, but for the strokes | strokes and the rest, which stays |
    | `rim` | a band of 15 px along the edge of the strokes | strokes and the rest |
    | `area` | what the strokes cover, in colors of the model's choice | the rest |
    | `off` | all but the strokes | strokes |

    The region of `keep_rest` is the union of the given masks and the strokes, or, without masks, what lies within
    `reach` of a stroke. Cells at its edge are made anew as a whole: given, with a hole where the object is, they would
    tell the network that the hole has no color. The finished picture changes in the region alone.

    Source: CtrlColor, arXiv 2402.10855 (iterative editing); `rim` and `area` by `ZhexinLiang/Control-Color@f21054a`.
    Deviation: `keep_rest` is ours, and not among the published modes: `as_published` it is `off`.
    """

    name = "local_edit"
    phase: ClassVar[Phase] = "prepare"
    parameters = (
        Parameter("mode", "keep_rest", choices=("keep_rest", "rim", "area", "off"), doc="What is made anew."),
        Parameter("reach", 0.125, unit="of the shorter side", high=2.0, doc="How far an edit reaches without masks."),
    )

    def mode(self, settings: Settings, *, has_base: bool) -> str:
        """Return the mode in force; without a base image everything is made anew."""
        values = self.in_force(settings)
        is_off = not has_base or not self.is_on(settings) or (settings.as_published and values["mode"] == "keep_rest")
        return "off" if is_off else cast(str, values["mode"])

    def region(
        self, strokes: Strokes, masks: torch.Tensor | None, size: tuple[int, int], settings: Settings
    ) -> torch.Tensor:
        """Return where `keep_rest` may change something.

        Args:
            strokes: on a picture of this size.
            masks: (K, H, W) bool, of the same size; None for none.
            size: (height, width) in pixels.
            settings: what is in force.

        Returns:
            (1, 1, H, W) float32, 1 in the region.
        """
        if masks is not None:
            return torch.maximum(masks.any(dim=0)[None, None].float(), strokes.rasterize(*size)[1])
        reach_px = cast(float, self.in_force(settings)["reach"]) * min(size)
        wide = Strokes(Stroke(stroke.points, stroke.color, stroke.radius_px + reach_px) for stroke in strokes)
        return wide.rasterize(*size)[1]

    def given(
        self,
        painted: tuple[torch.Tensor, torch.Tensor],
        base: torch.Tensor,
        region: torch.Tensor,
        *,
        mode: str,
        cell_px: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put strokes over the base image and say which colors are given.

        Args:
            painted: strokes as pixels: hint (1, 3, H, W), [0, 1], and hint mask (1, 1, H, W).
            base: (1, 3, H, W), [0, 1].
            region: (1, 1, H, W), of `keep_rest`.
            mode: see `mode`; not "off".
            cell_px: side of a latent cell.

        Returns:
            hint: (1, 3, H, W), [0, 1].
            known: (1, 1, H, W), 1 where its color is given.
        """
        hint, mask = painted
        if mode == "area":
            return base, 1 - mask
        over = mask * hint + (1 - mask) * base
        if mode == "rim":
            wide, narrow = (functional.max_pool2d(part, _RIM_PX, 1, _RIM_PX // 2) for part in (mask, 1 - mask))
            return over, 1 - (wide - (1 - narrow))
        return over, torch.maximum(mask, 1 - whole_cells(region, cell_px))

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show what may change. No network call."""
        if call.record is not None or "region" not in call.prepared:
            return {}
        return {
            "region": Exhibit(
                array=call.prepared["region"][0, 0].numpy(),
                axes=("y", "x"),
                unit="",
                caption="Where the edit may change something; the finished picture is the base image elsewhere.",
                provenance=dict(call.provenance),
            )
        }
