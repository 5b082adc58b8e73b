"""Does each object get the color of its own words, when several objects are of one kind? Measured on held-out scenes.

Words alone do not tell two cups apart: without masks the right cup is a matter of chance. Captions name the objects in
a random order, and every mask is named by the words of its object.

| row | what is compared |
| --- | --- |
| right | the name nearest to the median ab in the mask, with the name that the caption gives to this object |
| by chance | the same with the names of the scene dealt out anew |
| matched | the same with the best of all ways to deal them out: are the colors there, on whichever object |
| overlap | attention of the phrases with their masks at the first step, where colors are decided |
| outside | color of all that is no object, with masks against without |
"""

from collections.abc import Iterator, Sequence
from itertools import islice, permutations

import numpy as np

from colorlab.color import CHROMATIC_COLORS
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.evaluation.chroma import chroma_difference, picture_ab
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number, proportion
from colorlab.evaluation.scenes import InstanceColor, held_out_scenes, measure, scene_conditioning
from colorlab.evaluation.strokes import ColorizeWith
from colorlab.settings import Settings
from colorlab.training.scenes import TEST_SEEDS, Scene, make_scene

__all__ = ["evaluate_instances", "masked_conditioning", "matched_share", "same_kind_scenes"]

_FIRST_SEED = TEST_SEEDS.start + 9 * 10**8


def evaluate_instances(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int, *, size_px: int = 128
) -> Report:
    """Measure instance guidance: objects of one kind, then of several kinds, each with masks and without.

    Args:
        colorizer: whose attention is read.
        colorize: colorizes a list of conditionings with it.
        settings: what is in force.
        num_scenes: of each protocol.
        size_px: height and width of the scenes.

    Returns:
        The figures, with their targets.

    Raises:
        RangeError: `num_scenes` is below 1.
    """
    check_number(num_scenes)
    rows = [
        *same_kind_rows(colorizer, colorize, settings, num_scenes, size_px),
        *several_kinds_rows(colorize, settings, num_scenes, size_px),
    ]
    title = f"Instances and their words on {num_scenes} held-out scenes, with masks and without"
    return Report(title, tuple(rows), {"scenes": num_scenes, "size_px": size_px})


def same_kind_rows(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int, size_px: int
) -> list[Estimate]:
    """Measure two or three objects of one kind in different colors."""
    # Pictures share a batch where they have as many masks.
    scenes = sorted(islice(same_kind_scenes(size_px), num_scenes), key=lambda scene: len(scene.instances))
    masked = [masked_conditioning(scene) for scene in scenes]
    guided = colorize(masked, settings, "one kind, with masks")
    plain = colorize([one.replace(masks={}) for one in masked], settings, "one kind, without masks")
    found, unguided = (measure(scenes, images, "complete") for images in (guided, plain))
    dealt = [_dealt_anew(one, unguided) for one in unguided]
    rows = [
        _right("right color on the right object of one kind, with masks", found, at_least=85.0),
        _right("  without masks", unguided),
        proportion("  without masks, by chance", sum(dealt), len(dealt)),
        proportion("  with masks, matched", *matched_share(found)),
        proportion("  without masks, matched", *matched_share(unguided)),
    ]
    rows += _overlap_rows(colorizer, masked, settings)
    outside = [_change_outside(*pair) for pair in zip(scenes, guided, plain, strict=True)]
    median = bootstrapped(
        "color outside the objects moved by the masks, median", outside, statistic=_median, unit="ΔE", at_most=4.0
    )
    return [*rows, median]


def several_kinds_rows(colorize: ColorizeWith, settings: Settings, num_scenes: int, size_px: int) -> list[Estimate]:
    """Measure objects of different kinds with complete captions."""
    chosen = islice(held_out_scenes("complete", size_px), num_scenes)
    scenes = sorted(chosen, key=lambda scene: len(scene.instances))
    masked = [masked_conditioning(scene) for scene in scenes]
    guided = colorize(masked, settings, "several kinds, with masks")
    plain = colorize([one.replace(masks={}) for one in masked], settings, "several kinds, without masks")
    found, unguided = (
        [one for one in measure(scenes, images, "complete") if one.is_chromatic] for images in (guided, plain)
    )
    return [
        _right("named color right, different kinds, with masks", found, at_least=97.0),
        _right("  without masks", unguided),
    ]


