"""Few steps of DPM-Solver++(2M) against many of DDIM: is the color as right, and how much sooner is it there?"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.evaluation.instances import masked_conditioning, same_kind_scenes
from colorlab.evaluation.report import Estimate, Report, bootstrapped, check_number, proportion, ratio_of_means
from colorlab.evaluation.scenes import held_out_scenes, measure, scene_conditioning
from colorlab.evaluation.strokes import ColorizeWith
from colorlab.settings import Settings

__all__ = ["FAST", "SLOW", "evaluate_solvers"]

FAST: Mapping[str, Any] = {"solver": "dpmpp_2m", "num_inference_steps": 8, "timestep_spacing": "linspace"}
SLOW: Mapping[str, Any] = {"solver": "ddim", "num_inference_steps": 50}

_NUM_TIMED = 5


def evaluate_solvers(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int, *, size_px: int = 128
) -> Report:
    """Compare 8 steps of DPM-Solver++ with 50 of DDIM on the same scenes and seeds.

    Scenes of one kind with masks, and of several kinds without, half each.

    Args:
        colorizer: whose sampling is timed, picture by picture and in turn, without prepare and decode.
        colorize: colorizes a list of conditionings with it.
        settings: what is in force beside solver and steps.
        num_scenes: in all.
        size_px: height and width of the scenes.

    Returns:
        Accuracy of both, their paired difference, and the ratio of their times.

    Raises:
        RangeError: `num_scenes` is below 2.
    """
    check_number(num_scenes, 2, why="one of each kind")
    one_kind = sorted(islice(same_kind_scenes(size_px), num_scenes // 2), key=lambda scene: len(scene.instances))
    several = list(islice(held_out_scenes("complete", size_px), num_scenes - len(one_kind)))
    scenes = [*one_kind, *several]
    conditionings = [masked_conditioning(scene) for scene in one_kind]
    conditionings += [scene_conditioning(scene, "complete") for scene in several]
    right = []
    for chosen in (FAST, SLOW):
        images = colorize(conditionings, settings.replace(**chosen), f"{chosen['num_inference_steps']} steps")
        found = measure(scenes, images, "complete")
        right.append(np.array([one.is_right() for one in found if one.is_chromatic], dtype=float))
    fast_s, slow_s = _sampling_seconds(colorizer, conditionings[:_NUM_TIMED], settings)
    rows: list[Estimate] = [
        *(
            proportion(f"named color right, {_named(chosen)}", int(column.sum()), len(column))
            for chosen, column in zip((FAST, SLOW), right, strict=True)
        ),
        bootstrapped("  difference", 100 * (right[0] - right[1]), unit="points", at_least=-2.0),
        bootstrapped(
            "sampling time, DDIM / DPM-Solver++", slow_s, fast_s, statistic=ratio_of_means, unit="times", at_least=5.0
        ),
    ]
    return Report(f"Solvers on {num_scenes} held-out scenes", tuple(rows), {"scenes": num_scenes, "size_px": size_px})


def _sampling_seconds(
    colorizer: Colorizer, conditionings: Sequence[Conditioning], settings: Settings
) -> tuple[list[float], list[float]]:
    """Time the steps of both solvers in turn; the first picture warms up and does not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for conditioning in [conditionings[0], *conditionings]:
        for column, chosen in zip(seconds, (FAST, SLOW), strict=True):
            run = colorizer.start(conditioning, settings.replace(**chosen)).finish(progress=False)
            column.append(run.cost["predict"].seconds)
    return seconds[0][1:], seconds[1][1:]


def _named(chosen: Mapping[str, Any]) -> str:
    """Name a solver and its steps."""
    return f"{chosen['solver']} {chosen['num_inference_steps']} steps"
