"""Line guidance: the lines of a sketch added inside the frozen decoder."""

from colorlab.mechanisms.decoder_taps import DecoderTaps
from colorlab.settings import Settings

__all__ = ["LineGuidance"]


class LineGuidance(DecoderTaps):
    """Add features of the sketch's lines (taps) to those of the frozen decoder, so that edges fall on the lines.

    Without it a line may lie anywhere in its latent cell of 8 px. Never as published: the paper decodes plainly.

    Source: ours, after the luminance-guided decoder of L-CAD, arXiv 2305.15217.
    """

    name = "line_guidance"
    seen = "lines"
    finishing = "it is finished"

    def gains(self, num_taps: int, settings: Settings) -> tuple[float, ...] | None:
        """Return the factor on each tap, finest first; None when it is off, as published, or there are no taps.

        Raises:
            RangeError: `tap_gains` are given for another number of taps.
        """
        return None if settings.as_published or not num_taps else super().gains(num_taps, settings)
