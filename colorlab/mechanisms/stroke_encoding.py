"""Stroke encoding: from vector strokes to the mask and the masked picture that the denoising network sees."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch.nn import functional

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["StrokeEncoding", "masked_picture", "pool_mask", "whole_cells"]


class StrokeEncoding(Mechanism):
    """Tell the denoising network which colors are given: a mask and the latents of the picture of the given colors.

    Where nothing is given that picture is mid-gray, so that its latents are not zero even without strokes. The network
    wants 1 where it is free. Off, no stroke reaches it.

    By default strokes are painted as vectors at working size, every latent cell that a stroke touches counts as given,
    and the latents are the posterior's mean. As published strokes are found by comparing the red of two 8-bit pictures,
    a cell counts by its top left pixel, so that strokes thinner than a cell can vanish, and the posterior is sampled.

    Source: CtrlColor, arXiv 2402.10855; `ZhexinLiang/Control-Color@f21054a`.
    """

    name = "stroke_encoding"
    phase: ClassVar[Phase] = "prepare"
    parameters = (
        Parameter(
            "mask_pool",
            "any",
            choices=("any", "nearest"),
            doc="When a latent cell counts as given: if any of its pixels does, or its top left one.",
        ),
    )

    def latent_mask(self, known: torch.Tensor, factor: int, settings: Settings) -> torch.Tensor:
        """Return (1, 1, h, w), 1 where the network is free, from (1, 1, H, W) with 1 where a color is given."""
        pool = "nearest" if settings.as_published else cast(str, self.in_force(settings)["mask_pool"])
        return 1 - pool_mask(known, factor, pool=pool)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the strokes as pixels and as latent cells, and what was lost on the way. No network call.

        Strokes that change during the run have one set of exhibits for each stretch of steps.
        """
        if call.record is not None or "hints.0" not in call.prepared:
            return {}
        num_hints = sum(name.startswith("hints.") for name in call.prepared)
        exhibits: dict[str, Exhibit] = {}
        for index in range(num_hints):
            suffix = "" if num_hints == 1 else f"_{index}"
            exhibits |= {f"{name}{suffix}": shown for name, shown in self._explain_one(call, index).items()}
        return exhibits

    def _explain_one(self, call: Call, index: int) -> dict[str, Exhibit]:
        """Show one set of strokes."""
        hint, known, mask, painted = (
            call.prepared[f"{name}.{index}"].float() for name in ("hints", "known", "masks", "painted")
        )
        given = functional.interpolate(1 - mask, size=known.shape[-2:], mode="nearest")
        lost = painted * (1 - torch.minimum(known, given))
        share = float(lost.sum() / painted.sum()) if painted.any() else 0.0

        def exhibit(array: torch.Tensor, axes: tuple[str, ...], caption: str, kind: str = "heatmap") -> Exhibit:
            return Exhibit(array, axes, "", caption, provenance=dict(call.provenance), kind=kind)  # type: ignore[arg-type]

        shown = ((masked_picture(hint, known) + 1) / 2)[0].permute(1, 2, 0)
        return {
            "hint": exhibit(shown, ("y", "x", "rgb"), "The colors given; mid-gray where the model is free.", "image"),
            "known": exhibit(known[0, 0], ("y", "x"), "Pixels whose color is given."),
            "latent_mask": exhibit(1 - mask[0, 0], ("h", "w"), "Latent cells that count as given."),
            "lost": exhibit(
                lost[0, 0], ("y", "x"), f"Painted pixels that do not count as given: {share:.1%} of those painted."
            ),
        }


def masked_picture(hint: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return the picture of the given colors as the autoencoder gets it.

    Args:
        hint: (B, 3, H, W), sRGB, [0, 1].
        known: (B, 1, H, W), 1 where the color is given.

    Returns:
        (B, 3, H, W), [-1, 1], 0 where nothing is given.
    """
    sizes = check_shape(hint, "B 3 H W", "hint")
    check_shape(known, "B 1 H W", "known", sizes=sizes)
    return (hint * 2 - 1) * known


def pool_mask(mask: torch.Tensor, factor: int, *, pool: str = "any") -> torch.Tensor:
    """Bring (B, 1, H, W) of 0 and 1 to latent cells of `factor` pixels: by any pixel, or by the top left one."""
    if pool == "nearest":
        return mask[:, :, ::factor, ::factor]
    return functional.max_pool2d(mask, factor)


def whole_cells(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """Grow (B, 1, H, W) of 0 and 1 to all pixels of the latent cells that it touches, `factor` pixels wide."""
    cells = functional.max_pool2d(mask, factor, ceil_mode=True)
    height, width = mask.shape[-2:]
    return functional.interpolate(cells, scale_factor=factor, mode="nearest")[:, :, :height, :width]
