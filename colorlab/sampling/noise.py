"""The noise of a run as pure functions of numbers: the same on every device, in every branch, with nothing to store."""

import hashlib
from collections.abc import Sequence

import torch

from colorlab.errors import RangeError

__all__ = ["initial_noise", "named_noise", "step_noise"]


def initial_noise(seed: int, sample_index: int, shape: Sequence[int]) -> torch.Tensor:
    """Draw the noise that a run starts from.

    Args:
        seed: seed of the run, any integer.
        sample_index: which sample of the run, at least 0.
        shape: shape of the result, as the latents.

    Returns:
        `shape` float32 on the CPU, standard normal; equal arguments give equal values.

    Raises:
        RangeError: an argument is not an integer, or `sample_index` or a size is negative.

    Example:
        >>> torch.equal(initial_noise(0, 0, (1, 4, 2, 2)), initial_noise(0, 0, (1, 4, 2, 2)))
        True
    """
    return _draw("initial", (seed, sample_index), shape)


def step_noise(seed: int, step_index: int, sample_index: int, shape: Sequence[int]) -> torch.Tensor:
    """Draw the noise that a stochastic step adds; arguments, result and errors as `initial_noise`.

    The noise of a step does not depend on the steps before it, so branches of one run share it and can be compared.
    """
    if isinstance(step_index, int) and step_index < 0:
        raise RangeError(f"step_index is {step_index}, but at least 0 is expected.")
    return _draw("step", (seed, step_index, sample_index), shape)


def named_noise(seed: int, name: str, shape: Sequence[int]) -> torch.Tensor:
    """Draw the noise of something that is drawn once in a run, such as a posterior sample; see `initial_noise`.

    Args:
        seed: seed of the run.
        name: what is drawn; different names share nothing.
        shape: shape of the result.
    """
    return _draw(f"named {name}", (seed, 0), shape)


def _draw(purpose: str, numbers: tuple[int, ...], shape: Sequence[int]) -> torch.Tensor:
    """Draw float32 normals from a generator whose seed is a hash of the purpose and the numbers."""
    for number in (*numbers, *shape):
        if not isinstance(number, int) or isinstance(number, bool):
            raise RangeError(f"A {purpose} noise was asked for with {number!r}, but integers are expected.")
    if numbers[-1] < 0 or any(size < 0 for size in shape):
        raise RangeError(
            f"sample_index is {numbers[-1]} and the shape {tuple(shape)}, but numbers of at least 0 are expected."
        )
    # A hash, because neighbouring triples must not share a seed as their sum or their bits would: (0, 1) and (1, 0).
    digest = hashlib.blake2b(" ".join((purpose, *map(str, numbers))).encode(), digest_size=8).digest()
    generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest, "little"))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
