"""What a tuning trains, as a plain mapping of tensors: low-rank changes of attention (peft), or every parameter.

A network is never changed by a tuning. Its copy is asked with the tensors of the present state in the place of its
parameters, so that any earlier state can be asked as well.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call

from colorlab.networks import libraries

__all__ = ["ATTENTION_LAYERS", "TunedNetwork", "Weights"]

Weights = Mapping[str, torch.Tensor]
"""Trained tensors by name; a new mapping for every iteration."""

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


class TunedNetwork:
    """A denoising network that is asked with trained tensors in the place of its own.

    Args:
        unet: the network before tuning; it is copied.
        trained: "lora" or "full".
        rank: of the low-rank changes.
        seed: of their first values; the changes themselves begin at zero.
    """

    def __init__(self, unet: torch.nn.Module, *, trained: str, rank: int, seed: int) -> None:
        self.trained = trained
        network: Any = copy.deepcopy(unet)
        if trained == "lora":
            # Fetched here: full tuning does not need the library.
            config = libraries.LoraConfig(
                r=rank, lora_alpha=rank, target_modules=list(ATTENTION_LAYERS), init_lora_weights=True
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = libraries.inject_adapter_in_model(config, network)
        self._network = network.eval().requires_grad_(False)
        self._names = {
            _public_name(name): name
            for name, _ in network.named_parameters()
            if trained == "full" or name.endswith((_DOWN, _UP))
        }

    def initial(self) -> dict[str, torch.Tensor]:
        """Return the tensors to begin with: the network as it is."""
        parameters = dict(self._network.named_parameters())
        return {name: parameters[own].detach().float().clone() for name, own in self._names.items()}

    def predict(self, weights: Weights, latents: torch.Tensor, timestep: int, tokens: torch.Tensor) -> torch.Tensor:
        """Return the raw output for (B, C, h, w) latents at a timestep; differentiable in all three tensors."""
        first = next(self._network.parameters())
        own = {self._names[name]: tensor.to(first) for name, tensor in weights.items()}
        arguments = (latents.to(first), torch.tensor(timestep, device=first.device))
        output = functional_call(self._network, own, arguments, {"encoder_hidden_states": tokens.to(first)})
        return output.sample.float()

    def changes(self, weights: Weights) -> dict[str, torch.Tensor]:
        """Return what the tensors change, as an `Adaptation` keeps it: `SITE.down` and `.up`, or `PARAMETER.delta`."""
        if self.trained == "lora":
            return {name: tensor.detach().cpu().float() for name, tensor in weights.items()}
        parameters = dict(self._network.named_parameters())
        return {
            f"{name}.delta": (tensor - parameters[self._names[name]]).detach().cpu().float()
            for name, tensor in weights.items()
        }


def _public_name(name: str) -> str:
    """Return the name of a trained tensor without what the library adds to it."""
    if name.endswith(_DOWN):
        return name.removesuffix(_DOWN) + ".down"
    if name.endswith(_UP):
        return name.removesuffix(_UP) + ".up"
    return name


@contextmanager
def tracked(weights: Weights) -> Iterator[dict[str, torch.Tensor]]:
    """Give leaves of the tensors to differentiate by; nothing of them outlives the block but what was computed."""
    with torch.enable_grad():
        yield {name: tensor.detach().clone().requires_grad_(True) for name, tensor in weights.items()}
