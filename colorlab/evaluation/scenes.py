"""Do the words decide the color? Measured on held-out scenes, of which everything is known.

| protocol | scenes | caption | right is |
| --- | --- | --- | --- |
| complete | distinct kinds | names every color | the name nearest to the median ab in the mask is the named one |
| partial | two or more instances | names some colors | the same for those; the others are as colorful as the data |
| swap | two instances | the two color words exchanged | both instances follow |

Only the eight chromatic names count; the nearest name is sought among these eight, and in a second, stricter row among
all twelve. The gray input is the scene's lightness in 8 bits, so that the color cannot have left a trace in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from colorlab.color import CHROMATIC_COLORS, COLORS, lightness_to_gray
from colorlab.conditioning import Conditioning
from colorlab.evaluation.chroma import picture_ab
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number, proportion, ratio_of_means
from colorlab.training.scenes import TEST_SEEDS, Scene, caption, make_scene, named_instances, recolored

# Protocols draw from ranges far apart, so that no scene is used twice whatever their number.
_FIRST_SEED = {"complete": TEST_SEEDS.start, "partial": TEST_SEEDS.start + 10**8, "swap": TEST_SEEDS.start + 2 * 10**8}
_CAPTION_SEED = 0

Colorize = Callable[[Sequence[Conditioning], str], Sequence[np.ndarray]]
"""Pictures (H, W, 3) uint8 for conditionings; the second argument names the work."""


@dataclass(frozen=True)
class InstanceColor:
    """What became of one instance.

    Args:
        scene_index: the scene it stands in.
        wanted: the name of the color it should have.
        is_named: whether the caption says so.
        ab: (a, b), median over its visible pixels in the picture.
        chroma: mean chroma of these pixels.
        true_chroma: the same in the scene itself.
    """

    scene_index: int
    wanted: str
    is_named: bool
    ab: tuple[float, float]
    chroma: float
    true_chroma: float

    def name(self, among: Sequence[str]) -> str:
        """Name its color by the nearest center."""
        return min(among, key=lambda color: np.hypot(COLORS[color][0] - self.ab[0], COLORS[color][1] - self.ab[1]))

    def is_right(self, among: Sequence[str] = CHROMATIC_COLORS) -> bool:
        """Tell whether the nearest name is the wanted one."""
        return self.name(among) == self.wanted

    @property
    def is_chromatic(self) -> bool:
        """Whether the wanted color is one of the eight that count."""
        return self.wanted in CHROMATIC_COLORS


def evaluate_scenes(colorize: Colorize, num_scenes: int, *, size_px: int = 128) -> Report:
    """Run the three protocols.

    Args:
        colorize: colorizes a list of conditionings.
        num_scenes: scenes of the complete protocol; the partial one takes as many, the swap half of it.
        size_px: height and width of the scenes.

    Returns:
        The figures, with their targets.

    Raises:
        RangeError: `num_scenes` is below 1.
    """
    check_number(num_scenes)
    rows = [
        *complete_rows(colorize, num_scenes, size_px),
        *partial_rows(colorize, num_scenes, size_px),
        *swap_rows(colorize, max(1, num_scenes // 2), size_px),
    ]
    return Report(
        f"Color words on {num_scenes} held-out scenes", tuple(rows), {"scenes": num_scenes, "size_px": size_px}
    )


def complete_rows(colorize: Colorize, num_scenes: int, size_px: int) -> list[Estimate]:
    """Measure with captions that name every color; the scenes themselves and dealt-out names are the two baselines."""
    scenes = list(islice(held_out_scenes("complete", size_px), num_scenes))
    images = colorize([scene_conditioning(scene, "complete") for scene in scenes], "complete captions")
    found = [one for one in measure(scenes, images, "complete") if one.is_chromatic]
    truth = [one for one in measure(scenes, [scene.image for scene in scenes], "complete") if one.is_chromatic]
    others = np.random.default_rng(0).permutation(len(found))
    by_chance = sum(one.name(CHROMATIC_COLORS) == found[other].wanted for one, other in zip(found, others, strict=True))
    return [
        _right("named color right, complete captions", found, at_least=95.0),
        _right("  nearest of all twelve names", found, among=tuple(COLORS)),
        _right("  in the scenes themselves", truth),
        proportion("  by chance: names of other instances", by_chance, len(found)),
    ]


def partial_rows(colorize: Colorize, num_scenes: int, size_px: int) -> list[Estimate]:
    """Measure with captions that leave colors out."""
    scenes = list(islice(held_out_scenes("partial", size_px), num_scenes))
    images = colorize([scene_conditioning(scene, "partial") for scene in scenes], "partial captions")
    found = measure(scenes, images, "partial")
    unnamed = [one for one in found if not one.is_named]
    return [
        _right(
            "named color right, partial captions",
            [one for one in found if one.is_named and one.is_chromatic],
            at_least=92.0,
        ),
        bootstrapped(
            "chroma of unnamed instances / the data's",
            [one.chroma for one in unnamed],
            [one.true_chroma for one in unnamed],
            statistic=ratio_of_means,
            at_least=0.8,
            at_most=1.2,
        ),
    ]


def swap_rows(colorize: Colorize, num_scenes: int, size_px: int) -> list[Estimate]:
    """Measure whether both instances of a scene follow when their two color words change places."""
    scenes = list(islice(held_out_scenes("swap", size_px), num_scenes))
    swapped = [recolored(scene, [instance.color for instance in scene.instances[::-1]]) for scene in scenes]
    before = colorize([scene_conditioning(scene, "complete") for scene in scenes], "before the swap")
    after = colorize(
        [
            scene_conditioning(scene, "complete", gray_of=original)
            for scene, original in zip(swapped, scenes, strict=True)
        ],
        "after the swap",
    )
    follows_before = _all_right(measure(scenes, before, "complete"), num_scenes)
    follows_after = _all_right(measure(swapped, after, "complete"), num_scenes)
    return [
        proportion("two color words swapped: both follow", int(follows_after.sum()), num_scenes, at_least=80.0),
        proportion("  both right before and after", int((follows_before & follows_after).sum()), num_scenes),
    ]


def held_out_scenes(protocol: str, size_px: int) -> Iterator[Scene]:
    """Yield the scenes of a protocol, always the same ones, from seeds no recipe trains on.

    Args:
        protocol: "complete", "partial" or "swap".
        size_px: height and width.

    Yields:
        Scenes with distinct kinds; for "partial" with at least two instances, for "swap" with two instances of
        different chromatic colors.
    """
    seed = _FIRST_SEED[protocol]
    while True:
        scene = make_scene(seed, size_px=size_px, num_instances=2 if protocol == "swap" else None, distinct_kinds=True)
        colors = [instance.color for instance in scene.instances]
        is_swappable = len(set(colors)) == 2 and set(colors) <= set(CHROMATIC_COLORS)
        if (
            protocol == "complete"
            or (protocol == "partial" and len(colors) > 1)
            or (protocol == "swap" and is_swappable)
        ):
            yield scene
        seed += 1


def measure(scenes: Sequence[Scene], images: Sequence[np.ndarray], level: str) -> list[InstanceColor]:
    """Read the color of every instance out of pictures of scenes.

    Args:
        scenes: the truth.
        images: one (H, W, 3) uint8 for each scene, of its size.
        level: level of the captions that were used.

    Returns:
        One entry for each instance, scene by scene.
    """
    found = []
    for index, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        named = named_instances(scene, level, _CAPTION_SEED)
        ab, true_ab = picture_ab(image), picture_ab(scene.image)
        for position, instance in enumerate(scene.instances):
            inside = ab[instance.mask]
            found.append(
                InstanceColor(
                    scene_index=index,
                    wanted=instance.color,
                    is_named=position in named,
                    ab=(float(np.median(inside[:, 0])), float(np.median(inside[:, 1]))),
                    chroma=float(np.hypot(*inside.T).mean()),
                    true_chroma=float(np.hypot(*true_ab[instance.mask].T).mean()),
                )
            )
    return found


def scene_gray(scene: Scene) -> np.ndarray:
    """Return the lightness of a scene as a gray picture (H, W) uint8, in which its colors left no trace."""
    lightness = torch.from_numpy(scene.lightness.copy())[None, None]
    return (lightness_to_gray(lightness)[0, 0] * 255.0).round().to(torch.uint8).numpy()


def scene_conditioning(scene: Scene, level: str, *, gray_of: Scene | None = None) -> Conditioning:
    """Describe a scene to a model: the words of a caption level, and the lightness of it or of another scene."""
    return Conditioning(gray=scene_gray(gray_of or scene), prompt=caption(scene, level, seed=_CAPTION_SEED))


def _right(
    name: str, found: Sequence[InstanceColor], *, among: Sequence[str] = CHROMATIC_COLORS, at_least: float | None = None
) -> Estimate:
    """Count the instances whose nearest name is the wanted one."""
    return proportion(name, sum(one.is_right(among) for one in found), len(found), at_least=at_least)


def _all_right(found: Sequence[InstanceColor], num_scenes: int) -> np.ndarray:
    """Tell for each scene whether all of its instances are right; (num_scenes,) bool."""
    right = np.ones(num_scenes, dtype=bool)
    for one in found:
        right[one.scene_index] &= one.is_right()
    return right
