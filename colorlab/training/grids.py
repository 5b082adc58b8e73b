"""Sample grids for the training log."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from colorlab.runs.run import Run


def picture_grid(rows: Sequence[torch.Tensor]) -> Image.Image:
    """Lay out batches of pictures, one row each.

    Args:
        rows: each (B, 3, H, W) float, [0, 1], or (B, 1, H, W) for gray; all of one size.

    Returns:
        The grid as a picture.
    """
    lines = [torch.cat(list(row.expand(-1, 3, -1, -1)), dim=2) for row in rows]
    grid = torch.cat(lines, dim=1).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(grid.permute(1, 2, 0).cpu().numpy()))


def run_pictures(run: Run, steps: Sequence[int]) -> torch.Tensor:
    """Show a run from its clean-image predictions to its picture.

    Args:
        run: any run.
        steps: which predictions to show.

    Returns:
        (len(steps) + 1, 3, H, W) float, [0, 1]; the finished picture last.
    """
    run.finish(progress=False)
    pictures = [*(run.preview(step) for step in steps), run.image]
    return torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255 for picture in pictures])