def same_kind_scenes(size_px: int) -> Iterator[Scene]:
    """Yield held-out scenes of two and three objects of one kind in turn, in different chromatic colors."""
    seed, num_instances = _FIRST_SEED, 2
    while True:
        scene = make_scene(seed, size_px=size_px, num_instances=num_instances, distinct_kinds=False)
        colors = {instance.color for instance in scene.instances}
        if (
            len({instance.kind for instance in scene.instances}) == 1
            and len(colors) == num_instances
            and colors <= set(CHROMATIC_COLORS)
        ):
            yield scene
            num_instances = 5 - num_instances
        seed += 1


def masked_conditioning(scene: Scene) -> Conditioning:
    """Describe a scene by its complete caption, with the exact mask of every object."""
    masks = {f"{instance.color} {instance.kind}": instance.mask for instance in scene.instances}
    return scene_conditioning(scene, "complete").replace(masks=masks)


def matched_share(found: Sequence[InstanceColor]) -> tuple[int, int]:
    """Count the objects that are right when the names of each scene are dealt out as fits best.

    Returns:
        How many are right, and how many objects there are.
    """
    right = 0
    for scene_index in {one.scene_index for one in found}:
        own = [one for one in found if one.scene_index == scene_index]
        names = [one.name(CHROMATIC_COLORS) for one in own]
        wanted = [one.wanted for one in own]
        right += max(
            sum(name == other for name, other in zip(names, order, strict=True)) for order in permutations(wanted)
        )
    return right, len(found)


def _overlap_rows(colorizer: Colorizer, masked: Sequence[Conditioning], settings: Settings) -> list[Estimate]:
    """Measure how well the attention of the phrases covers their masks, with guidance and without, on each grid."""
    after, before, labels = [], [], []
    for index, conditioning in enumerate(masked):
        run = colorizer.start(conditioning, settings.replace(seed=settings.seed + index))
        run.step()
        overlaps = run.study.phrase_iou(steps=[0], progress=False)
        after.append(overlaps.array[:, 0])
        before.append(np.asarray(overlaps.baseline)[:, 0])
        labels = overlaps.provenance["labels"]
    rows = []
    for index, grid in enumerate(labels):
        guided, plain = (np.array(values)[:, index] for values in (after, before))
        rows.append(bootstrapped(f"overlap of phrase and mask at {grid}, with masks", guided))
        rows.append(bootstrapped("  without masks", plain))
        rows.append(bootstrapped("  rise", guided - plain, at_least=0.0))
    return rows


def _right(name: str, found: Sequence[InstanceColor], *, at_least: float | None = None) -> Estimate:
    """Count the objects whose nearest name is the wanted one."""
    return proportion(name, sum(one.is_right() for one in found), len(found), at_least=at_least)


def _dealt_anew(one: InstanceColor, found: Sequence[InstanceColor]) -> bool:
    """Tell whether an object has the color that is wanted of the next one of its scene."""
    names = [other.wanted for other in found if other.scene_index == one.scene_index]
    return one.name(CHROMATIC_COLORS) == names[(names.index(one.wanted) + 1) % len(names)]


def _change_outside(scene: Scene, guided: np.ndarray, plain: np.ndarray) -> float:
    """Return the median ΔE 2000 of chroma between two pictures where no object is."""
    outside = ~np.any([instance.mask for instance in scene.instances], axis=0)
    return float(np.median(chroma_difference(picture_ab(guided)[outside], picture_ab(plain)[outside])))


def _median(values: np.ndarray) -> float:
    """Return the median."""
    return float(np.median(values))
