"""Probe: reads queries, keys and block outputs while a network computes, and changes nothing.

Queries and keys are read where the network's own projections hand them on: the very tensors that attention gets,
patches and low-rank adapters included, with no second computation. The kernel that makes the picture stays in place.
Projections may be fused. Where IP-Adapters are loaded, the keys of their images are read beside those of the context.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal

import torch
from torch import nn

from colorlab.errors import RangeError, StateError
from colorlab.networks.attention import (
    check_readable_attention,
    image_key_projections,
    key_projection,
    query_projection,
)
from colorlab.networks.passes import PassRows, check_passes, submodule
from colorlab.networks.sites import Site, uncompiled

__all__ = ["Probe", "Reading"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a probe read at one site in one guidance pass.

    Args:
        site: where.
        guidance_pass: whose rows.
        q: (B, heads, Q, d) queries; None at a block.
        k: (B, heads, K, d) keys; None at a block.
        features: (B, C, h, w) block output; None at an attention site.
        scale: factor on q k' before the softmax.
        image_keys: (B, heads, N, d) keys of the images of each IP-Adapter, by its number; an adapter that is switched
            off computes none.
    """

    site: Site
    guidance_pass: str
    q: torch.Tensor | None = None
    k: torch.Tensor | None = None
    features: torch.Tensor | None = None
    scale: float = 1.0
    image_keys: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def get(self, part: Literal["q", "k", "features"]) -> torch.Tensor:
        """Return one of the tensors.

        Raises:
            StateError: the site does not have it.
        """
        tensor: torch.Tensor | None = getattr(self, part)
        if tensor is None:
            raise StateError(f"{self.site.path!r} is a {self.site.kind}, which has no {part}; read another site.")
        return tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        parts = (self.q, self.k, self.features, *self.image_keys.values())
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


