"""Phrases and their masks: who is paired with whom, where each phrase looks, with instance guidance and without.

`before` and `after` start from the same recorded state: the step is repeated once with guidance switched off and once
as it was, so that what differs is guidance alone, at every layer in the order of computation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.baselines import elsewhere
from colorlab.inspection.places import coverage, resize_map
from colorlab.inspection.replay import Moment, judge, moment_of
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.verdicts import Verdict
from colorlab.inspection.views import origin
from colorlab.mechanisms.base import SWITCH
from colorlab.mechanisms.instance_guidance import GUIDED, InstanceGuidance
from colorlab.methods.base import Method
from colorlab.methods.phrases import Pair, pair_masks
from colorlab.networks.environment import eagerly, environment_of
from colorlab.networks.patching import Patch, PatchCall, patched
from colorlab.networks.sites import Site, find_sites, select_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, predict_step

__all__ = ["PhraseMaps", "overlap", "pairing", "phrase", "plan_phrase_iou", "read_phrases"]

Shown = Literal["attention", "scores"]

_LABELS = ("before guidance", "after guidance")
_THUMBNAIL_SHADE = 0.35
# By grid, (h, w): intersection over union before and after guidance.
_Overlaps = dict[tuple[int, int], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class PhraseMaps:
    """What every cell gives to every phrase at one step.

    Args:
        attention: by site, (K, h, w): share of attention on the tokens of each phrase, mean over heads.
        scores: by site, (K, h, w): scores before the softmax, mean over tokens and heads.
        predictions: what the networks predicted meanwhile, by guidance pass.
    """

    attention: dict[Site, torch.Tensor]
    scores: dict[Site, torch.Tensor]
    predictions: dict[str, torch.Tensor]

    def mean(self, shown: Shown, sites: Sequence[Site]) -> torch.Tensor:
        """Return the mean over some sites on the finest grid among them, (K, h, w)."""
        finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
        maps = self.attention if shown == "attention" else self.scores
        return torch.stack(
            [torch.stack([resize_map(part, finest, keep_sum=False) for part in maps[site]]) for site in sites]
        ).mean(dim=0)


def pairing(run: Run) -> Exhibit:
    """Show which words of the prompt each mask belongs to, with thumbnails (record: no network call).

    Raises:
        StateError: the conditioning has no masks, or the method reads none.
    """
    segment = run.segments[-1]
    pairs = _pairs(run.method, segment)
    gray = np.asarray(segment.conditioning.gray)
    pictures = {}
    for pair in pairs:
        mask = segment.conditioning.masks[pair.name]
        shaded = np.where(mask, gray, _THUMBNAIL_SHADE * gray)
        pictures[f"{pair.phrase}\ntokens {pair.tokens[0]} to {pair.tokens[-1]}"] = np.repeat(
            shaded[..., None], 3, axis=-1
        )
    return Exhibit(
        array=np.array([segment.conditioning.masks[pair.name].mean() for pair in pairs]),
        axes=("phrase",),
        unit="share of the picture",
        caption=f"{len(pairs)} phrases of {segment.conditioning.prompt!r}, each with the mask that it is kept to.",
        provenance={
            **origin(run, None, "pairing"),
            "labels": [pair.phrase for pair in pairs],
            "names": [pair.name for pair in pairs],
            "tokens": [list(pair.tokens) for pair in pairs],
            "pieces": [list(pair.pieces) for pair in pairs],
        },
        kind="pairs",
        pictures=pictures,
    )


def phrase(
    run: Run, step: int, name: str, *, shown: Shown = "attention", site: str = "*", baseline: bool = False
) -> Exhibit:
    """Show where a phrase looks at a step, before and after instance guidance (replay: two network calls).

    Args:
        run: a run with masks that has taken the step.
        step: index of the step.
        name: of the mask, or the words of its phrase.
        shown: "attention" (share of it on the phrase, [0, 1]) or "scores" (before the softmax, mean over its tokens).
        site: path of a cross-attention site, or a pattern with `*`; several are averaged on the finest grid.
        baseline: whether to add both maps elsewhere, the mean of 16 random moves.

    Returns:
        (2, h, w): before and after; NaN where the replay is refused. `provenance["overlaps"]` holds the intersection
        over union with the mask of each, see `overlap`.

    Raises:
        StateError: the step was not taken, or there are no masks.
        RangeError: there is no such phrase, site, or thing to show.
    """
    if shown not in get_args(Shown):
        raise RangeError(f"shown is {shown!r}, but 'attention' or 'scores' is expected.")
    moment = moment_of(run, step)
    pairs = _pairs(moment.method, moment.segment)
    names = [pair.name for pair in pairs]
    index = next((i for i, pair in enumerate(pairs) if name in (pair.name, pair.phrase)), None)
    if index is None:
        raise RangeError(f"There is no mask {name!r}; there are: {', '.join(map(repr, names))}.")
    sites = select_sites(moment.sites, glob=site, kind="attn2")
    before, after, verdict = _before_and_after(moment)
    maps = torch.stack([part.mean(shown, sites)[index] for part in (before, after)])
    grid = cast(tuple[int, int], tuple(maps.shape[1:]))
    cells = coverage(moment.segment.conditioning.masks[names[index]], moment.image_size, grid).unflatten(0, grid)
    overlaps = [overlap(part, cells) for part in maps]
    if verdict.name == "refused":
        maps = torch.full_like(maps, torch.nan)
    what = "Attention to" if shown == "attention" else "Scores of"
    return Exhibit(
        array=maps.numpy(),
        axes=("guidance", "h", "w"),
        unit="share of attention" if shown == "attention" else "score",
        caption=(
            f"{what} {pairs[index].phrase!r} at step {step}, mean of the heads and of {len(sites)} cross-attention "
            f"sites, from the same latents. Replay: {verdict}."
        ),
        provenance={
            **origin(run, moment, "phrase"),
            "labels": list(_LABELS),
            "name": names[index],
            "tokens": list(pairs[index].tokens),
            "sites": [chosen.path for chosen in sites],
            "overlaps": overlaps if verdict.name != "refused" else [],
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
        },
        verdict=verdict.name,
        baseline=elsewhere(maps).numpy() if baseline else None,
        kind="maps",
    )


def plan_phrase_iou(run: Run, *, steps: Sequence[int] | None = None) -> Study[_Overlaps]:
    """Plan to measure, step by step, how well the attention of the phrases covers their masks.

    Args:
        run: a run with masks.
        steps: indices of steps that were taken; None for all.

    Returns:
        A study of one part for each step. Its exhibit is (grid, step): intersection over union, mean over phrases, with
        guidance; its baseline is the same without guidance, from the same latents.

    Raises:
        StateError: a step was not taken, or there are no masks.
    """
    chosen = list(range(len(run.records))) if steps is None else list(steps)
    moments = [moment_of(run, step) for step in chosen]
    if not moments:
        raise StateError("The run has taken no step yet; step() or finish() it.")
    for moment in moments:
        _pairs(moment.method, moment.segment)
    cost = estimate_cost(run, calls=2 * len(moments))

    def work() -> Iterator[list[_Overlaps]]:
        for moment in moments:
            before = _ious(moment, _read(_without_guidance(moment)))
            yield []
            after = _ious(moment, _read(moment))
            yield [{grid: (before[grid], after[grid]) for grid in before}]

    def conclude(parts: list[_Overlaps]) -> Exhibit:
        grids = list(parts[0])
        values = np.array([[part[grid] for part in parts] for grid in grids])
        return Exhibit(
            array=values[..., 1],
            axes=("grid", "step"),
            unit="intersection over union",
            caption=(
                "How well the attention of the phrases covers their masks, mean over phrases; dashed without guidance. "
                "A phrase's cells are as many as its mask has, those that give it most."
            ),
            provenance={
                **origin(run, None, "phrase_iou"),
                "labels": [f"{height}x{width}" for height, width in grids],
                "steps": chosen[: len(parts)],
            },
            baseline=values[..., 0],
            kind="curves",
        )

    return Study(run, "phrase_iou", cost=cost, num_parts=len(moments), work=work, conclude=conclude)


def read_phrases(moment: Moment) -> PhraseMaps:
    """Repeat a step and read what every cell gives to every phrase; the caller holds the lock of the model.

    Raises:
        StateError: there are no masks.
    """
    method, segment, settings = moment.method, moment.segment, moment.segment.settings
    pairs, guidance = _pairs(method, segment), _guidance(method)
    sites = {site.path: site for site in find_sites(method.unet, moment.state.latents.shape, kind="attn2")}
    attention: dict[Site, torch.Tensor] = {}
    scores: dict[Site, torch.Tensor] = {}

    def reduce(values: torch.Tensor, site: Site, *, is_sum: bool) -> torch.Tensor:
        parts = [values[0][..., list(pair.tokens)] for pair in pairs]
        by_phrase = torch.stack([part.sum(dim=-1) if is_sum else part.mean(dim=-1) for part in parts])
        return by_phrase.mean(dim=1).unflatten(1, site.grid).float().cpu()

    def look(values: torch.Tensor, where: PatchCall) -> None:
        site = sites[where.site]
        if where.place == "probs":
            attention[site] = reduce(values, site, is_sum=True)
        else:
            if is_second and site in guided:
                values = guidance.guided_scores(values, site, moment.state.latents.shape, segment.prepared, settings)
            scores[site] = reduce(values, site, is_sum=False)

    is_second = bool(guidance.passes(settings, moment.record.timestep))
    guided = guidance.sites(method.unet, moment.state.latents.shape, settings) if is_second else ()
    # With two passes the second one gets the guided scores of the first; probabilities are those of the second.
    reads = [("scores", "cond"), ("probs", GUIDED if is_second else "cond")]
    watch = patched(
        method.unet,
        [Patch(path, cast(Any, place), look, name) for path in sites for place, name in reads],
        guidance_passes=moment.guidance_passes,
        step_index=moment.state.step_index,
        num_samples=moment.num_samples,
    )
    with torch.no_grad():
        predictions = predict_step(method, segment, moment.state, watch=watch)
    return PhraseMaps(attention, scores, predictions)


def overlap(values: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the intersection over union of a mask and the cells with the largest values, as many as the mask has.

    Args:
        values: (h, w).
        mask: (h, w), share of each cell that the object covers; cells of at least a half belong to it, and the fullest
            one in any case.
    """
    inside = (mask >= 0.5) | (mask == mask.max())
    largest = torch.zeros_like(inside).flatten()
    largest[values.flatten().topk(int(inside.sum())).indices] = True
    largest = largest.view_as(inside)
    return float((inside & largest).sum() / (inside | largest).sum())


