"""Null baselines: what a map would show by chance. A pretty picture is not evidence.

| map | chance |
| --- | --- |
| attention to a word, guidance field, features | the same latents with the words of the prompt in another order |
| attention to tokens of another kind | as many of the other tokens, on average |
| attention from or to a pixel | random pixels, on average |
| attention from or to a region, settle map, spread over seeds or descriptions | random cyclic moves, on average |
| effect of edits, map of a masked phrase, features without words | the map itself, elsewhere: the same moves |
| ranking of heads by a region | the region elsewhere: the same moves |
| entropy, spread, mean position | even attention |
| trajectory | a random walk with steps of the same lengths |

Everything random is drawn by a fixed seed: the same question has the same baseline.
"""

import torch

from colorlab.inspection.moments import PastStep
from colorlab.inspection.places import shuffled_words

__all__ = [
    "NUM_RANDOM_PIXELS",
    "NUM_RANDOM_SHIFTS",
    "elsewhere",
    "random_pixels",
    "random_shifts",
    "random_walk",
    "shuffled_moment",
]

NUM_RANDOM_PIXELS = 32
NUM_RANDOM_SHIFTS = 16


def random_pixels(size: tuple[int, int], number: int = NUM_RANDOM_PIXELS) -> list[tuple[float, float]]:
    """Draw pixels (x, y) of a picture of (height, width)."""
    drawn = torch.rand(number, 2, generator=_generator()).tolist()
    return [(x * size[1], y * size[0]) for x, y in drawn]


def random_shifts(size: tuple[int, int], number: int = NUM_RANDOM_SHIFTS) -> list[tuple[int, int]]:
    """Draw cyclic moves (rows down, columns right) within a picture of (height, width)."""
    drawn = torch.rand(number, 2, generator=_generator()) * torch.tensor(size)
    return [(int(down), int(right)) for down, right in drawn.tolist()]


def elsewhere(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (..., h, w) as they would be if the place did not matter: the mean over random cyclic moves."""
    moves = random_shifts((maps.shape[-2], maps.shape[-1]))
    return torch.stack([maps.roll(move, dims=(-2, -1)) for move in moves]).float().mean(dim=0)


def random_walk(points: torch.Tensor) -> torch.Tensor:
    """Walk from the first of the points (n, D) in random directions, with steps as long as theirs."""
    steps = points.diff(dim=0)
    directions = torch.randn(steps.shape, generator=_generator(), dtype=steps.dtype)
    lengths = torch.linalg.vector_norm(steps, dim=1, keepdim=True)
    walked = lengths * directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    return points[0] + torch.cat([torch.zeros_like(points[:1]), walked.cumsum(dim=0)])


def shuffled_moment(
    moment: PastStep, guidance_pass: str, *, word: str = "", positions: tuple[int, ...] = ()
) -> PastStep:
    """Return a moment with the words that a guidance pass reads in another order, encoded anew.

    The caller holds the lock.

    Args:
        moment: the step.
        guidance_pass: whose text is changed.
        word: that shall not stand at `positions` any more; "" for none.
        positions: among the tokens.

    Raises:
        StateError: the method reads no words.
        RangeError: there is no other order.
    """
    text = shuffled_words(moment.reader, moment.text(guidance_pass), positions, word)
    return moment.with_text(guidance_pass, text)


def _generator() -> torch.Generator:
    """Return a generator with the one seed of all baselines."""
    return torch.Generator().manual_seed(0)
