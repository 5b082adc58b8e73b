"""L-CAD's channel-extended convolution: the denoising network sees the deepest luminance feature."""

from collections.abc import Mapping
from typing import ClassVar, cast

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, SWITCH, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["ChannelExtension"]


class ChannelExtension(Mechanism):
    """Concatenate the deepest luminance tap to the latents, so that the network knows which picture it colors.

    Off, the tap is zeros: the network then paints from the words alone, as the text-to-image model it grew from.

    Source: L-CAD, arXiv 2305.15217 (channel-extended convolution); channel order by `changzheng123/L-CAD@3e1d8d6`.
    Deviation: the gain is ours; 1 is the paper.
    """

    name = "channel_extension"
    phase: ClassVar[Phase] = "predict"
    parameters = (Parameter("gain", 1.0, low=0.0, high=4.0, doc="Factor on the tap; 0 hides the picture."),)

    def extend(self, latents: torch.Tensor, tap: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Concatenate latents and tap, in this order.

        Args:
            latents: (B, 4, h, w).
            tap: (B or 1, C, h, w), the deepest one.
            settings: what is in force.

        Returns:
            (B, 4 + C, h, w).
        """
        values = self.in_force(settings)
        gain = cast(float, values["gain"]) if values[SWITCH] else 0.0
        return torch.cat([latents, gain * tap.expand(len(latents), -1, -1, -1)], dim=1)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the feature the network sees, as its length in every latent cell. No network call."""
        taps = [tensor for name, tensor in call.prepared.items() if name.startswith("taps.")]
        if call.record is None or not taps:
            return {}
        return {
            "seen_luminance": Exhibit(
                array=torch.linalg.vector_norm(taps[-1].float(), dim=1)[0].numpy(),
                axes=("h", "w"),
                unit="feature length",
                caption=f"What the network sees of the picture: the length over {taps[-1].shape[1]} channels, no gain.",
                provenance=dict(call.provenance),
            )
        }
