"""Does a local edit reach its object and leave the rest alone? Measured on held-out scenes in color.

A stroke in another color is painted on one object of a colored scene.

| mode | edited region | the rest |
| --- | --- | --- |
| `keep_rest` | the object's mask | is put back |
| `rim`, `area` (published) | the stroke, and 7 px around it | is given as hints only, so that the model may change it |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.nn import functional

from colorlab.color import CHROMATIC_COLORS, delta_e_2000, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.evaluation.chroma import color_ab, picture_ab, share_near
from colorlab.evaluation.report import Report, bootstrapped, check_number
from colorlab.evaluation.strokes import ColorizeWith
from colorlab.images import load_image
from colorlab.mechanisms.local_edit import LocalEdit
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes
from colorlab.training.scenes import TEST_SEEDS, Scene, make_scene, recolored, simulated_strokes

_FIRST_SEED = TEST_SEEDS.start + 6 * 10**8
_RIM_PX = 15


@dataclass(frozen=True, eq=False)
class EditedScene:
    """A colored scene and what is to become of it.

    Args:
        before: the colored picture.
        after: the same with one object in another color.
        index: of this object.
        stroke: on the object, in its new color.
    """

    before: Scene
    after: Scene
    index: int
    stroke: Stroke

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, the object."""
        return self.before.instances[self.index].mask

    def conditioning(self, *, has_mask: bool) -> Conditioning:
        """What a colorizer gets: the colored picture, the stroke, and maybe the object's mask."""
        image = self.before.image
        masks = {self.before.instances[self.index].kind: self.mask} if has_mask else {}
        return Conditioning(gray=image, base_image=image, strokes=[self.stroke], masks=masks)

    def region(self, *, has_mask: bool) -> np.ndarray:
        """(H, W) bool: the object, or the stroke with 7 px around it."""
        if has_mask:
            return self.mask
        painted = Strokes([self.stroke]).rasterize(*self.mask.shape)[1]
        return functional.max_pool2d(painted, _RIM_PX, 1, _RIM_PX // 2)[0, 0].numpy() > 0


def evaluate_edits(colorize: ColorizeWith, settings: Settings, num_edits: int, *, size_px: int = 128) -> Report:
    """Run the protocol in every mode.

    Args:
        colorize: colorizes a list of conditionings.
        settings: what is in force.
        num_edits: how many pictures, one edit each.
        size_px: height and width of the scenes.

    Returns:
        The figures, with their targets.

    Raises:
        RangeError: `num_edits` is below 1.
    """
    check_number(num_edits, name="num_edits")
    cases = list(islice(edited_scenes(size_px), num_edits))
    rows = []
    for mode in ("keep_rest", "rim", "area"):
        has_mask = mode == "keep_rest"
        conditionings = [case.conditioning(has_mask=has_mask) for case in cases]
        images = colorize(conditionings, settings.with_mechanism(LocalEdit.name, mode=mode), f"edits, {mode}")
        outside = [change_outside(case, image, has_mask=has_mask) for case, image in zip(cases, images, strict=True)]
        rows.append(bootstrapped(f"{mode}: mean ΔE outside the edited region", outside, at_most=2.0))
        if has_mask:
            reached = [100.0 * edited_share(case, image) for case, image in zip(cases, images, strict=True)]
            rows.append(bootstrapped("  share of the object in the new color", reached, unit="%"))
            truth = [100.0 * edited_share(case, case.after.image) for case in cases]
            rows.append(bootstrapped("  in the recolored scenes themselves", truth, unit="%"))
    details = {"edits": num_edits, "size_px": size_px}
    return Report(f"Local edits of {num_edits} held-out scenes in color", tuple(rows), details)


def edited_scenes(size_px: int) -> Iterator[EditedScene]:
    """Yield held-out scenes in color, each with one stroke in another color; always the same ones."""
    seed = _FIRST_SEED
    while True:
        before = make_scene(seed, size_px=size_px)
        draw = np.random.default_rng([seed, 8])
        index = int(draw.integers(len(before.instances)))
        colors = [instance.color for instance in before.instances]
        colors[index] = str(draw.choice([name for name in CHROMATIC_COLORS if name != colors[index]]))
        after = recolored(before, colors)
        for stroke in simulated_strokes(after, seed):
            if _lies_in(stroke, before.instances[index].mask):
                yield EditedScene(before, after, index, stroke)
                break
        seed += 1


def change_outside(case: EditedScene, image: np.ndarray, *, has_mask: bool) -> float:
    """Return the mean ΔE 2000 between a result (H, W, 3) uint8 and the picture before, outside the edited region."""
    labs = [rgb_to_lab(load_image(picture)) for picture in (image, case.before.image)]
    change = delta_e_2000(*labs)[0, 0].numpy()
    return float(change[~case.region(has_mask=has_mask)].mean())


def edited_share(case: EditedScene, image: np.ndarray) -> float:
    """Return the share of the object, in a picture (H, W, 3) uint8, that has the stroke's color."""
    return share_near(picture_ab(image)[case.mask], color_ab(case.stroke.color))


def _lies_in(stroke: Stroke, mask: np.ndarray) -> bool:
    """Return whether a stroke paints pixels of a mask; simulated ones then lie in it whole."""
    painted: torch.Tensor = Strokes([stroke]).rasterize(*mask.shape)[1]
    return bool((painted[0, 0].numpy() > 0)[mask].any())
