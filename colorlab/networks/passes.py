"""Which rows of a network's batch belong to which guidance pass."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from colorlab.errors import RangeError, StateError

__all__ = ["PassRows", "call_name", "check_passes", "main_pass", "submodule"]


class PassRows:
    """Follows the calls of one network and says which rows of the present call are which guidance pass.

    The passes of a step come in the order of their names, each with all samples; in one call for all of them, or in
    several calls one after the other. A context manager: a forward pre-hook counts rows and is gone afterwards.

    Args:
        network: whose calls are followed; not compiled.
        guidance_passes: names in batch order, as `Method.guidance_passes` gives them. None where calls have no names:
            each is then a pass of its own with all its rows, `call 0`, `call 1` ...
        num_samples: pictures of each pass.

    Raises:
        RangeError: there is no pass, a name comes twice, or `num_samples` is below 1.
    """

    def __init__(self, network: nn.Module, guidance_passes: Sequence[str] | None, *, num_samples: int = 1) -> None:
        if guidance_passes is not None and (not guidance_passes or len(set(guidance_passes)) != len(guidance_passes)):
            raise RangeError(f"guidance_passes are {tuple(guidance_passes)}, but different names are expected.")
        if num_samples < 1:
            raise RangeError(f"num_samples is {num_samples}, but at least 1 is expected.")
        self.network = network
        self.guidance_passes = None if guidance_passes is None else tuple(guidance_passes)
        self.num_samples = num_samples
        self._num_calls = 0
        self._first_row = 0
        self._num_rows = 0
        self._handle: Any = None

    def __enter__(self) -> "PassRows":
        self._num_calls = self._first_row = self._num_rows = 0
        # Parts of an encoder or decoder may be called one by one; the first of them stands for the call.
        entry = getattr(self.network, "conv_in", self.network)
        self._handle = entry.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield the name and the batch rows of every pass of the present call."""
        if self.guidance_passes is None:
            yield call_name(self._num_calls - 1), slice(0, self._num_rows)
            return
        for start in range(0, self._num_rows, self.num_samples):
            name = self.guidance_passes[(self._first_row + start) // self.num_samples]
            yield name, slice(start, start + self.num_samples)

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take note of the batch that comes."""
        batch: torch.Tensor = next(part for part in (*args, *kwargs.values()) if isinstance(part, torch.Tensor))
        self._first_row += self._num_rows
        self._num_rows = int(batch.shape[0])
        self._num_calls += 1
        if self.guidance_passes is None:
            return
        expected = len(self.guidance_passes) * self.num_samples
        if self._num_rows % self.num_samples or self._first_row + self._num_rows > expected:
            raise StateError(
                f"{type(self.network).__name__} was called with {self._num_rows} rows after {self._first_row}, but "
                f"the passes {', '.join(self.guidance_passes)} with {self.num_samples} picture(s) each make "
                f"{expected}; name the passes of the call in batch order."
            )


def call_name(index: int) -> str:
    """Return what a call without a name of its own is called, 0 first."""
    return f"call {index}"


def main_pass(guidance_passes: Sequence[str]) -> str:
    """Return the pass that sees all that was given: `cond` of words, `full` of pictures, or the only one.

    Raises:
        RangeError: there are several of other names.
    """
    known = [name for name in ("cond", "full") if name in guidance_passes] or list(guidance_passes)
    if len(known) > 1:
        raise RangeError(f"guidance_pass is not given, but one of {', '.join(guidance_passes)} is expected.")
    return known[0]


def check_passes(names: Sequence[str], guidance_passes: Sequence[str]) -> None:
    """Check that guidance passes exist.

    Raises:
        RangeError: one does not.
    """
    for name in names:
        if name not in guidance_passes:
            raise RangeError(f"There is no guidance pass {name!r}; this call has {', '.join(guidance_passes)}.")


def submodule(network: nn.Module, path: str) -> Any:
    """Return the module at a diffusers path, whatever its class.

    Raises:
        RangeError: there is none.
    """
    try:
        return network.get_submodule(path)
    except AttributeError:
        name = type(network).__name__
        raise RangeError(f"{name} has no module {path!r}; find_sites lists those that can be inspected.") from None
