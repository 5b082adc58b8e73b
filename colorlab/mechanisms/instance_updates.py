"""Instance guidance in closed form: what is added to the attention scores of a phrase, given where its object is.

| symbol | variable |
| --- | --- |
| s, A = softmax(s) | `scores` (B, heads, Q, N), before the softmax; Q cells of a grid, N tokens |
| T_i, phrase i | `phrase_tokens` (B, K, N), 1 at the tokens of the phrase |
| M_i, its mask | `masks` (B, K, Q), [0, 1], share of a cell that belongs to the object |
| N_i = heads |T_i| Q | the number of scores of phrase i, over which the released loss is a mean |

Every update is minus the gradient of a loss times a step size, or a change of the same form; no autograd is needed.

Source: L-CAD, arXiv 2305.15217 (instance-aware sampling); `changzheng123/L-CAD@3e1d8d6` (release) and `@fab2567`
    (first public version).
"""

import torch
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.shapes import check_shape

__all__ = [
    "hard_scores",
    "masks_on_grid",
    "release_update",
    "resize_masks",
    "softmax_loss",
    "softmax_update",
    "strength_update",
]

# PyTorch's own guard in the gradient of the binary cross-entropy.
_CROSS_ENTROPY_FLOOR = 1e-12


def release_update(
    scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor, *, as_published: bool = False
) -> torch.Tensor:
    """Return the released update of step size 1: towards each mask, by the binary cross-entropy of the sigmoid.

    delta s = - (sigmoid(s) - M_i) / N_i at the tokens of phrase i, 0 elsewhere. A mean over all scores of a phrase, so
    that it is next to nothing: at most 1 / N_i.

    Args:
        scores: (B, heads, Q, N) float.
        phrase_tokens: (B or 1, K, N), 0 and 1.
        masks: (B or 1, K, Q), [0, 1].
        as_published: float32 autograd instead, which gives 0 where the sigmoid rounds to 1 and fades far below 0.

    Returns:
        As `scores`.
    """
    tokens, masks = _check(scores, phrase_tokens, masks)
    num_scores = scores.shape[1] * scores.shape[2] * tokens.sum(dim=-1, keepdim=True).clamp(min=1)
    update = _towards_masks(scores, tokens / num_scores, masks)
    if not as_published:
        return update
    probability = scores.sigmoid()
    slope = probability * (1 - probability)
    return update * slope / slope.clamp(min=_CROSS_ENTROPY_FLOOR)


def strength_update(
    scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor, strength: float
) -> torch.Tensor:
    """Return the released update without the division: delta s = - strength (sigmoid(s) - M_i); at most `strength`.

    Arguments and result as `release_update`.

    Source: ours; the direction is the released one, its size is the user's.
    """
    tokens, masks = _check(scores, phrase_tokens, masks)
    return strength * _towards_masks(scores, tokens, masks)


def hard_scores(scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return scores in which a phrase is hidden (minus infinity) from every cell that its object does not touch.

    Arguments and result as `release_update`. Tokens of no phrase, the first and the last among them, stay free.

    Source: ours.
    """
    tokens, masks = _check(scores, phrase_tokens, masks)
    named = tokens.amax(dim=1)[:, None] if tokens.shape[1] else tokens.new_zeros(len(tokens), 1, tokens.shape[2])
    seen = torch.einsum("bkn,bkq->bqn", tokens, (masks > 0).to(tokens))
    return scores.masked_fill(((named > 0) & (seen == 0))[:, None], -torch.inf)


def softmax_update(
    scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor, *, cell_share: float = 1.0
) -> torch.Tensor:
    """Return the first public version's update of step size 1: less attention outside of each mask.

    With u = cell_share / (heads |T_i|) (1 - M_i) at the tokens of phrase i and 0 elsewhere,
    delta s = - A (u - sum_j A_j u_j); it is minus the gradient of `softmax_loss`.

    Args:
        scores: (B, heads, Q, N) float.
        phrase_tokens: (B or 1, K, N), 0 and 1.
        masks: (B or 1, K, Q), [0, 1].
        cell_share: latent cells in one cell of this grid.

    Returns:
        As `scores`.
    """
    probs = scores.softmax(dim=-1)
    outside = _outside(scores, phrase_tokens, masks, cell_share)
    return -probs * (outside - (probs * outside).sum(dim=-1, keepdim=True))


def softmax_loss(
    scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor, *, cell_share: float = 1.0
) -> torch.Tensor:
    """Return the first public version's loss, a scalar: attention to each phrase outside of its mask.

    The sum over phrases and cells of the mean over heads and tokens; arguments as `softmax_update`. Differentiable.
    """
    return (scores.softmax(dim=-1) * _outside(scores, phrase_tokens, masks, cell_share)).sum()


def resize_masks(masks: torch.Tensor, size: tuple[int, int], *, as_published: bool = False) -> torch.Tensor:
    """Bring masks to the size that the networks work at.

    Args:
        masks: (B, K, H, W) float, [0, 1].
        size: (height, width).
        as_published: bilinear without antialiasing, as OpenCV does it; edges are fractions in either case.

    Returns:
        (B, K, height, width) float32, [0, 1].
    """
    check_shape(masks, "B K H W", "masks")
    antialias = not as_published
    return functional.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False, antialias=antialias)


def masks_on_grid(masks: torch.Tensor, grid: tuple[int, int], *, as_published: bool = False) -> torch.Tensor:
    """Bring masks to the cells of an attention grid.

    Args:
        masks: (B, K, H, W) float, [0, 1].
        grid: (h, w).
        as_published: the value of one pixel for each cell, so that a small object may vanish from a coarse grid; by
            default the share of the cell that the object covers.

    Returns:
        (B, K, h * w) float, [0, 1].
    """
    check_shape(masks, "B K H W", "masks")
    if as_published:
        return functional.interpolate(masks, size=grid, mode="nearest").flatten(2)
    return functional.adaptive_avg_pool2d(masks, grid).flatten(2)


def _check(scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and masks in the dtype and on the device of the scores, after checking what fits what."""
    sizes = check_shape(scores, "B heads Q N", "scores")
    for name, tensor, axis, number in (
        ("phrase_tokens", phrase_tokens, "N", sizes["N"]),
        ("masks", masks, "Q", sizes["Q"]),
    ):
        shape = tuple(tensor.shape)
        if tensor.ndim != 3 or shape[0] not in (1, sizes["B"]) or shape[2] != number:
            raise RangeError(
                f"{name} has shape {shape}, but ({sizes['B']} or 1, phrases, {axis} = {number}) is expected."
            )
    return phrase_tokens.to(scores), masks.to(scores)


def _towards_masks(scores: torch.Tensor, weights: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return - sum_i w_i (sigmoid(s) - M_i), with weights (B, K, N) for each phrase and token."""
    update, probability = torch.zeros_like(scores), scores.sigmoid()
    for index in range(weights.shape[1]):
        # Phrase by phrase: the sum of the masks less the sum of the sigmoids would lose the small differences.
        update = update + weights[:, index, None, None] * (masks[:, index, None, :, None] - probability)
    return update


def _outside(scores: torch.Tensor, phrase_tokens: torch.Tensor, masks: torch.Tensor, cell_share: float) -> torch.Tensor:
    """Return u of the first public version, (B, 1, Q, N)."""
    tokens, masks = _check(scores, phrase_tokens, masks)
    weights = cell_share * tokens / (scores.shape[1] * tokens.sum(dim=-1, keepdim=True).clamp(min=1))
    return torch.einsum("bkn,bkq->bqn", weights, 1 - masks)[:, None]
