"""DiffColor's first stage: losses that give a text-to-image model colors for one gray picture.

| paper | here |
| --- | --- |
| context c, pulled; anti-color prompts c_j, pushed | similarity 0; similarities 1 to K |
| contrastive loss | `contrastive_loss`, or DiffusionCLIP's `directional_loss` |
| diffusion guidance loss | weighted sum of `luma`, `prior` and `denoise` |

The summary compares a picture's vector with the conditioning of the denoising network, which cannot be meant: both
vectors are taken from CLIP's joint space. CLIP sees the picture with the gray one's lightness (`judged`): the result
has it, too, and textures that please CLIP can then not stand in for colors. Ours; `generated` leaves it as it is.

Source: DiffColor, arXiv 2308.01655, by its summary; DiffusionCLIP, arXiv 2110.02711, for the direction and the chain.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from colorlab.color import image_to_gray
from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Parameter, Phase
from colorlab.settings import Settings
from colorlab.shapes import check_shape

__all__ = ["ANTI_COLOR", "ContrastiveTuning", "contrastive_loss", "directional_loss", "luma_loss", "split_prompts"]

ANTI_COLOR = (
    "a grayscale image of {}",
    "a black and white photo of {}",
    "a monochrome picture of {}",
    "a desaturated, washed-out photo of {}",
    "a sepia photo of {}",
    "a scratchy old photo of {}",
)
"""What the result should not look like; the context stands in the braces. Two are the paper's, the rest ours."""

_SEPARATOR = ";"
_MEDIUM = re.compile(r"^a (photo|picture) of ", re.IGNORECASE)
_DIRECTION_WEIGHT = 3.0
_GRADIENT_WEIGHT = 0.5


def contrastive_loss(similarities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Pull a picture towards the first text, away from all others: -log softmax(s / tau)[0].

    Args:
        similarities: (B, 1 + K) float, cosine, [-1, 1]; the context first.
        temperature: tau, above 0.

    Returns:
        The mean over the batch; 0 where the context has won, log(1 + K) where nothing is told apart.

    Raises:
        ShapeError: `similarities` is not (B, K).
        RangeError: `temperature` is not above 0.

    Source: DiffColor, arXiv 2308.01655; the formula and tau = 0.07 are ours.
    """
    check_shape(similarities, "B K", "similarities")
    if not temperature > 0:
        raise RangeError(f"temperature is {temperature!r}, but a number above 0 is expected.")
    return -F.log_softmax(similarities / temperature, dim=1)[:, 0].mean()


def directional_loss(image_change: torch.Tensor, text_change: torch.Tensor) -> torch.Tensor:
    """Move a picture as the words move: -log((2 - L) / 2) w with L = 1 - cos(change of picture, change of text).

    Args:
        image_change: (B, D) float, vector of the result less that of the gray picture.
        text_change: (1, D) float, vector of the wanted text less that of the present one.

    Source: DiffusionCLIP, arXiv 2110.02711, and its released code (w = 3).
    """
    direction = 1 - F.cosine_similarity(image_change, text_change, dim=-1)
    return -_DIRECTION_WEIGHT * torch.log((2 - direction).clamp_min(1e-6) / 2).mean()


def luma_loss(image: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Keep the structure: mean distance of gray values and of their gradients from the gray picture's.

    Args:
        image: (B, 3, H, W) float, sRGB, nominally [0, 1].
        gray: (1, 1, H, W) float, [0, 1].
    """
    own = image_to_gray(image.clamp(0, 1))
    rows, columns = ((torch.diff(own, dim=dim) - torch.diff(gray.to(own), dim=dim)).abs().mean() for dim in (-2, -1))
    return (own - gray.to(own)).abs().mean() + _GRADIENT_WEIGHT * (rows + columns)


def split_prompts(text: str) -> tuple[str, ...]:
    """Split the parameter `anti_color` into templates.

    Raises:
        RangeError: there is none.
    """
    prompts = tuple(part.strip() for part in text.split(_SEPARATOR) if part.strip())
    if not prompts:
        raise RangeError("anti_color holds no prompt, but at least one is needed to push away from.")
    return prompts


class ContrastiveTuning(Mechanism):
    """Tune the denoising network on one gray picture until CLIP sees colors in what it makes of it.

    Source: DiffColor, arXiv 2308.01655. Every value is ours where the summary has none; see the module.
    """

    name = "contrastive_tuning"
    phase: ClassVar[Phase] = "tune"
    parameters = (
        Parameter("anti_color", f"{_SEPARATOR} ".join(ANTI_COLOR), doc="What to push away from, parted by semicolons."),
        Parameter("positive", "a colorful photo of {}", doc="What to pull to; the context stands in the braces."),
        Parameter("loss", "contrastive", choices=("contrastive", "directional"), doc="Ours, or DiffusionCLIP's."),
        Parameter("temperature", 0.07, "", 1e-3, 1.0, doc="tau of the contrastive loss; 0.01 is CLIP's own."),
        Parameter("contrastive_weight", 1.0, "", 0.0, 100.0, doc="Weight of the contrastive loss."),
        Parameter("luma_weight", 1.0, "", 0.0, 100.0, doc="Weight of the structure of the gray picture."),
        Parameter("prior_weight", 0.1, "", 0.0, 100.0, doc="Weight of staying near the prediction before tuning."),
        Parameter("denoise_weight", 0.0, "", 0.0, 100.0, doc="Weight of denoising the gray picture; pulls to gray."),
        Parameter("judged", "aligned", choices=("aligned", "generated"), doc="The picture that CLIP sees."),
        Parameter("through", "one_step", choices=("one_step", "chain"), doc="How the picture is differentiated."),
        Parameter("trained", "lora", choices=("lora", "full"), doc="Low-rank changes of attention, or everything."),
        Parameter("rank", 16.0, "", 1.0, 256.0, doc="Rank of the low-rank changes."),
        Parameter("learning_rate", 1e-4, "", 1e-8, 1.0, doc="Of Adam; 2e-6 is usual where everything is trained."),
        Parameter("num_crops", 8.0, "", 0.0, 32.0, doc="Random crops that CLIP sees beside the whole picture."),
        Parameter("patience", 100.0, "iterations", 1.0, 1e6, doc="Stop when the margin has not risen for so long."),
    )

    def texts(self, context: str, settings: Settings) -> tuple[str, ...]:
        """Return what a picture is compared with: the context as it is pulled to, then the anti-color prompts."""
        values: dict[str, Any] = self.in_force(settings)
        templates = (values["positive"], *split_prompts(values["anti_color"]))
        subject = _MEDIUM.sub("", context.strip(), count=1)
        # No format(): what a user writes may hold other braces.
        return tuple(template.replace("{}", subject) for template in templates)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Return nothing: a tuning shows itself, see `colorlab.tuning`."""
        return {}
