"""L-CAD's luminance guidance: the input's own structure added inside the frozen decoder."""

from colorlab.mechanisms.decoder_taps import DecoderTaps

__all__ = ["LuminanceGuidance"]


class LuminanceGuidance(DecoderTaps):
    """Add the luminance encoder's features (taps) to those of the frozen decoder, so that edges fall where they are.

    Without it the decoder has to invent the structure that 8-px latent cells cannot carry: ghosting.

    Source: L-CAD, arXiv 2305.15217 (luminance-guided compression).
    """

    name = "luminance_guidance"
    seen = "luminance"
