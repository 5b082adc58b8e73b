"""Which rows of a network's batch belong to which guidance pass."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from colorlab.errors import RangeError, StateError

__all__ = ["PassRows", "check_passes", "submodule"]


class PassRows:
    """Follows the calls of one network and says which rows of the present call are which guidance pass.

    The passes of a step come in the order of their names, each with all samples; in one call for all of them, or in
    several calls one after the other. A context manager: a forward pre-hook counts rows and is gone afterwards.

    Args:
        network: whose calls are followed; not compiled.
        guidance_passes: names in batch order, as `Method.guidance_passes` gives them.
        num_samples: pictures of each pass.

    Raises:
        RangeError: there is no pass, a name comes twice, or `num_samples` is below 1.
    """

    def __init__(self, network: nn.Module, guidance_passes: Sequence[str], *, num_samples: int = 1) -> None:
        if not guidance_passes or len(set(guidance_passes)) != len(guidance_passes):
            raise RangeError(f"guidance_passes are {tuple(guidance_passes)}, but different names are expected.")
        if num_samples < 1:
            raise RangeError(f"num_samples is {num_samples}, but at least 1 is expected.")
        self.network = network
        self.guidance_passes = tuple(guidance_passes)
        self.num_samples = num_samples
        self._first_row = 0
        self._num_rows = 0
        self._handle: Any = None

    def __enter__(self) -> "PassRows":
        self._first_row = self._num_rows = 0
        self._handle = self.network.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def slices(self) -> Iterator[tuple[str, slice]]:
        """Yield the name and the batch rows of every pass of the present call."""
        for start in range(0, self._num_rows, self.num_samples):
            name = self.guidance_passes[(self._first_row + start) // self.num_samples]
            yield name, slice(start, start + self.num_samples)

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take note of the batch that comes."""
        sample: torch.Tensor = args[0] if args else kwargs["sample"]
        self._first_row += self._num_rows
        self._num_rows = int(sample.shape[0])
        expected = len(self.guidance_passes) * self.num_samples
        if self._num_rows % self.num_samples or self._first_row + self._num_rows > expected:
            raise StateError(
                f"{type(module).__name__} was called with {self._num_rows} rows after {self._first_row}, but the "
                f"passes {', '.join(self.guidance_passes)} with {self.num_samples} picture(s) each make {expected}; "
                "name the passes of the call in batch order."
            )


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
