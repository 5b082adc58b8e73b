"""How good are proposed masks? Compared with the exact masks of held-out scenes of distinct kinds."""

from itertools import islice

import numpy as np

from colorlab.evaluation.progress import progress
from colorlab.evaluation.report import Report, bootstrapped, check_number, proportion
from colorlab.evaluation.scenes import held_out_scenes, scene_conditioning
from colorlab.segmentation import Segmenter, Target

__all__ = ["evaluate_masks", "intersection_over_union"]


def evaluate_masks(segmenter: Segmenter, num_scenes: int, *, size_px: int = 128) -> Report:
    """Measure a segmenter that reads words.

    Args:
        segmenter: finds the objects of complete captions.
        num_scenes: held-out scenes.
        size_px: their height and width.

    Returns:
        Mean intersection over union with the named object, with another object of the scene for comparison, of all
        objects together, and how many are found at all.

    Raises:
        RangeError: `num_scenes` is below 1.
    """
    check_number(num_scenes)
    named, others, together, found = [], [], [], 0
    with progress("masks", num_scenes, "scene") as update:
        for scene in islice(held_out_scenes("complete", size_px), num_scenes):
            targets = [Target(f"{instance.color} {instance.kind}") for instance in scene.instances]
            masks = segmenter.segment(scene_conditioning(scene, "complete"), targets)
            truth = [instance.mask for instance in scene.instances]
            own = [intersection_over_union(mask, true) for mask, true in zip(masks, truth, strict=True)]
            named += own
            found += sum(value >= 0.5 for value in own)
            if len(truth) > 1:
                moved = [*truth[1:], truth[0]]
                others += [intersection_over_union(mask, true) for mask, true in zip(masks, moved, strict=True)]
            together.append(intersection_over_union(np.any(masks, axis=0), np.any(truth, axis=0)))
            update(1)
    rows = (
        bootstrapped("mask and named object: mean intersection over union", named, at_least=0.6),
        bootstrapped("  with another object of the scene", others),
        bootstrapped("  all objects of a scene together", together),
        proportion("  objects with at least 0.5", found, len(named)),
    )
    title = f"Masks that {type(segmenter).__name__} proposes on {num_scenes} held-out scenes"
    return Report(title, rows, {"scenes": num_scenes, "size_px": size_px})


def intersection_over_union(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two masks (H, W) bool; 0 where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0
