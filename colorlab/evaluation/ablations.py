"""What each mechanism is good for: the number it exists for, with it and without it, on held-out scenes.

Every mechanism names its number in `PURPOSES`. All else is as in the settings; both pictures of a pair have one seed,
and the interval is that of the paired difference. An interval that holds 0 is a finding too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from typing import Literal

import numpy as np

from colorlab.conditioning import Conditioning
from colorlab.evaluation import exemplars, instances, local_edits, scenes, sketches, strokes, token_edits
from colorlab.evaluation.chroma import chroma_difference, picture_ab
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number
from colorlab.evaluation.strokes import ColorizeWith
from colorlab.mechanisms.base import SWITCH, Mechanism, Value
from colorlab.settings import Settings
from colorlab.training.scenes import Scene, exemplar_scene, sketch

__all__ = ["PURPOSES", "Case", "Purpose", "evaluate_ablations"]

_BORDER_PX = 3


@dataclass(frozen=True, eq=False)
class Case:
    """One picture to make and how to measure it.

    Args:
        conditioning: what a colorizer gets.
        measure: picture (H, W, 3) uint8 to a number; nan where nothing can be measured.
    """

    conditioning: Conditioning
    measure: Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Purpose:
    """The number that a mechanism exists for.

    Args:
        what: is measured.
        unit: of it.
        better: which way.
        cases: number of scenes and their size to cases, always the same ones.
        on: parameters with which the mechanism is switched on, where its defaults do nothing.
    """

    what: str
    unit: str
    better: Literal["higher", "lower"]
    cases: Callable[[int, int], Sequence[Case]]
    on: Mapping[str, Value] = field(default_factory=dict)


def evaluate_ablations(
    colorize: ColorizeWith, mechanisms: Sequence[Mechanism], settings: Settings, num_scenes: int, *, size_px: int = 128
) -> Report:
    """Measure every mechanism.

    Args:
        colorize: colorizes a list of conditionings.
        mechanisms: those of the model.
        settings: what is in force; each mechanism in turn is switched on and off.
        num_scenes: held-out scenes for each.
        size_px: height and width of the scenes.

    Returns:
        For each mechanism what switching it on does to its number, and the number with and without it.

    Raises:
        RangeError: `num_scenes` is below 1.
    """
    check_number(num_scenes)
    rows: list[Estimate] = []
    unnamed = [mechanism.name for mechanism in mechanisms if mechanism.name not in PURPOSES]
    for mechanism in mechanisms:
        if mechanism.name in PURPOSES:
            rows += ablation_rows(colorize, mechanism.name, PURPOSES[mechanism.name], settings, num_scenes, size_px)
    title = f"What switching a mechanism on does, on {num_scenes} held-out scenes"
    if unnamed:
        title += f" (no number is named for {', '.join(unnamed)})"
    return Report(title, tuple(rows), {"scenes": num_scenes, "size_px": size_px, "unnamed": unnamed})


def ablation_rows(
    colorize: ColorizeWith, name: str, purpose: Purpose, settings: Settings, num_scenes: int, size_px: int
) -> list[Estimate]:
    """Measure one mechanism: the paired difference, which should lie on the better side of 0, and both numbers."""
    cases = purpose.cases(num_scenes, size_px)
    conditionings = [case.conditioning for case in cases]
    columns = []
    for is_on in (True, False):
        parameters = {**purpose.on, SWITCH: True} if is_on else {SWITCH: False}
        varied = settings.with_mechanism(name, **parameters)
        images = colorize(conditionings, varied, f"{name} {'on' if is_on else 'off'}")
        columns.append(np.array([case.measure(image) for case, image in zip(cases, images, strict=True)]))
    is_known = np.isfinite(columns[0]) & np.isfinite(columns[1])
    on, off = (column[is_known] for column in columns)
    return [
        bootstrapped(f"{name}: {purpose.what}, on - off ({purpose.better} is better)", on - off, unit=purpose.unit),
        bootstrapped("  on", on, unit=purpose.unit),
        bootstrapped("  off", off, unit=purpose.unit),
    ]


def _named_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Complete captions: percent of the chromatic instances whose color is the named one."""

    def measure(scene: Scene, image: np.ndarray) -> float:
        found = [one for one in scenes.measure([scene], [image], "complete") if one.is_chromatic]
        return 100.0 * float(np.mean([one.is_right() for one in found])) if found else float("nan")

    return [
        Case(scenes.scene_conditioning(scene, "complete"), partial(measure, scene))
        for scene in islice(scenes.held_out_scenes("complete", size_px), num_scenes)
    ]


def _instance_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Objects of one kind with masks: percent of them whose color is that of their own words."""

    def measure(scene: Scene, image: np.ndarray) -> float:
        return 100.0 * float(np.mean([one.is_right() for one in scenes.measure([scene], [image], "complete")]))

    return [
        Case(instances.masked_conditioning(scene), partial(measure, scene))
        for scene in islice(instances.same_kind_scenes(size_px), num_scenes)
    ]


def _outline_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Complete captions: mean ΔE of chroma to the scene itself within 3 px of the outlines of objects."""

    def measure(scene: Scene, image: np.ndarray) -> float:
        outlines = np.any([_border(instance.mask) for instance in scene.instances], axis=0)
        return float(chroma_difference(picture_ab(image)[outlines], picture_ab(scene.image)[outlines]).mean())

    return [
        Case(scenes.scene_conditioning(scene, "complete"), partial(measure, scene))
        for scene in islice(scenes.held_out_scenes("complete", size_px), num_scenes)
    ]


