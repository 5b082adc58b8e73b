"""Do sources color their own object? Shares of a word, a stroke, a part of the exemplar: inside of it and elsewhere.

    python benchmarks/provenance.py [--only words|strokes|exemplar] [--scenes 20] [--steps 8]

Held-out scenes, of which the masks are known. In each one source is looked at, with the object that it is meant for: a
color word of a caption that names two objects; the first stroke that is alone in an object; the quarter of the exemplar
that shows most of the object. Its share of the color of every pixel is measured, with that source left out and against
all sources removed, and pooled over the object and over everything else; pixels weigh as much as all sources together
move them. Where they move none the scene is left out, and `items` says how many remain. Each scene is told on stderr.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

import colorlab
from colorlab.color import CHROMATIC_COLORS
from colorlab.colorizer import Colorizer
from colorlab.evaluation.exemplars import exemplar_conditioning, exemplar_pairs
from colorlab.evaluation.report import Estimate, Report, bootstrapped, proportion
from colorlab.evaluation.scenes import held_out_scenes, scene_conditioning
from colorlab.evaluation.strokes import stroked_scenes
from colorlab.inspection.chroma import decode_chroma
from colorlab.inspection.provenance import Removal, plan_provenance
from colorlab.inspection.shares import Ablation, Findings
from colorlab.runs.run import Run
from colorlab.strokes import Strokes

SIZE_PX = 128
NUM_STROKES = range(2, 4)
"""How many strokes a scene has: one alone has the whole share by definition, many take long."""

LEAST_OVERLAP = 0.8
MODELS = {"words": "mini/lcad", "strokes": "mini/ctrlcolor", "exemplar": "mini/ctrlcolor"}
TITLES = {"words": "a color word", "strokes": "a stroke", "exemplar": "a quarter of the exemplar"}


@dataclass(frozen=True, eq=False)
class Case:
    """A run, one of its sources, and the object that it is meant for.

    Args:
        run: not finished yet.
        removal: how sources are told apart.
        source: index among them.
        mask: (H, W) bool, the object.
    """

    run: Run
    removal: Removal
    source: int
    mask: np.ndarray


def word_cases(colorizer: Colorizer, steps: int) -> Iterator[Case]:
    """Yield scenes of two objects in different colors; the color word of the first one is looked at."""
    for scene in held_out_scenes("swap", SIZE_PX):
        run = colorizer.start(scene_conditioning(scene, "complete"), num_inference_steps=steps, seed=0)
        first = scene.instances[0]
        yield Case(run, Removal(words=[first.color]), 0, first.mask)


def stroke_cases(colorizer: Colorizer, steps: int) -> Iterator[Case]:
    """Yield scenes with two or three strokes, without words; the first that is alone in its object is looked at.

    Of two strokes in one object each would do without the other, so that leaving one out tells nothing.
    """
    for stroked in stroked_scenes(SIZE_PX):
        if len(stroked.strokes) not in NUM_STROKES:
            continue
        painted = [Strokes([stroke]).rasterize(SIZE_PX, SIZE_PX)[1][0, 0].numpy() > 0 for stroke in stroked.strokes]
        for mask in (one.mask for one in stroked.scene.instances):
            inside = [index for index, area in enumerate(painted) if mask[area].mean() > LEAST_OVERLAP]
            if len(inside) == 1:
                run = colorizer.start(stroked.conditioning, num_inference_steps=steps, seed=0)
                yield Case(run, Removal(), inside[0], mask)
                break


def exemplar_cases(colorizer: Colorizer, steps: int) -> Iterator[Case]:
    """Yield scenes with an exemplar, without words; the quarter with most of the first colored object is looked at."""
    for scene, exemplar in exemplar_pairs(SIZE_PX):
        first = next(one for one in scene.instances if one.color in CHROMATIC_COLORS)
        shown = next(one.mask for one in exemplar.instances if (one.kind, one.color) == (first.kind, first.color))
        half = SIZE_PX // 2
        quarters = [shown[row : row + half, column : column + half].sum() for row in (0, half) for column in (0, half)]
        run = colorizer.start(exemplar_conditioning(scene, exemplar), num_inference_steps=steps, seed=0)
        yield Case(run, Removal(), int(np.argmax(quarters)), first.mask)


CASES = {"words": word_cases, "strokes": stroke_cases, "exemplar": exemplar_cases}


def shares(case: Case) -> tuple[float, float]:
    """Return the share of the source of a case inside its object and elsewhere; one study serves both places."""
    run = case.run.finish(progress=False)
    study = plan_provenance(run, case.removal)
    study.finish(progress=False)
    own = decode_chroma(run.method, run.segment_at(run.num_steps), run.state.latents).flatten(1)
    number = max(len(part.removed) for part in study.parts)
    mask = torch.from_numpy(case.mask.flatten())
    inside, elsewhere = (
        Findings(own[:, place], [Ablation(part.removed, part.ab[:, place]) for part in study.parts], number, ())
        for place in (mask, ~mask)
    )
    return float(inside.pooled(inside.shares)[case.source]), float(elsewhere.pooled(elsewhere.shares)[case.source])


def rows_of(kind: str, found: np.ndarray) -> list[Estimate]:
    """Turn shares (scenes, 2), inside and elsewhere, into figures."""
    found = 100 * found[np.isfinite(found).all(axis=1)]
    inside, elsewhere = found.T
    title = TITLES[kind]
    return [
        bootstrapped(f"share of {title} inside its object", inside, unit="%"),
        bootstrapped("  elsewhere", elsewhere, unit="%"),
        bootstrapped("  inside - elsewhere", inside - elsewhere, unit="points", at_least=0),
        proportion("  scenes in which it is larger inside", int((inside > elsewhere).sum()), len(found)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one table for each kind of source, as it is done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*CASES])
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args(arguments)
    for kind in [options.only] if options.only else CASES:
        found: list[tuple[float, float]] = []
        for case in islice(CASES[kind](colorlab.load(MODELS[kind]), options.steps), options.scenes):
            found.append(shares(case))
            inside, elsewhere = found[-1]
            print(f"{kind}, scene {len(found)}: inside {inside:.3f}, elsewhere {elsewhere:.3f}", file=sys.stderr)
        title = f"{MODELS[kind]}: {kind}, {options.scenes} held-out scenes, {options.steps} steps, one source left out"
        print(Report(title, tuple(rows_of(kind, np.array(found)))).to_table(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
