"""Read weight files safely: safetensors, or a PyTorch file from which nothing but tensors is accepted."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from colorlab.errors import WeightsError

__all__ = ["check_sha256", "file_sha256", "read_weights"]

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
_CHUNK_BYTES = 1 << 20


def read_weights(path: str | Path, *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Read all tensors of a weight file onto the CPU.

    A PyTorch file is opened in the mode that runs no code. If it has a `state_dict` inside (training checkpoints do),
    that is what is read; entries that are not tensors are left out.

    Args:
        path: a `.safetensors` file, or `.ckpt`, `.pt`, `.pth`, `.bin`.
        dtype: floating tensors are cast to it; None keeps what is stored.

    Returns:
        Tensors by name.

    Raises:
        WeightsError: the file is missing, of another kind, damaged, holds no tensor, or holds objects that only running
            code could restore.
    """
    path = Path(path)
    _check_is_file(path)
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    elif path.suffix in _TORCH_SUFFIXES:
        weights = _read_torch(path)
    else:
        raise WeightsError(f"{path} is no weight file: expected .safetensors or one of {', '.join(_TORCH_SUFFIXES)}.")
    if not weights:
        raise WeightsError(f"{path} holds no tensors; it is not a file of network weights.")
    if dtype is not None:
        weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    return weights


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        WeightsError: the file is missing or unreadable.
    """
    path = Path(path)
    _check_is_file(path)
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def check_sha256(path: str | Path, expected: str) -> None:
    """Raise unless a file has the expected SHA-256.

    Raises:
        WeightsError: the file is missing, or its content is another.
    """
    found = file_sha256(path)
    if found != expected.lower():
        raise WeightsError(
            f"{path} is damaged or was changed: its SHA-256 is {found[:12]}..., expected {expected[:12]}...; "
            "fetch or make the file again."
        )


def _check_is_file(path: Path) -> None:
    """Raise unless there is a file at the path."""
    if not path.exists():
        raise WeightsError(f"there is no weight file at {path}.")
    if not path.is_file():
        raise WeightsError(f"{path} is not a file; give the weight file itself.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file: {error}.") from error


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a PyTorch file without running any code from it."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds objects beside its tensors that only running code from it could restore; "
            "if you trust its source, save its state_dict as .safetensors in a separate process and read that."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged stream can make the reader fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is damaged or no PyTorch weight file: {reason}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected tensors by name.")
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
