"""Provenance: to what the color at a place is due, by taking its sources away and running again (a study).

Shares of leave-one-out need not sum to 1: words that say the same thing twice get little, words that only work together
get more than all. What is missing is printed as the residual.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.baselines import random_shifts
from colorlab.inspection.chroma import CHROMA_UNIT, decode_chroma
from colorlab.inspection.places import check_pixel, coverage
from colorlab.inspection.replay import moment_of
from colorlab.inspection.settling import settled
from colorlab.inspection.shares import Ablation, Findings, coalitions_of, draw_orders
from colorlab.inspection.sources import Sources, find_sources
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.views import origin
from colorlab.runs.batches import in_batches, take_steps
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment

__all__ = ["Attribution", "plan_provenance"]

Attribution = Literal["leave_one_out", "shapley"]

_DECIDED_SHARE = 0.5


def plan_provenance(
    run: Run,
    *,
    pixel: tuple[float, float] | None = None,
    region: Any = None,
    attribution: Attribution = "leave_one_out",
    num_orders: int = 8,
    words: Sequence[str] | None = None,
    everywhere: bool = True,
    exemplar_grid: tuple[int, int] = (2, 2),
    fast: bool = False,
    steps: range | None = None,
    batch_size: int = 8,
    baseline: bool = False,
) -> Study[Ablation]:
    """Plan to find out to what the color of a pixel, of a region, or of every pixel is due.

    Args:
        run: a finished run.
        pixel: (x, y) of the picture.
        region: mask (H, W) of the picture, or a stroke; its mean (a, b) counts. Neither: a map for every source.
        attribution: "leave_one_out" removes one source at a time; "shapley" removes one after the other in random
            orders, so that what sources share is divided among them.
        num_orders: of "shapley"; they come in pairs, each with its reverse.
        words: those that are told apart; all others are then one source. None for every word. A sentence of n words
            costs n + 1 runs, or up to `num_orders` * (n - 1) + 1 for "shapley".
        everywhere: whether the text encoder does not hear of a removed word either. False masks the keys in
            cross-attention alone: what other tokens and the padding were told of the word then counts as theirs.
        exemplar_grid: rows and columns of groups of patches into which an exemplar is divided.
        fast: an approximation: ablated runs end where the color is decided (at half of the place, by the settle
            map), and the clean prediction of that step is compared instead of the picture.
        steps: remove sources at these steps only; None for all.
        batch_size: ablated runs that share a network call.
        baseline: whether to add the mean of 16 places of the same shape elsewhere.

    Returns:
        A study of one part for each ablated run. Its exhibit holds the shares (source,) of d, or without a place signed
        contributions (source, H, W) in Delta E of (a, b). Residual, prior and standard errors are in its provenance.

    Raises:
        StateError: the run is not finished.
        RangeError: both a pixel and a region came, there is no such word, or a number is out of range.

    Deviation: a group of exemplar patches is taken away by making it gray, since a hole would be a color of its own.
    """
    if not run.is_finished:
        raise StateError(f"This run stands at {run.progress}; finish() it, provenance is about the final colors.")
    if pixel is not None and region is not None:
        raise RangeError("pixel and region came, but at most one is expected.")
    if attribution not in get_args(Attribution):
        raise RangeError(f"attribution is {attribution!r}, but one of {', '.join(get_args(Attribution))} is expected.")
    if isinstance(num_orders, bool) or not isinstance(num_orders, int) or num_orders < 2 or num_orders % 2:
        raise RangeError(f"num_orders is {num_orders!r}, but an even number of at least 2 is expected.")
    places = _Places.of(run, pixel, region, baseline)
    last = _last_step(run, places) if fast else run.num_steps - 1
    ablated = range(last + 1) if steps is None else steps
    if not ablated or ablated[0] < 0 or ablated[-1] > last or ablated.step != 1:
        raise RangeError(f"steps is {steps!r}, but a range within 0 to {last} is expected.")
    sources = find_sources(run, words=words, everywhere=everywhere, exemplar_grid=exemplar_grid)
    labels = [label for kind in sources for label in kind.labels]
    orders = draw_orders(len(labels), num_orders) if attribution == "shapley" else ()
    coalitions = coalitions_of(len(labels), orders)
    batches = [[coalitions[index] for index in batch] for batch in in_batches(coalitions, batch_size)]
    num_steps = last + 1 - ablated[0]
    cost = estimate_cost(
        run,
        calls=num_steps * len(batches),
        predictions=num_steps * len(coalitions),
        decodings=len(coalitions) + 1,
    )
    walk = _Walk(run, sources, ablated, last)

    def work() -> Iterator[list[Ablation]]:
        for batch in batches:
            for chromas in walk.take(batch):
                yield [Ablation(removed, places.read(ab)) for removed, ab in zip(batch, chromas, strict=False)]

    def conclude(parts: list[Ablation]) -> Exhibit:
        found = Findings(places.read(walk.own()), parts, len(labels), orders)
        details = {
            "attribution": attribution,
            "labels": labels,
            "everywhere": everywhere,
            "fast": fast,
            "steps": [ablated[0], ablated[-1]],
            "compared_at_step": last,
            "num_ablations": len(parts),
        }
        return _show(run, places, found, details)

    return Study(run, "provenance", cost=cost, num_parts=len(coalitions), work=work, conclude=conclude)


@dataclass(frozen=True, eq=False)
class _Places:
    """Where (a, b) is read.

    Args:
        size: (height, width) of the picture.
        weights: (n, H * W), each row a mean; None for every pixel by itself.
        name: of the place.
    """

    size: tuple[int, int]
    weights: torch.Tensor | None
    name: str

    @classmethod
    def of(cls, run: Run, pixel: tuple[float, float] | None, region: Any, baseline: bool) -> "_Places":
        """Turn a pixel or a region, and its moved copies for the baseline, into weights."""
        size = moment_of(run, 0).image_size
        if pixel is None and region is None:
            if baseline:
                raise RangeError("baseline is of a pixel or a region; a map of all pixels shows elsewhere by itself.")
            return cls(size, None, "every pixel")
        name = "the region"
        if pixel is not None:
            x, y = check_pixel(pixel, size)
            region, name = np.zeros(size, dtype=bool), f"pixel ({x:g}, {y:g})"
            region[int(y), int(x)] = True
        moves = [(0, 0), *(random_shifts(size) if baseline else ())]
        weights = torch.stack([coverage(region, size, size, shift=move) for move in moves])
        return cls(size, weights / weights.sum(dim=1, keepdim=True), name)

    def read(self, chroma: torch.Tensor) -> torch.Tensor:
        """Return the (a, b) of each place, (2, n), of a chroma (2, H, W)."""
        flat = chroma.flatten(1)
        return flat if self.weights is None else flat @ self.weights.T


@dataclass(frozen=True, eq=False)
class _Walk:
    """Runs the path of a run again without some of its sources.

    Args:
        run: the run.
        sources: of all kinds, numbered through.
        ablated: steps at which sources are missing.
        last: step whose result counts.
    """

    run: Run
    sources: tuple[Sources, ...]
    ablated: range
    last: int

    def own(self) -> torch.Tensor:
        """Return the chroma (2, H, W) of the run itself, to which the others are compared."""
        segment = self.run.segment_at(self.last + 1)
        is_end = self.last == self.run.num_steps - 1
        latents = self.run.state.latents if is_end else self.run.records[self.last].pred_original_sample
        return decode_chroma(self.run.method, segment, latents)

    def take(self, batch: Sequence[frozenset[int]]) -> Iterator[list[torch.Tensor]]:
        """Take all steps without each of several sets of sources; yields after every call, the chromas at last."""
        run, method = self.run, self.run.method
        kept: dict[tuple[int, int], Segment] = {}
        states = [run.states[self.ablated[0]]] * len(batch)
        for step in range(self.ablated[0], self.last + 1):
            segment = run.segment_at(step)
            if step and segment.settings.solver != run.segment_at(step - 1).settings.solver:
                states = [state.without_history() for state in states]
            with method.lock:
                segments = [self._segment(step, row, removed, kept) for row, removed in enumerate(batch)]
                edges = take_steps(method, segments, states, timesteps=run.timesteps, sample_index=run.sample_index)
            states = [state for _, state in edges]
            if step < self.last:
                yield []
        is_end = self.last == run.num_steps - 1
        yield [
            decode_chroma(
                method,
                self._segment(self.last + 1, row, removed, kept),
                state.latents if is_end else record.pred_original_sample,
            )
            for row, (removed, (record, state)) in enumerate(zip(batch, edges, strict=True))
        ]

    def _segment(self, step: int, row: int, removed: frozenset[int], kept: dict[tuple[int, int], Segment]) -> Segment:
        """Return what is in force at a step without some sources; made once for each segment of the run."""
        segment, method = self.run.segment_at(step), self.run.method
        # The decoding belongs to the last step.
        if min(step, self.last) not in self.ablated:
            return segment
        key = (segment.first_step, row)
        if key not in kept:
            conditioning, edits, first = segment.conditioning, segment.edits, 0
            for kind in self.sources:
                own = [index - first for index in sorted(removed) if first <= index < first + len(kind.labels)]
                if own:
                    conditioning, more = kind.without(conditioning, own)
                    edits = (*edits, *more)
                first += len(kind.labels)
            prepared = segment.prepared
            if conditioning is not segment.conditioning:
                with method.lock, torch.no_grad():
                    prepared = method.prepare(conditioning, segment.settings)
            kept[key] = replace(segment, conditioning=conditioning, prepared=prepared, edits=edits)
        return kept[key]


def _last_step(run: Run, places: _Places) -> int:
    """Return the step from which on half of a place has its color, by the settle map."""
    steps = torch.from_numpy(settled(run).array.copy()).float().flatten()
    where = torch.ones_like(steps, dtype=torch.bool) if places.weights is None else places.weights[0] > 0
    return int(steps[where].quantile(_DECIDED_SHARE, interpolation="higher"))


def _show(run: Run, places: _Places, found: Findings, details: dict[str, Any]) -> Exhibit:
    """Put shares, residual and prior into words and numbers."""
    names = {"leave_one_out": "leaving one out", "shapley": "Shapley values"}
    how = names[details["attribution"]] + (
        f", compared at step {details['compared_at_step']} (approximate)" if details["fast"] else ""
    )
    is_map = places.weights is None
    if is_map:
        array = (found.shares * found.length).reshape(len(details["labels"]), *places.size)
        what = f"What each source adds to the color of every pixel, by {how}"
        numbers: dict[str, Any] = {"mean_residual": float(found.pooled(found.residual))}
        rest = f"mean residual {numbers['mean_residual']:.2f} of what all sources do"
    else:
        array = found.shares[:, 0]
        what = f"Shares of the sources in the color of {places.name}, by {how}"
        numbers = {
            "residual": float(found.residual[0]),
            "prior_share_of_final": float(found.prior_share[0]),
            "final_ab": found.final[:, 0].tolist(),
            "all_removed_ab": found.prior[:, 0].tolist(),
            "contributions": (found.shares[:, 0] * found.length[0]).tolist(),
            "standard_errors": None if found.errors is None else found.errors[:, 0].tolist(),
        }
        rest = (
            f"residual {found.residual[0]:.2f}; all removed, the prior alone gives {found.prior_share[0]:.0%} of the "
            f"final chroma"
        )
        if not found.weights[0]:
            rest = f"the sources together move it by {found.length[0]:.2f} only, so that shares are not defined"
    has_baseline = not is_map and found.shares.shape[1] > 1
    return Exhibit(
        array=array.astype(np.float32),
        axes=("source", "H", "W") if is_map else ("source",),
        unit=CHROMA_UNIT if is_map else "share of final - all removed",
        caption=f"{what}: {rest}.",
        provenance={**origin(run, None, "provenance"), "place": places.name, **details, **numbers},
        baseline=found.pooled(found.shares, first=1).astype(np.float32) if has_baseline else None,
        kind="difference" if is_map else "ranking",
    )
