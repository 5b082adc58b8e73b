"""Run files (`.colorlab`): a tree of runs in one safetensors file, and how its bytes are written and checked.

| part of the file | what it holds |
| --- | --- |
| header, `colorlab_run_file` | version of this layout, "1" |
| header, `content` | JSON, the tables below |
| header, `sha256` | of the content |
| tensors | each once, named by the first 32 hexadecimal digits of the SHA-256 of its dtype, shape and bytes |

| table of the content | key | entry |
| --- | --- | --- |
| `models` | `m0` ... | name, method, hash of the weights, noise schedule, device and dtype; no weights |
| `adaptations` | content hash | what was tuned on top of a model: info, and its tensors by name |
| `environments` | `n0` ... | fingerprint of network calls |
| `conditionings` | content hash | as `Conditioning.to_json`; the bytes of a picture (mostly PNG) are a tensor |
| `segments` | `s0` ... | model, first step, conditioning, settings, latent shape, edits (name and fields of each) |
| `initials` | `i0` ... | state 0 of a run |
| `edges` | `e0` ... | one step: what it follows (an edge or an initial), segment, record and the state after it |
| `runs` | `r0` ... | name, parent and fork, sample index, segments, initial, `head` (its last edge), cost |
| `order`, `current`, `num_made` | | runs of the tree, oldest first; the run to return; how many were made |

A run is a name for its last edge, and edges point back: branches share what they have in common, and one more step is
one more edge. What entered guidance and solver is kept; what they made of it (guided prediction, clean latents, solver
history) is computed again on reading, and is in the file only where that would give other bits.
What a model encodes (`Prepared`) is never in the file.

One safetensors file, because it can be read by anything, runs no code, is checked by a name of 32 digits against every
flipped bit, and because a part of it (the changes of one step, see `journal`) is a file of the same form. A zip archive
would add a second directory, a second checksum and a second set of ways to be damaged.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from colorlab.atomic import atomic_file
from colorlab.errors import ColorlabError, RunFileError

__all__ = [
    "SUFFIX",
    "TABLES",
    "TUNING_TABLE",
    "Archive",
    "RunFileWarning",
    "merge",
    "read_archive",
    "tensor_name",
    "write_archive",
]

SUFFIX = ".colorlab"
TABLES = ("models", "adaptations", "environments", "conditionings", "segments", "initials", "edges", "runs")

TUNING_TABLE = "tuning"
"""The one table of a file that holds a tuning instead of runs."""

_VERSION = "1"
_VERSION_KEY, _CONTENT_KEY, _HASH_KEY = "colorlab_run_file", "content", "sha256"
_NAME_DIGITS = 32


class RunFileWarning(UserWarning):
    """Something about a run file or journal that the user should know: a model that is not here, a lost step."""


@dataclass(frozen=True, eq=False)
class Archive:
    """The content of a run file, or of a part of it, and the tensors that it names.

    Args:
        content: the tables of the content.
        tensors: by name.
    """

    content: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def merge(archives: Sequence[Archive]) -> Archive:
    """Put together an archive and later changes of it."""
    merged = Archive({}, {})
    for archive in archives:
        tables = {name: {**merged.content.get(name, {}), **archive.content.get(name, {})} for name in TABLES}
        merged.content.update({**archive.content, **tables})
        merged.tensors.update(archive.tensors)
    return merged


def tensor_name(tensor: torch.Tensor) -> str:
    """Name a tensor by its content: what has equal bits, dtype and shape has an equal name."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_NAME_DIGITS]


def write_archive(path: Path, archive: Archive, *, is_durable: bool = True) -> None:
    """Write an archive so that `path` is either the whole new file or what it was before.

    Raises:
        RunFileError: it cannot be written.
    """
    content = json.dumps(archive.content, separators=(",", ":"))
    metadata = {_VERSION_KEY: _VERSION, _CONTENT_KEY: content, _HASH_KEY: _content_hash(content)}
    # Copies, since predictions of one call are parts of one block of memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in archive.tensors.items()}
    try:
        with atomic_file(path, is_durable=is_durable) as file:
            file.write(save(tensors, metadata))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunFileError(
            f"{str(path)!r} cannot be written ({reason}) and is as it was; make room, or choose another place."
        ) from error


def read_archive(path: Path) -> Archive:
    """Read an archive and check every byte of it.

    Raises:
        RunFileError: the file is missing, no run file, of another version, or damaged.
    """
    if not path.exists():
        raise RunFileError(f"There is no run file {str(path)!r}.")
    if not path.is_file():
        raise RunFileError(f"{str(path)!r} is no file; give a {SUFFIX} file, or the folder of a journal.")
    try:
        with safe_open(path, framework="pt") as file:
            content = _read_content(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            damaged = [name for name, tensor in tensors.items() if tensor_name(tensor) != name]
    except ColorlabError:
        raise
    except OSError as error:
        raise RunFileError(f"{str(path)!r} cannot be read ({error.strerror or error}).") from error
    except Exception as error:  # a damaged header can make the reader fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunFileError(f"{str(path)!r} is damaged or no run file ({reason}); use another copy of it.") from error
    if damaged:
        raise RunFileError(f"{str(path)!r} is damaged: {len(damaged)} of its tensors changed; use another copy of it.")
    return Archive(content, tensors)


def _read_content(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Check the header of a file and return the tables in it."""
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise RunFileError(f"{str(path)!r} is a safetensors file, but no run file; give what run.save wrote.")
    if version != _VERSION:
        raise RunFileError(
            f"{str(path)!r} has version {version[:20]!r} of the run file, this colorlab reads version {_VERSION}; "
            "open it with the colorlab that wrote it, or a newer one."
        )
    text = metadata.get(_CONTENT_KEY, "")
    if _content_hash(text) != metadata.get(_HASH_KEY):
        raise RunFileError(f"{str(path)!r} is damaged: its table of contents changed; use another copy of it.")
    content = json.loads(text)
    if not isinstance(content, dict) or not all(isinstance(content.get(name, {}), dict) for name in TABLES):
        raise RunFileError(f"{str(path)!r} is damaged: its content is no set of tables; use another copy of it.")
    return content


def _content_hash(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
