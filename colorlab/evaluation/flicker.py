"""Does a color stay with its object? Measured on held-out moving clips, of which every point's way is known.

Flicker is the mean CIEDE2000 difference of the same object point in consecutive frames, at one lightness: the lightness
is the input's own. Three ways of coloring a clip are compared, and the clips themselves are the floor.

| way | each frame |
| --- | --- |
| propagated | gets the colors of the one before, as `colorlab.Sequence` does |
| one seed | is colored by itself, all from the same noise |
| own seeds | is colored by itself, each from noise of its own |
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, islice, pairwise

import numpy as np
import torch

from colorlab.color import delta_e_2000, lightness_to_gray, rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.evaluation.batches import PictureMaker
from colorlab.evaluation.metrics import mean_chroma
from colorlab.evaluation.object_points import object_points
from colorlab.evaluation.progress import progress
from colorlab.evaluation.report import Estimate, Report, bootstrapped, ratio_of_means
from colorlab.images import load_image
from colorlab.settings import Settings
from colorlab.training.scenes import TEST_SEEDS, Scene, caption, moving_clip
from colorlab.video.sequence import Sequence as Video

__all__ = ["WAYS", "color_clip", "evaluate_flicker"]

WAYS = ("propagated", "one seed", "own seeds")

ColorClip = Callable[[Sequence[np.ndarray], str, str], Sequence[np.ndarray]]
"""Pictures (H, W, 3) uint8 of a clip, from its gray frames (H, W) uint8, a prompt, and one of `WAYS`."""

# Far from the seeds of the other protocols.
_FIRST_SEED = TEST_SEEDS.start + 3 * 10**8


@dataclass(frozen=True)
class _Measured:
    """What was measured on one clip that was colored in one way.

    Args:
        flicker: of object points, ΔE between consecutive frames.
        backdrop: the same of the points of the backdrop.
        drift: ΔE of object points between the first and the last frame.
        chroma: mean chroma of the frames.
    """

    flicker: float
    backdrop: float
    drift: float
    chroma: float


def evaluate_flicker(color: ColorClip, num_clips: int, *, num_frames: int = 8, size_px: int = 128) -> Report:
    """Color clips in three ways and measure how steady their colors are.

    Args:
        color: colors a clip.
        num_clips: how many held-out clips.
        num_frames: frames of each.
        size_px: height and width of the frames.

    Raises:
        RangeError: there is no clip, or a clip has fewer than two frames.
    """
    if num_clips < 1 or num_frames < 2:
        raise RangeError(f"{num_clips} clips of {num_frames} frames are asked for; expected at least 1 of at least 2.")
    found: dict[str, list[_Measured]] = {way: [] for way in ("truth", *WAYS)}
    with progress("clips", num_clips * len(WAYS), "clip") as update:
        for clip in islice(_held_out_clips(num_frames, size_px), num_clips):
            found["truth"].append(_measure(clip, [frame.image for frame in clip]))
            grays, prompt = [_gray(frame) for frame in clip], caption(clip[0], "complete", seed=0)
            for way in WAYS:
                found[way].append(_measure(clip, color(grays, prompt, way)))
                update(1)
    details = {"clips": num_clips, "frames": num_frames, "size_px": size_px}
    return Report(f"Flicker on {num_clips} held-out clips of {num_frames} frames", tuple(_rows(found)), details)


def color_clip(
    colorizer: Colorizer, settings: Settings, grays: Sequence[np.ndarray], prompt: str, way: str
) -> list[np.ndarray]:
    """Color the gray frames of a clip in one of `WAYS`; the first two arguments bound, this is a `ColorClip`."""
    if way == "propagated":
        return [frame.image for frame in Video(colorizer, grays, Conditioning(prompt=prompt), settings)]
    seeds = [settings.seed + (index if way == "own seeds" else 0) for index in range(len(grays))]
    # Frames that stand alone can be sampled together, which changes rounding only.
    make = PictureMaker(colorizer.method)
    return make([Conditioning(gray=gray, prompt=prompt) for gray in grays], settings, way, seeds=seeds)


def _held_out_clips(num_frames: int, size_px: int) -> Iterator[list[Scene]]:
    """Yield clips from seeds no recipe trains on, always the same ones, without those that stand still."""
    for seed in count(_FIRST_SEED):
        clip = moving_clip(seed, num_frames, size_px=size_px)
        if clip[0].plan != clip[-1].plan:
            yield clip


def _measure(clip: Sequence[Scene], images: Sequence[np.ndarray]) -> _Measured:
    """Follow the object points of a clip through its pictures."""
    labs = [rgb_to_lab(load_image(image)) for image in images]
    flicker, backdrop = [], []
    for (before, lab_before), (after, lab_after) in pairwise(zip(clip, labs, strict=True)):
        differences, is_object = _differences(before, after, lab_before, lab_after)
        flicker.append(differences[is_object].mean())
        backdrop.append(differences[~is_object].mean())
    drift, is_object = _differences(clip[0], clip[-1], labs[0], labs[-1])
    chroma = mean_chroma(torch.cat([load_image(image) for image in images]))
    return _Measured(
        float(np.mean(flicker)), float(np.mean(backdrop)), float(drift[is_object].mean()), float(chroma.mean())
    )


def _differences(
    before: Scene, after: Scene, lab_before: torch.Tensor, lab_after: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) ΔE of each point seen in both frames, at its lightness in the later one, and whether of an object."""
    points = object_points(before, after)
    first = lab_before[0][:, points.before[:, 0], points.before[:, 1]].clone()
    second = lab_after[0][:, points.after[:, 0], points.after[:, 1]]
    first[0] = second[0]
    return delta_e_2000(first[None, :, None], second[None, :, None]).numpy().ravel(), points.instance >= 0


def _rows(found: dict[str, list[_Measured]]) -> list[Estimate]:
    """Put the figures together; intervals are over clips."""

    def column(way: str, name: str) -> list[float]:
        return [getattr(one, name) for one in found[way]]

    rows = [bootstrapped(f"flicker, {way}", column(way, "flicker"), unit="ΔE") for way in WAYS]
    rows.append(bootstrapped("  in the clips themselves", column("truth", "flicker"), unit="ΔE"))
    rows += [bootstrapped(f"  of the backdrop, {way}", column(way, "backdrop"), unit="ΔE") for way in WAYS]
    for way in WAYS[1:]:
        ratio = partial(bootstrapped, statistic=ratio_of_means)
        rows += [
            ratio(f"flicker, propagated / {way}", column(WAYS[0], "flicker"), column(way, "flicker"), at_most=0.5),
            ratio(f"  chroma, propagated / {way}", column(WAYS[0], "chroma"), column(way, "chroma"), at_least=0.9),
        ]
    rows.append(bootstrapped("first to last frame, propagated", column(WAYS[0], "drift"), unit="ΔE"))
    rows.append(bootstrapped("  one seed", column(WAYS[1], "drift"), unit="ΔE"))
    return rows


def _gray(scene: Scene) -> np.ndarray:
    """Return the gray picture of a scene, (H, W) uint8."""
    gray = lightness_to_gray(torch.from_numpy(scene.lightness.copy())[None, None])
    return (gray[0, 0] * 255.0).round().to(torch.uint8).numpy()
