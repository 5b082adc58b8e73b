"""Which attention heads decide the colors? Each is ablated alone at one step, and the chroma that moves is measured.

Ablated means: every position gets the mean of what the head gives to all positions at that step. Zero would also take
away what the head adds everywhere, a constant that the layers after it count on, so that a head would rank high for
its offset; the mean leaves the offset and takes away only the difference between places, which is what looking does.

| symbol | variable |
| --- | --- |
| P = softmax(scale q k'), (Q, K) | never built |
| m = 1'P / Q, the mean row | `rows` of `attention_reduce` |
| m v, the mean output | constant over positions when every value row is m v, since the rows of P sum to 1 |
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.baselines import random_shifts
from colorlab.inspection.chroma import CHROMA_UNIT, ChromaDecoder, DecoderName, chroma_decoder, chroma_distance
from colorlab.inspection.places import coverage
from colorlab.inspection.replay import Moment, moment_of, run_sites
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.views import origin
from colorlab.networks.patching import Patch, PatchCall, patched
from colorlab.networks.probe import Reading
from colorlab.networks.sites import ATTENTION_KINDS, SiteKind, select_sites
from colorlab.runs.batches import in_batches, predict_states
from colorlab.runs.run import Run

__all__ = ["Head", "MovedChroma", "ablate_heads", "mean_attention", "plan_head_ranking"]


@dataclass(frozen=True)
class Head:
    """One attention head.

    Args:
        site: path of its layer.
        index: within the layer.
    """

    site: str
    index: int


@dataclass(frozen=True)
class MovedChroma:
    """How much a head moves.

    Args:
        head: which one.
        distance: mean over the region, Delta E 1976 of (a, b).
        elsewhere: the same over the region moved at random, on average; None where nobody asked.
    """

    head: Head
    distance: float
    elsewhere: float | None = None


def plan_head_ranking(
    run: Run,
    step: int,
    *,
    site: str = "*",
    kind: SiteKind | Sequence[SiteKind] = ATTENTION_KINDS,
    region: Any = None,
    decoder: DecoderName = "model",
    batch_size: int = 4,
    baseline: bool = False,
    max_bytes: int = 2**26,
) -> Study[MovedChroma]:
    """Plan to rank attention heads by how much chroma of the clean prediction moves when each is ablated at a step.

    Args:
        run: any run that has taken the step.
        step: index of the step.
        site: path of a site, or a pattern with `*`.
        kind: "attn1", "attn2", or both.
        region: mask (H, W) of the picture, or a stroke, where the chroma is measured; None for everywhere.
        decoder: "model", one decoding for each head, or "linear", five in all, see `colorlab.inspection.chroma`.
        batch_size: heads that share a network call.
        baseline: whether to add what each head moves elsewhere, in the region after 16 random moves, on average.
        max_bytes: working memory of the reduction.

    Returns:
        A study of one part for each head. Its exhibit is (head,), the largest first; sites and heads are in its
        provenance.

    Raises:
        StateError: the step was not taken, or (when it starts) its replay is refused.
        RangeError: there is no such site, kind or decoder, the region is empty, or missing where a baseline is asked
            for, or `batch_size` is below 1.
    """
    moment, all_sites = moment_of(run, step), run_sites(run)
    sites = select_sites(all_sites, glob=site, kind=kind)
    sites = select_sites(sites, kind=ATTENTION_KINDS)
    heads = [Head(chosen.path, index) for chosen in sites for index in range(chosen.heads)]
    batches = [[heads[index] for index in batch] for batch in in_batches(heads, batch_size)]
    where = _places(region, moment.image_size, baseline)
    num_decodings = len(heads) + 1 if decoder == "model" else 5
    cost = estimate_cost(run, calls=len(batches), predictions=len(heads), decodings=num_decodings)
    found: dict[str, ChromaDecoder] = {}

    def work() -> Iterator[list[MovedChroma]]:
        replay = shelf_of(moment.method).get(moment, sites, network_sites=all_sites)
        if replay.verdict.name == "refused":
            raise StateError(f"Step {step} cannot be repeated as it was ({replay.verdict}); take it again.")
        paths = {chosen.path for chosen in sites}
        mean_rows = mean_attention({key: replay.readings[key] for key in replay.readings if key[0] in paths}, max_bytes)
        decode = found["decoder"] = chroma_decoder(run, decoder)
        before = decode(moment, moment.clean)
        for batch in batches:
            after = [decode(moment, clean) for clean in ablate_heads(moment, batch, mean_rows)]
            yield [_moved(head, before, chroma, where) for head, chroma in zip(batch, after, strict=True)]

    def conclude(parts: list[MovedChroma]) -> Exhibit:
        return _show(run, moment, parts, found["decoder"], has_region=region is not None)

    return Study(run, "head_ranking", cost=cost, num_parts=len(heads), work=work, conclude=conclude)


def ablate_heads(
    moment: Moment, heads: Sequence[Head], mean_rows: dict[tuple[str, str], torch.Tensor]
) -> list[torch.Tensor]:
    """Predict the clean latents of a step with one head ablated in each, all in one network call.

    Args:
        moment: the step.
        heads: ablated one at a time, in every guidance pass.
        mean_rows: (heads, K) mean attention of each layer, by (path, guidance pass).

    Returns:
        For each head the clean latents (1, C, h, w).
    """
    method, settings, record = moment.method, moment.segment.settings, moment.record

    def level(values: torch.Tensor, call: PatchCall) -> torch.Tensor:
        """Put the mean output of a head in the place of its values, in the row of the batch that ablates it."""
        rows, changed = mean_rows[call.site, call.guidance_pass], values.clone()
        width = values.shape[-1] // len(rows)
        for row, head in enumerate(heads):
            if head.site == call.site:
                part = slice(head.index * width, (head.index + 1) * width)
                changed[row, :, part] = (rows[head.index].to(values.device) @ values[row, :, part].float()).to(values)
        return changed

    patches = [Patch(site, "v", level) for site in dict.fromkeys(head.site for head in heads)]
    # Installed as a watch, after the edits: they may ask the networks about another run before.
    ablation = patched(
        method.unet,
        patches,
        guidance_passes=moment.guidance_passes,
        step_index=record.step_index,
        num_samples=len(heads),
    )
    with method.lock:
        predictions = predict_states(method, moment.segment, [moment.state] * len(heads), watch=ablation)
    guided = [method.guide(prediction, settings) for prediction in predictions]
    return [method.schedule.to_original_sample(noise, moment.state.latents, record.timestep) for noise in guided]


def mean_attention(readings: Mapping[tuple[str, str], Reading], max_bytes: int) -> dict[tuple[str, str], torch.Tensor]:
    """Return the mean attention (heads, K) over the positions of every layer, by (path, guidance pass).

    Args:
        readings: of attention sites.
        max_bytes: working memory of the reduction.
    """
    means = {}
    for key, reading in readings.items():
        q, k = reading.get("q")[0], reading.get("k")[0]
        even = torch.full((1, q.shape[1]), 1 / q.shape[1])
        reduced = attention_reduce(q, k, None, max_bytes, scale=reading.scale, rows=even)
        means[key] = reduced.get("rows")[:, 0]
    return means


def _places(region: Any, size: tuple[int, int], baseline: bool) -> torch.Tensor:
    """Return where chroma is measured, (n, H, W) of the picture: the region or everywhere, then the region elsewhere.

    Raises:
        RangeError: the region is empty, or missing where it has to be moved.
    """
    if region is None:
        if baseline:
            raise RangeError("The baseline is the region elsewhere, but no region came; name one, or ask without it.")
        return torch.ones(1, *size)
    moves = [(0, 0), *(random_shifts(size) if baseline else ())]
    return torch.stack([coverage(region, size, size, shift=move).view(size) for move in moves])


def _moved(head: Head, before: torch.Tensor, after: torch.Tensor, places: torch.Tensor) -> MovedChroma:
    """Measure how far a head moves the chroma (2, h, w) in places (n, H, W) of the picture, the first one its own."""
    distance = chroma_distance(before, after)
    grid = (distance.shape[0], distance.shape[1])
    weights = functional.adaptive_avg_pool2d(places[:, None], grid)[:, 0]
    means = (distance * weights).sum(dim=(1, 2)) / weights.sum(dim=(1, 2))
    return MovedChroma(head, float(means[0]), float(means[1:].mean()) if len(means) > 1 else None)


def _show(run: Run, moment: Moment, parts: list[MovedChroma], decode: ChromaDecoder, *, has_region: bool) -> Exhibit:
    """Put the heads in order."""
    ranked = sorted(parts, key=lambda part: part.distance, reverse=True)
    place = "in the region" if has_region else "in the picture"
    best = ranked[0]
    return Exhibit(
        array=np.array([part.distance for part in ranked], dtype=np.float32),
        baseline=None if best.elsewhere is None else np.array([part.elsewhere for part in ranked], dtype=np.float32),
        axes=("head",),
        unit=CHROMA_UNIT,
        caption=(
            f"Mean distance {place} by which the chroma of the clean prediction at step {moment.record.step_index} "
            f"moves when one head gives all positions its mean output; most: head {best.head.index} of "
            f"{best.head.site}. Decoded by {decode.description}."
        ),
        provenance={
            **origin(run, moment, "head_ranking"),
            "ablation": "mean over positions",
            "sites": [part.head.site for part in ranked],
            "heads": [part.head.index for part in ranked],
            "labels": [f"{part.head.site} head {part.head.index}" for part in ranked],
            "decoder": decode.name,
            "decoder_error": decode.error,
        },
        kind="ranking",
    )
