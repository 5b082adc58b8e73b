"""Rules that combine the noise predictions of named guidance passes into one."""

import math

import torch

from colorlab.sampling.state import check_same_shape
from colorlab.shapes import check_range

__all__ = ["classifier_free"]


def classifier_free(
    noise_pred_uncond: torch.Tensor, noise_pred_cond: torch.Tensor, guidance_scale: float
) -> torch.Tensor:
    """Push the prediction away from that without the condition.

    e = e_uncond + w (e_cond - e_uncond)

    Args:
        noise_pred_uncond: (B, C, h, w), of the pass `uncond`.
        noise_pred_cond: (B, C, h, w), of the pass `cond`.
        guidance_scale: w, at least 1; 1 is off and returns `noise_pred_cond` itself.

    Returns:
        Guided prediction, as the inputs.

    Raises:
        ShapeError: the predictions differ in shape.
        RangeError: `guidance_scale` is below 1 or not finite.

    Source: arXiv 2207.12598 v1, Eq. (6), which writes its guidance as w - 1.
    """
    check_range(guidance_scale, 1.0, math.nextafter(math.inf, 0.0), "guidance_scale")
    check_same_shape(noise_pred_uncond, noise_pred_cond, "noise_pred_uncond")
    if guidance_scale == 1:
        return noise_pred_cond
    return noise_pred_uncond + guidance_scale * (noise_pred_cond - noise_pred_uncond)
