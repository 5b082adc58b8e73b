"""Self-attention that looks at another picture, too: features of one call are kept and lent to the next.

Nothing of the network is exchanged: what enters each self-attention layer is read by a hook in one call, and put behind
the layer's own keys and values by a hook in the other.

Source: tellurion-kanata/colorizeDiffusion@c9bd9fb ("attention injection", after reference-only control).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from colorlab.errors import ShapeError
from colorlab.networks.environment import eagerly
from colorlab.networks.sites import uncompiled

__all__ = ["lent_attention", "self_attention_inputs"]


@contextmanager
def self_attention_inputs(unet: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Keep what enters every self-attention layer of the calls within, by path: (B, Q, C), of the last call."""
    kept: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for path, layer in _self_attentions(unet):
            handle = layer.register_forward_pre_hook(partial(_keep, kept, path))
            stack.callback(handle.remove)
        yield kept


@contextmanager
def lent_attention(unet: nn.Module, lent: Mapping[str, torch.Tensor], own_shares: torch.Tensor) -> Iterator[None]:
    """Let every self-attention layer look at other features beside its own in the calls within.

    With f the share of a row: f SA(own) + (1 - f) SA(own + lent).

    Args:
        unet: restored on the way out, whatever happens.
        lent: as `self_attention_inputs` kept them, with the rows of the call.
        own_shares: f, (B,), [0, 1].

    Raises:
        ShapeError: a layer has nothing lent to it.
    """
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        for path, layer in _self_attentions(unet):
            if path not in lent:
                raise ShapeError(f"There are no features for {path!r}; lend those of a call of the same network.")
            before = layer.register_forward_pre_hook(partial(_extend, lent[path]), with_kwargs=True)
            stack.callback(before.remove)
            if bool(own_shares.any()):
                after = layer.register_forward_hook(partial(_blend, own_shares), with_kwargs=True)
                stack.callback(after.remove)
        yield


def _self_attentions(unet: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield path and module of every self-attention layer."""
    for path, module in uncompiled(unet).named_modules():
        if path.endswith(".attn1"):
            yield path, module


def _keep(kept: dict[str, torch.Tensor], path: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """Keep the input of a layer; a forward pre-hook."""
    kept[path] = args[0]


def _extend(
    lent: torch.Tensor, module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Let keys and values come from own and lent features; a forward pre-hook."""
    return args, {**kwargs, "encoder_hidden_states": torch.cat([args[0], lent], dim=1)}


def _blend(
    own_shares: torch.Tensor, module: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any], output: torch.Tensor
) -> torch.Tensor:
    """Mix in what attention to the own features alone gives; a forward hook."""
    own: torch.Tensor = module.forward(args[0])  # not the call, which would come here again
    share = own_shares.to(output)[:, None, None]
    return share * own + (1 - share) * output
