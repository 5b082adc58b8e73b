"""Plain latent diffusion from words: the prior that the colorization methods are grown from.

Source: Rombach et al., arXiv 2112.10752; guidance by Ho and Salimans, arXiv 2207.12598.
"""

from typing import ClassVar

from colorlab.conditioning import Conditioning
from colorlab.methods.base import Finish
from colorlab.methods.guided_by_words import GuidedByWords, PreparedWords
from colorlab.settings import Settings

__all__ = ["TextToImage"]


class TextToImage(GuidedByWords):
    """Paint a picture from a text alone."""

    name = "text_to_image"
    reads = ("prompt", "negative_prompt")
    finish: ClassVar[Finish] = "as_decoded"

    mechanisms = (GuidedByWords.guidance,)

    def prepare(self, conditioning: Conditioning, settings: Settings) -> PreparedWords:
        """Encode the words; the picture is square."""
        ignored = self.check(conditioning, settings)
        height, width = self.working_size(None)
        prompt = self.encode_prompt(conditioning.prompt)
        negative = self.encode_prompt(conditioning.negative_prompt)
        return PreparedWords(
            latent_shape=(
                self.vae.config.latent_channels,
                height // self.latent_factor,
                width // self.latent_factor,
            ),
            notes=tuple(dict.fromkeys((*ignored, *prompt.notes, *negative.notes))),
            text={"uncond": negative.tokens, "cond": prompt.tokens},
        )
