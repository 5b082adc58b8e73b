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
from colorlab.inspection.sources import Sources, find_sources, given_by_step
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.views import origin
from colorlab.runs.batches import in_batches, take_steps
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment

__all__ = ["Attribution", "Removal", "plan_provenance"]

Attribution = Literal["leave_one_out", "shapley"]

_DECIDED_SHARE = 0.5


@dataclass(frozen=True)
class Removal:
    """How sources are taken away: which are told apart, in what company each goes, and at which steps.

    Args:
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

    Raises:
        RangeError: there is no such attribution, or `num_orders` is not even.

    Deviation: a group of exemplar patches is taken away by making it gray, since a hole would be a color of its own.
    """

    attribution: Attribution = "leave_one_out"
    num_orders: int = 8
    words: Sequence[str] | None = None
    everywhere: bool = True
    exemplar_grid: tuple[int, int] = (2, 2)
    fast: bool = False
    steps: range | None = None

    def __post_init__(self) -> None:
        known, number = get_args(Attribution), self.num_orders
        if self.attribution not in known:
            raise RangeError(f"attribution is {self.attribution!r}, but one of {', '.join(known)} is expected.")
        if isinstance(number, bool) or not isinstance(number, int) or number < 2 or number % 2:
            raise RangeError(f"num_orders is {number!r}, but an even number of at least 2 is expected.")

    def sources(self, run: Run) -> tuple[Sources, ...]:
        """Find the sources of a run; RangeError if there is none."""
        return find_sources(run, words=self.words, everywhere=self.everywhere, exemplar_grid=self.exemplar_grid)

    def orders(self, number: int) -> tuple[tuple[int, ...], ...]:
        """Draw the orders in which so many sources are removed; none where each is removed alone."""
        return draw_orders(number, self.num_orders) if self.attribution == "shapley" else ()

    def ablated(self, last: int) -> range:
        """Return at which of the steps 0 to `last` sources are missing.

        Raises:
            RangeError: these are not among them.
        """
        steps = range(last + 1) if self.steps is None else self.steps
        if not steps or steps[0] < 0 or steps[-1] > last or steps.step != 1:
            raise RangeError(f"steps is {self.steps!r}, but a range within 0 to {last} is expected.")
        return steps


def plan_provenance(
    run: Run,
    removal: Removal | None = None,
    *,
    pixel: tuple[float, float] | None = None,
    region: Any = None,
    batch_size: int = 8,
    baseline: bool = False,
) -> Study[Ablation]:
    """Plan to find out to what the color of a pixel, of a region, or of every pixel is due.

    Args:
        run: a finished run.
        removal: how sources are taken away; each alone, at all steps, by default.
        pixel: (x, y) of the picture.
        region: mask (H, W) of the picture, or a stroke; its mean (a, b) counts. Neither: a map for every source.
        batch_size: ablated runs that share a network call.
        baseline: whether to add the mean of 16 places of the same shape elsewhere.

    Returns:
        A study of one part for each ablated run. Its exhibit holds the shares (source,) of d, or without a place signed
        contributions (source, H, W) in Delta E of (a, b). Residual, prior and standard errors are in its provenance.

    Raises:
        StateError: the run is not finished.
        RangeError: both a pixel and a region came, there is no such word, or a number is out of range.
    """
    if not run.is_finished:
        raise StateError(f"This run stands at {run.progress}; finish() it, provenance is about the final colors.")
    if pixel is not None and region is not None:
        raise RangeError("pixel and region came, but at most one is expected.")
    removal = removal or Removal()
    places = _Places.of(run, pixel, region, baseline)
    walk = _Walk.of(run, removal, _last_step(run, places) if removal.fast else run.num_steps - 1)
    orders = removal.orders(len(walk.labels))
    coalitions = coalitions_of(len(walk.labels), orders)
    batches = [[coalitions[index] for index in batch] for batch in in_batches(coalitions, batch_size)]
    cost = estimate_cost(
        run,
        calls=walk.num_steps * len(batches),
        predictions=walk.num_steps * len(coalitions),
        decodings=len(coalitions) + 1,
    )

    def work() -> Iterator[list[Ablation]]:
        for batch in batches:
            for chromas in walk.take(batch):
                yield [Ablation(removed, places.read(ab)) for removed, ab in zip(batch, chromas, strict=False)]

    def conclude(parts: list[Ablation]) -> Exhibit:
        return _show(walk, places, removal, Findings(places.read(walk.own()), parts, len(walk.labels), orders))

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
            region, name = np.zeros(size, dtype=bool), f"pixel ({round(x, 1):g}, {round(y, 1):g})"
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

    @classmethod
    def of(cls, run: Run, removal: Removal, last: int) -> "_Walk":
        """Find the sources, and at which of the steps 0 to `last` they are missing."""
        return cls(run, removal.sources(run), removal.ablated(last), last)

    @property
    def labels(self) -> list[str]:
        """What the sources are called, in order."""
        return [label for kind in self.sources for label in kind.labels]

    @property
    def num_steps(self) -> int:
        """Steps that have to be taken again."""
        return self.last + 1 - self.ablated[0]

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
    steps = torch.from_numpy(settled(run, progress=False).array.copy()).float().flatten()
    where = torch.ones_like(steps, dtype=torch.bool) if places.weights is None else places.weights[0] > 0
    return int(steps[where].quantile(_DECIDED_SHARE, interpolation="higher"))


def _show(walk: _Walk, places: _Places, removal: Removal, found: Findings) -> Exhibit:
    """Put shares, residual and prior into words and numbers."""
    names = {"leave_one_out": "leaving one out", "shapley": "Shapley values"}
    how = names[removal.attribution] + (f", compared at step {walk.last} (approximate)" if removal.fast else "")
    is_map = places.weights is None
    if is_map:
        array = (found.shares * found.length).reshape(len(walk.labels), *places.size)
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
        caption=f"{what}: {rest}.{_origin_of_words(walk.run)}",
        provenance={
            **origin(walk.run, None, "provenance"),
            "place": places.name,
            "attribution": removal.attribution,
            "labels": walk.labels,
            "everywhere": removal.everywhere,
            "fast": removal.fast,
            "steps": [walk.ablated[0], walk.ablated[-1]],
            "compared_at_step": walk.last,
            "num_ablations": found.num_ablations,
            **numbers,
        },
        baseline=found.pooled(found.shares, first=1).astype(np.float32) if has_baseline else None,
        kind="difference" if is_map else "ranking",
    )


def _origin_of_words(run: Run) -> str:
    """Say which prompts the words come from, and from which step each holds, where a run had several."""
    prompts: dict[int, str] = {}
    for step, conditioning in given_by_step(run).items():
        # A branch may change something else alone.
        if not prompts or conditioning.prompt != list(prompts.values())[-1]:
            prompts[step] = conditioning.prompt
    if len(prompts) < 2:
        return ""
    told = ", ".join(f"{prompt!r} from step {step}" for step, prompt in prompts.items())
    return f" Words are those of all steps: {told}."
