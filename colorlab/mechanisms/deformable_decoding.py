"""CtrlColor's content-guided deformable decoding: colors moved to where the gray picture says the edges are."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, SWITCH, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["DeformableDecoding"]


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
        """Show where each unit looks, how much its taps count, and what it does (three calls of a decoder)."""
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
        change = call.decode(call.latents, on) - call.decode(call.latents, without)
        exhibits["effect"] = Exhibit(
            change[0].abs().mean(dim=0).float().numpy(), ("h", "w"), "of the range of sRGB",
            "What deformable decoding changes in the picture: mean absolute difference to the plain autoencoder.",
            provenance=provenance,
        )  # fmt: skip
        return exhibits
