"""Queries that need no attention: guidance field, clean prediction and path from the record, features from a replay."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.baselines import elsewhere, random_walk, shuffled_moment
from colorlab.inspection.codings import as_step, call_of, choose_pass, where_asked
from colorlab.inspection.moments import Askable, PastCall
from colorlab.inspection.replay import moment_of, watch_call
from colorlab.inspection.shelf import shelf_of
from colorlab.networks.passes import check_passes, main_pass
from colorlab.networks.sites import Site, select_sites, sites_of_network
from colorlab.runs.run import Run

__all__ = ["features", "guidance", "origin", "prediction", "principal_axes", "principal_components", "trajectory"]


def guidance(run: Askable, step: int, *, passes: tuple[str, str] | None = None, baseline: bool = False) -> Exhibit:
    """Show how far two guidance passes of a step disagree, cell by cell (record: no network call).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        passes: whose predictions are compared, the second less the first; None for the first and the last pass, which
            for classifier-free guidance are `uncond` and `cond`.
        baseline: whether to add the field with the words of the prompt in another order (one network call).

    Returns:
        (h, w): length over the latent channels of the difference, before any guidance scale.

    Raises:
        StateError: the step was not taken, or it has one pass only.
        RangeError: there is no such pass, or the words have no other order.
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
    null = None
    if baseline:
        with moment.lock, torch.no_grad():
            others = shuffled_moment(moment, main_pass(names)).predict(nullcontext())
        null = _disagreement(others, passes, moment.sample_row)
    return Exhibit(
        array=_disagreement(predictions, passes, moment.sample_row),
        axes=("h", "w"),
        unit=moment.prediction_unit,
        caption=f"Guidance field at step {step}: length of {passes[1]} - {passes[0]} over the latent channels.",
        provenance={**origin(run, moment, "guidance"), "passes": list(passes)},
        baseline=null,
    )


def _disagreement(predictions: Mapping[str, torch.Tensor], passes: tuple[str, str], row: int) -> np.ndarray:
    """Return the length over the channels of the difference of two predictions, (h, w)."""
    first, second = (predictions[name][row].float() for name in passes)
    return torch.linalg.vector_norm(second - first, dim=0).numpy()


def prediction(run: Askable, step: int) -> Exhibit:
    """Show the clean picture that the model had in mind at a step (record: no call of the denoising network).

    The picture of `run.preview(step)`, which is decoded once and then kept.

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.

    Returns:
        (H, W, 3) uint8, sRGB.

    Raises:
        StateError: the step was not taken.
    """
    moment = moment_of(run, step)
    return Exhibit(
        array=run.preview(step),
        axes=("H", "W", "channel"),
        unit="",
        caption=f"Clean picture predicted at step {step} (t = {moment.record.timestep}), by the model's decoder.",
        provenance={**origin(run, moment, "prediction"), "timestep": moment.record.timestep, "decoder": "model"},
        kind="image",
    )


def trajectory(run: Askable, *, baseline: bool = False) -> Exhibit:
    """Show the path of the latents in the plane that holds most of it (record: no network call).

    Args:
        run: any run or recording.
        baseline: whether to add a random walk with steps of the same lengths, in the plane that holds most of it: such
            a walk gives a smooth arc as well.

    Returns:
        (2, states): coordinates of every state on the first two principal components, 0 at their mean; the share of
        the variance that each holds is in the provenance.

    Raises:
        StateError: the run has taken fewer than two steps.
    """
    states = run.states
    if len(states) < 3:
        raise StateError(f"A plane needs 3 states, but this run has {len(states)}; take at least two steps.")
    row = moment_of(run, 0).sample_row
    points = torch.stack([state.latents[row].flatten() for state in states])
    coordinates, shares = principal_components(points, 2)
    walk = principal_components(random_walk(points), 2)[0].T.float().numpy() if baseline else None
    return Exhibit(
        array=coordinates.T.float().numpy(),
        axes=("component", "state"),
        unit="latent units",
        caption=f"Path of the latents in the plane that holds {float(shares.sum()):.0%} of their variance.",
        provenance={
            **origin(run, None, "trajectory"),
            "shares": shares.tolist(),
            "timesteps": [state.timestep for state in states],
        },
        baseline=walk,
        kind="curves",
    )


