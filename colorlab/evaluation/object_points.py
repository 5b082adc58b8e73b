"""Where the points of a moving clip go: exactly known, from the plans of its frames."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from colorlab.errors import ShapeError
from colorlab.training.scenes import Scene, Thing

__all__ = ["PointPairs", "object_points"]

_BACKDROP = -1


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Points that are seen in two frames of a clip.

    Args:
        before: (N, 2) int of (row, column) in the earlier frame.
        after: (N, 2) int of (row, column) in the later one: the pixel that the same point of the same object fell on.
        instance: (N,) int, whose point it is: index of the instance, -1 for the backdrop.
    """

    before: npt.NDArray[np.intp]
    after: npt.NDArray[np.intp]
    instance: npt.NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.instance)


def object_points(before: Scene, after: Scene) -> PointPairs:
    """Follow every pixel of a frame to the next one, where it is seen in both.

    Args:
        before: the earlier frame.
        after: a later frame of the same clip.

    Returns:
        One pair for each pixel of `after` whose point is seen in `before`; the backdrop of a clip stands still.

    Raises:
        ShapeError: the two are no frames of one clip.
    """
    if len(before.instances) != len(after.instances) or before.image.shape != after.image.shape:
        raise ShapeError("The two scenes differ in size or in their number of objects; give two frames of one clip.")
    seen_before, seen_after = _seen(before), _seen(after)
    ends = np.argwhere(seen_after == _BACKDROP)
    parts = [(ends, ends, _BACKDROP)]
    for index, (old, new) in enumerate(zip(before.plan.things, after.plan.things, strict=True)):
        ends = np.argwhere(seen_after == index)
        parts.append((_moved_back(ends, new, old, before.plan.size_px), ends, index))
    begin, end, instance = (
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([np.full(len(part[1]), part[2]) for part in parts]),
    )
    is_inside = ((begin >= 0) & (begin < before.plan.size_px)).all(axis=1)
    begin, end, instance = begin[is_inside], end[is_inside], instance[is_inside]
    is_seen = seen_before[begin[:, 0], begin[:, 1]] == instance
    return PointPairs(begin[is_seen], end[is_seen], instance[is_seen])


def _seen(scene: Scene) -> npt.NDArray[np.intp]:
    """Return the index of the instance at each pixel, (H, W); -1 for the backdrop."""
    seen = np.full(scene.lightness.shape, _BACKDROP)
    for index, instance in enumerate(scene.instances):
        seen[instance.mask] = index
    return seen


def _moved_back(pixels: npt.NDArray[np.intp], new: Thing, old: Thing, size_px: int) -> npt.NDArray[np.intp]:
    """Say on which pixels (N, 2) the points of a thing lay that now lie on `pixels`; things turn and travel only."""
    turn = new.tilt - old.tilt
    x = (pixels[:, 1] + 0.5) / size_px - new.x
    y = (pixels[:, 0] + 0.5) / size_px - new.y
    # Into the thing's own frame by its present tilt, out of it by its old one: a rotation by the difference.
    old_x = x * np.cos(turn) + y * np.sin(turn) + old.x
    old_y = y * np.cos(turn) - x * np.sin(turn) + old.y
    return np.floor(np.stack([old_y, old_x], axis=1) * size_px).astype(np.intp)