def _ious(moment: Moment, maps: PhraseMaps) -> dict[tuple[int, int], float]:
    """Return the mean overlap over phrases for every grid on which there is cross-attention, the finest first."""
    masks = moment.segment.conditioning.masks
    names = [pair.name for pair in _pairs(moment.method, moment.segment)]
    found = {}
    for grid in sorted({site.grid for site in maps.attention}, reverse=True):
        mean = maps.mean("attention", [site for site in maps.attention if site.grid == grid])
        cells = [coverage(masks[name], moment.image_size, grid).unflatten(0, grid) for name in names]
        found[grid] = float(np.mean([overlap(part, cell) for part, cell in zip(mean, cells, strict=True)]))
    return found


def _before_and_after(moment: Moment) -> tuple[PhraseMaps, PhraseMaps, Verdict]:
    """Read a step without guidance and as it was, and judge the latter."""
    method = moment.method
    before, after = _read(_without_guidance(moment)), _read(moment)
    with method.lock, eagerly(), torch.no_grad():
        environment = replace(environment_of(method.unet), is_compiled=False)
        # With matrices in the open a prediction is within rounding only; its verdict is judged without them.
        unwatched = predict_step(method, moment.segment, moment.state)
    return before, after, judge(moment.record, unwatched, environment)


def _without_guidance(moment: Moment) -> Moment:
    """Return a moment with instance guidance switched off."""
    settings = moment.segment.settings.with_mechanism(InstanceGuidance.name, **{SWITCH: False})
    return replace(moment, segment=replace(moment.segment, settings=settings))


def _read(moment: Moment) -> PhraseMaps:
    """Read a moment as `read_phrases` does, with the model to itself."""
    with moment.method.lock, eagerly():
        return read_phrases(moment)


def _pairs(method: Method, segment: Segment) -> tuple[Pair, ...]:
    """Return the pairs of a segment.

    Raises:
        StateError: there are none.
    """
    _guidance(method)
    if not segment.conditioning.masks:
        raise StateError("There are no masks to pair with phrases; give some, such as masks={'red cup': mask}.")
    return pair_masks(segment.conditioning, method.components, as_published=segment.settings.as_published)[0]


def _guidance(method: Method) -> InstanceGuidance:
    """Return the mechanism; StateError if the method has none."""
    for mechanism in method.mechanisms:
        if isinstance(mechanism, InstanceGuidance):
            return mechanism
    raise StateError(f"{method.name} reads no masks of instances; use a model of L-CAD.")
