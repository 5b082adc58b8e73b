"""Shares: from the colors that are left without some sources to what each source contributes.

| symbol | variable |
| --- | --- |
| f, the final (a, b) at a place | `final` |
| b, the same with all sources removed: the prior | `prior` |
| d = f - b, what the sources do together | `direction`, its length `length` |
| v(R) = <f_R - b, d> / <d, d>, with the sources R removed | `value`; 1 for none, 0 for all |
| leave one out: 1 - v({i}) | `leave_one_out` |
| Shapley: mean over orders of v(R) - v(R + i) | `shapley`; sums to 1 |
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["LEAST_DIRECTION", "Ablation", "Findings", "coalitions_of", "draw_orders", "leave_one_out", "shapley"]

LEAST_DIRECTION = 1.0
"""Delta E of (a, b) below which the sources do nothing to speak of, so that shares of it mean nothing; ours."""


@dataclass(frozen=True, eq=False)
class Ablation:
    """What became of the colors without some sources.

    Args:
        removed: their indices.
        ab: (2, n) float32, mean (a, b) of each place; the asked-for place first, then those of the baseline.
    """

    removed: frozenset[int]
    ab: torch.Tensor


class Findings:
    """Shares from what was ablated so far.

    Args:
        final: (2, n), f.
        parts: the ablations.
        number: of sources.
        orders: of "shapley"; empty for "leave_one_out".
    """

    def __init__(
        self, final: torch.Tensor, parts: Sequence[Ablation], number: int, orders: Sequence[tuple[int, ...]]
    ) -> None:
        by_set = {part.removed: part.ab.double().numpy() for part in parts}
        self.num_ablations = len(parts)
        self.final, self.prior = final.double().numpy(), by_set[frozenset(range(number))]
        direction = self.final - self.prior
        squared = (direction**2).sum(axis=0)
        self.length = np.sqrt(squared)
        # Where the sources do nothing, v is 0/0 and no share is defined.
        defined = np.where(self.length >= LEAST_DIRECTION, squared, np.nan)
        value = {removed: ((ab - self.prior) * direction).sum(axis=0) / defined for removed, ab in by_set.items()}
        self.errors: np.ndarray | None = None
        if orders:
            self.shares, self.errors = shapley(value, number, orders)
        else:
            self.shares = leave_one_out(value, number)
        self.residual = 1 - self.shares.sum(axis=0)
        self.weights = np.where(np.isfinite(defined), squared, 0.0)
        chroma_squared = (self.final**2).sum(axis=0)
        gray = np.where(chroma_squared >= LEAST_DIRECTION**2, chroma_squared, np.nan)
        self.prior_share = (self.prior * self.final).sum(axis=0) / gray

    def pooled(self, numbers: np.ndarray, first: int = 0) -> np.ndarray:
        """Return the mean of numbers (..., n) over the places from `first` on.

        Places weigh as much as the sources do there, |d| squared, which is what the shares of all places taken
        together would be: where the sources do next to nothing, a share is large and means little. NaN without any.
        """
        weights, numbers = self.weights[first:], numbers[..., first:]
        total = weights.sum()
        if total == 0:
            return np.full(numbers.shape[:-1], np.nan)
        return np.asarray((np.where(weights > 0, numbers, 0.0) * weights).sum(axis=-1) / total)


def leave_one_out(value: Mapping[frozenset[int], np.ndarray], number: int) -> np.ndarray:
    """Return 1 - v({i}) for every source, (number, n); NaN where v is not known.

    Args:
        value: (n,) for each set of removed sources.
        number: of sources.
    """
    unknown = np.full_like(next(iter(value.values())), np.nan)
    return np.stack([1 - value.get(frozenset([index]), unknown) for index in range(number)])


def shapley(
    value: Mapping[frozenset[int], np.ndarray], number: int, orders: Sequence[tuple[int, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Average over orders in which sources are removed what each takes along.

    Args:
        value: (n,) for each set of removed sources; v of none is 1.
        number: of sources.
        orders: permutations, each followed by its reverse; those of which a value is missing are left out.

    Returns:
        Shares (number, n), which sum to v(none) - v(all), and their standard errors from the pairs of orders; NaN where
        there are none, or fewer than two.

    Source: sampling of Castro, Gomez and Tejada (2009), with antithetic pairs as in arXiv 2104.12199.
    """
    one = np.ones_like(next(iter(value.values())))
    marginals = []
    for order in orders:
        removed = [frozenset(order[:count]) for count in range(number + 1)]
        known = [one if not part else value.get(part) for part in removed]
        if all(part is not None for part in known):
            gains = np.stack([known[i] - known[i + 1] for i in range(number)])  # type: ignore[operator]
            marginals.append(gains[np.argsort(order)])
    if not marginals:
        return np.full((number, len(one)), np.nan), np.full((number, len(one)), np.nan)
    pairs = np.stack([np.mean(marginals[start : start + 2], axis=0) for start in range(0, len(marginals), 2)])
    spread = pairs.std(axis=0, ddof=1) if len(pairs) > 1 else np.full_like(pairs[0], np.nan)
    return np.mean(marginals, axis=0), spread / math.sqrt(len(pairs))


def draw_orders(number: int, num_orders: int) -> tuple[tuple[int, ...], ...]:
    """Draw orders of sources, each followed by its reverse."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randperm(number, generator=generator).tolist() for _ in range(num_orders // 2)]
    return tuple(tuple(order) for forward in drawn for order in (forward, forward[::-1]))


def coalitions_of(number: int, orders: Sequence[tuple[int, ...]]) -> list[frozenset[int]]:
    """Return the sets of sources to remove, each once: all of them first, since everything is measured against that."""
    wanted = [frozenset(range(number))]
    if orders:
        wanted += [frozenset(order[:count]) for order in orders for count in range(1, number)]
    else:
        wanted += [frozenset([index]) for index in range(number)]
    return list(dict.fromkeys(wanted))
