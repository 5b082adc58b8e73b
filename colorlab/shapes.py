"""Contract checks for public entries: shapes, ranges and finiteness, each with an error that says what to do."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from colorlab.errors import RangeError, ShapeError

__all__ = ["check_finite", "check_range", "check_shape"]


def check_shape(x: Any, spec: str, name: str, *, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Check the shape of a tensor against a spec such as ``"B 3 H W"``.

    Args:
        x: torch tensor, NumPy array, or anything else with a `shape`.
        spec: one word for each axis, separated by spaces: an integer is literal, `_` accepts any size, any other word
            is bound at its first use and has to agree at each later one.
        name: how the value is called in the message.
        sizes: words that are already bound, for instance by the check of another argument.

    Returns:
        Size of each bound word, those of `sizes` included.

    Raises:
        ShapeError: `x` has no shape, another number of axes, or another size along one of them.
    """
    shape = getattr(x, "shape", None)
    if shape is None:
        raise ShapeError(f"{name} is a {type(x).__name__}, but a tensor of shape ({_spec_text(spec)}) is expected.")
    shape = tuple(int(size) for size in shape)
    words = spec.split()
    bound = dict(sizes or {})
    expected = f"{name} has shape {shape}, but ({_spec_text(spec)}) is expected"
    if len(shape) != len(words):
        raise ShapeError(f"{expected}: {len(words)} axes instead of {len(shape)}.")
    for axis, (word, size) in enumerate(zip(words, shape, strict=True)):
        if word == "_":
            continue
        wanted = int(word) if word.isdigit() else bound.setdefault(word, size)
        if size != wanted:
            meaning = f"{wanted}" if word.isdigit() else f"{word} = {wanted}"
            raise ShapeError(f"{expected}: axis {axis} is {size} instead of {meaning}.")
    return bound


def check_range(value: Any, low: float, high: float, name: str) -> None:
    """Check that a number, or every element of a tensor or array, lies in [low, high].

    Args:
        value: real number, tensor or array; an empty tensor passes.
        low: smallest allowed value, inclusive; `-math.inf` for none.
        high: largest allowed value, inclusive; `math.inf` for none.
        name: how the value is called in the message.

    Raises:
        RangeError: a value is outside the range, or is NaN.
    """
    smallest, largest = _extremes(value, name)
    # Written so that NaN, which compares false with everything, fails.
    if smallest >= low and largest <= high:
        return
    came = f"is {smallest:g}" if smallest == largest else f"runs from {smallest:g} to {largest:g}"
    if math.isnan(smallest):
        came = "is not a number (NaN)"
    raise RangeError(f"{name} {came}, but {_range_text(low, high)} is expected.")


def check_finite(x: Any, name: str) -> None:
    """Check that a number, tensor or array holds neither NaN nor infinity.

    Raises:
        RangeError: `x` holds NaN or infinity; the message counts them.
    """
    tensor = torch.as_tensor(x)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    num_bad = int((~torch.isfinite(tensor)).sum())
    if num_bad:
        raise RangeError(
            f"{name} holds {num_bad} value{'s' if num_bad > 1 else ''} that are NaN or infinite out of "
            f"{tensor.numel()}, but only finite values can be used."
        )


def _extremes(value: Any, name: str) -> tuple[float, float]:
    """Return the smallest and the largest element as floats."""
    try:
        # Through NumPy a Python float keeps its double precision, so that the ends of the range are inside it.
        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
    except TypeError as error:
        raise RangeError(f"{name} is {value!r}, but a number is expected.") from error
    if tensor.numel() == 0:
        return math.inf, -math.inf
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    return low, high


def _spec_text(spec: str) -> str:
    """Write a spec as people write shapes."""
    return ", ".join(spec.split())


def _range_text(low: float, high: float) -> str:
    """Write a range in words, one-sided where it is."""
    if math.isinf(high) and math.isinf(low):
        return "a number"
    if math.isinf(high):
        return f"at least {low:g}"
    if math.isinf(low):
        return f"at most {high:g}"
    return f"{low:g} to {high:g}"
