"""Queries that need no attention: the guidance field and the path of a run from its record, features from a replay."""

from typing import Any

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.moments import Askable, PastStep
from colorlab.inspection.replay import moment_of
from colorlab.inspection.shelf import shelf_of
from colorlab.networks.passes import check_passes
from colorlab.networks.sites import select_sites

__all__ = ["features", "guidance", "principal_components", "trajectory"]


def guidance(run: Askable, step: int, *, passes: tuple[str, str] | None = None) -> Exhibit:
    """Show how far two guidance passes of a step disagree, cell by cell (record: no network call).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        passes: whose predictions are compared, the second less the first; None for the first and the last pass, which
            for classifier-free guidance are `uncond` and `cond`.

    Returns:
        (h, w): length over the latent channels of the difference, before any guidance scale.

    Raises:
        StateError: the step was not taken, or it has one pass only.
        RangeError: there is no such pass.
    """
    moment = moment_of(run, step)
    predictions = moment.record.predictions
    names = tuple(predictions)
    if passes is None:
        if len(names) < 2:
            raise StateError(
                f"Step {step} has the pass {names[0]!r} only; guidance compares two: raise guidance_scale."
            )
        passes = (names[0], names[-1])
    check_passes(passes, names)
    first, second = (predictions[name][moment.sample_row].float() for name in passes)
    return Exhibit(
        array=torch.linalg.vector_norm(second - first, dim=0).numpy(),
        axes=("h", "w"),
        unit=moment.prediction_unit,
        caption=f"Guidance field at step {step}: length of {passes[1]} - {passes[0]} over the latent channels.",
        provenance={**_origin(run, moment, "guidance"), "step": step, "passes": list(passes)},
    )


def trajectory(run: Askable) -> Exhibit:
    """Show the path of the latents in the plane that holds most of it (record: no network call).

    Returns:
        (2, states): coordinates of every state on the first two principal components, 0 at their mean; the share of
        the variance that each holds is in the provenance.

    Raises:
        StateError: the run has taken fewer than two steps.
    """
    states = run.states
    if len(states) < 3:
        raise StateError(f"A plane needs 3 states, but this run has {len(states)}; take at least two steps.")
    first = moment_of(run, 0)
    points = torch.stack([state.latents[first.sample_row].flatten() for state in states])
    coordinates, shares = principal_components(points, 2)
    return Exhibit(
        array=coordinates.T.float().numpy(),
        axes=("component", "state"),
        unit="latent units",
        caption=f"Path of the latents in the plane that holds {float(shares.sum()):.0%} of their variance.",
        provenance={
            **_origin(run, first, "trajectory"),
            "shares": shares.tolist(),
            "timesteps": [state.timestep for state in states],
        },
        kind="curves",
    )


def features(run: Askable, step: int, site: str, *, guidance_pass: str = "cond") -> Exhibit:
    """Show the features of a block as colors: their first three principal components (replay: one network call).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        site: path of a block, resnet or transformer.
        guidance_pass: in which pass.

    Returns:
        (h, w, 3), each component stretched to [0, 1]; NaN where the replay is refused.

    Raises:
        StateError: the step was not taken.
        RangeError: there is no such site or pass, or the pattern fits several.
    """
    moment = moment_of(run, step)
    check_passes([guidance_pass], moment.guidance_passes)
    found = select_sites(moment.sites, glob=site, kind=("resnet", "transformer", "block"))
    if len(found) > 1:
        raise RangeError(f"{site!r} fits {len(found)} sites, but features of one are shown; give the whole path.")
    replay = shelf_of(moment.owner).get(moment, found)
    array, shares = np.full((*found[0].grid, 3), np.nan, dtype=np.float32), torch.zeros(3)
    if replay.verdict.name != "refused":
        read = replay.readings[found[0].path, guidance_pass].get("features")
        components, shares = principal_components(read[moment.sample_row].flatten(1).T, 3)
        low, high = components.amin(dim=0), components.amax(dim=0)
        # A component without any variance is even gray.
        stretched = torch.where(high > low, (components - low) / (high - low).clamp_min(1e-30), 0.5)
        array = stretched.float().unflatten(0, found[0].grid).numpy()
    return Exhibit(
        array=array,
        axes=("h", "w", "component"),
        unit="",
        caption=(
            f"Features of {found[0].path} at step {step} in the pass {guidance_pass!r}: three principal components, "
            f"{float(shares.sum()):.0%} of the variance. Replay: {replay.verdict}."
        ),
        provenance={
            **_origin(run, moment, "features"),
            "step": step,
            "site": found[0].path,
            "guidance_pass": guidance_pass,
            "shares": shares.tolist(),
            "difference": replay.verdict.difference,
            "reasons": list(replay.verdict.reasons),
        },
        verdict=replay.verdict.name,
        kind="image",
    )


def principal_components(points: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Project points onto their principal components, in float64.

    Args:
        points: (n, D) float.
        number: of components; those beyond the rank are zero.

    Returns:
        Coordinates (n, number), and the share of the variance that each component holds, (number,). The sign is such
        that the coordinate of largest size is positive.
    """
    centered = points.double() - points.double().mean(dim=0)
    left, sizes, _ = torch.linalg.svd(centered, full_matrices=False)
    coordinates = torch.zeros(len(points), number, dtype=torch.float64)
    shares = torch.zeros(number, dtype=torch.float64)
    kept = min(number, len(sizes))
    coordinates[:, :kept] = left[:, :kept] * sizes[:kept]
    total = sizes.square().sum()
    if total > 0:
        shares[:kept] = sizes[:kept].square() / total
    largest = coordinates.gather(0, coordinates.abs().argmax(dim=0, keepdim=True))
    return coordinates * torch.where(largest < 0, -1.0, 1.0), shares


def _origin(run: Askable, moment: PastStep, query: str) -> dict[str, Any]:
    """Say where an exhibit comes from."""
    return {"query": query, **moment.origin, "run": run.name}
