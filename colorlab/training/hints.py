"""Simulated hints: the colors that a user might give on a picture, and whose object they lie on.

Source: CtrlColor, arXiv 2402.10855, is trained on strokes simulated by superpixels and random points; no code of it is
    public. What is drawn how often is ours. Scenes have strokes of their own, see `simulated_strokes`.
Deviation: a part of the hints gives nearly the whole picture and leaves one object free, because local edits do so.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from skimage.segmentation import slic

from colorlab.color import lab_to_rgb, rgb_to_lab
from colorlab.mechanisms.stroke_encoding import whole_cells
from colorlab.strokes import Stroke, Strokes
from colorlab.training.corpus import NO_THING, PATCH_PX
from colorlab.training.scene_strokes import simulated_strokes
from colorlab.training.scene_types import Scene

__all__ = ["SimulatedHint", "photograph_hint", "scene_hint"]

EDIT_SHARE = 0.4
"""Share of hints that give all but a part of the picture. Ours: at 0.2 strokes colored whole objects of pictures that
are free everywhere, and hardly any between given surroundings."""

COLOR_JITTER = (8.0, 2.0, 2.0)
"""Standard deviation of what is added to L, a and b of a given color: nobody hits a color, and of a stroke's lightness
nothing reaches the finished picture."""

SUPERPIXEL_SHARE = 0.6
"""Share of superpixels among the hints on photographs; the others are rectangles, some as small as a point."""

_NUM_SUPERPIXELS = (16, 64)
_MOST_SUPERPIXELS = 6
_MOST_RECTANGLES = 10
_LARGEST_RECTANGLE_PX = 20
_SLIC_STEP_PX = 2  # superpixels are found on every second pixel: four times as fast, as good
_EDIT_MARGIN_PX = 4

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SimulatedHint:
    """Colors given on a picture.

    Args:
        picture: (H, W, 3) float32, sRGB, [0, 1], the given colors; whatever elsewhere.
        known: (H, W) bool, where they are given.
        owners: (H / 8, W / 8) int8, the instance on which a stroke in this cell lies; `NO_THING` without one.
    """

    picture: npt.NDArray[np.float32]
    known: Mask
    owners: npt.NDArray[np.int8]

    def mirrored(self) -> "SimulatedHint":
        """Return the hint of the mirrored picture."""
        return SimulatedHint(self.picture[:, ::-1], self.known[:, ::-1], self.owners[:, ::-1])


def scene_hint(scene: Scene, seed: int) -> SimulatedHint:
    """Simulate a hint on a scene: its own strokes in slightly wrong colors, or all but one object and its strokes.

    Args:
        scene: the scene.
        seed: decides everything.

    Returns:
        The hint.
    """
    rng = np.random.default_rng([seed, scene.seed, 8])
    strokes = [replace(stroke, color=_jittered(stroke.color, rng)) for stroke in simulated_strokes(scene, seed)]
    owners = [_owner(stroke, scene) for stroke in strokes]
    # At least one object has a stroke, unless none is wide enough for any brush.
    if rng.random() < EDIT_SHARE and max(owners, default=NO_THING) != NO_THING:
        edited = int(rng.choice([owner for owner in owners if owner != NO_THING]))
        strokes = [stroke for stroke, owner in zip(strokes, owners, strict=True) if owner == edited]
        margin_px = int(rng.integers(0, _EDIT_MARGIN_PX + 1))
        free = _in_whole_cells(_dilated(scene.instances[edited].mask, margin_px))
    else:
        free = np.ones(scene.image.shape[:2], bool)
    hint, mask = Strokes(strokes).rasterize(*scene.image.shape[:2])
    painted = mask[0, 0].numpy() > 0
    given = hint[0].permute(1, 2, 0).numpy()
    picture: npt.NDArray[np.float32] = np.where(painted[..., None], given, scene.image / np.float32(255))
    return SimulatedHint(picture, painted | ~free, _owner_cells(painted, scene))


def photograph_hint(image: npt.NDArray[np.uint8], seed: int) -> SimulatedHint:
    """Simulate a hint on a photograph: superpixels or rectangles in their slightly wrong median colors, or all but
    some superpixels.

    Args:
        image: (H, W, 3) uint8, sRGB.
        seed: decides everything.

    Returns:
        The hint; nothing is known of objects.
    """
    rng = np.random.default_rng([seed, 9])
    picture = (image / 255).astype(np.float32)
    known = np.zeros(image.shape[:2], bool)
    if rng.random() < EDIT_SHARE:
        known = ~_in_whole_cells(np.any(_superpixels(image, rng), axis=0))
    else:
        is_superpixels = rng.random() < SUPERPIXEL_SHARE
        for area in _superpixels(image, rng) if is_superpixels else _rectangles(known.shape, rng):
            red, green, blue = np.median(image[area], axis=0).round().astype(int)
            picture[area] = np.array(_jittered((int(red), int(green), int(blue)), rng), np.float32) / 255
            known |= area
    cells = (image.shape[0] // PATCH_PX, image.shape[1] // PATCH_PX)
    return SimulatedHint(picture, known, np.full(cells, NO_THING, np.int8))


def _jittered(color: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a color that is slightly wrong."""
    lab = rgb_to_lab(torch.tensor(color).view(1, 3, 1, 1) / 255) + torch.tensor(
        rng.normal(0, COLOR_JITTER), dtype=torch.float32
    ).view(1, 3, 1, 1)
    red, green, blue = (lab_to_rgb(lab).flatten() * 255).round().int().tolist()
    return red, green, blue


