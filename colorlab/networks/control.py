"""The picture of a control network, embedded once for a whole run: it is the same in every step and guidance pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from colorlab.networks.sites import uncompiled

__all__ = ["embed_control", "embedded_before"]


def embed_control(network: nn.Module, control_image: torch.Tensor) -> torch.Tensor | None:
    """Return what a control network makes of its picture before anything else.

    These layers alone work at the resolution of the picture, and take a fifth of a step of a small model.

    Args:
        network: a `ControlNetModel`.
        control_image: (B, C, H, W), on the device and of the dtype of the network.

    Returns:
        (B, D, h, w), for calls within `embedded_before`; None for a network that reads BGR, which turns round what it
        gets.
    """
    inner: Any = uncompiled(network)
    if inner.config.controlnet_conditioning_channel_order != "rgb":
        return None
    with torch.no_grad():
        embedded: torch.Tensor = inner.controlnet_cond_embedding(control_image)
    return embedded


@contextmanager
def embedded_before(network: nn.Module) -> Iterator[None]:
    """Let a control network take, within, what `embed_control` returned in the place of its picture.

    Whoever shares the network with other threads holds its lock.
    """
    inner: Any = uncompiled(network)
    embedding = inner.controlnet_cond_embedding
    inner.controlnet_cond_embedding = nn.Identity()
    try:
        yield
    finally:
        inner.controlnet_cond_embedding = embedding
