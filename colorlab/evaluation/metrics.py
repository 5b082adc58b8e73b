"""Numbers for pictures, one per picture of a batch, and intervals for sets of numbers.

Metrics take images (B, 3, H, W) in [0, 1] and return (B,) float32 on the images' device. Nothing draws from the global
random generator: the bootstrap takes a seed, so a table that is computed twice is the same table.
"""

import math
from collections.abc import Callable, Sequence

import kornia.metrics
import numpy as np
import torch

from colorlab.color import delta_e, delta_e_2000, rgb_to_lab
from colorlab.errors import RangeError, ShapeError
from colorlab.shapes import check_shape

CONFIDENCE = 0.95
_Z = 1.959963984540054  # the normal quantile that belongs to CONFIDENCE


def colorfulness(image: torch.Tensor) -> torch.Tensor:
    """Measure how colorful pictures look: spread and mean of two opponent channels.

    | variable | symbol |
    | --- | --- |
    | red_green, yellow_blue | rg = R - G, yb = (R + G) / 2 - B |
    | spread, center | σ_rgyb, μ_rgyb |

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB.

    Returns:
        (B,) float32, at least 0; 0 for gray, about 33 for moderately and 82 for highly colorful photographs.

    Raises:
        ShapeError: `image` has another shape.

    Source: Hasler and Suesstrunk, "Measuring colourfulness in natural images", 2003, the metric M^(3).
    """
    check_shape(image, "B 3 H W", "image")
    red, green, blue = (image.float() * 255.0).unbind(1)
    red_green = (red - green).flatten(1)
    yellow_blue = (0.5 * (red + green) - blue).flatten(1)
    spread = (red_green.var(1, correction=0) + yellow_blue.var(1, correction=0)).sqrt()
    center = (red_green.mean(1).square() + yellow_blue.mean(1).square()).sqrt()
    return spread + 0.3 * center


def mean_chroma(image: torch.Tensor) -> torch.Tensor:
    """Average the Lab chroma sqrt(a² + b²) over the pixels of each picture.

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB.

    Returns:
        (B,) float32, CIELAB units, at least 0.

    Raises:
        ShapeError: `image` has another shape.
    """
    check_shape(image, "B 3 H W", "image")
    return rgb_to_lab(image.float())[:, 1:].norm(dim=1).flatten(1).mean(1)


def psnr(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compare pictures by peak signal-to-noise ratio, in dB; infinite for equal pictures.

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB.
        target: as `image`.

    Returns:
        (B,) float32, dB.

    Raises:
        ShapeError: the two are not (B, 3, H, W), or differ in shape.
    """
    _check_pair(image, target)
    values = [kornia.metrics.psnr(a, b, max_val=1.0) for a, b in zip(image.float(), target.float(), strict=True)]
    return torch.stack(values)


def ssim(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compare pictures by structural similarity (window of 11 px), averaged over pixels and channels.

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB.
        target: as `image`.

    Returns:
        (B,) float32, [-1, 1]; 1 for equal pictures.

    Raises:
        ShapeError: the two are not (B, 3, H, W), or differ in shape.
    """
    _check_pair(image, target)
    return kornia.metrics.ssim(image.float(), target.float(), window_size=11).flatten(1).mean(1)


def mean_delta_e(image: torch.Tensor, target: torch.Tensor, *, formula: str = "2000") -> torch.Tensor:
    """Average the color difference of corresponding pixels.

    Args:
        image: (B, 3, H, W) float, [0, 1], sRGB.
        target: as `image`.
        formula: "2000" for CIEDE2000, "76" for the Euclidean distance in Lab.

    Returns:
        (B,) float32, Delta E units, at least 0.

    Raises:
        ShapeError: the two are not (B, 3, H, W), or differ in shape.
        RangeError: `formula` is unknown.
    """
    _check_pair(image, target)
    formulas = {"2000": delta_e_2000, "76": delta_e}
    if formula not in formulas:
        raise RangeError(f'formula is "{formula}"; expected one of {", ".join(sorted(formulas))}.')
    difference = formulas[formula](rgb_to_lab(image.float()), rgb_to_lab(target.float()))
    return difference.flatten(1).mean(1)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Bound a proportion by Wilson's score interval, which stays sensible at 0 %, at 100 % and for few trials.

    Args:
        successes: how many trials succeeded.
        trials: how many there were; with none, nothing is known and (0, 1) is returned.

    Returns:
        (low, high), both in [0, 1], at 95 % confidence.

    Raises:
        RangeError: `successes` is below 0 or above `trials`.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not 0 <= successes <= trials:
        raise RangeError(f"successes is {successes}; expected a count from 0 to the number of trials, {trials}.")
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, _Z * _Z
    center = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials)) / (1 + z2 / trials)
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap_interval(
    *columns: Sequence[float] | np.ndarray,
    statistic: Callable[..., float] | None = None,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bound a statistic of paired columns by the percentiles of resampled rows.

    Args:
        columns: one or more sequences of equal length; row i of all of them is drawn together.
        statistic: function of as many arrays as there are columns; None takes the mean of the first.
        num_resamples: how many times rows are drawn with replacement.
        seed: seed of the draws, so that the interval is reproducible.

    Returns:
        (low, high), the central 95 % of the resampled statistics; (nan, nan) without rows.

    Raises:
        ShapeError: the columns are not flat, or differ in length.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if not arrays or any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays):
        raise ShapeError("columns are not flat or differ in length; expected flat sequences of one length.")
    if len(arrays[0]) == 0:
        return math.nan, math.nan
    function = statistic or (lambda *drawn: float(np.mean(drawn[0])))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(num_resamples):
        rows = generator.integers(0, len(arrays[0]), len(arrays[0]))
        values.append(function(*(array[rows] for array in arrays)))
    tail = 50.0 * (1.0 - CONFIDENCE)
    # Without interpolation, which would subtract infinities where pictures are equal (PSNR).
    low, high = np.percentile(values, [tail, 100.0 - tail], method="nearest")
    return float(low), float(high)


def paired_difference_interval(first_only: int, second_only: int, pairs: int) -> tuple[float, float]:
    """Bound the difference of two proportions measured on the same items (McNemar's setting).

    Only the discordant pairs carry information. The difference is (first_only - second_only) / pairs.

    Args:
        first_only: items right in the first column and wrong in the second.
        second_only: the reverse.
        pairs: all items, concordant ones included.

    Returns:
        (low, high), in [-1, 1], at 95 % confidence; (-1, 1) without items.

    Raises:
        RangeError: a count is below 0, or the discordant items are more than `pairs`.

    Source: Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005: Wald's
        interval after adding half an item to each of the four cells.
    """
    if min(first_only, second_only) < 0 or first_only + second_only > pairs:
        raise RangeError(
            f"{first_only} + {second_only} discordant items of {pairs}; expected counts of at least 0 that fit."
        )
    if pairs == 0:
        return -1.0, 1.0
    n, b, c = pairs + 2.0, first_only + 0.5, second_only + 0.5
    difference = (b - c) / n
    half = _Z * math.sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    return max(-1.0, difference - half), min(1.0, difference + half)


def _check_pair(image: torch.Tensor, target: torch.Tensor) -> None:
    """Check that two batches of pictures can be compared pixel by pixel."""
    check_shape(image, "B 3 H W", "image")
    check_shape(target, "B 3 H W", "target")
    if image.shape != target.shape:
        raise ShapeError(f"target has shape {tuple(target.shape)}; expected that of image, {tuple(image.shape)}.")