def _owner(stroke: Stroke, scene: Scene) -> int:
    """Return the instance on which a stroke begins; `NO_THING` on sky or ground."""
    x, y = (int(value) for value in stroke.points[0])
    return next((index for index, instance in enumerate(scene.instances) if instance.mask[y, x]), NO_THING)


def _owner_cells(painted: Mask, scene: Scene) -> npt.NDArray[np.int8]:
    """Return for each cell the instance on which most of its painted pixels lie; `NO_THING` without one."""
    rows, columns = painted.shape[0] // PATCH_PX, painted.shape[1] // PATCH_PX
    counts = np.stack(
        [
            (painted & instance.mask).reshape(rows, PATCH_PX, columns, PATCH_PX).sum((1, 3))
            for instance in scene.instances
        ]
    )
    return np.where(counts.max(0) > 0, counts.argmax(0), NO_THING).astype(np.int8)


def _superpixels(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> list[Mask]:
    """Choose some of a picture's superpixels."""
    number = int(rng.integers(*_NUM_SUPERPIXELS))
    labels = slic(image[::_SLIC_STEP_PX, ::_SLIC_STEP_PX], n_segments=number, start_label=0)
    labels = labels.repeat(_SLIC_STEP_PX, axis=0).repeat(_SLIC_STEP_PX, axis=1)
    found = np.unique(labels)
    count = min(int(rng.integers(1, _MOST_SUPERPIXELS + 1)), len(found))
    return [labels == label for label in rng.choice(found, count, replace=False)]


def _rectangles(shape: tuple[int, ...], rng: np.random.Generator) -> list[Mask]:
    """Draw some rectangles, some as small as a point."""
    areas = []
    for _ in range(int(rng.integers(1, _MOST_RECTANGLES + 1))):
        area = np.zeros(shape, bool)
        height, width = rng.integers(1, _LARGEST_RECTANGLE_PX + 1, 2)
        top, left = rng.integers(0, shape[0] - height + 1), rng.integers(0, shape[1] - width + 1)
        area[top : top + height, left : left + width] = True
        areas.append(area)
    return areas


def _dilated(mask: Mask, margin_px: int) -> Mask:
    """Widen a mask by so many pixels."""
    wide = torch.nn.functional.max_pool2d(
        torch.from_numpy(mask).float()[None], 2 * margin_px + 1, stride=1, padding=margin_px
    )
    result: Mask = wide[0].numpy() > 0
    return result


def _in_whole_cells(mask: Mask) -> Mask:
    """Grow a mask to all latent cells that it touches, as `LocalEdit` does."""
    result: Mask = whole_cells(torch.from_numpy(mask)[None, None].float(), PATCH_PX)[0, 0].numpy() > 0
    return result
