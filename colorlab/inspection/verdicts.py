"""Verdicts: how well a repeated call agrees with what was kept of it.

| verdict | meaning |
| --- | --- |
| `exact` | same environment, and everything that was kept equal bit for bit |
| `close` | largest difference over largest value at most 1e-4 (16-bit weights: 2e-2) |
| `refused` | further off: what would be read is not what made the picture |

Kept are the predictions of a step, the encoded conditioning, and of a decoding the finished picture in 8 bits; there
`close` means at most one of 255 levels (16-bit weights: five).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from colorlab.networks.environment import Environment

__all__ = ["TOLERANCE", "TOLERANCE_HALF", "Verdict", "compare_pictures", "compare_tensors"]

TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2
_LEVELS = 255
_UNEXPLAINED = "the same environment, yet other bits: nondeterministic kernels, or changed weights"


@dataclass(frozen=True)
class Verdict:
    """How well a replay agrees with what was kept.

    Args:
        name: "exact", "close" or "refused".
        difference: largest absolute difference over the largest absolute value, of the tensor that is furthest off;
            NaN where one is not finite.
        reasons: why it is not exact.
    """

    name: str
    difference: float
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name == "exact":
            return "exact"
        return f"{self.name}, off by {self.difference:.2g} of the largest value ({'; '.join(self.reasons)})"


def compare_tensors(
    kept: Mapping[str, torch.Tensor],
    replayed: Mapping[str, torch.Tensor],
    before: Environment | None,
    now: Environment,
) -> Verdict:
    """Compare the tensors of a replay, the predictions of a step for instance, with those that were kept.

    Args:
        kept: by name.
        replayed: by name.
        before: environment of the call; None where nobody took note of it.
        now: environment of the replay.
    """
    if set(kept) != set(replayed):
        return Verdict("refused", float("nan"), (f"other names: {', '.join(kept)} became {', '.join(replayed)}",))
    if any(tensor.shape != replayed[name].shape for name, tensor in kept.items()):
        return Verdict("refused", float("nan"), ("tensors of other shapes",))
    apart = [_difference(tensor.float(), replayed[name].float()) for name, tensor in kept.items()]
    # Not max(), which may drop a NaN.
    difference = float(torch.tensor(apart, dtype=torch.float64).amax()) if apart else 0.0
    return _verdict(difference, TOLERANCE_HALF if _is_half(before, now) else TOLERANCE, before, now)


def compare_pictures(
    kept: torch.Tensor, replayed: torch.Tensor, before: Environment | None, now: Environment
) -> Verdict:
    """Compare two pictures (H, W, 3) uint8; environments as `compare_tensors`."""
    if kept.shape != replayed.shape:
        return Verdict("refused", float("nan"), ("a picture of another size",))
    levels = int((kept.int() - replayed.int()).abs().max())
    allowed = round(TOLERANCE_HALF * _LEVELS) if _is_half(before, now) else 1
    return _verdict(levels / _LEVELS, allowed / _LEVELS, before, now)


def _difference(kept: torch.Tensor, replayed: torch.Tensor) -> float:
    """Return the largest difference over the largest value; what is all zero agrees with zeros alone."""
    if not kept.numel():
        # Of nothing there is nothing to differ in: a part that was not given, of equal shape by now.
        return 0.0
    if torch.equal(kept.nan_to_num(), replayed.nan_to_num()) and torch.equal(kept.isnan(), replayed.isnan()):
        return 0.0  # NaN where nothing is known, such as the projection on an anchor that was not given
    largest, apart = float(kept.abs().max()), float((replayed - kept).abs().max())
    return apart / largest if largest else (0.0 if apart == 0 else float("inf"))


def _is_half(before: Environment | None, now: Environment) -> bool:
    """Return whether one of two environments has weights of 16 bits."""
    return now.is_half or (before is not None and before.is_half)


def _verdict(difference: float, tolerance: float, before: Environment | None, now: Environment) -> Verdict:
    """Turn a difference into a verdict."""
    if before is None:
        reasons: tuple[str, ...] = ("the environment of the call was not recorded",)
    else:
        reasons = before.differences(now)
    if difference == 0 and not reasons:
        return Verdict("exact", 0.0)
    # Written so that NaN, which compares false with everything, is refused.
    is_close = difference <= tolerance
    return Verdict("close" if is_close else "refused", difference, reasons or (_UNEXPLAINED,))
