"""Are strokes obeyed, do they color their object, and do they stay inside of it? Measured on held-out scenes.

| figure | where | what |
| --- | --- | --- |
| obeyed | under the strokes | median ΔE 2000 of chroma to the stroke's color |
| spreads | in the objects that have a stroke | share of pixels within ΔE 15 of the stroke's color |
| overflow | within 8 px around these objects, where no object is | share of pixels within ΔE 15 of the stroke's color |

Every second scene is asked for in other colors than its own. There are no words, so that the strokes alone decide. A
pixel around an object whose true color is near the stroke's cannot tell overflow, and does not count.

Deviation: that overflow is a share of pixels near the stroke's color is ours; the paper measures none.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch.nn import functional

from colorlab.color import CHROMATIC_COLORS
from colorlab.conditioning import Conditioning
from colorlab.evaluation.chroma import NEAR, chroma_difference, color_ab, picture_ab, share_near
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number
from colorlab.evaluation.scenes import scene_gray
from colorlab.mechanisms.deformable_decoding import DeformableDecoding
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes
from colorlab.training.scenes import TEST_SEEDS, Scene, make_scene, recolored, simulated_strokes

ColorizeWith = Callable[[Sequence[Conditioning], Settings, str], Sequence[np.ndarray]]
"""Pictures (H, W, 3) uint8 for conditionings under settings; the last argument names the work."""

# The protocols of words and of CLIP draw from the ranges below.
_FIRST_SEED = TEST_SEEDS.start + 4 * 10**8
_MAX_STROKES = 5
_RING_PX = 8

GUIDANCE_SCALES = (0.05, 0.2, 1.0)
GUIDANCE_SITES = ("mid", "up")


@dataclass(frozen=True, eq=False)
class StrokedScene:
    """A scene and strokes that ask for its colors.

    Args:
        scene: the truth, in the colors that the strokes ask for.
        strokes: one to five.
        is_recolored: whether these are other colors than those it was drawn with.
    """

    scene: Scene
    strokes: Strokes
    is_recolored: bool

    @property
    def conditioning(self) -> Conditioning:
        """What a colorizer gets: gray and strokes, no words."""
        return Conditioning(gray=scene_gray(self.scene), strokes=self.strokes)


@dataclass(frozen=True)
class StrokeScore:
    """What became of the strokes of one picture; nan where nothing could be measured.

    Args:
        obeyed: median ΔE 2000 of chroma under the strokes.
        spread: share of the objects with a stroke that has its color, 0 to 1.
        overflow: share of their surroundings that has their color, 0 to 1.
    """

    obeyed: float
    spread: float
    overflow: float


def evaluate_strokes(colorize: ColorizeWith, settings: Settings, num_scenes: int, *, size_px: int = 128) -> Report:
    """Run the protocol.

    Args:
        colorize: colorizes a list of conditionings.
        settings: what is in force; guidance and decoder are varied around it, on half of the scenes.
        num_scenes: how many scenes.
        size_px: height and width of the scenes.

    Returns:
        The figures, with their targets.

    Raises:
        RangeError: `num_scenes` is below 1.
    """
    check_number(num_scenes)
    cases = list(islice(stroked_scenes(size_px), num_scenes))
    conditionings = [case.conditioning for case in cases]
    scores = score_all(cases, colorize(conditionings, settings, "strokes"))
    rows = [*stroke_rows(cases, scores), *overflow_rows(colorize, settings, cases[: max(1, num_scenes // 2)])]
    details = {"scenes": num_scenes, "size_px": size_px}
    return Report(f"Strokes on {num_scenes} held-out scenes, without words", tuple(rows), details)


def stroked_scenes(size_px: int) -> Iterator[StrokedScene]:
    """Yield held-out scenes with strokes, always the same ones; every second one in other colors than its own."""
    seed = _FIRST_SEED
    is_recolored = False
    while True:
        scene = make_scene(seed, size_px=size_px)
        if is_recolored:
            draw = np.random.default_rng([seed, 7])
            scene = recolored(scene, [_other_color(one.color, draw) for one in scene.instances])
        strokes = simulated_strokes(scene, seed)[:_MAX_STROKES]
        if strokes:
            yield StrokedScene(scene, strokes, is_recolored)
            is_recolored = not is_recolored
        seed += 1


def score_all(cases: Sequence[StrokedScene], images: Sequence[np.ndarray]) -> list[StrokeScore]:
    """Measure pictures (H, W, 3) uint8, one for each scene and of its size."""
    return [score(case, image) for case, image in zip(cases, images, strict=True)]


def score(case: StrokedScene, image: np.ndarray) -> StrokeScore:
    """Measure one picture (H, W, 3) uint8."""
    scene, ab, true_ab = case.scene, picture_ab(image), picture_ab(case.scene.image)
    hint, painted = case.strokes.rasterize(*scene.lightness.shape)
    asked = picture_ab((hint[0].permute(1, 2, 0) * 255.0).round().to(torch.uint8).numpy())
    is_painted = painted[0, 0].numpy() > 0
    spreads, overflows = [], []
    is_free = ~np.any([instance.mask for instance in scene.instances], axis=0)
    for instance in scene.instances:
        stroke = _stroke_of(instance.mask, case.strokes)
        if stroke is None:
            continue
        color = color_ab(stroke.color)
        spreads.append(share_near(ab[instance.mask], color))
        if instance.color in CHROMATIC_COLORS:
            ring = widened(instance.mask, _RING_PX) & is_free
            ring[ring] = chroma_difference(true_ab[ring], color) > NEAR
            overflows.append(share_near(ab[ring], color))
    return StrokeScore(
        obeyed=float(np.median(chroma_difference(ab[is_painted], asked[is_painted]))),
        spread=_mean(spreads),
        overflow=_mean(overflows),
    )


def widened(mask: np.ndarray, radius_px: int) -> np.ndarray:
    """Return a mask (H, W) bool with a border of square corners."""
    values = torch.from_numpy(mask.astype(np.float32))[None, None]
    return functional.max_pool2d(values, 2 * radius_px + 1, 1, radius_px)[0, 0].numpy() > 0


def stroke_rows(cases: Sequence[StrokedScene], scores: Sequence[StrokeScore]) -> list[Estimate]:
    """Say how strokes are obeyed and spread; gray pictures and the scenes themselves are the bounds."""
    gray = score_all(cases, [np.repeat(scene_gray(case.scene)[..., None], 3, axis=2) for case in cases])
    truth = score_all(cases, [case.scene.image for case in cases])
    own = [one for one, case in zip(scores, cases, strict=True) if not case.is_recolored]
    other = [one for one, case in zip(scores, cases, strict=True) if case.is_recolored]
    return [
        _obeyed("strokes obeyed: median ΔE 2000 of chroma", scores, at_most=8.0),
        _obeyed("  in the scene's own colors", own),
        _obeyed("  in other colors", other),
        _obeyed("  of the gray pictures", gray),
        _obeyed("  of the scenes themselves", truth),
        _share("strokes spread: share of the object", "spread", scores, at_least=80.0),
        _share("  in the scenes themselves", "spread", truth),
        _share("overflow: share of the surroundings", "overflow", scores),
    ]


def overflow_rows(colorize: ColorizeWith, settings: Settings, cases: Sequence[StrokedScene]) -> list[Estimate]:
    """Compare overflow with and without each mechanism that is there to lower it; pairs of pictures have one seed."""
    conditionings = [case.conditioning for case in cases]

    def overflow(varied: Settings, label: str) -> np.ndarray:
        return np.array([100.0 * one.overflow for one in score_all(cases, colorize(conditionings, varied, label))])

    guidance, decoding = SelfAttentionGuidance.name, DeformableDecoding.name
    off = settings.with_mechanism(guidance, is_on=False)
    without = overflow(off, "guidance off")
    plain = overflow(off.with_mechanism(decoding, is_on=False), "plain decoder")
    rows = [_change("overflow without guidance: deformable - plain decoder", without, plain)]
    for site in GUIDANCE_SITES:
        for scale in GUIDANCE_SCALES:
            on = settings.with_mechanism(guidance, is_on=True, sag_scale=scale, site=site)
            name = f"guidance {scale:g} at {site}"
            rows.append(_change(f"overflow: {name} - off", overflow(on, name), without))
    return rows


def _change(name: str, on: np.ndarray, off: np.ndarray) -> Estimate:
    """Estimate a paired difference in percentage points; pairs that could not be measured are left out."""
    is_known = np.isfinite(on) & np.isfinite(off)
    return bootstrapped(name, (on - off)[is_known], unit="points")


def _obeyed(name: str, scores: Sequence[StrokeScore], *, at_most: float | None = None) -> Estimate:
    """Estimate the median over pictures."""
    return bootstrapped(name, [one.obeyed for one in scores], statistic=np.median, at_most=at_most)


def _share(name: str, field: str, scores: Sequence[StrokeScore], *, at_least: float | None = None) -> Estimate:
    """Estimate the mean of a share over pictures, in percent."""
    values = np.array([100.0 * getattr(one, field) for one in scores])
    return bootstrapped(name, values[np.isfinite(values)], unit="%", at_least=at_least)


def _other_color(color: str, draw: np.random.Generator) -> str:
    """Draw one of the eight chromatic names that is not `color`."""
    return str(draw.choice([name for name in CHROMATIC_COLORS if name != color]))


def _stroke_of(mask: np.ndarray, strokes: Strokes) -> Stroke | None:
    """Return the stroke of an object: the last one that paints it."""
    for stroke in reversed(strokes):
        if (Strokes([stroke]).rasterize(*mask.shape)[1][0, 0].numpy() > 0)[mask].any():
            return stroke
    return None


def _mean(values: Sequence[float]) -> float:
    """Average what could be measured; nan if nothing could."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
