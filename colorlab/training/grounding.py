"""Grounding: an object's cells learn to look at the words that name the object.

Source: the idea of TokenCompose (Wang et al., arXiv 2312.03626): masks of what a caption names supervise
    cross-attention beside the denoising objective.
Deviation (ours): one term for each cell instead of one for each token, because the world tells exactly what every cell
    shows. The share of attention on the right words is taken against the words of all objects, which is what binds a
    color to its object, and to a tenth against all other tokens, which keeps the words from being ignored.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from colorlab.networks.sites import Site, SiteKind, find_sites, uncompiled

NUM_THINGS = 4
"""Most instances of a scene."""

REST_WEIGHT = 0.1
"""Weight of attention on tokens that name no object. Ours."""

MIN_CELLS = 8
"""Sides of the smallest grid that is grounded; on coarser ones a cell shows several objects. Ours."""


class AttentionReader:
    """Reads queries and keys of the finer attention layers of one kind, with their gradients, while it is entered.

    Args:
        unet: the network, possibly compiled.
        latent_shape: (B, C, h, w) of its input.
        kind: `attn2` for cross-attention, `attn1` for self-attention.
        glob: pattern for the layers' paths.
    """

    def __init__(
        self, unet: nn.Module, latent_shape: Sequence[int], *, kind: SiteKind = "attn2", glob: str = "*"
    ) -> None:
        bare = uncompiled(unet)
        sites = [site for site in find_sites(bare, latent_shape, kind=kind, glob=glob) if min(site.grid) >= MIN_CELLS]
        self.layers: list[tuple[Site, Any]] = [(site, bare.get_submodule(site.path)) for site in sites]
        self._read: dict[tuple[str, str], torch.Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "AttentionReader":
        for site, layer in self.layers:
            for name in ("to_q", "to_k"):
                projection = getattr(layer, name)
                self._handles.append(projection.register_forward_hook(self._keep(site.path, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def probabilities(self) -> list[tuple[tuple[int, int], torch.Tensor]]:
        """Return (grid, mean over heads of the attention (B, Q, N)) of every layer that was read."""
        found = []
        for site, layer in self.layers:
            query, key = (self._read[site.path, name].unflatten(-1, (layer.heads, -1)) for name in ("to_q", "to_k"))
            scores = torch.einsum("bqhd,bnhd->bhqn", query, key) * layer.scale
            found.append((site.grid, scores.softmax(-1).mean(1)))
        return found

    def _keep(self, path: str, name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        """Return a forward hook that keeps what a projection returned."""

        def hook(module: nn.Module, args: object, output: torch.Tensor) -> None:
            self._read[path, name] = output

        return hook


def naming_tokens(token_ids: torch.Tensor, kinds: Sequence[Sequence[int]], color_ids: Sequence[int]) -> torch.Tensor:
    """Find the tokens that name each object: its noun, and the color word before it.

    Args:
        token_ids: (B, N) int64 of the captions.
        kinds: for each caption the token of the kind of each instance; empty for a picture without instances.
        color_ids: tokens of the color words.

    Returns:
        (B, 4, N) bool. Instances of one kind share their tokens: words alone do not tell them apart.
    """
    named = torch.zeros(len(token_ids), NUM_THINGS, token_ids.shape[1], dtype=torch.bool)
    is_color = torch.isin(token_ids, torch.tensor(list(color_ids)))
    for row, tokens in enumerate(kinds):
        for number, token in enumerate(tokens):
            is_noun = token_ids[row] == token
            named[row, number] = is_noun
            named[row, number, :-1] |= is_noun[1:] & is_color[row, :-1]
    return named


def stroke_grounding_loss(
    attention: Sequence[tuple[tuple[int, int], torch.Tensor]], owners: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Tell how far the cells of objects look away from the strokes that were painted on them.

    The same as `grounding_loss`, with the cells of strokes in place of the tokens of words.

    Args:
        attention: grid and (B, Q, Q) self-attention probabilities of each layer.
        owners: (B, h, w) int64, the instance on which a stroke in this cell lies; anything outside 0 to 3 for none.
        patches: (B, h, w) int64, the instance that each latent cell shows.

    Returns:
        Scalar, the mean over layers; 0 without any stroke on an object.

    Source: ours.
    """
    strokes = functional.one_hot(owners.where((owners >= 0) & (owners < NUM_THINGS), NUM_THINGS), NUM_THINGS + 1)
    strokes = strokes[..., :NUM_THINGS].permute(0, 3, 1, 2).float()
    losses = [
        grounding_loss([(grid, probs)], functional.adaptive_max_pool2d(strokes, grid).flatten(2) > 0, patches)
        for grid, probs in attention
    ]
    return torch.stack(losses).mean()


def on_grid(patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Read (B, h, w) in the middle of each cell of a coarser grid (rows, columns), which divides h and w."""
    rows, columns = patches.shape[1] // grid[0], patches.shape[2] // grid[1]
    return patches[:, rows // 2 :: rows, columns // 2 :: columns]


def grounding_loss(
    attention: Sequence[tuple[tuple[int, int], torch.Tensor]], named: torch.Tensor, patches: torch.Tensor
) -> torch.Tensor:
    """Tell how far the cells of objects look away from the words that name them.

    Args:
        attention: grid and (B, Q, N) probabilities of each layer.
        named: (B, 4, N) bool, see `naming_tokens`.
        patches: (B, h, w) int64, the instance that each latent cell shows; anything outside 0 to 3 counts for nothing.

    Returns:
        Scalar, the mean of -log(own / (own + other objects' + a tenth of the rest)) over layers and cells of named
        objects; 0 without any.
    """
    losses = []
    named = named.to(attention[0][1].device)
    for (height, width), probs in attention:
        cells = on_grid(patches, (height, width)).flatten(1).to(probs.device)  # (B, Q)
        is_thing = (cells >= 0) & (cells < NUM_THINGS)
        own_words = named.gather(1, cells.clamp(0, NUM_THINGS - 1)[..., None].expand(-1, -1, named.shape[-1]))
        kept = is_thing & own_words.any(-1)
        own = (probs * own_words).sum(-1)[kept]
        objects = (probs * named.any(1, keepdim=True)).sum(-1)[kept]
        losses.append(-torch.log((own + 1e-6) / (objects + REST_WEIGHT * (1 - objects) + 1e-6)))
    total = torch.cat(losses)
    return total.mean() if len(total) else total.sum()
