"""DiffColor's second stage: from the embedding that reproduces a picture towards that of a target text.

| paper | here |
| --- | --- |
| e_opt: reproduces the colorized picture | `optimized` |
| e_tgt: the target text's | `target` |
| eta | `eta`, one for all tokens, or `token_etas`, one for each |

Source: DiffColor, arXiv 2308.01655, "in-context colorization"; the loss and its rates are Imagic's, arXiv 2210.09276.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["EmbeddingPath", "interpolate_embeddings"]


def interpolate_embeddings(
    optimized: torch.Tensor, target: torch.Tensor, eta: float | tuple[float, ...]
) -> torch.Tensor:
    """Go from one embedding towards another: e = eta e_tgt + (1 - eta) e_opt.

    Args:
        optimized: (1, N, D) float.
        target: as `optimized`.
        eta: for all tokens, or N numbers, one for each; 0 stays, 1 arrives, more goes beyond.

    Returns:
        As `optimized`; exactly that at 0, exactly `target` at 1.

    Raises:
        ShapeError: the two are not (1, N, D).
        RangeError: there are not N etas.

    Source: DiffColor, arXiv 2308.01655.
    """
    sizes = check_shape(optimized, "B N D", "optimized")
    check_shape(target, "B N D", "target", sizes=sizes)
    numbers = eta if isinstance(eta, tuple) else (eta,) * optimized.shape[1]
    if len(numbers) != optimized.shape[1]:
        raise RangeError(f"There are {len(numbers)} etas, but one for each of {optimized.shape[1]} tokens is expected.")
    share = optimized.new_tensor(numbers)[None, :, None]
    # Two products, not e_opt + eta (e_tgt - e_opt): the ends are then exact.
    return share * target + (1 - share) * optimized


class EmbeddingPath(Mechanism):
    """Move the words from the embedding that reproduces the picture towards a target text.

    Without an adaptation that holds such an embedding, words are what the text encoder makes of them.

    Source: DiffColor, arXiv 2308.01655. The range of eta in the paper is not known; Imagic's pipeline for
        Stable Diffusion has 1.2. Default and range are ours, see `docs/figures/diffcolor.md`.
    """

    name = "embedding_path"
    phase: ClassVar[Phase] = "prepare"
    parameters = (
        Parameter("eta", 1.05, "", 0.0, 1.5, doc="How far to go: 0 reproduces the picture, 1 is the target text."),
        Parameter("token_etas", (), "", 0.0, 1.5, doc="One eta for each token instead; empty for one for all."),
    )

    def embedding(self, optimized: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
        """Return the tokens (1, N, D) that cross-attention receives; the target's where the mechanism is off."""
        values = self.in_force(settings)
        if not values["is_on"]:
            return target
        etas, eta = values["token_etas"], values["eta"]
        assert isinstance(etas, tuple)
        assert isinstance(eta, float)
        return interpolate_embeddings(optimized, target.to(optimized), etas or eta)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show how far each token moved from the embedding that reproduces the picture."""
        optimized = call.prepared.get("path.optimized")
        if call.record is not None or optimized is None:
            return {}
        target, words = call.prepared["path.target"], call.prepared["text.cond"]
        lengths = [torch.linalg.vector_norm((tokens - optimized).float(), dim=-1)[0] for tokens in (words, target)]
        return {
            "moved": Exhibit(
                torch.stack(lengths).numpy(),
                ("embedding", "token"),
                "",
                "Distance of each token from the embedding that reproduces the picture.",
                provenance={**call.provenance, "labels": ["in force", "target text"]},
                kind="curves",
            )
        }
