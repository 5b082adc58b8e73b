"""What is added inside the frozen decoder: taps of an encoder that sees the input's own structure."""

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, cast

import numpy as np
import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, SWITCH, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings

__all__ = ["DecoderTaps"]


class DecoderTaps(Mechanism, ABC):
    """Add an encoder's features (taps) to those of the frozen decoder. Tap 0 is the finest, the last two the middle.

    Source: L-CAD, arXiv 2305.15217 (luminance-guided compression); tap order by `changzheng123/L-CAD@3e1d8d6`.
    Deviation: the gains are ours; 1 is the paper.
    """

    seen: ClassVar[str]
    """What the encoder sees, for captions."""
    finishing: ClassVar[str] = "lightness is put back"
    """What happens to a decoded picture afterwards, for captions."""

    phase: ClassVar[Phase] = "decode"
    parameters = (
        Parameter("gain", 1.0, low=0.0, high=4.0, doc="Factor on every tap; 0 equals the plain decoder."),
        Parameter("tap_gains", (), low=0.0, high=4.0, doc="One more factor for each tap, finest first; empty for 1."),
    )

    def gains(self, num_taps: int, settings: Settings) -> tuple[float, ...] | None:
        """Return the factor on each tap, finest first; None when the mechanism is off and the decoder is the plain one.

        Raises:
            RangeError: `tap_gains` are given for another number of taps.
        """
        values = self.in_force(settings)
        if not values[SWITCH]:
            return None
        gain = cast(float, values["gain"])
        tap_gains = cast(tuple[float, ...], values["tap_gains"]) or (1.0,) * num_taps
        if len(tap_gains) != num_taps:
            raise RangeError(f"{self.name}.tap_gains has {len(tap_gains)} numbers, but this model has {num_taps} taps.")
        return tuple(gain * tap_gain for tap_gain in tap_gains)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show the strength of the taps and what they do to the picture (two more calls of the decoder)."""
        taps = [tensor for name, tensor in call.prepared.items() if name.startswith("taps.")]
        if call.decode is None or not taps:
            return {}
        exhibits = {
            f"tap_{index}": Exhibit(
                array=torch.linalg.vector_norm(tap.float(), dim=1)[0].numpy(),
                axes=("h", "w"),
                unit="feature length",
                caption=f"Tap {index} of the {self.seen}: its length over {tap.shape[1]} channels, before any gain.",
                provenance=dict(call.provenance),
            )
            for index, tap in enumerate(taps)
        }
        without = call.settings.with_mechanism(self.name, **{SWITCH: False})
        pictures = {
            title: call.decode(call.latents, settings)[0].permute(1, 2, 0).float().numpy()
            for title, settings in (("as it is", call.settings), ("without taps", without))
        }
        kept, ghosted = pictures.values()
        exhibits["effect"] = Exhibit(
            array=np.abs(kept - ghosted).mean(axis=-1),
            axes=("h", "w"),
            unit="of the range of sRGB",
            caption=(
                f"What the taps change in the decoded picture, before {self.finishing}: without them nothing is "
                "finer than a latent cell (ghosting)."
            ),
            provenance=dict(call.provenance),
            kind="gallery",
            pictures=pictures,
        )
        return exhibits
