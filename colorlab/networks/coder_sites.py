"""Sites of what encodes and decodes: autoencoders, luminance encoders, sketch encoders, the towers of CLIP.

| network | sites | where features are read |
| --- | --- | --- |
| `vae.encoder`, `vae.decoder`, `luminance_encoder` | residual blocks, levels, attention | input of the next module |
| `sketch_encoder` | stem, stages, and the hints (`zero_convs`) | output of the module |
| `text_encoder`, `image_encoder`, `projected_...` | transformer layers | output of the layer; a cell is a token |

Methods call the parts of a decoder one by one, to add luminance taps or deformable units between them. The blocks
themselves may then never be called, so that only what the next module receives tells what went on from there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from colorlab.networks.sites import Site, SiteKind
from colorlab.networks.sketch_encoder import SketchEncoder

__all__ = ["coder_networks", "coder_sites", "is_decoder"]


@dataclass(frozen=True)
class _Part:
    """One module of a chain, in order of computation.

    Args:
        block: path of the level it belongs to.
        path: of the module.
        first: of the module within it that is called first, with its input.
        kind: of the site; None for a resampling, which is no site of its own.
        grid: (h, w) of what leaves it.
        heads: of attention.
        channels: of what leaves it, or of the queries.
    """

    block: str
    path: str
    first: str
    kind: SiteKind | None
    grid: tuple[int, int]
    heads: int
    channels: int


def coder_networks(components: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Find the encoders and decoders among the networks of a model.

    Args:
        components: networks by name.

    Returns:
        By the name that stands in front of the paths of their sites; of a tower of CLIP with a projection behind it,
        the tower.
    """
    found: dict[str, nn.Module] = {}
    for name, component in components.items():
        parts = dict(component.named_children())
        towers = [part for part in parts.values() if "encoder" in dict(part.named_children())]
        if {"encoder", "decoder"} <= set(parts):
            found |= {f"{name}.{part}": parts[part] for part in ("encoder", "decoder")}
        elif "encoder" in parts or isinstance(component, SketchEncoder):
            found[name] = component
        elif len(towers) == 1:
            found[name] = towers[0]
    return found


def is_decoder(network: nn.Module) -> bool:
    """Return whether a network of `coder_networks` makes pictures of latents."""
    return hasattr(network, "up_blocks")


def coder_sites(network: nn.Module, name: str, latent_grid: tuple[int, int], latent_factor: int) -> tuple[Site, ...]:
    """List the sites of an encoder or decoder in order of computation.

    Args:
        network: one of `coder_networks`.
        name: of it.
        latent_grid: (h, w) of the latents.
        latent_factor: pixels along one side of a latent cell.
    """
    coder: Any = network
    if hasattr(coder, "encoder") and hasattr(coder.encoder, "layers"):
        return tuple(_layers(coder, name))
    if isinstance(network, SketchEncoder):
        return tuple(_hint_sites(network, name, latent_grid))
    if is_decoder(network):
        return _chain(list(_decoder_parts(coder, latent_grid)), name, end="conv_norm_out")
    size = (latent_grid[0] * latent_factor, latent_grid[1] * latent_factor)
    if hasattr(coder, "zero_convs"):
        parts = list(_encoder_parts(coder.encoder, size, "encoder."))
        return _chain(parts, name, end=f"zero_convs.{len(coder.zero_convs) - 1}")
    return _chain(list(_encoder_parts(coder, size, "")), name, end="conv_norm_out")


def _layers(tower: Any, name: str) -> Iterator[Site]:
    """Name the layers of a tower of CLIP; tokens before the patches of a picture do not show on its grid."""
    config = tower.config
    if hasattr(config, "max_position_embeddings"):
        grid = (1, int(config.max_position_embeddings))
    else:
        side = config.image_size // config.patch_size
        grid = (side, side)
    for index in range(len(tower.encoder.layers)):
        yield Site(f"{name}.encoder.layers.{index}", "block", grid, 0, config.hidden_size, network=name)


def _hint_sites(encoder: SketchEncoder, name: str, grid: tuple[int, int]) -> Iterator[Site]:
    """Name the features of a sketch encoder in order of computation, behind each the hint that is made of it."""
    features: list[tuple[str, Any]] = [("stem", encoder.stem)]
    features += [(f"stages.{index}", stage) for index, stage in enumerate(encoder.stages)]
    for index, (path, module) in enumerate(features):
        # A stage halves the size in its first convolution, if it does.
        if index and module[1].stride[0] > 1:
            grid = (-(-grid[0] // 2), -(-grid[1] // 2))
        channels = int(module[-1].out_channels)
        yield Site(f"{name}.{path}", "block", grid, 0, channels, network=name)
        yield Site(f"{name}.zero_convs.{index}", "block", grid, 0, channels, network=name)


def _decoder_parts(decoder: Any, grid: tuple[int, int]) -> Iterator[_Part]:
    """Go through a decoder as it computes."""
    yield from _block_parts(decoder.mid_block, "mid_block", grid)
    for index, block in enumerate(decoder.up_blocks):
        path = f"up_blocks.{index}"
        yield from _block_parts(block, path, grid)
        for number, sampler in enumerate(block.upsamplers or ()):
            grid = (2 * grid[0], 2 * grid[1])
            name = f"{path}.upsamplers.{number}"
            yield _Part(path, name, name, None, grid, 0, int(sampler.out_channels))


def _encoder_parts(encoder: Any, grid: tuple[int, int], prefix: str) -> Iterator[_Part]:
    """Go through an encoder as it computes."""
    for index, block in enumerate(encoder.down_blocks):
        path = f"{prefix}down_blocks.{index}"
        yield from _block_parts(block, path, grid)
        for number, sampler in enumerate(block.downsamplers or ()):
            grid = (grid[0] // 2, grid[1] // 2)
            name = f"{path}.downsamplers.{number}"
            yield _Part(path, name, name, None, grid, 0, int(sampler.out_channels))
    yield from _block_parts(encoder.mid_block, f"{prefix}mid_block", grid)


def _block_parts(block: Any, path: str, grid: tuple[int, int]) -> Iterator[_Part]:
    """Go through the residual blocks of a level; behind each stands its attention, if there is one."""
    attentions = list(getattr(block, "attentions", None) or ())
    for index, resnet in enumerate(block.resnets):
        name = f"{path}.resnets.{index}"
        yield _Part(path, name, f"{name}.norm1", "resnet", grid, 0, int(resnet.out_channels))
        layer = attentions[index] if index < len(attentions) else None
        if layer is not None:
            name = f"{path}.attentions.{index}"
            yield _Part(path, name, name, "attn1", grid, int(layer.heads), int(layer.inner_dim))


def _chain(parts: list[_Part], name: str, *, end: str) -> tuple[Site, ...]:
    """Make the sites of a chain of modules, each read at the input of the next one.

    Args:
        parts: in order.
        name: of the network.
        end: path of the module that receives what leaves the last one.
    """
    sites = []
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        after = end if following is None else following.first
        if part.kind is not None:
            reads = "" if part.kind == "attn1" else after
            path = f"{name}.{part.path}"
            sites.append(Site(path, part.kind, part.grid, part.heads, part.channels, network=name, read_at=reads))
        if following is None or following.block != part.block:
            sites.append(
                Site(f"{name}.{part.block}", "block", part.grid, 0, part.channels, network=name, read_at=after)
            )
    return tuple(sites)
