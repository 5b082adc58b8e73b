"""Does tuning on one picture do what it is for? Measured on held-out scenes with two objects, or on photographs.

| figure | what is compared |
| --- | --- |
| margin raised | similarity to the context less the nearest anti-color prompt's: stage 1's picture, the gray one |
| colorfulness | stage 1's picture, the truth |
| reconstruction | the tuned model's picture from the inverted one, stage 1's picture |
| edits | "a brown X" and "a blue X": the median ab in the mask of X, the names of the eight chromatic colors |
| rest | the same two pictures outside the mask |

The CLIP that reports is the one that was optimized, where the model comes with one only: such margins are no evidence
of colors that people see, the other rows are.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from colorlab.color import CHROMATIC_COLORS, COLORS, delta_e_2000, rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import ImageError, RangeError
from colorlab.evaluation.chroma import picture_ab
from colorlab.evaluation.metrics import colorfulness
from colorlab.evaluation.photographs import Photograph, color_to_gray, lightness_error
from colorlab.evaluation.progress import progress
from colorlab.evaluation.report import Estimate, Report, bootstrapped, proportion, ratio_of_means
from colorlab.evaluation.scenes import held_out_scenes, scene_gray
from colorlab.images import load_image, to_uint8
from colorlab.methods.base import gray_image
from colorlab.methods.identifiers import check_context, rewrite
from colorlab.training.scene_captions import with_article
from colorlab.training.scenes import Scene
from colorlab.tuning import Tuning, TuningPlan, TuningWarning
from colorlab.tuning.judge import Judge

__all__ = ["EDIT_COLORS", "evaluate_diffcolor"]

EDIT_COLORS = ("brown", "blue")
"""The color that an object is given first, and the one it is then changed to."""


@dataclass
class _Measured:
    """What was measured, one entry for each picture or edit."""

    margins: list[tuple[float, float]] = field(default_factory=list)
    colorful: list[tuple[float, float]] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    lightness: list[float] = field(default_factory=list)
    edits: list[bool] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)


def evaluate_diffcolor(
    colorizer: Colorizer,
    num_scenes: int,
    photographs: Sequence[Photograph] = (),
    *,
    preset: str | TuningPlan = "notebook",
) -> Report:
    """Tune on each picture, measure stage 1, the reconstruction, and one edit of each object of a scene.

    Args:
        colorizer: of the method diffcolor, without an adaptation.
        num_scenes: held-out scenes with two objects of different kinds.
        photographs: in color, with labels that name no color. They have no masks, so that no edit is measured.
        preset: how long to tune.

    Returns:
        The figures, with their targets.

    Raises:
        ImageError: a photograph has no label, or one that cannot be a context, as it names a color.
    """
    found = _Measured()
    pictures = [*_scenes(num_scenes), *(_photograph(one, colorizer) for one in photographs)]
    with progress("tuning", len(pictures), "picture") as update:
        for conditioning, truth, scene in pictures:
            with warnings.catch_warnings():
                # What they say is measured here.
                warnings.simplefilter("ignore", TuningWarning)
                tuning = colorizer.tune(conditioning, preset=preset, nouns=_nouns(conditioning.prompt)).finish(
                    progress=False
                )
            _measure_tuning(tuning, truth, found)
            if scene is not None:
                _measure_edits(colorizer.with_adaptation(tuning.adaptation), conditioning, scene, found)
            update(1)
    plan = "its own plan" if isinstance(preset, TuningPlan) else preset
    title = f"DiffColor on {num_scenes} scenes and {len(pictures) - num_scenes} photographs, preset {plan}"
    return Report(title, tuple(_rows(found)), {"scenes": num_scenes, "photographs": len(pictures) - num_scenes})


def _scenes(number: int) -> Iterator[tuple[Conditioning, np.ndarray, Scene | None]]:
    """Yield scenes with their context."""
    for scene in islice(held_out_scenes("swap", 128), number):
        kinds = [with_article(instance.kind) for instance in scene.instances]
        yield Conditioning(gray=scene_gray(scene), prompt=f"a photo of {' and '.join(kinds)}"), scene.image, scene


def _photograph(photograph: Photograph, colorizer: Colorizer) -> tuple[Conditioning, np.ndarray, Scene | None]:
    """Return a photograph with the context that its label gives."""
    if not photograph.label:
        raise ImageError(
            f"Nobody says what {photograph.name} shows, but tuning needs a context; give a folder whose manifest.csv "
            "(name, shard, label) labels every photograph."
        )
    prompt = f"a photo of {with_article(photograph.label)}"
    try:
        check_context(prompt)
        rewrite(prompt, colorizer.method.components, nouns=_nouns(prompt))
    except RangeError as error:
        raise ImageError(
            f"The label of {photograph.name}, {photograph.label!r}, cannot be used: {error} Change it in manifest.csv, "
            "or take the photograph out."
        ) from error
    return Conditioning(gray=color_to_gray(photograph.image), prompt=prompt), to_uint8(photograph.image), None


def _nouns(prompt: str) -> Sequence[str]:
    """Name the object of a plural, which has no article to be found by."""
    words = prompt.removeprefix("a photo of ").split()
    return () if {"a", "an"} & set(words) else words[-1:]


def _measure_tuning(tuning: Tuning, truth: np.ndarray, found: _Measured) -> None:
    """Measure stage 1's picture and the reconstruction."""
    adaptation, gray = tuning.adaptation, gray_image(tuning.conditioning)
    aligned = adaptation.tensors["picture/aligned"].numpy()
    judge = Judge(tuning.method, adaptation.info["texts"])
    images = (load_image(aligned), gray.repeat(1, 3, 1, 1))
    found.margins.append((judge.margin(images[0]), judge.margin(images[1])))
    found.colorful.append((float(colorfulness(images[0])), float(colorfulness(load_image(truth)))))
    found.lightness.append(lightness_error(aligned, gray))
    curve = adaptation.info["curves"].get("reconstruction", {})
    found.psnr += curve.get("psnr", [])


