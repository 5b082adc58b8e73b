"""From the exemplar's CLIP tokens to the tokens that cross-attention receives, and what is known about these tokens.

| model | tokens | from |
| --- | --- | --- |
| Attention (`local`) | N = 256 | the patches as they are |
| CLS (`global`) | 4 S = 256 | the class token: SiLU between two linear maps over S slots, added to it, layer norm |

Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@d876b7e for the CLS model ("proj").
"""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.networks.libraries import ConfigMixin, ModelMixin, register_to_config
from colorlab.shapes import check_shape

__all__ = ["ExemplarProjection", "Polarity", "Reads"]

Reads = Literal["local", "global"]
Polarity = Literal["high", "low"]

_TOKENS_OF_SLOT = 4


class ExemplarProjection(ModelMixin, ConfigMixin):
    """Choose and project the exemplar's tokens.

    Args:
        reads: `local` for the patches, `global` for the class token.
        width: D, of the tokens.
        num_slots: S, of `global`.
        slot_width: of `global`.
        polarity: which similarity of a patch with a text says that the patch shows what the text names: `high`, or
            `low`, as the published thresholds have it. Found by the AUC of similarities against masks.
        present_similarity: smallest cosine of the best patch with a text at which the text counts as shown; 0 for
            unknown.

    Raises:
        RangeError: `reads` or `polarity` is none of these.
    """

    @register_to_config
    def __init__(
        self,
        reads: str = "local",
        width: int = 1024,
        num_slots: int = 64,
        slot_width: int = 128,
        polarity: str = "high",
        present_similarity: float = 0.0,
    ) -> None:
        super().__init__()
        if reads not in ("local", "global"):
            raise RangeError(f"reads is {reads!r}, but 'local' or 'global' is expected.")
        if polarity not in ("high", "low"):
            raise RangeError(f"polarity is {polarity!r}, but 'high' or 'low' is expected.")
        # What the module is made for has to be in its weights, too: a file of no weights at all is none.
        self.register_buffer("reads_patches", torch.tensor([float(reads == "local")]))
        if reads == "global":
            self.expand = nn.Linear(width, num_slots * slot_width)
            self.split = nn.Linear(slot_width, _TOKENS_OF_SLOT * width)
            self.norm = nn.LayerNorm(width)
            nn.init.zeros_(self.split.weight)
            nn.init.zeros_(self.split.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what cross-attention receives.

        Args:
            tokens: (B, 1 + N, `width`), index 0 the class token.

        Returns:
            (B, N, `width`) patches, or (B, 4 S, `width`).

        Raises:
            ShapeError: tokens of another width.
        """
        check_shape(tokens, f"B N {self.config.width}", "tokens")
        if self.config.reads == "local":
            return tokens[:, 1:]
        cls = tokens[:, :1]
        slots = self.expand(cls).unflatten(-1, (self.config.num_slots, self.config.slot_width)).squeeze(1)
        spread = self.split(functional.silu(slots)).unflatten(-1, (_TOKENS_OF_SLOT, self.config.width)).flatten(1, 2)
        projected: torch.Tensor = self.norm(cls + spread)
        return projected
