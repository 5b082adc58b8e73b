"""Attention scores of one call of a network, kept to be put into a later one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from colorlab.networks.patching import Patch, PatchCall, patched
from colorlab.networks.sites import ATTENTION_KINDS, find_sites

__all__ = ["KeptScores", "keep_scores", "put_scores"]

KeptScores = Mapping[tuple[str, str], torch.Tensor]
"""(B, heads, Q, K) float32 by path of the site and guidance pass."""


@contextmanager
def keep_scores(
    network: nn.Module,
    latent_shape: Sequence[int],
    guidance_passes: Sequence[str],
    *,
    wanted_passes: Sequence[str] | None = None,
) -> Iterator[KeptScores]:
    """Keep the scores of every attention layer, self and cross, of the calls within; with their graph if there is one.

    Args:
        network: a UNet.
        latent_shape: (B, C, h, w) of one pass.
        guidance_passes: of the calls, in batch order.
        wanted_passes: whose scores; None for all.

    Yields:
        The scores, filled by the calls.
    """
    kept: dict[tuple[str, str], torch.Tensor] = {}

    def keep(scores: torch.Tensor, where: PatchCall) -> None:
        kept[where.site, where.guidance_pass] = scores

    patches = [
        Patch(site.path, "scores", keep, name)
        for site in find_sites(network, latent_shape, kind=ATTENTION_KINDS)
        for name in (guidance_passes if wanted_passes is None else wanted_passes)
    ]
    with patched(network, patches, guidance_passes=guidance_passes, step_index=0, num_samples=int(latent_shape[0])):
        yield kept


def put_scores(kept: KeptScores) -> list[Patch]:
    """Return the patches that put kept scores in the place of those that a layer computes."""

    def put(own: torch.Tensor, where: PatchCall, *, scores: torch.Tensor) -> torch.Tensor:
        return scores

    return [Patch(path, "scores", partial(put, scores=scores.detach()), name) for (path, name), scores in kept.items()]
