"""Are an exemplar's colors borrowed? Measured on held-out scenes and the same objects in another arrangement.

For each object of a chromatic color, the hues of its pixels in the result are compared with those of the exemplar's
object of the same kind; the same distance is measured where a random exemplar, of another scene, was given. A model
that ignores exemplars has equal distances, a perfect one has 0 in the first.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from colorlab.color import CHROMATIC_COLORS
from colorlab.conditioning import Conditioning
from colorlab.evaluation.chroma import hue_distance, hue_histogram, picture_ab
from colorlab.evaluation.report import Report, bootstrapped, check_number
from colorlab.evaluation.scenes import scene_gray
from colorlab.evaluation.strokes import ColorizeWith
from colorlab.settings import Settings
from colorlab.training.scenes import TEST_SEEDS, Scene, exemplar_scene, make_scene

_FIRST_SEED = TEST_SEEDS.start + 5 * 10**8
_ARRANGEMENT_SEED = 0


def evaluate_exemplars(colorize: ColorizeWith, settings: Settings, num_scenes: int, *, size_px: int = 128) -> Report:
    """Run the protocol.

    Args:
        colorize: colorizes a list of conditionings.
        settings: what is in force.
        num_scenes: how many scenes, at least 2: the random exemplar is that of the scene before.
        size_px: height and width of the scenes.

    Returns:
        The distances, and by how much the exemplar brings the result nearer; "clearly" is 10 degrees, ours.

    Raises:
        RangeError: `num_scenes` is below 2.
    """
    check_number(num_scenes, 2, why="so that there is another exemplar")
    pairs = list(islice(exemplar_pairs(size_px), num_scenes))
    exemplars = [exemplar for _, exemplar in pairs]
    shifted = [*exemplars[-1:], *exemplars[:-1]]
    own = [exemplar_conditioning(scene, exemplar) for scene, exemplar in pairs]
    others = [exemplar_conditioning(scene, exemplar) for (scene, _), exemplar in zip(pairs, shifted, strict=True)]
    given, random = colorize(own, settings, "exemplars"), colorize(others, settings, "random exemplars")
    near, far = distances(pairs, given), distances(pairs, random)
    rows = (
        bootstrapped("hues: distance to the exemplar's object of the same kind", near, unit="degrees"),
        bootstrapped("  where a random exemplar was given", far, unit="degrees"),
        bootstrapped("  nearer than with a random one by", far - near, unit="degrees", at_least=10.0),
        bootstrapped(
            "  of the scenes themselves", distances(pairs, [scene.image for scene, _ in pairs]), unit="degrees"
        ),
    )
    details = {"scenes": num_scenes, "size_px": size_px}
    return Report(f"Exemplars of {num_scenes} held-out scenes, without words", rows, details)


def exemplar_pairs(size_px: int) -> Iterator[tuple[Scene, Scene]]:
    """Yield held-out scenes with an object of a chromatic color, each with its exemplar; always the same ones."""
    seed = _FIRST_SEED
    while True:
        scene = make_scene(seed, size_px=size_px)
        if any(instance.color in CHROMATIC_COLORS for instance in scene.instances):
            yield scene, exemplar_scene(scene, _ARRANGEMENT_SEED)
        seed += 1


def distances(pairs: Sequence[tuple[Scene, Scene]], images: Sequence[np.ndarray]) -> np.ndarray:
    """Compare pictures (H, W, 3) uint8 of scenes with their exemplars, object by object.

    Returns:
        (number of pairs,) degrees, averaged over the objects of chromatic colors.
    """
    found = []
    for (scene, exemplar), image in zip(pairs, images, strict=True):
        ab, wanted = picture_ab(image), picture_ab(exemplar.image)
        masks = {(one.kind, one.color): one.mask for one in exemplar.instances}
        found.append(
            np.mean(
                [
                    hue_distance(hue_histogram(ab[one.mask]), hue_histogram(wanted[masks[one.kind, one.color]]))
                    for one in scene.instances
                    if one.color in CHROMATIC_COLORS
                ]
            )
        )
    return np.array(found)


def exemplar_conditioning(scene: Scene, exemplar: Scene) -> Conditioning:
    """Describe a scene by its gray and an exemplar, without words."""
    return Conditioning(gray=scene_gray(scene), exemplar=exemplar.image)
