"""Do text edits of the exemplar change what they name, and nothing else? Measured on held-out scenes.

| protocol | edits | right is |
| --- | --- | --- |
| one | one object of two or more gets another chromatic color | the nearest of the eight names is the wanted one |
| three | three objects, one after the other | after the third the first two have their wanted names |

Both modes of the position weights are measured on the same scenes and seeds, each with its own thresholds. What is
outside is compared with the same run without the edit: median Delta E. Weights are compared with the exact mask of the
object in the exemplar (AUC); the time is that of one object's weights and tokens, as a moved threshold needs them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch

from colorlab.color import CHROMATIC_COLORS, COLORS, delta_e, rgb_to_lab
from colorlab.conditioning import PUBLISHED_THRESHOLDS, USUAL_THRESHOLDS, Conditioning, Manipulation
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number, proportion
from colorlab.evaluation.sketches import ColorizeSketches, object_colors
from colorlab.images import load_image
from colorlab.settings import Settings
from colorlab.training.corpus import patch_map
from colorlab.training.edited_exemplars import color_edit
from colorlab.training.scenes import TEST_SEEDS, Scene, exemplar_scene, make_scene, sketch

__all__ = ["EditedScene", "edited_conditioning", "edited_scenes", "evaluate_token_edits", "has_wanted"]

MODES = ("corrected", "published")
_FIRST_SEED = TEST_SEEDS.start + 6 * 10**8
_NUM_TIMINGS = 20


@dataclass(frozen=True)
class EditedScene:
    """A scene, its exemplar, and the edits that are asked for.

    Args:
        scene: whose sketch is colored.
        exemplar: the same objects in another arrangement.
        wanted: kind of each edited object -> its new color, in order.
        edits: the same as manipulations.
    """

    scene: Scene
    exemplar: Scene
    wanted: dict[str, str]
    edits: tuple[Manipulation, ...]


def evaluate_token_edits(colorize: ColorizeSketches, method: Any, settings: Settings, num_edits: int) -> Report:
    """Run both protocols with both modes.

    Args:
        colorize: colorizes a list of conditionings.
        method: the loaded ColorizeDiffusion, for its tokens.
        settings: in force.
        num_edits: edits of the first protocol, at least 1; the second takes half as many triples.

    Raises:
        RangeError: `num_edits` is below 1.
    """
    check_number(num_edits, name="num_edits")
    single = edited_scenes(num_edits, 1)
    triples = edited_scenes(max(1, num_edits // 2), 3)
    # Without edits there are no weights, so that both modes have these pictures in common.
    before = colorize([edited_conditioning(one, is_edited=False) for one in single], settings, "before the edits")
    rows: list[Estimate] = []
    for mode in MODES:
        varied = settings.with_mechanism("position_weights", mode=mode)
        is_asked = mode == MODES[0]
        ones, threes = ([_by_mode(one, mode) for one in scenes] for scenes in (single, triples))
        rows += _edit_rows(colorize, method, varied, ones, before, mode, is_asked=is_asked)
        rows.append(_sequence_row(colorize, varied, threes, mode, is_asked=is_asked))
    rows.append(_time_row(method, settings, single[0]))
    return Report(f"Text edits of exemplars, {num_edits} of them", tuple(rows), {"edits": num_edits})


def edited_scenes(count: int, num_edits: int, *, size_px: int = 128) -> list[EditedScene]:
    """Draw scenes with enough chromatic objects, and other chromatic colors for the first ones."""
    found: list[EditedScene] = []
    seed = _FIRST_SEED + 10**7 * num_edits
    while len(found) < count:
        scene = make_scene(seed, size_px=size_px, num_instances=max(2, num_edits))
        rng = np.random.default_rng([seed, 5])
        edited = [instance for instance in scene.instances if instance.color in CHROMATIC_COLORS][:num_edits]
        if len(edited) == num_edits:
            taken = {instance.color for instance in scene.instances}
            free = [color for color in CHROMATIC_COLORS if color not in taken]
            colors = [str(color) for color in rng.permutation(free)[:num_edits]]
            pairs = list(zip(edited, colors, strict=True))
            edits = tuple(color_edit(instance.color, instance.kind, color) for instance, color in pairs)
            wanted = {instance.kind: color for instance, color in pairs}
            found.append(EditedScene(scene, exemplar_scene(scene, seed=0), wanted, edits))
        seed += 1
    return found


def edited_conditioning(one: EditedScene, *, is_edited: bool) -> Conditioning:
    """Describe an edited scene, or the same without its edits, to the model."""
    edits = one.edits if is_edited else ()
    return Conditioning(sketch=sketch(one.scene), exemplar=one.exemplar.image, manipulations=edits)


def _by_mode(one: EditedScene, mode: str) -> EditedScene:
    """Give the edits of a scene the thresholds of a mode."""
    thresholds = PUBLISHED_THRESHOLDS if mode == "published" else USUAL_THRESHOLDS
    return replace(one, edits=tuple(replace(edit, thresholds=thresholds) for edit in one.edits))


def _edit_rows(
    colorize: ColorizeSketches,
    method: Any,
    settings: Settings,
    scenes: Sequence[EditedScene],
    before: Sequence[np.ndarray],
    mode: str,
    *,
    is_asked: bool,
) -> list[Estimate]:
    """Measure single edits: success, change outside, AUC of the weights."""
    after = colorize([edited_conditioning(one, is_edited=True) for one in scenes], settings, f"{mode} edits")
    follows = [has_wanted(image, one) for image, one in zip(after, scenes, strict=True)]
    outside = [_change_outside(old, new, one) for old, new, one in zip(before, after, scenes, strict=True)]
    aucs = [_auc(method, settings, one) for one in scenes]
    return [
        proportion(
            f"{mode}: one edit gives the wanted color", sum(follows), len(scenes), at_least=_asked(80.0, is_asked)
        ),
        bootstrapped(
            f"  {mode}: change outside, median Delta E",
            outside,
            statistic=lambda drawn: float(np.median(drawn)),
            at_most=_asked(5.0, is_asked),
        ),
        bootstrapped(f"  {mode}: AUC of the weights against the object's mask", aucs),
    ]


def _sequence_row(
    colorize: ColorizeSketches, settings: Settings, scenes: Sequence[EditedScene], mode: str, *, is_asked: bool
) -> Estimate:
    """Measure whether the first two of three edits are still there after the third."""
    images = colorize([edited_conditioning(one, is_edited=True) for one in scenes], settings, f"{mode} triples")
    kept = 0
    for image, one in zip(images, scenes, strict=True):
        colors = object_colors(image, one.scene.instances)
        kept += all(_name(colors[kind]) == wanted for kind, wanted in list(one.wanted.items())[:2])
    asked = _asked(80.0, is_asked)
    return proportion(f"{mode}: three edits, the first two in place", kept, len(scenes), at_least=asked)


def _time_row(method: Any, settings: Settings, one: EditedScene) -> Estimate:
    """Time what a moved threshold costs: weights and edited tokens, everything else encoded before."""
    conditioning = edited_conditioning(one, is_edited=True)
    times = []
    with method.lock, torch.no_grad():
        tokens = method.encode_exemplar(conditioning, settings)
        edits, _ = method.encode_edits(conditioning, tokens, settings)
        for _ in range(_NUM_TIMINGS):
            start = time.perf_counter()
            method.edit_tokens(tokens, edits, settings)
            times.append(1000 * (time.perf_counter() - start))
    return bootstrapped("a moved threshold: weights and tokens", times, unit="ms", statistic=median, at_most=50.0)


def _auc(method: Any, settings: Settings, one: EditedScene) -> float:
    """Compare weights inside the object's mask in the exemplar with those outside: chance that the inner is larger."""
    with method.lock, torch.no_grad():
        prepared = method.prepare(edited_conditioning(one, is_edited=True), settings)
    weights = prepared.weights[0].flatten()
    patch_px = one.exemplar.plan.size_px // round(len(weights) ** 0.5)
    patches = torch.from_numpy(patch_map(one.exemplar, patch_px)).flatten()
    kind = next(iter(one.wanted))
    number = next(index for index, instance in enumerate(one.exemplar.instances) if instance.kind == kind)
    inside, outside = weights[patches == number], weights[(patches >= 0) & (patches != number)]
    larger, equal = inside[:, None] > outside[None], inside[:, None] == outside[None]
    return float((larger.float() + 0.5 * equal.float()).mean())


def has_wanted(image: np.ndarray, one: EditedScene) -> bool:
    """Tell whether every edited object has its wanted name."""
    colors = object_colors(image, one.scene.instances)
    return all(_name(colors[kind]) == wanted for kind, wanted in one.wanted.items())


def _change_outside(before: np.ndarray, after: np.ndarray, one: EditedScene) -> float:
    """Return the median Delta E between two pictures outside of the edited objects."""
    outside = np.ones(before.shape[:2], dtype=bool)
    for instance in one.scene.instances:
        if instance.kind in one.wanted:
            outside &= ~instance.mask
    labs = [rgb_to_lab(load_image(image)) for image in (before, after)]
    return float(np.median(delta_e(*labs).reshape(outside.shape).numpy()[outside]))


def _name(color: tuple[float, float]) -> str:
    """Name a color (a, b) by the nearest of the eight chromatic centers."""
    return min(CHROMATIC_COLORS, key=lambda name: np.hypot(COLORS[name][0] - color[0], COLORS[name][1] - color[1]))


def _asked(bound: float, is_asked: bool) -> float | None:
    """Return what is asked of a figure, of the corrected mode alone."""
    return bound if is_asked else None