def features(
    run: Askable, step: int, site: str, *, guidance_pass: str | None = None, baseline: bool = False
) -> Exhibit:
    """Show the features of a block as colors: their first three principal components (replay: one network call).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        site: path of a block, resnet or transformer; of another network than the denoising one with its name in front,
            `vae.decoder.mid_block` for instance, see `run.sites`. The number of steps as `step` then means the picture.
        guidance_pass: in which pass; None for the one that sees all that was given, `cond` or `full`. Encoders and
            decoders have none; where one is called several times, `call 1` is the second one.
        baseline: whether to add the features with the words of the prompt in another order (one more network call), on
            the same components and the same scale, cut to it; of encoders and decoders, those of other places instead,
            the mean of 16 random moves.

    Returns:
        (h, w, 3), for a text encoder (1, tokens, 3), each component stretched to [0, 1]; NaN where the replay is
        refused.

    Raises:
        StateError: the step was not taken.
        RangeError: there is no such site or pass, the pattern fits several, or the words have no other order.
    """
    call = call_of(run, step, site)
    guidance_pass = choose_pass(call, guidance_pass)
    of_network = sites_of_network(call.sites, site)
    found = select_sites(of_network, glob=site, kind=("resnet", "transformer", "block"))
    if len(found) > 1:
        raise RangeError(f"{site!r} fits {len(found)} sites, but features of one are shown; give the whole path.")
    replay = shelf_of(call.owner).get(call, found)
    array, null, shares = np.full((*found[0].grid, 3), np.nan, dtype=np.float32), None, torch.zeros(3)
    if replay.verdict.name != "refused":
        read = replay.reading(found[0], guidance_pass).get("features")[call.sample_row]
        other = _features_by_chance(call, found[0], guidance_pass, read) if baseline else None
        array, null, shares = _as_colors(read, other)
    return Exhibit(
        array=array,
        axes=("h", "w", "component"),
        unit="",
        caption=(
            f"Features of {found[0].path} {where_asked(call, guidance_pass)}: three principal components, "
            f"{float(shares.sum()):.0%} of the variance. Replay: {replay.verdict}."
        ),
        provenance={
            **origin(run, call, "features"),
            "site": found[0].path,
            "guidance_pass": guidance_pass,
            "shares": shares.tolist(),
            "difference": replay.verdict.difference,
            "reasons": list(replay.verdict.reasons),
        },
        verdict=replay.verdict.name,
        baseline=null,
        kind="image",
    )


def _features_by_chance(call: PastCall, site: Site, guidance_pass: str, read: torch.Tensor) -> torch.Tensor:
    """Return features (C, h, w) of a site with the words in another order, or without words those of other places."""
    if call.guidance_passes is None:
        return elsewhere(read)
    with call.lock, torch.no_grad():
        shuffled = shuffled_moment(as_step(call, "a baseline"), guidance_pass)
        readings, _ = watch_call(shuffled, [site], wanted_passes=[guidance_pass])
    return readings[site.path, guidance_pass].get("features")[call.sample_row]


def _as_colors(read: torch.Tensor, other: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray | None, torch.Tensor]:
    """Stretch the components of features (C, h, w), and of others on the same axes, to [0, 1]; with the shares."""
    points = read.flatten(1).T.double()
    axes, shares = principal_axes(points, 3)
    components = (points - points.mean(dim=0)) @ axes
    low, high = components.amin(dim=0), components.amax(dim=0)

    def stretched(coordinates: torch.Tensor) -> np.ndarray:
        # A component without any variance is even gray.
        parts = torch.where(high > low, (coordinates - low) / (high - low).clamp_min(1e-30), 0.5)
        return parts.clamp(0, 1).float().unflatten(0, read.shape[-2:]).numpy()

    null = None if other is None else stretched((other.flatten(1).T.double() - points.mean(dim=0)) @ axes)
    return stretched(components), null, shares


def principal_axes(points: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the directions of most variance, in float64.

    Args:
        points: (n, D) float.
        number: of directions; those beyond the rank are zero.

    Returns:
        Directions (D, number), and the share of the variance along each, (number,). The sign is such that the
        coordinate of largest size is positive.
    """
    centered = points.double() - points.double().mean(dim=0)
    _, sizes, directions = torch.linalg.svd(centered, full_matrices=False)
    # What is left after the rank is rounding: the mean of n points costs one dimension.
    kept = min(number, int((sizes > sizes.amax() * len(points) * torch.finfo(sizes.dtype).eps).sum()))
    axes = torch.zeros(points.shape[1], number, dtype=torch.float64)
    shares = torch.zeros(number, dtype=torch.float64)
    axes[:, :kept] = directions[:kept].T
    if kept:
        shares[:kept] = sizes[:kept].square() / sizes.square().sum()
    coordinates = centered @ axes
    largest = coordinates.gather(0, coordinates.abs().argmax(dim=0, keepdim=True))
    return axes * torch.where(largest < 0, -1.0, 1.0), shares


def principal_components(points: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Project points onto their principal axes: coordinates (n, number) with mean 0; else as `principal_axes`."""
    axes, shares = principal_axes(points, number)
    centered = points.double() - points.double().mean(dim=0)
    return centered @ axes, shares


def origin(run: Askable, call: PastCall | None, query: str) -> dict[str, Any]:
    """Say where an exhibit comes from."""
    model = {"model": run.method.model_name, "weights": run.method.weights_hash} if isinstance(run, Run) else run.origin
    where = {"query": query, **model, "run": run.name}
    return where if call is None else {**where, "step": call.step_index}
