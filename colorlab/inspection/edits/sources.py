"""Edits that bring in another run: its latents or its features, in a region and for some steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from colorlab.inspection.edits.base import SourceEdit, cells_of, passes_of, read_only_mask
from colorlab.networks.passes import check_passes
from colorlab.networks.patching import Patch, PatchCall
from colorlab.networks.sites import SiteKind
from colorlab.runs.edits import EditCall
from colorlab.runs.tree import Tree

__all__ = ["PatchFeatures", "PatchLatents"]

_BLOCKS: tuple[SiteKind, ...] = ("resnet", "transformer", "block")
_LEAST_COVERAGE = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class PatchLatents(SourceEdit):
    """Put another run's latents in, in a region, where a step begins.

    The latents that *enter the step* are changed: the network predicts from them, and the solver steps from them. The
    state that the run records before the step is the one the step before gave, and what a multistep solver remembers
    stays.

    Args:
        source: a run of the same tree, picture and timesteps that has come to these steps.
        mask: (H, W) of the picture; a latent cell is taken over if at least half of it is covered. None for all.
        steps: at which steps; None for all.

    Raises:
        ShapeError, RangeError: the mask cannot be used; when branching: the source does not fit.

    Source: ours; blending the latents of two paths in a mask is Blended Diffusion, arXiv 2111.14818.
    """

    mask: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            object.__setattr__(self, "mask", read_only_mask(self.mask))

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when source, steps or mask do not fit the branch."""
        super().check(call, tree)
        self._cells(call)

    def enter(self, latents: torch.Tensor, call: EditCall) -> torch.Tensor:
        """Return latents with the source's in the region."""
        if not self.is_active(call.step_index):
            return latents
        source = self._state(call).latents.to(latents)
        return torch.where(self._cells(call).to(latents.device), source, latents)

    def _num_steps_needed(self, call: EditCall) -> int:
        """Return how many steps the source has to have taken: the state before the last step is enough."""
        return super()._num_steps_needed(call) - 1

    def _cells(self, call: EditCall) -> torch.Tensor:
        """Return the latent cells (h, w) that are taken over."""
        height, width = call.latent_shape[-2:]
        return cells_of(call, self.mask, (height, width), least=_LEAST_COVERAGE)

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Return nothing: the network itself stays as it is."""
        return ()


@dataclass(frozen=True, eq=False, repr=False)
class PatchFeatures(SourceEdit):
    """Put another run's features in at blocks of the network, in a region (activation patching).

    At each step in question the source's step is asked once more, and the features that leave its blocks replace those
    of the branch: one more network call a step.

    Args:
        source: a run of the same tree, picture and timesteps that has taken these steps.
        site: path or pattern of blocks, residual blocks or stacks of transformer blocks.
        mask: (H, W) of the picture; a cell of a block's grid is taken over if at least half of it is covered. None for
            all.
        guidance_pass: in which pass, from the same pass of the source; None for all.
        steps: at which steps; None for all.

    Raises:
        ShapeError, RangeError: the mask cannot be used; when branching: the source does not fit, or a site or pass
            does not exist.

    Source: activation patching, arXiv 2202.05262 (causal tracing); features injected from another path, arXiv
        2211.12572 (Plug-and-Play).
    """

    site: str
    mask: Any = None
    guidance_pass: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is not None:
            object.__setattr__(self, "mask", read_only_mask(self.mask))

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when source, steps, site, pass or mask do not fit the branch."""
        super().check(call, tree)
        passes = call.guidance_passes if self.guidance_pass is None else (self.guidance_pass,)
        check_passes(passes, call.guidance_passes)
        check_passes(passes, passes_of(self.source))
        for site in call.sites(self.site, _BLOCKS):
            cells_of(call, self.mask, site.grid, least=_LEAST_COVERAGE)

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Read the source's features and put them in."""
        sites = call.sites(self.site, _BLOCKS)
        passes = [name for name in call.guidance_passes if self.guidance_pass in (None, name)]
        readings = self._read(call, sites, passes)
        patches = []
        for site in sites:
            cells = cells_of(call, self.mask, site.grid, least=_LEAST_COVERAGE)
            for name in passes:
                features = readings[site.path, name].get("features")
                patches.append(Patch(site.path, "output", partial(_put, features, cells), name))
        return patches


def _put(source: torch.Tensor, cells: torch.Tensor, features: torch.Tensor, where: PatchCall) -> torch.Tensor:
    """Return features (B, C, h, w) with the source's in some cells (h, w)."""
    return torch.where(cells.to(features.device), source.to(features), features)
