"""Where the points of a frame were in the frame before, and how far that is to be trusted.

Three finders propose a place for every pixel, and the one whose surroundings look most alike is taken:

| finder | good at | works on |
| --- | --- | --- |
| the same place | what stands still, exactly | nothing |
| optical flow | slow motion, to a fraction of a pixel | lightness |
| features | large jumps | the finest levels of the autoencoder's encoder, compared cell by cell within a window |

A pixel is trusted where the way forth and back ends where it began, and where the lightness agrees.

Source: CtrlColor, arXiv 2402.10855, names video by feature matching from frame to frame and gives no algorithm.
Deviation: this one is ours, of known parts: forward-backward consistency, iterative Lucas-Kanade flow
    (`skimage.registration`), cosine similarity of features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skimage.registration import optical_flow_ilk
from torch.nn import functional

from colorlab.shapes import check_shape

__all__ = ["FrameLook", "Origin", "carry_chroma", "find_origin", "join_levels", "sample_at"]

# All ours, chosen on moving clips of training seeds; see `find_origin` and `carry_chroma`.
_WINDOW_SHARE = 0.25
_POSITION_WEIGHT = 0.6
_FLOW_RADIUS_PX = 5
_LOOK_PX = 7
_STILL_ADVANTAGE = 0.3
_MAX_CYCLE_PX = 1.5
_MAX_LIGHTNESS_GAP = 4.0
_FILL_PX = 5
_FILL_LIGHTNESS = 4.0
_FILL_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class FrameLook:
    """What a frame looks like to the finders.

    Args:
        lightness: (1, 1, H, W) float32, L [0, 100], at working size.
        features: (1, C, h, w) float32, as `join_levels` makes them.
    """

    lightness: torch.Tensor
    features: torch.Tensor


@dataclass(frozen=True, eq=False)
class Origin:
    """Where each pixel of a frame was in another one.

    Args:
        places: (1, 2, H, W) float32, (x, y) of pixel centers in the other frame, in pixels; 0 is the first center.
        trusted: (1, 1, H, W) bool.
    """

    places: torch.Tensor
    trusted: torch.Tensor

    @property
    def share(self) -> float:
        """Share of trusted pixels, [0, 1]."""
        return float(self.trusted.float().mean())


def join_levels(levels: tuple[torch.Tensor, ...], grid: tuple[int, int]) -> torch.Tensor:
    """Join features of several levels into one vector for each cell.

    Args:
        levels: (1, C, h, w) each, of any sizes.
        grid: (height, width) of the result in cells.

    Returns:
        (1, sum of C + 8, height, width) float32 on the CPU: each level standardised over the picture and of length 1,
        then a code of the position, so that of two equal places the nearer one is more alike.
    """
    parts = []
    for level in levels:
        level = level.detach().float().cpu()
        spread, mean = torch.std_mean(level, dim=(2, 3), keepdim=True)
        # A channel that is constant says nothing: 0 everywhere.
        even = (level - mean) / (spread + 1e-6)
        parts.append(functional.normalize(_resized(even, grid), dim=1))
    return torch.cat([*parts, _POSITION_WEIGHT * functional.normalize(_position_code(grid), dim=1)], dim=1)


def find_origin(new: FrameLook, old: FrameLook) -> Origin:
    """Find where each pixel of a frame was in the frame before.

    Args:
        new: the frame.
        old: the frame before, of the same size.

    Raises:
        ShapeError: the two differ in shape.
    """
    sizes = check_shape(new.lightness, "1 1 H W", "new.lightness")
    check_shape(old.lightness, "1 1 H W", "old.lightness", sizes=sizes)
    forth, back = _find(new, old), _find(old, new)
    # 1. Forth and back must end where it began.
    here = _centers(new.lightness)
    cycle = (sample_at(back, forth) - here).abs().amax(dim=1, keepdim=True)
    # 2. The two places must be equally light: shading changes slowly from frame to frame.
    gap = (sample_at(old.lightness, forth) - new.lightness).abs()
    return Origin(forth, (cycle <= _MAX_CYCLE_PX) & (gap <= _MAX_LIGHTNESS_GAP))


def carry_chroma(ab: torch.Tensor, origin: Origin, lightness: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring the colors of a frame to the next one.

    Pixels that are not trusted take the mean color of trusted ones around them that are as light, if there are some:
    thin gaps along the edges of things that move. Larger gaps stay open.

    Args:
        ab: (1, 2, H, W) chroma of the old frame.
        origin: where the pixels of the new frame were.
        lightness: (1, 1, H, W), L [0, 100], of the new frame.

    Returns:
        ab: (1, 2, H, W), of the new frame; 0 where nothing is known.
        known: (1, 1, H, W) bool.
    """
    trusted = origin.trusted.float()
    carried = sample_at(ab, origin.places, mode="nearest") * trusted
    total, mixed = torch.zeros_like(trusted), torch.zeros_like(carried)
    for near_trusted, near_lightness, near_ab in zip(*map(_neighbors, (trusted, lightness, carried)), strict=True):
        weight = near_trusted * torch.exp(-(((near_lightness - lightness) / _FILL_LIGHTNESS) ** 2))
        total += weight
        mixed += weight * near_ab
    can_fill = total >= _FILL_SHARE * (2 * _FILL_PX + 1) ** 2
    known = origin.trusted | can_fill
    return torch.where(origin.trusted, carried, mixed / total.clamp(min=1e-6)) * known, known


