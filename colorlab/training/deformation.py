"""Thin-plate deformation of an exemplar: its colors stay, its shapes no longer fit the sketch that was taken from it.

| symbol | variable |
| --- | --- |
| c_i, points after the move; p_i, before it, both in [-1, 1] | `after`, `before` |
| U(r) = r^2 log(r + 1e-6) | `_kernel` |
| f(q) = a + A q + sum_i w_i U(abs(q - c_i)), f(c_i) = p_i | `reading`: where each pixel is read |

Source: ColorizeDiffusion, arXiv 2401.01456 (deformation training); tellurion-kanata/colorizeDiffusion@c9bd9fb.
"""

import torch
from torch.nn import functional

from colorlab.shapes import check_shape

__all__ = ["NUM_POINTS", "POINT_SHIFT_SHARE", "deform", "thin_plate_warp"]

NUM_POINTS = 10
"""Control points of a deformation."""
POINT_SHIFT_SHARE = 10 / 224
"""Standard deviation of their moves as a share of the side: 10 of the 224 pixels of the published tower."""


def deform(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Deform each picture (B, 3, H, W) by moves of its own of random points; the border repeats where it is left.

    Deviation: black, in the published zero padding, would be a color of the exemplar.
    """
    height, width = image.shape[-2:]
    sides = torch.tensor([width, height], dtype=torch.float32)
    before = torch.rand(len(image), NUM_POINTS, 2, generator=generator) * sides
    moves = torch.randn(before.shape, generator=generator) * POINT_SHIFT_SHARE * sides
    return thin_plate_warp(image, before, before + moves, padding="border")


def thin_plate_warp(
    image: torch.Tensor, before: torch.Tensor, after: torch.Tensor, *, padding: str = "zeros"
) -> torch.Tensor:
    """Move points of pictures, and everything between them smoothly.

    Args:
        image: (B, C, H, W) float.
        before: (B, N, 2) float, points (x, y) in pixels.
        after: as `before`, where they go.
        padding: what is read outside of a picture: `zeros` as published, or `border`.

    Returns:
        (B, C, H, W). As published the reading grid begins at -1 with steps of 2 / W, half a pixel beside the centers,
        so that even without a move the picture shifts by half a pixel.

    Raises:
        ShapeError: the shapes do not fit each other.
    """
    sizes = check_shape(before, "B N 2", "before", sizes=check_shape(image, "B C H W", "image"))
    check_shape(after, "B N 2", "after", sizes=sizes)
    height, width, count = sizes["H"], sizes["W"], sizes["N"]
    half = before.new_tensor([width / 2, height / 2])
    source, control = before / half - 1, after / half - 1

    # 1. The linear system [K P; P^T 0] [w; a] = [p; 0].
    ones = control.new_ones(len(image), count, 1)
    plane = torch.cat([ones, control], dim=-1)
    upper = torch.cat([_kernel(control, control), plane], dim=-1)
    lower = torch.cat([plane.transpose(1, 2), control.new_zeros(len(image), 3, 3)], dim=-1)
    wanted = torch.cat([source, control.new_zeros(len(image), 3, 2)], dim=1)
    weights = torch.linalg.solve(torch.cat([upper, lower], dim=1), wanted)
    # 2. f at every pixel.
    x = torch.arange(width, dtype=control.dtype) * (2 / width) - 1
    y = torch.arange(height, dtype=control.dtype) * (2 / height) - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
    pixels = grid.to(control).expand(len(image), -1, -1)
    terms = torch.cat([_kernel(pixels, control), torch.ones_like(pixels[..., :1]), pixels], dim=-1)
    reading = (terms @ weights).unflatten(1, (height, width))
    return functional.grid_sample(image, reading.to(image), padding_mode=padding, align_corners=False)


def _kernel(points: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
    """Return U of the distances, (B, M, N)."""
    distance = torch.linalg.vector_norm(points[:, :, None] - control[:, None], dim=-1)
    return distance.square() * torch.log(distance + 1e-6)
