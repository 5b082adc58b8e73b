"""Where a straight line comes near a path: the geometry under rubber and stroke picking."""

import numpy as np

__all__ = ["shares_near", "to_segments"]


def to_segments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both ends of each segment of a path.

    Args:
        points: (n, 2) float, n at least 1.

    Returns:
        Two arrays (n - 1, 2); a single point is one segment of length 0.
    """
    return (points[:-1], points[1:]) if len(points) > 1 else (points, points)


def shares_near(start: np.ndarray, end: np.ndarray, path: np.ndarray, reach: float) -> list[tuple[float, float]]:
    """Find the parts of a line that are at most `reach` away from a path.

    What is that near to one segment of the path is a capsule, the union of two discs and a rectangle. It is convex, so
    the line is inside it from the first to the last crossing with these three.

    Args:
        start: (2,) float, one end of the line.
        end: (2,) float, its other end; equal to `start` for a point.
        path: (n, 2) float, n at least 1.
        reach: distance, in the unit of the points, at least 0.

    Returns:
        Pairs (first, last), as shares of the line in [0, 1], rising and apart; empty where nothing is near.
    """
    ones, others = to_segments(path)
    along = end - start
    crossings = np.stack([
        _in_discs(start - ones, along, reach),
        _in_discs(start - others, along, reach),
        _in_bands(start - ones, along, others - ones, reach),
    ])  # fmt: skip
    first, last = crossings[..., 0].min(axis=0).clip(0.0), crossings[..., 1].max(axis=0).clip(None, 1.0)
    joined: list[tuple[float, float]] = []
    for low, high in sorted(zip(first.tolist(), last.tolist(), strict=True)):
        if low > high:
            continue
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined


def _in_discs(starts: np.ndarray, along: np.ndarray, radius: float) -> np.ndarray:
    """Return (n, 2) the shares between which `starts + share * along` is in a disc around 0; (inf, -inf) if never."""
    a, b, c = float(along @ along), starts @ along, (starts**2).sum(axis=1) - radius**2
    if a == 0.0:
        return np.where((c <= 0.0)[:, None], [-np.inf, np.inf], [np.inf, -np.inf])
    root = b * b - a * c
    half = np.sqrt(root.clip(0.0))
    found = np.stack([-b - half, -b + half], axis=1) / a
    return np.where((root >= 0.0)[:, None], found, [np.inf, -np.inf])


def _in_bands(starts: np.ndarray, along: np.ndarray, axes: np.ndarray, radius: float) -> np.ndarray:
    """Return (n, 2) the shares between which a line is beside axes that begin at 0, as `_in_discs` does for discs."""
    lengths = np.hypot(axes[:, 0], axes[:, 1])
    units = axes / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    across = np.stack([-units[:, 1], units[:, 0]], axis=1)
    low, high = np.full(len(axes), -np.inf), np.full(len(axes), np.inf)
    for place, speed, first, last in (
        ((starts * units).sum(axis=1), units @ along, np.zeros_like(lengths), lengths),
        ((starts * across).sum(axis=1), across @ along, np.full_like(lengths, -radius), np.full_like(lengths, radius)),
    ):
        # A line that runs beside a border is inside for all shares or for none.
        is_parallel = speed == 0.0
        divisor = np.where(is_parallel, 1.0, speed)
        bounds = np.sort(np.stack([(first - place) / divisor, (last - place) / divisor]), axis=0)
        is_within = (first <= place) & (place <= last)
        low = np.maximum(low, np.where(is_parallel, np.where(is_within, -np.inf, np.inf), bounds[0]))
        high = np.minimum(high, np.where(is_parallel, np.where(is_within, np.inf, -np.inf), bounds[1]))
    is_band = (lengths > 0.0) & (low <= high)
    return np.where(is_band[:, None], np.stack([low, high], axis=1), [np.inf, -np.inf])
