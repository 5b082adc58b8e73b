"""The pictures of a tuning: what stage 1 gives, and how well stage 2 reproduces it."""

import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.images import load_image, resize_image, to_uint8
from colorlab.mechanisms.gray_start import GrayStart
from colorlab.mechanisms.spatial_alignment import Drift, measure_drift
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.base import gray_image, users_stacklevel
from colorlab.methods.diffcolor import DiffColor, PreparedDiffColor
from colorlab.runs.run import Run
from colorlab.settings import Settings
from colorlab.tuning.perceptual import load_lpips, lpips_between

__all__ = ["LPIPS_LIMIT", "PSNR_LIMIT", "Painted", "TuningWarning", "check_reconstruction", "paint_prior"]

Result = TypeVar("Result")

PSNR_LIMIT = 25.0
"""Decibels that a reconstruction has to reach. Ours."""

LPIPS_LIMIT = 0.15
"""LPIPS, no unit, that a reconstruction may have. Ours."""


class TuningWarning(UserWarning):
    """A tuning went on, but the user should know: the structure moved, a picture is not reproduced, a disk is full."""


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture of a tuned model.

    Args:
        generated: (H, W, 3) uint8, as it was decoded.
        aligned: (H, W, 3) uint8, of the input's size and lightness.
        drift: how far the structure moved before alignment.
    """

    generated: np.ndarray
    aligned: np.ndarray
    drift: Drift


Painting = Generator[None, None, Result]
"""What gives a result after slices of work, one step of sampling each; who leaves it early loses the picture alone."""


def paint(method: DiffColor, conditioning: Conditioning, settings: Settings) -> Painting[Painted]:
    """Sample one picture and align it."""
    run = Run.start(method, conditioning, settings)
    for _ in run:
        yield
    prepared = run.segments[-1].prepared
    assert isinstance(prepared, PreparedDiffColor)
    with method.lock, torch.no_grad():
        decoded = method.decode(run.state.latents, prepared, settings)
    gray = resize_image(gray_image(conditioning), (decoded.shape[-2], decoded.shape[-1]))
    return Painted(to_uint8(decoded), np.array(run.image), measure_drift(decoded, gray))


def paint_prior(
    method: DiffColor, adaptation: Adaptation, conditioning: Conditioning, settings: Settings, *, strength: float
) -> Painting[Painted]:
    """Paint stage 1's picture: from the noised gray picture, with the context alone.

    Warns:
        TuningWarning: the structure moved so far that colors will be misplaced.
    """
    settings = settings.replace(strength=strength, guidance_scale=1.0)
    painted = yield from paint(
        method.adapted(adaptation), conditioning, settings.with_mechanism(GrayStart.name, start="noise_gray")
    )
    if painted.drift.is_large:
        warnings.warn(
            f"Stage 1's picture does not follow the gray one: {painted.drift}. Tune again with a higher luma_weight, a "
            "lower prior_strength or backend 'flow' (colorlab tune --set luma_weight=4 --set prior_strength=0.3 --set "
            "backend=flow --force; in Python by a TuningPlan and mechanisms=...).",
            TuningWarning,
            stacklevel=users_stacklevel(),
        )
    return painted


def check_reconstruction(
    method: DiffColor, adaptation: Adaptation, conditioning: Conditioning, settings: Settings
) -> Painting[dict[str, float]]:
    """Measure how well a tuned model reproduces the picture it was tuned for.

    Returns:
        `psnr`, in dB, of the finished pictures; and `lpips` where its networks lie on this disk, see `why_no_lpips`.

    Warns:
        TuningWarning: one of them is beyond its limit: edits will change more than their object.
    """
    settings = settings.replace(guidance_scale=1.0).with_mechanism(GrayStart.name, start="invert")
    painted = yield from paint(method.adapted(adaptation), conditioning.replace(prompt=""), settings)
    wanted = load_image(adaptation.tensors["picture/aligned"].numpy())
    error = float((load_image(painted.aligned) - wanted).square().mean())
    found = {"psnr": float("inf") if error == 0 else -10 * float(np.log10(error))}
    perceptual = load_lpips((wanted.shape[-2], wanted.shape[-1]))
    if perceptual is not None:
        found["lpips"] = lpips_between(perceptual, load_image(painted.aligned), wanted)
    missed = [f"reaches {found['psnr']:.1f} dB of {PSNR_LIMIT:g}"] if found["psnr"] < PSNR_LIMIT else []
    if found.get("lpips", 0.0) > LPIPS_LIMIT:
        missed.append(f"has an LPIPS of {found['lpips']:.2f} where {LPIPS_LIMIT:g} is the limit")
    if missed:
        warnings.warn(
            f"The reconstruction {' and '.join(missed)}: edits will change more than their object; tune "
            "again with more steps of the reconstruction (colorlab tune --set reconstruction=200 --force; in Python by "
            "a TuningPlan).",
            TuningWarning,
            stacklevel=users_stacklevel(),
        )
    return found
