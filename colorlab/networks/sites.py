"""Sites: the inspectable places of a denoising network, each by its diffusers path.

| kind | place | what stands there |
| --- | --- | --- |
| `attn1` | self-attention | queries and keys are the cells of the grid |
| `attn2` | cross-attention | queries are the cells of the grid, keys the tokens of the context |
| `resnet`, `transformer` | output of one residual block, of one stack of transformer blocks | features on the grid |
| `block` | output of a whole `down_blocks.N`, `mid_block` or `up_blocks.N` | features on the grid |

The grid is computed from the structure, without a network call: a level ends with a convolution of stride 2 (rounded
up), and on the way back the network takes the sizes it came from.
"""

import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from torch import nn

from colorlab.errors import RangeError

__all__ = [
    "ATTENTION_KINDS",
    "SITE_KINDS",
    "Site",
    "SiteKind",
    "find_site",
    "find_sites",
    "select_sites",
    "sites_of_network",
    "uncompiled",
]

SiteKind = Literal["attn1", "attn2", "resnet", "transformer", "block"]
SITE_KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
ATTENTION_KINDS: tuple[SiteKind, ...] = ("attn1", "attn2")

_NUM_NEAR = 4


@dataclass(frozen=True)
class Site:
    """One inspectable place.

    Args:
        path: diffusers path within the network, for instance `mid_block.attentions.0.transformer_blocks.0.attn2`; in
            front of it the name of the network, unless that is the denoising one.
        kind: what stands there; by what the attention reads, should a network name it otherwise.
        grid: (h, w) of the queries, or of the features.
        heads: attention heads; 0 where there is no attention.
        channels: width of the queries over all heads, or of the features.
        network: name of the network, `control_network` or `vae.decoder` for instance; "" for the denoising one.
        read_at: path within the network of the module whose input are the features; "" where the module at `path`
            returns them.
    """

    path: str
    kind: SiteKind
    grid: tuple[int, int]
    heads: int
    channels: int
    network: str = ""
    read_at: str = ""

    @property
    def module(self) -> str:
        """Path of the module within its network."""
        return self.path.removeprefix(f"{self.network}.")

    @property
    def is_attention(self) -> bool:
        """Whether there are queries and keys."""
        return self.kind in ATTENTION_KINDS

    @property
    def num_positions(self) -> int:
        """Cells of the grid."""
        return self.grid[0] * self.grid[1]


def find_sites(
    network: nn.Module,
    latent_shape: Sequence[int],
    *,
    glob: str = "*",
    kind: SiteKind | Sequence[SiteKind] | None = None,
    resolution: tuple[int, int] | None = None,
    name: str = "",
) -> tuple[Site, ...]:
    """List the sites of a UNet or a control network in the order in which they are computed.

    Args:
        network: with diffusers' `down_blocks`, `mid_block` and, unless it is a control network, `up_blocks`.
        latent_shape: of the latents that go in; the last two numbers are (h, w).
        glob: pattern for the path; `*` stands for any characters.
        kind: one kind or several; None for all.
        resolution: (h, w) of the grid; None for all.
        name: of the network, which stands in front of the paths; "" for the denoising network.

    Returns:
        At least one site.

    Raises:
        RangeError: nothing fits, or `network` has no such blocks; the message names what comes near.

    Example:
        >>> find_sites(unet, (4, 64, 64), glob="up_blocks.*", kind="attn2", resolution=(32, 32))  # doctest: +SKIP
    """
    network = uncompiled(network)
    if not hasattr(network, "down_blocks") or getattr(network, "mid_block", None) is None:
        raise RangeError(
            f"{type(network).__name__} has no down_blocks and mid_block; a UNet or a control network is expected."
        )
    if len(latent_shape) < 2 or min(latent_shape[-2:]) < 1:
        raise RangeError(f"latent_shape is {tuple(latent_shape)}, but (..., h, w) is expected.")
    height, width = (int(size) for size in latent_shape[-2:])
    sites = tuple(_walk(network, (height, width)))
    if name:
        sites = tuple(replace(site, path=f"{name}.{site.path}", network=name) for site in sites)
    return select_sites(sites, glob=glob, kind=kind, resolution=resolution)


def find_site(network: nn.Module, latent_shape: Sequence[int], path: str) -> Site:
    """Return the one site with this path; arguments and errors as `find_sites`."""
    sites = find_sites(network, latent_shape)
    for site in sites:
        if site.path == path:
            return site
    raise RangeError(f"There is no site {path!r}; {_near(path, sites)}.")


