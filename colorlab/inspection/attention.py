"""Attention from queries and keys, reduced on the way: the N x N matrix is never there unless a head is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from colorlab.errors import RangeError, StateError
from colorlab.shapes import check_shape

__all__ = ["AttentionReduction", "attention_reduce", "cell_centers"]

# Working copies of (chunk, K): scores, and their exponentials, which become the probabilities in place.
_COPIES = 2
_FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class AttentionReduction:
    """What `attention_reduce` computed, each float32 on the device of the queries; None where it was not asked for.

    Args:
        columns: (heads, Q, C): the attention that each query gives to each weighted set of keys.
        rows: (heads, R, K): the attention that each weighted set of queries gives to each key.
        mean_position: (heads, Q, 2): mean attended (x, y), [-1, 1].
        spread: (heads, Q): root mean square distance from the mean position, in the same unit.
        entropy: (heads, Q): nat; log K for even attention.
        probs: (number of full heads, Q, K).
    """

    columns: torch.Tensor | None = None
    rows: torch.Tensor | None = None
    mean_position: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    probs: torch.Tensor | None = None

    def get(self, name: str) -> torch.Tensor:
        """Return a result by name.

        Raises:
            StateError: it was not asked for.
        """
        tensor: torch.Tensor | None = getattr(self, name)
        if tensor is None:
            raise StateError(f"{name} was not asked for; pass what it needs to attention_reduce.")
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.numel() * part.element_size() for part in vars(self).values() if part is not None)


@torch.no_grad()
def attention_reduce(
    q: torch.Tensor,
    k: torch.Tensor,
    columns: torch.Tensor | None = None,
    max_bytes: int = 64 * 2**20,
    *,
    scale: float | None = None,
    rows: torch.Tensor | None = None,
    grid: tuple[int, int] | None = None,
    entropy: bool = False,
    full_heads: Sequence[int] = (),
) -> AttentionReduction:
    """Reduce softmax(scale q k') in chunks of queries, in float32.

    | symbol | variable |
    | --- | --- |
    | S = scale q k', of a chunk, less its largest value per query | `scores` |
    | P = softmax(S) | `probs` |
    | P columns | `columns`: a one-hot column is one key, a mask is a region |
    | rows P | `rows`: a one-hot row is one query |
    | H = log sum exp S - sum P S | `entropy` |

    Args:
        q: (heads, Q, d) float, queries.
        k: (heads, K, d) float, keys.
        columns: (K, C) float, weights of the keys; None for none.
        max_bytes: for results and working memory together; q, k, columns and rows do not count.
        scale: factor on q k'; None for d ** -0.5.
        rows: (R, Q) float, weights of the queries; None for none.
        grid: (h, w) of the keys, row-major, for mean position and spread; None for neither.
        entropy: whether to compute it.
        full_heads: heads whose whole matrix is wanted.

    Returns:
        What was asked for.

    Raises:
        ShapeError: shapes do not fit each other.
        RangeError: `max_bytes` does not hold the results and one query at a time; a head does not exist.
    """
    sizes = check_shape(k, "N K d", "k", sizes=check_shape(q, "N Q d", "q"))
    if columns is not None:
        check_shape(columns, "K C", "columns", sizes=sizes)
    if rows is not None:
        check_shape(rows, "R Q", "rows", sizes=sizes)
    _check_choices(sizes, grid, full_heads)
    result = _empty_result(q, k, columns, rows, grid, entropy, full_heads)
    chunk = _chunk_size(sizes, max_bytes - result.num_bytes, max_bytes, grid)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    weights = None if columns is None else columns.to(k.device, torch.float32)
    reads = _queries_needed(result, rows, sizes["Q"])

    for head in range(sizes["N"]):
        keys = k[head].float().T
        for start in range(0, sizes["Q"], chunk):
            part = slice(start, min(start + chunk, sizes["Q"]))
            if bool(reads[part].any()):
                scores = (q[head, part].float() * scale) @ keys
                _reduce_chunk(scores, result, head, part, columns=weights, rows=rows, grid=grid, full_heads=full_heads)
    return result


def _reduce_chunk(
    scores: torch.Tensor,
    result: AttentionReduction,
    head: int,
    part: slice,
    *,
    columns: torch.Tensor | None,
    rows: torch.Tensor | None,
    grid: tuple[int, int] | None,
    full_heads: Sequence[int],
) -> None:
    """Write into the result what (chunk, K) scores of one head say; they are overwritten."""
    # 1. P = exp S / sum exp S, with the largest S subtracted so that exp stays finite.
    scores -= scores.amax(dim=-1, keepdim=True)
    probs = scores.exp()
    total = probs.sum(dim=-1, keepdim=True)
    probs /= total
    # 2. P columns, rows P
    if result.columns is not None and columns is not None:
        result.columns[head, part] = probs @ columns
    if result.rows is not None and rows is not None:
        result.rows[head] += rows[:, part].to(probs) @ probs
    # 3. H = log sum exp S - sum P S; the product overwrites S, which nobody needs any more.
    if result.entropy is not None:
        result.entropy[head, part] = total[:, 0].log() - scores.mul_(probs).sum(dim=-1)
    if grid is not None and result.mean_position is not None and result.spread is not None:
        result.mean_position[head, part], result.spread[head, part] = _moments(probs, grid)
    if result.probs is not None and head in full_heads:
        result.probs[list(full_heads).index(head), part] = probs


def cell_centers(size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the centers of `size` equal cells of [-1, 1], (size,) float32."""
    return (2 * torch.arange(size, dtype=torch.float32, device=device) + 1) / size - 1


def _moments(probs: torch.Tensor, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean (x, y) and spread of (chunk, K) probabilities.

    Through the sums over rows and over columns of the grid, and about the mean: E x^2 - (E x)^2 would lose everything
    where attention is sharp.
    """
    cells = probs.unflatten(-1, grid)
    means, variance = [], torch.zeros(len(probs), dtype=probs.dtype, device=probs.device)
    for axis, size in ((1, grid[1]), (2, grid[0])):
        marginal, centers = cells.sum(dim=axis), cell_centers(size, probs.device)
        mean = marginal @ centers
        variance += (marginal * (centers - mean[:, None]) ** 2).sum(dim=-1)
        means.append(mean)
    return torch.stack(means, dim=-1), variance.sqrt()


def _check_choices(sizes: dict[str, int], grid: tuple[int, int] | None, full_heads: Sequence[int]) -> None:
    """Check the grid and the heads."""
    if grid is not None and grid[0] * grid[1] != sizes["K"]:
        raise RangeError(f"grid is {grid}, but there are {sizes['K']} keys; give the grid of the keys.")
    for head in full_heads:
        if not 0 <= head < sizes["N"]:
            raise RangeError(f"full_heads holds {head}, but there are heads 0 to {sizes['N'] - 1}.")


def _empty_result(
    q: torch.Tensor,
    k: torch.Tensor,
    columns: torch.Tensor | None,
    rows: torch.Tensor | None,
    grid: tuple[int, int] | None,
    entropy: bool,
    full_heads: Sequence[int],
) -> AttentionReduction:
    """Allocate what was asked for, zero."""
    heads, num_queries, num_keys = len(q), q.shape[1], k.shape[1]

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.float32, device=q.device)

    return AttentionReduction(
        columns=None if columns is None else zeros(heads, num_queries, columns.shape[1]),
        rows=None if rows is None else zeros(heads, len(rows), num_keys),
        mean_position=None if grid is None else zeros(heads, num_queries, 2),
        spread=None if grid is None else zeros(heads, num_queries),
        entropy=zeros(heads, num_queries) if entropy else None,
        probs=zeros(len(full_heads), num_queries, num_keys) if full_heads else None,
    )


def _chunk_size(sizes: dict[str, int], free_bytes: int, max_bytes: int, grid: tuple[int, int] | None) -> int:
    """Return how many queries fit at a time."""
    keys_bytes = 2 * sizes["K"] * sizes["d"] * _FLOAT_BYTES
    # Beside the copies of (chunk, K): the queries twice, marginals and their squares, small change for sums.
    small = 2 * sizes["d"] + sizes.get("C", 0) + 4 * sum(grid or ()) + 64
    query_bytes = _FLOAT_BYTES * (_COPIES * sizes["K"] + small)
    needed = keys_bytes + query_bytes
    if free_bytes < needed:
        raise RangeError(
            f"max_bytes is {max_bytes}, but {max_bytes - free_bytes + needed} are needed for the results and one query "
            "at a time; ask for less, or raise it."
        )
    return min(sizes["Q"], (free_bytes - keys_bytes) // query_bytes)


def _queries_needed(result: AttentionReduction, rows: torch.Tensor | None, num_queries: int) -> torch.Tensor:
    """Return which queries count, (Q,) bool: all of them, or those with a weight when rows alone are asked for."""
    others = (result.columns, result.mean_position, result.entropy, result.probs)
    if rows is None or any(part is not None for part in others):
        return torch.ones(num_queries, dtype=torch.bool)
    return (rows != 0).any(dim=0).cpu()
