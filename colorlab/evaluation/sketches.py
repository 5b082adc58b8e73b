"""Does the exemplar decide the colors, and the sketch what is where? Measured on held-out scenes.

| protocol | sketch | exemplar | right is |
| --- | --- | --- | --- |
| follow | of a scene | its objects in another arrangement | hue within 20 degrees of the like's, or both gray |
| disagree | of a scene | another scene altogether | edges of the output lie on the sketch's lines (F1, 1 px) |
| leakage | as disagree | as disagree | pixels of an exemplar object's color outside of sketched objects of its kind |

Edges are Canny's on lightness. The scenes themselves, and what the autoencoder makes of them, stand beside the outputs:
no picture of the model can follow a sketch more closely than its decoder paints. Leakage is counted beside that of the
same sketches without an exemplar, where a color is there by chance.
"""

from collections.abc import Callable, Iterator, Sequence

import kornia
import numpy as np
import torch

from colorlab.color import image_to_gray, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number, proportion
from colorlab.images import load_image
from colorlab.settings import Settings
from colorlab.sketches import sketch_of
from colorlab.training.scenes import TEST_SEEDS, Instance, Scene, exemplar_scene, make_scene, sketch

__all__ = [
    "ColorizeSketches",
    "edge_f1",
    "evaluate_sketches",
    "hues_agree",
    "leakage",
    "object_colors",
    "share_followed",
    "sketched_scenes",
]

ColorizeSketches = Callable[[Sequence[Conditioning], Settings, str], Sequence[np.ndarray]]
"""Pictures (H, W, 3) uint8 for conditionings under settings; the last argument names the work."""

_FIRST_SEED = TEST_SEEDS.start + 5 * 10**8
_MAX_HUE_DEGREES = 20.0
_GRAY_CHROMA = 9.0
_SAME_COLOR = 12.0


def evaluate_sketches(colorize: ColorizeSketches, settings: Settings, num_scenes: int, *, reads: str) -> Report:
    """Run the three protocols.

    Args:
        colorize: colorizes a list of conditionings.
        settings: in force.
        num_scenes: pairs of each protocol, at least 2.
        reads: what of the exemplar the model reads, `local` or `global`, which decides what is asked of it.

    Raises:
        RangeError: `num_scenes` is below 2.
    """
    check_number(num_scenes, 2, why="to pair scenes that disagree")
    scenes = sketched_scenes(num_scenes)
    rows = follow_rows(colorize, settings, scenes, at_least=85.0 if reads == "local" else 70.0)
    rows += disagree_rows(colorize, settings, scenes)
    return Report(f"Sketch and exemplar on {num_scenes} held-out scenes", tuple(rows), {"scenes": num_scenes})


def sketched_scenes(num_scenes: int, *, size_px: int = 128) -> list[Scene]:
    """Return held-out scenes whose sketches are colored; always the same ones."""
    return [make_scene(_FIRST_SEED + index, size_px=size_px) for index in range(num_scenes)]


def share_followed(image: np.ndarray, scene: Scene, exemplar: Scene) -> float:
    """Return the share of a picture's objects, [0, 1], that have the hue of their like in an exemplar; nan of none."""
    found = [hues_agree(*colors) for colors in _colors_of_likes(image, scene, exemplar)]
    return float(np.mean(found)) if found else float("nan")


def follow_rows(
    colorize: ColorizeSketches, settings: Settings, scenes: Sequence[Scene], *, at_least: float
) -> list[Estimate]:
    """Measure whether objects take the color of their like in the exemplar; shuffled exemplars are the baseline."""
    exemplars = [exemplar_scene(scene, seed=0) for scene in scenes]
    pairs = list(zip(scenes, exemplars, strict=True))
    conditionings = [Conditioning(sketch=sketch(scene), exemplar=other.image) for scene, other in pairs]
    images = colorize(conditionings, settings, "exemplars that agree")
    found = [
        colors
        for (scene, other), image in zip(pairs, images, strict=True)
        for colors in _colors_of_likes(image, scene, other)
    ]
    agreeing = [hues_agree(one, wanted) for one, wanted in found]
    order = np.random.default_rng(0).permutation(len(found))
    by_chance = [hues_agree(found[index][0], found[other][1]) for index, other in enumerate(order)]
    chromatic = [right for right, (_, wanted) in zip(agreeing, found, strict=True) if np.hypot(*wanted) >= _GRAY_CHROMA]
    return [
        proportion("hue of the exemplar's like, or both gray", sum(agreeing), len(found), at_least=at_least),
        proportion("  where the exemplar's is no gray", sum(chromatic), len(chromatic)),
        proportion("  by chance: against other objects", sum(by_chance), len(found)),
    ]