def select_sites(
    sites: Sequence[Site],
    *,
    glob: str = "*",
    kind: SiteKind | Sequence[SiteKind] | None = None,
    resolution: tuple[int, int] | None = None,
) -> tuple[Site, ...]:
    """Filter sites; arguments as `find_sites`.

    Raises:
        RangeError: nothing is left; the message says which filter left nothing, and what comes near.
    """
    kinds = SITE_KINDS if kind is None else (kind,) if isinstance(kind, str) else tuple(kind)
    unknown = [name for name in kinds if name not in SITE_KINDS]
    if unknown:
        raise RangeError(f"kind is {unknown[0]!r}, but one of {', '.join(SITE_KINDS)} is expected.")
    named = tuple(site for site in sites if fnmatch.fnmatchcase(site.path, glob))
    if not named:
        raise RangeError(f"No site fits {glob!r}; {_near(glob, sites)}.")
    of_kind = tuple(site for site in named if site.kind in kinds)
    if not of_kind:
        there = ", ".join(dict.fromkeys(site.kind for site in named))
        raise RangeError(f"No site that fits {glob!r} is of kind {' or '.join(kinds)}; there are: {there}.")
    found = tuple(site for site in of_kind if resolution is None or site.grid == tuple(resolution))
    if not found:
        there = ", ".join(dict.fromkeys(f"{site.grid[0]}x{site.grid[1]}" for site in of_kind))
        raise RangeError(f"No such site has the resolution {resolution}; there are: {there}.")
    return found


def sites_of_network(sites: Sequence[Site], pattern: str) -> tuple[Site, ...]:
    """Keep the sites of the network whose name stands in front of a pattern, or else of the denoising one."""
    named = [site.network for site in sites if site.network and pattern.startswith(f"{site.network}.")]
    network = named[0] if named else ""
    return tuple(site for site in sites if site.network == network)


def uncompiled(network: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or the network itself; the weights are the same."""
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original


def _walk(network: Any, grid: tuple[int, int]) -> Iterator[Site]:
    """Go through the blocks as the network does, keeping the sizes for the way back."""
    levels = []
    for index, block in enumerate(network.down_blocks):
        levels.append(grid)
        after = (-(-grid[0] // 2), -(-grid[1] // 2)) if getattr(block, "downsamplers", None) else grid
        yield from _sites_of(block, f"down_blocks.{index}", grid, after)
        grid = after
    yield from _sites_of(network.mid_block, "mid_block", grid, grid)
    # A control network has no way back.
    for index, block in enumerate(getattr(network, "up_blocks", None) or ()):
        inside = levels[-1 - index]
        after = levels[-2 - index] if getattr(block, "upsamplers", None) else inside
        yield from _sites_of(block, f"up_blocks.{index}", inside, after)


def _sites_of(block: Any, path: str, inside: tuple[int, int], after: tuple[int, int]) -> Iterator[Site]:
    """Name the sites of one block: within it in order of computation, then its output."""
    resnets, stacks = list(getattr(block, "resnets", ())), list(getattr(block, "attentions", None) or ())
    if path == "mid_block":
        order = [("resnets", 0)] + [
            pair for index in range(len(stacks)) for pair in (("attentions", index), ("resnets", index + 1))
        ]
    else:
        order = [
            pair
            for index in range(max(len(resnets), len(stacks)))
            for pair in (("resnets", index), ("attentions", index))
        ]
    channels = 0
    for group, index in order:
        parts = resnets if group == "resnets" else stacks
        if index >= len(parts) or parts[index] is None:
            continue
        part, name = parts[index], f"{path}.{group}.{index}"
        if group == "resnets":
            channels = int(part.out_channels)
            yield Site(name, "resnet", inside, 0, channels)
        else:
            yield from _attentions_of(part, name, inside)
            yield Site(name, "transformer", inside, 0, channels)
    yield Site(path, "block", after, 0, channels)


def _attentions_of(stack: nn.Module, path: str, grid: tuple[int, int]) -> Iterator[Site]:
    """Name the attention layers of one stack of transformer blocks."""
    for name, module in stack.named_modules():
        layer: Any = module
        if hasattr(layer, "to_q") and hasattr(layer, "heads"):
            kind: SiteKind = "attn2" if layer.is_cross_attention else "attn1"
            yield Site(f"{path}.{name}" if name else path, kind, grid, int(layer.heads), int(layer.inner_dim))


def _near(wanted: str, sites: Sequence[Site]) -> str:
    """Say which paths come near the wanted one."""
    paths = [site.path for site in sites]
    near = difflib.get_close_matches(wanted, paths, n=_NUM_NEAR, cutoff=0.4)
    if not near:
        # A short word such as "attn3" is far from every whole path, but may be near to a part of one.
        parts = {part: path for path in reversed(paths) for part in path.split(".")}
        last = wanted.strip("*.").split(".")[-1]
        near = [parts[part] for part in difflib.get_close_matches(last, parts, n=_NUM_NEAR, cutoff=0.5)]
    if near:
        return f"near it are {', '.join(map(repr, near))}"
    return f"there are {len(paths)}, for instance {paths[0]!r}"
