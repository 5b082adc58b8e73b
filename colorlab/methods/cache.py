"""Encoded inputs by content, so that changing one field of a conditioning re-encodes that field only."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch

from colorlab.errors import RangeError

__all__ = ["FieldCache", "tensor_bytes"]

T = TypeVar("T")


class FieldCache:
    """Least-recently-used values, kept apart by field.

    Every field has its own budget, and its newest value always stays: large luminance taps are not driven out by a
    changed prompt. Not locked; the owner holds its model's lock.

    Args:
        max_bytes_per_field: tensor bytes kept for each field beyond its newest value.
    """

    def __init__(self, max_bytes_per_field: int = 256 * 2**20) -> None:
        if max_bytes_per_field < 0:
            raise RangeError(f"max_bytes_per_field is {max_bytes_per_field}, but at least 0 is expected.")
        self.max_bytes_per_field = max_bytes_per_field
        self._fields: dict[str, OrderedDict[Hashable, Any]] = {}

    def get(self, field: str, key: Hashable, encode: Callable[[], T]) -> T:
        """Return the value of `field` for `key`, calling `encode` only if it is not there."""
        values = self._fields.setdefault(field, OrderedDict())
        if key not in values:
            values[key] = encode()
        values.move_to_end(key)
        self._shrink(values)
        value: T = values[key]
        return value

    def clear(self) -> None:
        """Forget everything."""
        self._fields.clear()

    def keep_newest(self, number: int) -> None:
        """Forget all but the newest values of each field: what belonged to pictures that are done."""
        for values in self._fields.values():
            while len(values) > number:
                values.popitem(last=False)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors kept."""
        return sum(tensor_bytes(values.values()) for values in self._fields.values())

    def _shrink(self, values: OrderedDict[Hashable, Any]) -> None:
        """Drop the oldest values of one field until it fits its budget."""
        while len(values) > 1 and tensor_bytes(values.values()) > self.max_bytes_per_field:
            values.popitem(last=False)


def tensor_bytes(value: object) -> int:
    """Return the bytes of all tensors in a tensor, dataclass, mapping or iterable of these."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value) and not isinstance(value, type):
        return sum(tensor_bytes(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (str, bytes)):
        return 0
    if isinstance(value, dict):
        return sum(tensor_bytes(item) for item in value.values())
    if isinstance(value, Iterable):
        return sum(tensor_bytes(item) for item in value)
    return 0
