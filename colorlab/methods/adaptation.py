"""Adaptation: what a tuning changed in a model, as a value with a content hash that runs and run files refer to.

| tensor | what it is |
| --- | --- |
| `contrastive/SITE.down`, `.up` | low-rank change of a linear layer by stage 1: weight + up @ down |
| `reconstruction/SITE.down`, `.up` | the same by stage 2, instead of stage 1's |
| `.../PARAMETER.delta` | change of a whole parameter, where everything was tuned |
| `embedding/optimized`, `embedding/identified` | (1, N, D): e_opt, and T(c') that it began from |
| `picture/generated`, `picture/aligned` | (H, W, 3) uint8: stage 1's picture before and after alignment |

A file of it is one safetensors file, tensors by these names, the rest as JSON in its header; no code is in it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from colorlab.atomic import atomic_file
from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, RangeError, WeightsError
from colorlab.methods.identifiers import Rewriting

__all__ = ["CONTRASTIVE", "EMBEDDING", "RECONSTRUCTION", "SUFFIX", "Adaptation", "install_weights"]

SUFFIX = ".safetensors"
CONTRASTIVE, EMBEDDING, RECONSTRUCTION = "contrastive", "embedding", "reconstruction"

_VERSION, _VERSION_KEY, _INFO_KEY, _HASH_KEY = "1", "colorlab_adaptation", "info", "content_hash"


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The result of a tuning; equal content has an equal hash in every process.

    Args:
        tensors: by name, see the module; on the CPU.
        info: plain values: `base` (hash of the weights it belongs to), `context`, `rewriting`, how it was tuned.
    """

    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def content_hash(self) -> str:
        """64 hexadecimal digits of the SHA-256 over names, types, shapes, bytes and info."""
        digest = hashlib.sha256(json.dumps(dict(self.info), sort_keys=True).encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            digest.update(f"{name}:{tensor.dtype}{tuple(tensor.shape)};".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that are in it, in their order."""
        found = {name.partition("/")[0] for name in self.tensors}
        return tuple(stage for stage in (CONTRASTIVE, EMBEDDING, RECONSTRUCTION) if stage in found)

    @property
    def context(self) -> str:
        """The context prompt that it was tuned with."""
        return str(self.info.get("context", ""))

    @property
    def rewriting(self) -> Rewriting | None:
        """The context with identifiers; None where the second stage was not begun."""
        values = self.info.get("rewriting")
        return None if values is None else Rewriting.from_dict(values)

    @property
    def optimized(self) -> torch.Tensor | None:
        """(1, N, D) the embedding that reproduces the picture; None before it was sought."""
        return self.tensors.get(f"{EMBEDDING}/optimized")

    def weights(self, stage: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a stage without its name in front."""
        return {
            name.removeprefix(f"{stage}/"): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(f"{stage}/") and name.endswith((".down", ".up", ".delta"))
        }

    @property
    def weights_in_force(self) -> dict[str, torch.Tensor]:
        """The changes of the network: those of the last stage that changed it."""
        return self.weights(RECONSTRUCTION) or self.weights(CONTRASTIVE)

    def is_of(self, conditioning: Conditioning) -> bool:
        """Return whether it was tuned on the gray picture of a conditioning; True where it does not say on which."""
        gray = self.info.get("gray")
        return gray is None or gray == conditioning.content_hash("gray")

    def check_base(self, weights_hash: str, model_name: str) -> None:
        """Raise unless it belongs to these weights.

        Raises:
            RangeError: it was tuned on others.
        """
        base = str(self.info.get("base", ""))
        if base != weights_hash:
            raise RangeError(
                f"This adaptation was tuned on other weights ({base[:12] or 'unknown'}) than those of {model_name!r} "
                f"({weights_hash[:12] or 'unknown'}); use the model it was made with."
            )

    def save(self, path: str | Path) -> Path:
        """Write it as a file of its own; a file that is there is replaced at once or stays as it was.

        Raises:
            RangeError: another ending than ".safetensors".
            ColorlabError: it cannot be written.
        """
        path = Path(path).expanduser()
        if path.suffix != SUFFIX:
            raise RangeError(f"{str(path)!r} is no name of an adaptation; choose one that ends in {SUFFIX}.")
        metadata = {_VERSION_KEY: _VERSION, _INFO_KEY: json.dumps(dict(self.info)), _HASH_KEY: self.content_hash}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        try:
            with atomic_file(path, is_durable=True) as file:
                file.write(save(tensors, metadata))
        except OSError as error:
            raise ColorlabError(
                f"{str(path)!r} cannot be written ({(error.strerror or str(error)).lower()}) and is as it was; make "
                "room, or choose another place."
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Adaptation":
        """Read what `save` wrote and check every byte of it.

        Raises:
            WeightsError: it is missing, none of colorlab's, or damaged.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise WeightsError(
                f"There is no adaptation {str(path)!r}; check the name, or make one by colorizer.tune(...) and save it."
            )
        if path.suffix != SUFFIX:
            raise WeightsError(
                f"{str(path)!r} is no adaptation, whose name ends in {SUFFIX}; take that of a tuning that is not "
                "finished by colorizer.resume_tuning(...).adaptation."
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            found = cls(tensors, json.loads(metadata.get(_INFO_KEY, "{}")))
        except Exception as error:  # a damaged header can make the reader fail in any way
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise WeightsError(f"{str(path)!r} is damaged or no adaptation ({reason}); use another copy.") from error
        if metadata.get(_VERSION_KEY) != _VERSION:
            raise WeightsError(f"{str(path)!r} is no adaptation of this colorlab; give what Adaptation.save wrote.")
        if metadata.get(_HASH_KEY) != found.content_hash:
            raise WeightsError(f"{str(path)!r} is damaged: its content changed; use another copy.")
        return found

    def __repr__(self) -> str:
        stages = ", ".join(self.stages) or "nothing"
        return f"Adaptation {self.content_hash[:12]}: {stages} of {self.context!r}, {self.num_bytes / 2**20:.1f} MiB"


def install_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Add changes to the parameters of a network, in place.

    Args:
        network: owned by the caller.
        weights: as `Adaptation.weights`.

    Raises:
        WeightsError: a parameter is missing or has another shape.
    """
    parameters = dict(network.named_parameters())
    for key, tensor in weights.items():
        site, _, part = key.rpartition(".")
        if part == "up":
            continue
        name = site if part == "delta" else f"{site}.weight"
        if name not in parameters:
            raise WeightsError(f"The adaptation changes {name!r}, which this network does not have.")
        change = tensor if part == "delta" else weights[f"{site}.up"] @ tensor
        if change.shape != parameters[name].shape:
            raise WeightsError(f"The adaptation changes {name!r} by {tuple(change.shape)}, which does not fit.")
        with torch.no_grad():
            parameters[name].add_(change.to(parameters[name]))