def sample_at(picture: torch.Tensor, places: torch.Tensor, *, mode: str = "bilinear") -> torch.Tensor:
    """Read a picture (1, C, H, W) at places (1, 2, H', W') of (x, y); outside of it the border counts."""
    height, width = picture.shape[-2:]
    x, y = places[:, 0], places[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return functional.grid_sample(picture, grid, mode=mode, padding_mode="border", align_corners=False)


def _find(new: FrameLook, old: FrameLook) -> torch.Tensor:
    """Let all finders propose and take at each pixel the place whose surroundings look most alike, (1, 2, H, W)."""
    proposals = [_centers(new.lightness), _flow_places(new.lightness, old.lightness), _feature_places(new, old)]
    gaps = []
    for places in proposals:
        gap = (sample_at(old.lightness, places) - new.lightness).abs()
        gaps.append(functional.avg_pool2d(gap, _LOOK_PX, 1, _LOOK_PX // 2, count_include_pad=False))
    # What moves must be clearly more alike: noise alone must not set a still picture in motion.
    gaps = [gaps[0] - _STILL_ADVANTAGE, *gaps[1:]]
    best = torch.stack(gaps).argmin(dim=0)
    return torch.stack(proposals).take_along_dim(best[None].expand(1, -1, 2, -1, -1), dim=0)[0]


def _flow_places(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Follow the lightness by iterative Lucas-Kanade flow."""
    pair = (frame[0, 0].numpy().astype(np.float32) / 100 for frame in (new, old))
    down, across = optical_flow_ilk(*pair, radius=_FLOW_RADIUS_PX)
    return _centers(new) + torch.from_numpy(np.stack([across, down])).float()[None]


def _feature_places(new: FrameLook, old: FrameLook) -> torch.Tensor:
    """Find for each cell the most similar one within a window; pixels move as their cells do."""
    height, width = new.features.shape[-2:]
    reach = max(1, round(_WINDOW_SHARE * max(height, width)))
    wanted, offered = (functional.normalize(look.features[0].flatten(1), dim=0) for look in (new, old))
    rows, columns = (
        part.flatten() for part in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    )
    found = []
    for row in range(height):
        # A row of cells against the rows within reach: bounded memory whatever the grid.
        low, high = max(0, row - reach), min(height, row + reach + 1)
        similarity = wanted[:, row * width : (row + 1) * width].T @ offered[:, low * width : high * width]
        is_far = (columns[low * width : high * width][None] - torch.arange(width)[:, None]).abs() > reach
        found.append(similarity.masked_fill(is_far, -2.0).argmax(dim=1) + low * width)
    best = torch.cat(found)
    scale = (new.lightness.shape[-1] / width, new.lightness.shape[-2] / height)
    shift = torch.stack([(columns[best] - columns) * scale[0], (rows[best] - rows) * scale[1]]).view(
        1, 2, height, width
    )
    return _centers(new.lightness) + functional.interpolate(shift, size=new.lightness.shape[-2:], mode="nearest")


def _centers(picture: torch.Tensor) -> torch.Tensor:
    """Return the (x, y) of every pixel of a picture (1, C, H, W), as (1, 2, H, W)."""
    height, width = picture.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack([x, y])[None]


def _position_code(grid: tuple[int, int]) -> torch.Tensor:
    """Return (1, 8, h, w): sines and cosines of the place, half a turn and a whole one over the picture."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in grid), indexing="ij")
    turns = [np.pi * factor * part for part in (x, y) for factor in (1, 2)]
    return torch.stack([wave(turn) for turn in turns for wave in (torch.sin, torch.cos)])[None]


def _neighbors(picture: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the pictures (1, C, H, W) of the neighbor of each pixel, for every place in a square window; 0 outside."""
    height, width = picture.shape[-2:]
    padded = functional.pad(picture, (_FILL_PX,) * 4)
    for down in range(2 * _FILL_PX + 1):
        for right in range(2 * _FILL_PX + 1):
            yield padded[:, :, down : down + height, right : right + width]


def _resized(features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Bring (1, C, h, w) to another grid; averaged where it shrinks."""
    return functional.interpolate(features, size=grid, mode="bilinear", antialias=features.shape[-1] > grid[-1])
