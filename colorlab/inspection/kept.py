"""Kept tensors: what enters a network call, every tensor once, on the CPU, within a byte budget."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from colorlab.errors import RangeError

__all__ = ["BudgetError", "Kept", "KeptTensors", "map_leaves"]


class BudgetError(Exception):
    """One more tensor would not fit; never reaches the user."""


@dataclass(frozen=True)
class Kept:
    """Stands for a tensor among arguments.

    Args:
        index: which of the kept tensors.
        num_repeats: how often it comes along the batch.
    """

    index: int
    num_repeats: int = 1


class KeptTensors:
    """Copies of tensors on the CPU; the same tensor, met again and not written to since, is kept once.

    Args:
        max_bytes: what does not fit raises `BudgetError` and is not kept.

    Raises:
        RangeError: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise RangeError(f"max_bytes is {max_bytes}, but at least 0 is expected.")
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._copies: list[tuple[torch.Tensor, torch.device]] = []
        # By id, which is good as long as the tensor lives: itself, its version, and which copy it is.
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, Kept]] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to the CPU and count its bytes."""
        num_bytes = tensor.numel() * tensor.element_size()
        if self.num_bytes + num_bytes > self.max_bytes:
            raise BudgetError
        self.num_bytes += num_bytes
        return tensor.detach().to("cpu", copy=True)

    def keep(self, tensor: torch.Tensor, *, num_repeats: int = 1) -> Kept:
        """Keep a tensor for `get`.

        Args:
            tensor: any.
            num_repeats: of so many equal parts along the batch only the first is kept; the caller has compared them.
        """
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == _version(tensor):
            return known[2]
        part = tensor[: len(tensor) // num_repeats] if num_repeats > 1 else tensor
        kept = Kept(len(self._copies), num_repeats)
        self._copies.append((self.copy(part), tensor.device))
        self._known[id(tensor)] = (weakref.ref(tensor), _version(tensor), kept)
        return kept

    def on_cpu(self, kept: Kept) -> torch.Tensor:
        """Return the kept part of a tensor."""
        return self._copies[kept.index][0]

    def get(self, kept: Kept) -> torch.Tensor:
        """Return a tensor as it came, on the device where it was."""
        copy, device = self._copies[kept.index]
        whole = torch.cat([copy] * kept.num_repeats) if kept.num_repeats > 1 else copy
        # Always a new tensor, so that no network can write to what is kept.
        return whole.to(device, copy=True)

    def mark(self) -> tuple[int, int]:
        """Return how much is kept now, for `forget_after`."""
        return len(self._copies), self.num_bytes

    def forget_after(self, mark: tuple[int, int]) -> None:
        """Forget what was kept after a mark."""
        number, self.num_bytes = mark
        del self._copies[number:]
        self._known = {key: entry for key, entry in self._known.items() if entry[2].index < number}


def map_leaves(value: Any, kinds: type | tuple[type, ...], function: Callable[[Any], Any]) -> Any:
    """Return lists, tuples and dictionaries anew, with a function applied to every leaf of some kinds.

    What is of no such kind is handed on as it is.
    """
    if isinstance(value, kinds):
        return function(value)
    if isinstance(value, dict):
        return {key: map_leaves(part, kinds, function) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [map_leaves(part, kinds, function) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _version(tensor: torch.Tensor) -> int:
    """Count how often a tensor was written to; tensors of inference mode do not know."""
    return -1 if tensor.is_inference() else tensor._version
