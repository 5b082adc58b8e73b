"""Chroma of clean latents: by the model's own decoder, or by a linear one that is fitted to it and says its error.

Differences of chroma are Delta E 1976 without the lightness, the distance in the (a, b) plane: the lightness of a
colorization is the input's own, and only a plain distance bounds how far two steps that are both near the end can be
apart (CIEDE2000 is no metric, and shrinks where colors are strong).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch.nn import functional

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError
from colorlab.inspection.moments import Askable, PastStep
from colorlab.inspection.replay import moment_of
from colorlab.methods.base import Method
from colorlab.runs.segments import Segment, decode_picture

__all__ = [
    "CHROMA_UNIT",
    "ChromaDecoder",
    "DecoderName",
    "LinearDecoder",
    "ModelDecoder",
    "chroma_decoder",
    "chroma_distance",
    "decode_chroma",
    "fit_linear_decoder",
]

CHROMA_UNIT = "Delta E 1976 of (a, b)"

DecoderName = Literal["model", "linear"]

# Steps whose predictions the linear decoder is fitted to, and those it is judged by, as shares of the way.
_FITTED = (0.0, 0.5, 1.0)
_JUDGED = (0.25, 0.75)


def decode_chroma(method: Method, segment: Segment, latents: torch.Tensor) -> torch.Tensor:
    """Decode and finish clean latents as the picture itself, without rounding to 8 bits.

    Args:
        method: the model; its lock is held meanwhile.
        segment: what is in force.
        latents: (1, C, h, w), clean and scaled.

    Returns:
        (2, H, W) float32, CIELAB a and b of the picture at its final size.
    """
    return rgb_to_lab(decode_picture(method, segment, latents))[0, 1:]


def chroma_distance(ab: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the distance (..., H, W) of two chromas (..., 2, H, W), Delta E 1976 of (a, b)."""
    return torch.linalg.vector_norm(ab - other, dim=-3)


@dataclass(frozen=True, eq=False)
class ModelDecoder:
    """The model's own decoder, with the finish of the picture: one decoding for each answer."""

    name: DecoderName = "model"

    @property
    def description(self) -> str:
        """Name and error in words."""
        return "the model's decoder (error 0)"

    @property
    def error(self) -> dict[str, float]:
        """None by definition."""
        return {"mean": 0.0, "percentile_95": 0.0}

    def __call__(self, moment: PastStep, latents: torch.Tensor) -> torch.Tensor:
        """Return (2, H, W) at the size of the picture."""
        return rgb_to_lab(moment.picture(latents))[0, 1:]


@dataclass(frozen=True, eq=False)
class LinearDecoder:
    """An affine map from a latent cell and its neighbours to the mean chroma of the cell: no decoding at all.

    Args:
        weights: (9 C + 1, 2) float32, the constant last.
        mean_error: mean distance to the model's decoder averaged over cells, on predictions it was not fitted to.
        percentile_95: of the same distance.
    """

    weights: torch.Tensor
    mean_error: float
    percentile_95: float
    name: DecoderName = "linear"

    @property
    def description(self) -> str:
        """Name and error in words."""
        return f"a linear decoder (off by {self.mean_error:.1f} on average, 95 % below {self.percentile_95:.1f})"

    @property
    def error(self) -> dict[str, float]:
        """Mean and 95th percentile of the distance to the model's decoder."""
        return {"mean": self.mean_error, "percentile_95": self.percentile_95}

    def __call__(self, moment: PastStep, latents: torch.Tensor) -> torch.Tensor:
        """Return (2, h, w) on the grid of the latents."""
        height, width = latents.shape[-2:]
        return (_neighbourhoods(latents) @ self.weights).T.unflatten(1, (height, width))


ChromaDecoder = ModelDecoder | LinearDecoder
"""Called with a past step and clean latents (1, C, h, w), it gives the chroma under what was in force there."""


def chroma_decoder(run: Askable, name: DecoderName) -> ChromaDecoder:
    """Return a decoder for the predictions of a run; the linear one is fitted, which decodes at most five of them.

    Raises:
        RangeError: there is no such decoder.
    """
    if name not in get_args(DecoderName):
        raise RangeError(f"decoder is {name!r}, but 'model' or 'linear' is expected.")
    return ModelDecoder() if name == "model" else _fit_to_run(run)


def fit_linear_decoder(
    latents: Sequence[torch.Tensor], chromas: Sequence[torch.Tensor], *, judged: Sequence[int] = ()
) -> LinearDecoder:
    """Fit a linear decoder by least squares.

    Args:
        latents: (1, C, h, w) each.
        chromas: (2, H, W) each, what the model's decoder makes of them; averaged over cells.
        judged: positions that are left out of the fit and give its error; none judges it by what it was fitted to.
    """
    features = [_neighbourhoods(part) for part in latents]
    targets = [
        functional.adaptive_avg_pool2d(chroma[None], (part.shape[-2], part.shape[-1]))[0].flatten(1).T
        for part, chroma in zip(latents, chromas, strict=True)
    ]
    fitted = [index for index in range(len(latents)) if index not in judged]
    seen = torch.cat([features[index] for index in fitted]).double()
    wanted = torch.cat([targets[index] for index in fitted]).double()
    # The pseudo-inverse: a flat prediction leaves directions without data, which then get no weight.
    weights = (torch.linalg.pinv(seen) @ wanted).float()
    apart = torch.cat(
        [torch.linalg.vector_norm(features[i] @ weights - targets[i], dim=-1) for i in (judged or fitted)]
    )
    return LinearDecoder(weights, float(apart.mean()), float(apart.quantile(0.95)))


def _fit_to_run(run: Askable) -> LinearDecoder:
    """Fit to some predictions of a run and judge by others; a short run has no others."""
    last = len(run.records) - 1
    fitted = sorted({round(share * last) for share in _FITTED})
    judged = sorted({round(share * last) for share in _JUDGED} - set(fitted))
    moments = [moment_of(run, step) for step in (*fitted, *judged)]
    latents = [moment.clean for moment in moments]
    model = ModelDecoder()
    chromas = [model(moment, part) for moment, part in zip(moments, latents, strict=True)]
    return fit_linear_decoder(latents, chromas, judged=range(len(fitted), len(latents)))


def _neighbourhoods(latents: torch.Tensor) -> torch.Tensor:
    """Return every cell with its eight neighbours and a one, (h * w, 9 C + 1); the border repeats itself."""
    padded = functional.pad(latents.float(), (1, 1, 1, 1), mode="replicate")
    cells = functional.unfold(padded, 3)[0].T
    return torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
