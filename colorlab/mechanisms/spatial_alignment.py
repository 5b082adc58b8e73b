"""Spatial alignment: the colors of a generated picture, laid onto the structure of the gray one.

| back end | what becomes of the generated chroma |
| --- | --- |
| `lab` | it is kept where it is; the lightness is the gray picture's |
| `guided` | it is smoothed along the edges of the gray picture first: bleeding of a few pixels goes |
| `flow` | it is moved along the optical flow from the generated to the gray lightness, then as `guided` |

Source: DiffColor, arXiv 2308.01655, has such a module; what is inside it is not known, the three are ours. Guided
    filter: He, Sun and Tang, "Guided image filtering", 2010 (kornia). Flow: TV-L1, Zach, Pock and Bischof, 2007
    (scikit-image).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import kornia.filters
import kornia.metrics
import numpy as np
import torch
import torch.nn.functional as F
from skimage.registration import optical_flow_tvl1

from colorlab.color import fit_chroma_to_gamut, gray_to_lightness, lab_to_rgb, rgb_to_lab
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["BACK_ENDS", "DRIFT_LIMIT", "Drift", "SpatialAlignment", "align", "measure_drift"]

BACK_ENDS = ("lab", "guided", "flow")
DRIFT_LIMIT = 0.7
"""SSIM of the lightnesses below which chroma will be misplaced. Ours."""

# Radii are given for a picture of this side and follow the picture's size.
_REFERENCE_PX = 512
_LARGEST_FLOW_PX = 8.0


@dataclass(frozen=True)
class Drift:
    """How far the structure of a generated picture is from the gray one.

    Args:
        ssim: structural similarity of the lightnesses, [-1, 1]; 1 for no drift.
        flow_px: mean length of the optical flow between them, in pixels.
    """

    ssim: float
    flow_px: float

    @property
    def is_large(self) -> bool:
        """Whether colors will be misplaced."""
        return self.ssim < DRIFT_LIMIT

    def __str__(self) -> str:
        verdict = "; the structure moved, colors will be misplaced" if self.is_large else ""
        return f"SSIM {self.ssim:.2f}, flow {self.flow_px:.1f} px{verdict}"


def align(
    image: torch.Tensor, gray: torch.Tensor, *, backend: str = "lab", radius_px: float = 8.0, eps: float = 1e-3
) -> torch.Tensor:
    """Return a picture with the lightness of the gray one and the chroma of the generated one.

    Args:
        image: (1, 3, H, W) float, sRGB, [0, 1], generated.
        gray: (1, 1, H, W) float, sRGB gray, [0, 1].
        backend: one of `BACK_ENDS`.
        radius_px: of the guided filter, for a picture of 512 px; it follows the picture's size.
        eps: of the guided filter, for a lightness in [0, 1]; variance below it counts as flat.

    Returns:
        As `image`. Colors outside the gamut lose chroma, never lightness.

    Raises:
        ShapeError: the two do not have these shapes.
        RangeError: there is no such back end.
    """
    SpatialAlignment.parameters[0].check(backend, SpatialAlignment.name)
    sizes = check_shape(image, "1 3 H W", "image")
    check_shape(gray, "1 1 H W", "gray", sizes=sizes)
    lightness = gray_to_lightness(gray.float())
    lab = rgb_to_lab(image.float())
    ab = lab[:, 1:]
    if backend == "flow":
        ab = _moved(ab, _flow(lab[:, :1], lightness))
    if backend in ("guided", "flow"):
        ab = _guided(ab, lightness / 100.0, radius_px, eps)
    return lab_to_rgb(torch.cat([lightness, fit_chroma_to_gamut(lightness, ab)], dim=1))


def measure_drift(image: torch.Tensor, gray: torch.Tensor) -> Drift:
    """Measure how far structure moved before alignment.

    Args:
        image: (1, 3, H, W) float, sRGB, [0, 1], generated.
        gray: (1, 1, H, W) float, sRGB gray, [0, 1].
    """
    sizes = check_shape(image, "1 3 H W", "image")
    check_shape(gray, "1 1 H W", "gray", sizes=sizes)
    found, wanted = rgb_to_lab(image.float())[:, :1] / 100.0, gray_to_lightness(gray.float()) / 100.0
    similarity = float(kornia.metrics.ssim(found, wanted, window_size=11).mean())
    return Drift(similarity, float(torch.linalg.vector_norm(_flow(100 * found, 100 * wanted), dim=1).mean()))


def _guided(ab: torch.Tensor, guide: torch.Tensor, radius_px: float, eps: float) -> torch.Tensor:
    """Smooth chroma (1, 2, H, W) along the edges of a guide (1, 1, H, W) in [0, 1]."""
    height, width = ab.shape[-2:]
    radius = max(1, round(radius_px * (height * width) ** 0.5 / _REFERENCE_PX))
    # The window must fit into the picture, whose edge is mirrored.
    radius = min(radius, (min(height, width) - 1) // 2)
    return ab if radius < 1 else kornia.filters.guided_blur(guide, ab, 2 * radius + 1, eps)


def _flow(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return (1, 2, H, W), rows then columns, in pixels: where in `found` each place of `wanted` lies."""
    moving, reference = (level[0, 0].detach().cpu().double().numpy() / 100.0 for level in (found, wanted))
    flow = optical_flow_tvl1(reference, moving, attachment=15)
    limited = np.clip(flow, -_LARGEST_FLOW_PX, _LARGEST_FLOW_PX)
    return torch.from_numpy(limited)[None].to(found)


