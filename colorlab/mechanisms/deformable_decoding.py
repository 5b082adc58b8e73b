"""CtrlColor's content-guided deformable decoding: colors moved to where the gray picture says the edges are."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch.nn import functional

from colorlab.color import rgb_to_lab
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, SWITCH, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["DeformableDecoding", "edge_error"]

# Step of lightness, L a pixel, that explains a step of chroma. Ours: above shading, below the outlines of objects.
_OUTLINE = 4.0


class DeformableDecoding(Mechanism):
    """Let five deformable convolutions at the latent end of the decoder look elsewhere, guided by the gray picture.

    Off, the latents are decoded by the plain autoencoder.

    Source: CtrlColor, arXiv 2402.10855 (content-guided deformable autoencoder); `ZhexinLiang/Control-Color@f21054a`.
    Deviation: the gain is ours, 1 is published; the guide is the posterior's mean (as published a sample of it).
    """

    name = "deformable_decoding"
    phase: ClassVar[Phase] = "decode"
    parameters = (
        Parameter("gain", 1.0, high=2.0, doc="Factor on what each unit adds; 0 decodes by the same network without."),
    )

    def gain(self, settings: Settings) -> float | None:
        """Return the factor on what each unit adds; None when the plain autoencoder decodes."""
        values = self.in_force(settings)
        return cast(float, values["gain"]) if values[SWITCH] else None

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show where each unit looks, how much its taps count, and what comes of it (three calls of a decoder)."""
        if call.decode is None or call.read_decoder is None or "guide" not in call.prepared:
            return {}
        exhibits: dict[str, Exhibit] = {}
        provenance = dict(call.provenance)
        for name, tensor in call.read_decoder(call.latents).items():
            unit, _, part = name.partition(".")
            if part == "offset":
                # (dy, dx) for each tap becomes (tap, h, w, xy), as points are written everywhere here.
                moved = tensor[0].unflatten(0, (-1, 2)).flip(1).permute(0, 2, 3, 1)
                exhibits[f"{unit}_offsets"] = Exhibit(
                    moved.numpy(), ("tap", "h", "w", "xy"), "latent cells",
                    f"Deformable {unit}: where each tap looks, relative to its place in the kernel.",
                    provenance=provenance, kind="arrows",
                )  # fmt: skip
            else:
                exhibits[f"{unit}_modulation"] = Exhibit(
                    tensor[0].mean(dim=0).numpy(), ("h", "w"), "",
                    f"Deformable {unit}: how much its taps count, on average; 0.5 before training.",
                    provenance=provenance, baseline=torch.full_like(tensor[0, 0], 0.5).numpy(),
                )  # fmt: skip
        without = call.settings.with_mechanism(self.name, **{SWITCH: False})
        on = call.settings.with_mechanism(self.name, **{SWITCH: True})
        bent, plain = (call.decode(call.latents, settings).float() for settings in (on, without))
        exhibits["effect"] = Exhibit(
            (bent - plain)[0].abs().mean(dim=0).numpy(), ("h", "w"), "of the range of sRGB",
            "What deformable decoding changes in the picture: mean absolute difference to the plain autoencoder.",
            provenance=provenance,
        )  # fmt: skip
        lightness = call.prepared["control_image"].float().mean(dim=1, keepdim=True) * 100.0
        errors = [edge_error(image, lightness) for image in (bent, plain)]
        exhibits["edge_error"] = Exhibit(
            errors[0][0, 0].numpy(), ("h", "w"), "ΔE a pixel",
            "Steps of chroma that no step of lightness explains, with deformable decoding (mean "
            f"{float(errors[0].mean()):.3g}); the baseline is plain decoding ({float(errors[1].mean()):.3g}).",
            provenance=provenance, baseline=errors[1][0, 0].numpy(),
        )  # fmt: skip
        return exhibits


def edge_error(image: torch.Tensor, lightness: torch.Tensor) -> torch.Tensor:
    """Return the steps of chroma that no step of lightness explains: bleeding, seen without knowing the true colors.

    | symbol | variable |
    | --- | --- |
    | largest difference to the right and lower neighbor, of (a, b) and of L | `chroma_step`, `lightness_step` |
    | exp(-(s / 4)^2), s the largest step of L within one pixel | `unexplained` |

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB; only its chroma counts.
        lightness: (B, 1, H, W), L of the gray picture, [0, 100].

    Returns:
        (B, 1, H, W), ΔE 1976 a pixel, at least 0.

    Raises:
        ShapeError: the shapes do not fit each other.
    """
    sizes = check_shape(image, "B 3 H W", "image")
    check_shape(lightness, "B 1 H W", "lightness", sizes=sizes)
    chroma_step = _largest_step(rgb_to_lab(image)[:, 1:])
    lightness_step = functional.max_pool2d(_largest_step(lightness), 3, 1, 1)
    unexplained = torch.exp(-((lightness_step / _OUTLINE) ** 2))
    return chroma_step * unexplained


def _largest_step(values: torch.Tensor) -> torch.Tensor:
    """Return the larger of the distances to the right and the lower neighbor, (B, 1, H, W); 0 beyond the border."""
    right = functional.pad(values, (0, 1, 0, 0), mode="replicate")[..., 1:] - values
    below = functional.pad(values, (0, 0, 0, 1), mode="replicate")[..., 1:, :] - values
    return torch.maximum(*(torch.linalg.vector_norm(step, dim=1, keepdim=True) for step in (right, below)))