def _measure_edits(tuned: Colorizer, conditioning: Conditioning, scene: Scene, found: _Measured) -> None:
    """Give every object one color after the other by the target text alone."""
    for instance in scene.instances:
        plain, images = with_article(instance.kind), []
        for color in EDIT_COLORS:
            prompt = conditioning.prompt.replace(plain, with_article(f"{color} {instance.kind}"))
            images.append(tuned.start(conditioning.replace(prompt=prompt)).finish(progress=False).image)
        median = np.median(picture_ab(images[1])[instance.mask], axis=0)
        distances = {name: float(np.hypot(*(median - np.array(COLORS[name])))) for name in CHROMATIC_COLORS}
        found.edits.append(min(distances, key=lambda name: distances[name]) == EDIT_COLORS[1])
        labs = [rgb_to_lab(load_image(image)) for image in images]
        difference = delta_e_2000(labs[0], labs[1])[0, 0].numpy()
        found.rest.append(float(np.median(difference[~instance.mask])))


def _rows(found: _Measured) -> list[Estimate]:
    """Make figures of what was measured."""
    margins, colorful = np.array(found.margins), np.array(found.colorful)
    rows = [
        proportion(
            "stage 1 raises the CLIP margin", int((margins[:, 0] > margins[:, 1]).sum()), len(margins), at_least=100
        ),
        bootstrapped("  margin of the gray picture", margins[:, 1]),
        bootstrapped("  margin of stage 1's picture", margins[:, 0]),
        bootstrapped("colorfulness / the truth's", *colorful.T, statistic=ratio_of_means, at_least=0.6),
        bootstrapped(
            "lightness: largest error in the 8-bit file", found.lightness, statistic=np.max, unit="L", at_most=0.5
        ),
        bootstrapped("reconstruction, PSNR", found.psnr, unit="dB", at_least=25.0),
    ]
    if not found.edits:
        return rows
    return [
        *rows,
        proportion(f"edits: {EDIT_COLORS[0]} to {EDIT_COLORS[1]}", sum(found.edits), len(found.edits), at_least=70),
        bootstrapped("  ΔE 2000 of the rest, median", found.rest, statistic=_median, at_most=8.0),
    ]


def _median(values: Any) -> float:
    """Return the median of numbers."""
    return float(np.median(values))