def disagree_rows(colorize: ColorizeSketches, settings: Settings, scenes: Sequence[Scene]) -> list[Estimate]:
    """Measure edges and leakage where sketch and exemplar have nothing to do with each other."""
    others = [*scenes[1:], scenes[0]]
    drawings = [sketch(scene) for scene in scenes]
    with_exemplar = colorize(
        [Conditioning(sketch=lines, exemplar=other.image) for lines, other in zip(drawings, others, strict=True)],
        settings,
        "exemplars that disagree",
    )
    without = colorize([Conditioning(sketch=lines) for lines in drawings], settings, "no exemplar")
    truth = [scene.image for scene in scenes]

    def edges(images: Sequence[np.ndarray]) -> list[float]:
        return [edge_f1(image, lines) for image, lines in zip(images, drawings, strict=True)]

    def leaks(images: Sequence[np.ndarray]) -> list[float]:
        return [
            leak
            for image, scene, other in zip(images, scenes, others, strict=True)
            for leak in leakage(image, scene, other)
        ]

    return [
        bootstrapped("edge F1 against the sketch, exemplar disagrees", edges(with_exemplar), at_least=0.8),
        bootstrapped("  without an exemplar", edges(without)),
        bootstrapped("  of the scenes themselves", edges(truth)),
        bootstrapped("leakage of the exemplar's colors", leaks(with_exemplar), unit="%"),
        bootstrapped("  the same colors without an exemplar", leaks(without), unit="%"),
    ]


def object_colors(image: np.ndarray, instances: Sequence[Instance]) -> dict[str, tuple[float, float]]:
    """Return the median (a, b) of every object of a picture (H, W, 3) uint8, by kind."""
    ab = _to_ab(image)
    return {
        instance.kind: (float(np.median(ab[instance.mask, 0])), float(np.median(ab[instance.mask, 1])))
        for instance in instances
    }


def _colors_of_likes(
    image: np.ndarray, scene: Scene, exemplar: Scene
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the color (a, b) of each object of a picture, with that of its like in an exemplar, if it has one."""
    wanted = object_colors(exemplar.image, exemplar.instances)
    return [(color, wanted[kind]) for kind, color in object_colors(image, scene.instances).items() if kind in wanted]


def hues_agree(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether two colors (a, b) have hues within 20 degrees, or are both gray."""
    are_gray = [float(np.hypot(*color)) < _GRAY_CHROMA for color in (one, other)]
    if any(are_gray):
        return all(are_gray)
    difference = np.degrees(np.arctan2(one[1], one[0]) - np.arctan2(other[1], other[0]))
    return abs((difference + 180) % 360 - 180) <= _MAX_HUE_DEGREES


def edge_f1(image: np.ndarray, lines: np.ndarray, *, tolerance_px: int = 1) -> float:
    """Compare the edges of a picture with the lines of a sketch.

    Args:
        image: (H, W, 3) uint8.
        lines: (H, W), [0, 1], black on white.
        tolerance_px: how far an edge may lie from a line and the other way round.

    Returns:
        Harmonic mean of the shares of edges near lines and of lines near edges, [0, 1].
    """
    edges = sketch_of(image_to_gray(load_image(image)), style="canny")[0, 0] < 0.5
    inked = torch.from_numpy(np.array(lines)) < 0.5
    near = [_grown(mask, tolerance_px) for mask in (inked, edges)]
    precision, recall = (
        float((mask & around).sum() / mask.sum().clamp(min=1))
        for mask, around in zip((edges, inked), near, strict=True)
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def leakage(image: np.ndarray, scene: Scene, exemplar: Scene) -> Iterator[float]:
    """Yield for each colored object of an exemplar how much of the picture has its color where it does not belong.

    Yields:
        Percent of the pixels outside of the sketched objects of the same kind.
    """
    ab = _to_ab(image)
    for kind, color in object_colors(exemplar.image, exemplar.instances).items():
        if np.hypot(*color) < 2 * _GRAY_CHROMA:
            continue
        outside = np.ones(ab.shape[:2], dtype=bool)
        for instance in scene.instances:
            if instance.kind == kind:
                outside &= ~instance.mask
        alike = np.hypot(ab[..., 0] - color[0], ab[..., 1] - color[1]) < _SAME_COLOR
        yield 100.0 * float((alike & outside).sum() / max(1, outside.sum()))


def _grown(mask: torch.Tensor, radius_px: int) -> torch.Tensor:
    """Grow a mask (H, W) by a square of this radius."""
    kernel = torch.ones(2 * radius_px + 1, 2 * radius_px + 1)
    grown: torch.Tensor = kornia.morphology.dilation(mask[None, None].float(), kernel)[0, 0] > 0.5
    return grown


def _to_ab(image: np.ndarray) -> np.ndarray:
    """Convert (H, W, 3) uint8 to (H, W, 2) chroma."""
    return rgb_to_lab(load_image(image))[0, 1:].permute(1, 2, 0).numpy()
