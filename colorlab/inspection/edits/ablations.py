"""Edits that take a part of the network away: one attention head, or a whole site."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from colorlab.errors import RangeError
from colorlab.inspection.edits.base import SiteEdit, check_number
from colorlab.networks.patching import Patch, PatchCall, PatchFunction
from colorlab.networks.sites import ATTENTION_KINDS, Site
from colorlab.runs.edits import EditCall

__all__ = ["AblateHead", "AblateSite"]

MAX_SCALE = 100.0


@dataclass(frozen=True, eq=False, repr=False)
class AblateHead(SiteEdit):
    """Take what one attention head adds to the picture away, or scale it.

    The head's values are scaled, which scales what it attends to; the bias of the layer's output stays.

    Args:
        site: path or pattern of attention sites; all of them lose the head of this index.
        head: index.
        scale: factor on the head's contribution; 1 leaves it, with equal bits.
        guidance_pass: in which pass; None for all.
        steps: at which steps; None for all.

    Raises:
        RangeError: `scale` or `head` is out of range; when branching: a site has no such head.

    Source: zero ablation of heads, arXiv 1905.10650 v3, Sec. 2.3.
    """

    site: str = field()
    head: int
    scale: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.scale, "scale", -MAX_SCALE, MAX_SCALE)
        if isinstance(self.head, bool) or not isinstance(self.head, int) or self.head < 0:
            raise RangeError(f"head is {self.head!r}, but an index of at least 0 is expected.")

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Scale the head's slice of the values."""
        return [
            Patch(site.path, "v", _scale_columns(self._columns(site), self.scale), self.guidance_pass)
            for site in call.sites(self.site, ATTENTION_KINDS)
        ]

    def _columns(self, site: Site) -> slice:
        """Return where the head lies among the channels of the values."""
        if self.head >= site.heads:
            raise RangeError(f"head is {self.head}, but {site.path!r} has heads 0 to {site.heads - 1}.")
        width = site.channels // site.heads
        return slice(self.head * width, (self.head + 1) * width)


@dataclass(frozen=True, eq=False, repr=False)
class AblateSite(SiteEdit):
    """Take away what a site adds, or scale it.

    At an attention site the values are scaled: nothing but the bias of its output is left at 0. At a block, a residual
    block or a stack of transformer blocks the features that leave it are scaled, those it lets pass included.

    Args:
        site: path or pattern; if attention sites fit it, these are meant, else the outputs of blocks that fit.
        scale: factor; 1 leaves the site, with equal bits.
        guidance_pass: in which pass; None for all.
        steps: at which steps; None for all.

    Raises:
        RangeError: `scale` is out of range; when branching: no site fits.
    """

    site: str = field()
    scale: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.scale, "scale", -MAX_SCALE, MAX_SCALE)

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Scale values or outputs."""
        sites = call.sites(self.site)
        chosen = [site for site in sites if site.is_attention] or sites
        everything = _scale_columns(slice(None), self.scale)
        return [
            Patch(site.path, "v" if site.is_attention else "output", everything, self.guidance_pass) for site in chosen
        ]


def _scale_columns(columns: slice, scale: float) -> PatchFunction:
    """Return a patch function that scales some channels of values (B, K, C), or all of any tensor."""

    def rescale(tensor: torch.Tensor, where: PatchCall) -> torch.Tensor:
        changed = tensor.clone()
        changed[..., columns] *= scale
        return changed

    return rescale