def _moved(ab: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Fetch chroma (1, 2, H, W) from where the flow says; outside the picture its edge goes on."""
    height, width = ab.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=ab.device), torch.arange(width, device=ab.device), indexing="ij"
    )
    places = torch.stack([columns + flow[0, 1], rows + flow[0, 0]], dim=-1)
    # From pixels to [-1, 1]; a side of one pixel has its only place in the middle.
    scale = places.new_tensor([max(1, width - 1), max(1, height - 1)])
    return F.grid_sample(ab, (2 * places / scale - 1)[None].to(ab), align_corners=True, padding_mode="border")


class SpatialAlignment(Mechanism):
    """Lay the generated colors onto the structure of the gray picture.

    Source: DiffColor, arXiv 2308.01655; see the module for what is ours.
    """

    name = "spatial_alignment"
    phase: ClassVar[Phase] = "decode"
    parameters = (
        Parameter("backend", "lab", choices=BACK_ENDS, doc="How the colors find their place."),
        Parameter("radius_px", 8.0, "px", 1.0, 64.0, doc="Radius of the guided filter, for a picture of 512 px."),
        Parameter("eps", 1e-3, "", 1e-6, 1.0, doc="Variance of lightness below which the guided filter sees no edge."),
    )

    def aligned(self, image: torch.Tensor, gray: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Align a decoded picture by the parameters in force; off, it is returned as it is."""
        values: dict[str, Any] = self.in_force(settings)
        if not values.pop("is_on"):
            return image
        return align(image, gray, **values)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the picture before and after alignment with the drift, and what lightness is replaced."""
        if call.decode is None or "gray" not in call.prepared:
            return {}
        image, gray = call.decode(call.latents, call.settings), call.prepared["gray"].float()
        drift, origin = measure_drift(image, gray), dict(call.provenance)
        aligned = self.aligned(image, gray, call.settings)
        residual = rgb_to_lab(image)[0, 0] - gray_to_lightness(gray)[0, 0]
        numbers = {"ssim": drift.ssim, "flow_px": drift.flow_px}
        return {
            "before_after": Exhibit(
                torch.linalg.vector_norm(rgb_to_lab(aligned)[0, 1:] - rgb_to_lab(image)[0, 1:], dim=0).numpy(),
                ("H", "W"),
                "chroma, CIELAB",
                f"How far alignment moved the chroma. Drift before: {drift}.",
                provenance={**origin, **numbers, "query": "alignment"},
                kind="gallery",
                pictures={
                    "before": image[0].permute(1, 2, 0).clamp(0, 1).numpy(),
                    "after": aligned[0].permute(1, 2, 0).clamp(0, 1).numpy(),
                },
            ),
            "lightness_residual": Exhibit(
                residual.numpy(),
                ("H", "W"),
                "L",
                "Lightness of the generated picture less that of the gray one, which alignment puts in its place.",
                provenance={**origin, **numbers},
                kind="difference",
            ),
        }