def _stroke_cases(measured: str, num_scenes: int, size_px: int) -> list[Case]:
    """Strokes without words: one of the numbers of `StrokeScore`, shares in percent."""
    factor = 1.0 if measured == "obeyed" else 100.0

    def measure(case: strokes.StrokedScene, image: np.ndarray) -> float:
        return factor * float(getattr(strokes.score(case, image), measured))

    return [
        Case(case.conditioning, partial(measure, case)) for case in islice(strokes.stroked_scenes(size_px), num_scenes)
    ]


def _exemplar_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Exemplars: degrees between the hues of objects and those of the exemplar's."""

    def measure(pair: tuple[Scene, Scene], image: np.ndarray) -> float:
        return float(exemplars.distances([pair], [image])[0])

    return [
        Case(exemplars.exemplar_conditioning(*pair), partial(measure, pair))
        for pair in islice(exemplars.exemplar_pairs(size_px), num_scenes)
    ]


def _edit_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Local edits of one object: mean ΔE outside of it."""
    return [
        Case(case.conditioning(has_mask=True), partial(local_edits.change_outside, case, has_mask=True))
        for case in islice(local_edits.edited_scenes(size_px), num_scenes)
    ]


def _followed_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Sketches with their objects in another arrangement: percent of the objects in the hue of their like."""

    def measure(scene: Scene, exemplar: Scene, image: np.ndarray) -> float:
        return 100.0 * sketches.share_followed(image, scene, exemplar)

    return [
        Case(Conditioning(sketch=sketch(scene), exemplar=other.image), partial(measure, scene, other))
        for scene in sketches.sketched_scenes(num_scenes, size_px=size_px)
        for other in (exemplar_scene(scene, seed=0),)
    ]


def _disagreeing_cases(measured: Literal["edges", "leakage"], num_scenes: int, size_px: int) -> list[Case]:
    """Sketches with exemplars of other scenes: edge F1 against the sketch, or percent of leaked colors."""

    def measure(scene: Scene, exemplar: Scene, image: np.ndarray) -> float:
        if measured == "edges":
            return sketches.edge_f1(image, sketch(scene))
        leaks = list(sketches.leakage(image, scene, exemplar))
        return float(np.mean(leaks)) if leaks else float("nan")

    drawn = sketches.sketched_scenes(num_scenes + 1, size_px=size_px)
    return [
        Case(Conditioning(sketch=sketch(scene), exemplar=other.image), partial(measure, scene, other))
        for scene, other in pairwise(drawn)
    ]


def _text_edit_cases(num_scenes: int, size_px: int) -> list[Case]:
    """Text edits of one object of the exemplar: 100 where it takes the wanted color, else 0."""

    def measure(case: token_edits.EditedScene, image: np.ndarray) -> float:
        return 100.0 * token_edits.has_wanted(image, case)

    return [
        Case(token_edits.edited_conditioning(case, is_edited=True), partial(measure, case))
        for case in token_edits.edited_scenes(num_scenes, 1, size_px=size_px)
    ]


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the pixels within 3 px of the edge of a mask, on both sides."""
    return strokes.widened(mask, _BORDER_PX) & strokes.widened(~mask, _BORDER_PX)


_NAMED = Purpose("objects in their named color", "%", "higher", _named_cases)
_OVERFLOW = Purpose("overflow of strokes", "%", "lower", partial(_stroke_cases, "overflow"))
_HUES = "objects in the hue of the exemplar's like"
_EDGES = Purpose("edge F1 against the sketch", "", "higher", partial(_disagreeing_cases, "edges"))
_EDITED = Purpose("text edits that give the wanted color", "%", "higher", _text_edit_cases)

PURPOSES: dict[str, Purpose] = {
    "attention_injection": Purpose(_HUES, "%", "higher", _followed_cases, on={"is_used": True}),
    "channel_extension": _NAMED,
    "classifier_free_guidance": _NAMED,
    "deformable_decoding": _OVERFLOW,
    "dual_guidance": Purpose(_HUES, "%", "higher", _followed_cases),
    # Scales and windows do nothing by default; the white canvas is what is said to help against leaking shapes.
    "exemplar_attention": Purpose(
        "leakage of the exemplar's colors",
        "%",
        "lower",
        partial(_disagreeing_cases, "leakage"),
        on={"canvas_scale": 1.5},
    ),
    "exemplar_guidance": Purpose(
        "hues against the exemplar's", "degrees", "lower", _exemplar_cases, on={"exemplar_scale": 0.05}
    ),
    "exemplar_start": Purpose(_HUES, "%", "higher", _followed_cases, on={"is_used": True}),
    # It edits the class token, which only models of it read: elsewhere its row is a null.
    "global_manipulation": _EDITED,
    "instance_guidance": Purpose("objects of one kind in their own color", "%", "higher", _instance_cases),
    "lightness_control": _NAMED,
    "line_guidance": _EDGES,
    "local_edit": Purpose("ΔE outside the edited object", "", "lower", _edit_cases),
    "luminance_guidance": Purpose("ΔE of chroma along outlines", "", "lower", _outline_cases),
    "position_weights": _EDITED,
    "self_attention_guidance": _OVERFLOW,
    "sketch_injection": _EDGES,
    # It acts as published alone, so that its row is a null otherwise.
    "stale_attention": _NAMED,
    "stroke_encoding": Purpose("ΔE of chroma under strokes", "", "lower", partial(_stroke_cases, "obeyed")),
}
"""The number of each mechanism, by its name."""