class Probe(Mapping[tuple[str, str], Reading]):
    """Reads sites of one network during one step; a context manager, afterwards a mapping.

    Keys are (path of the site, guidance pass). Only what was asked for is stored, as copies.

    Args:
        network: a UNet or control network, called eagerly.
        sites: what to read.
        guidance_passes: of the step, in batch order; None to number the calls, see `PassRows`.
        wanted_passes: which of them to read; None for all.
        num_samples: pictures of each pass.
        device: where readings are kept; None for where they are.
        max_bytes: the call that would store more raises.

    Raises:
        RangeError: a site or pass does not exist, or a site is read twice.
        StateError: an attention layer does not attend in a way that can be read; or, from the call of the network, an
            attention mask came or the budget is used up.

    Example:
        >>> with Probe(unet, find_sites(unet, (64, 64), kind="attn2"), guidance_passes=["cond"]) as probe:
        ...     unet(latents, timestep, encoder_hidden_states=tokens)  # doctest: +SKIP
    """

    def __init__(
        self,
        network: nn.Module,
        sites: Sequence[Site],
        *,
        guidance_passes: Sequence[str] | None,
        wanted_passes: Sequence[str] | None = None,
        num_samples: int = 1,
        device: torch.device | str | None = "cpu",
        max_bytes: int = 2**30,
    ) -> None:
        if len({site.path for site in sites}) != len(sites):
            raise RangeError("sites holds a site twice, but each is read once.")
        self.sites = tuple(sites)
        wanted = guidance_passes if wanted_passes is None else wanted_passes
        self.wanted_passes = None if wanted is None else tuple(wanted)
        if wanted is not None and guidance_passes is not None:
            check_passes(wanted, guidance_passes)
        self.device = device
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._network = uncompiled(network)
        self._rows = PassRows(self._network, guidance_passes, num_samples=num_samples)
        self._handles: list[Any] = []
        # By site and pass, then "q", "k", "features", or the number of an IP-Adapter.
        self._read: dict[tuple[str, str], dict[str | int, torch.Tensor]] = {}

    def __enter__(self) -> "Probe":
        self._read, self.num_bytes = {}, 0
        self._rows.__enter__()
        try:
            for site in self.sites:
                self._watch(site, submodule(self._network, site.module))
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def __getitem__(self, key: tuple[str, str]) -> Reading:
        parts = self._read[key]
        site = next(site for site in self.sites if site.path == key[0])
        if not site.is_attention:
            return Reading(site, key[1], features=_on_grid(parts["features"], site))
        layer = submodule(self._network, site.module)
        by_head = {name: part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for name, part in parts.items()}
        image_keys = {name: part for name, part in by_head.items() if isinstance(name, int)}
        return Reading(site, key[1], q=by_head["q"], k=by_head["k"], scale=float(layer.scale), image_keys=image_keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    def _watch(self, site: Site, module: Any) -> None:
        """Hook what has to be read at one site."""
        if site.read_at:
            following = submodule(self._network, site.read_at)
            self._handles.append(following.register_forward_pre_hook(partial(self._keep_input, site.path)))
            return
        if not site.is_attention:
            self._handles.append(module.register_forward_hook(partial(self._keep, site.path, "features")))
            return
        check_readable_attention(module, site.path)
        self._handles.append(module.register_forward_pre_hook(partial(_refuse_mask, site.path), with_kwargs=True))
        for name, (projection, part, num_parts) in (("q", query_projection(module)), ("k", key_projection(module))):
            keep = partial(self._keep, site.path, name, fused=(part, num_parts))
            self._handles.append(projection.register_forward_hook(keep))
        for number, projection in enumerate(image_key_projections(module)):
            self._handles.append(projection.register_forward_hook(partial(self._keep, site.path, number)))

    def _keep(
        self,
        path: str,
        part: str | int,
        module: nn.Module,
        args: Any,
        output: Any,
        *,
        fused: tuple[int, int] = (0, 1),
    ) -> None:
        """Copy the wanted rows of what a module returned, or of one of its equal parts; a forward hook."""
        tensor: torch.Tensor = (output[0] if isinstance(output, tuple) else output).detach()
        if fused[1] > 1:
            tensor = tensor.chunk(fused[1], dim=-1)[fused[0]]
        for name, where in self._rows.slices():
            if self.wanted_passes is not None and name not in self.wanted_passes:
                continue
            rows = tensor[where]
            self.num_bytes += rows.numel() * rows.element_size()
            if self.num_bytes > self.max_bytes:
                raise StateError(
                    f"Reading {part} at {path!r} would store {self.num_bytes} bytes, more than max_bytes = "
                    f"{self.max_bytes}; name fewer sites or passes, or raise max_bytes."
                )
            # A copy also where nothing moves: a view would keep the whole batch alive, and see what is written to it.
            copied = rows.to(self.device or rows.device, copy=True)
            read = self._read.setdefault((path, name), {})
            if isinstance(part, int):
                # Several images are projected at once, or one after the other where they are masked.
                copied = copied.flatten(1, -2)
                copied = torch.cat([read[part], copied], dim=1) if part in read else copied
            read[part] = copied

    def _keep_input(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Copy the wanted rows of what a module gets; a forward pre-hook."""
        self._keep(path, "features", module, args, args[0])

    def _release(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._rows.__exit__(None, None, None)


def _on_grid(features: torch.Tensor, site: Site) -> torch.Tensor:
    """Return features (B, C, h, w); of tokens (B, T, C) those on the grid, which are the last ones."""
    if features.ndim == 4:
        return features
    return features[:, -site.num_positions :].transpose(1, 2).unflatten(2, site.grid)


def _refuse_mask(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise when attention is masked: the matrix would not follow from queries and keys alone."""
    mask = kwargs.get("attention_mask", args[2] if len(args) > 2 else None)
    if mask is not None:
        raise StateError(f"{path!r} was called with an attention mask, which a probe does not read; call without one.")
