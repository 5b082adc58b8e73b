"""Attention queries: who looks where, at one past step, from one replayed network call.

| asked | default sites | array |
| --- | --- | --- |
| `word` | cross-attention | (h, w): attention of each cell to the word's tokens, their pieces summed |
| `pixel`, `region`, direction "from" | self-attention | (h, w): where the cell or region looks; sums to 1 |
| the same at cross-attention sites | - | (token,): which words it looks at; sums to 1 |
| `pixel`, `region`, direction "to" | self-attention | (h, w): share of each cell's attention that lands there |
| `measure` | self-attention | (h, w): entropy, spread or mean position of each cell's attention |

A word that is not in the prompt is asked for as well: its keys, encoded by themselves, are appended to the real ones,
and what they would take is shown; the picture never sees them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.moments import Askable, PastStep
from colorlab.inspection.places import (
    coverage,
    pixel_cell,
    resize_map,
    shuffled_words,
    token_names,
    word_tokens,
)
from colorlab.inspection.replay import Verdict, moment_of, watch_call
from colorlab.inspection.shelf import shelf_of
from colorlab.networks.attention import key_projection
from colorlab.networks.passes import check_passes, submodule
from colorlab.networks.probe import Reading
from colorlab.networks.sites import ATTENTION_KINDS, Site, SiteKind, select_sites, uncompiled

__all__ = ["Direction", "Measure", "Question", "answer", "ask_place", "attention"]

Direction = Literal["from", "to"]
Measure = Literal["entropy", "spread", "mean_x", "mean_y"]

NUM_RANDOM_PIXELS = 32
NUM_RANDOM_SHIFTS = 16

Weights = Callable[[Reading], torch.Tensor]


@dataclass(frozen=True)
class Question:
    """What is asked of every reading.

    Args:
        title: for the caption.
        side: which axis of the matrix the weights belong to, or the name of a measure.
        kinds: of sites that can answer, the preferred one first.
        weights: of keys or queries of a reading.
        null_weights: the same for the baseline; None where it needs another call, or there is none.
        details: for the provenance.
        extra_tokens: (n, D) embeddings whose keys are appended; their weight is 1, that of all others 0.
        adapter: number of the IP-Adapter whose images are the keys; None for the context.
    """

    title: str
    side: str
    kinds: tuple[SiteKind, ...]
    weights: Weights | None = None
    null_weights: Weights | None = None
    details: dict[str, Any] = field(default_factory=dict)
    extra_tokens: torch.Tensor | None = None
    adapter: int | None = None


def attention(
    run: Askable,
    step: int,
    *,
    word: str | None = None,
    occurrence: int = 0,
    pixel: tuple[float, float] | None = None,
    region: Any = None,
    measure: Measure | None = None,
    direction: Direction = "from",
    site: str | None = None,
    head: int | None = None,
    guidance_pass: str = "cond",
    baseline: bool = False,
    max_bytes: int = 2**26,
) -> Exhibit:
    """Show attention at a past step (replay: one network call, none if the step was asked about before).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        word: a word, or words in a row; one of word, pixel, region and measure is given.
        occurrence: which one if the word comes several times in the prompt.
        pixel: (x, y) of the picture.
        region: mask (H, W) of the picture, or a stroke.
        measure: "entropy" (nat), "spread", "mean_x" or "mean_y" (the picture reaches from -1 to 1).
        direction: whether the pixel or region looks ("from") or is looked at ("to").
        site: path of a site, or a pattern with `*`; None for all that can answer. Several are averaged on the finest
            grid among them.
        head: index; None for the mean.
        guidance_pass: in which pass.
        baseline: whether to add what chance would give: for a word, the same token positions with the prompt's words
            shuffled (one more network call); for a pixel, the mean of 32 random ones; for a region, of 16 random moves.
        max_bytes: working memory of the reduction.

    Returns:
        An exhibit with the verdict of its replay; its array is NaN where the replay is refused.

    Raises:
        StateError: the step was not taken, or the network can not be read.
        RangeError: nothing, or more than one thing, is asked for; a word, pixel, site, head or pass does not exist.
    """
    moment = moment_of(run, step)
    check_passes([guidance_pass], moment.guidance_passes)
    question = _ask(moment, guidance_pass, word, occurrence, pixel, region, measure, direction)
    if baseline and question.weights is None:
        raise RangeError(f"{question.title} has no null baseline; ask for it with baseline=False.")
    return answer(
        run,
        moment,
        question,
        site=site,
        head=head,
        guidance_pass=guidance_pass,
        baseline=baseline,
        max_bytes=max_bytes,
    )


def answer(
    run: Askable,
    moment: PastStep,
    question: Question,
    *,
    site: str | None,
    head: int | None,
    guidance_pass: str,
    baseline: bool,
    max_bytes: int,
) -> Exhibit:
    """Replay a moment and ask every reading; arguments, result and errors as `attention`."""
    sites = _choose_sites(moment.sites, question, site, head)
    replay = shelf_of(moment.owner).get(moment, sites, network_sites=moment.sites)
    found: np.ndarray | None = None
    null: np.ndarray | None = None
    if replay.verdict.name != "refused":
        readings = [replay.readings[site.path, guidance_pass] for site in sites]
        found = _combine(moment, readings, question, head, max_bytes)
        if baseline:
            null = _chance(moment, readings, question, head, max_bytes)
    details = {"head": head, "guidance_pass": guidance_pass, **question.details}
    return _exhibit(run, moment, question, sites, found, null, replay.verdict, details)


def _ask(
    moment: PastStep,
    guidance_pass: str,
    word: str | None,
    occurrence: int,
    pixel: tuple[float, float] | None,
    region: Any,
    measure: Measure | None,
    direction: Direction,
) -> Question:
    """Turn the arguments into a question."""
    asked = {"word": word, "pixel": pixel, "region": region, "measure": measure}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RangeError(
            f"{' and '.join(given) or 'Nothing'} came, but one of word, pixel, region and measure is expected."
        )
    if direction not in get_args(Direction):
        raise RangeError(f"direction is {direction!r}, but 'from' or 'to' is expected.")
    if word is not None:
        return _ask_word(moment, guidance_pass, word, occurrence)
    if measure is not None:
        if measure not in get_args(Measure):
            raise RangeError(f"measure is {measure!r}, but one of {', '.join(get_args(Measure))} is expected.")
        kinds: tuple[SiteKind, ...] = ATTENTION_KINDS if measure == "entropy" else ("attn1",)
        return Question(f"{measure.replace('_', ' ').capitalize()} of the attention of each cell", measure, kinds)
    return ask_place(moment, pixel, region, direction)


def _ask_word(moment: PastStep, guidance_pass: str, word: str, occurrence: int) -> Question:
    """Ask how much each cell attends to a word."""
    reader, text = moment.reader, moment.text(guidance_pass)
    positions = word_tokens(reader, text, word, occurrence)
    details = {"word": word, "occurrence": occurrence, "text": text, "tokens": list(positions)}
    num_tokens = len(token_names(reader, text))
    indicator = torch.zeros(num_tokens)
    indicator[list(positions)] = 1
    if positions:
        return Question(f"Attention to {word!r}", "keys", ("attn2",), lambda reading: indicator, None, details)
    with moment.lock, torch.no_grad():
        encoded = reader.encode_prompt(word).tokens[0]
    extra = encoded[list(word_tokens(reader, word, word))]
    return Question(
        f"Attention to {word!r}, which the prompt does not have",
        "keys",
        ("attn2",),
        lambda reading: indicator,
        None,
        {**details, "is_in_prompt": False},
        extra,
    )


def ask_place(moment: PastStep, pixel: tuple[float, float] | None, region: Any, direction: Direction) -> Question:
    """Ask where a pixel or region looks, or who looks at it."""
    size, generator = moment.image_size, torch.Generator().manual_seed(0)
    details: dict[str, Any] = {"direction": direction}
    if pixel is not None:
        point, name = pixel, f"pixel ({pixel[0]:g}, {pixel[1]:g})"
        details["pixel"] = list(pixel)
        randoms = torch.rand(NUM_RANDOM_PIXELS, 2, generator=generator).tolist()

        def one_hot(reading: Reading) -> torch.Tensor:
            cells = torch.zeros(reading.site.num_positions)
            cells[pixel_cell(point, size, reading.site.grid)] = 1
            return cells

        def random_cells(reading: Reading) -> torch.Tensor:
            cells = [pixel_cell((x * size[1], y * size[0]), size, reading.site.grid) for x, y in randoms]
            return torch.bincount(torch.tensor(cells), minlength=reading.site.num_positions) / len(cells)

        weights, null_weights = one_hot, random_cells
    else:
        name = "the region"
        details["share_of_picture"] = float(coverage(region, size, (1, 1)))
        shifts = (torch.rand(NUM_RANDOM_SHIFTS, 2, generator=generator) * torch.tensor(size)).int().tolist()

        def covered(reading: Reading) -> torch.Tensor:
            return coverage(region, size, reading.site.grid)

        def moved(reading: Reading) -> torch.Tensor:
            parts = [coverage(region, size, reading.site.grid, shift=(down, right)) for down, right in shifts]
            return torch.stack(parts).mean(dim=0)

        weights, null_weights = covered, moved
    if direction == "to":
        return Question(f"Attention of each cell to {name}", "keys", ("attn1",), weights, null_weights, details)

    def shares(raw: Weights) -> Weights:
        return lambda reading: raw(reading) / raw(reading).sum()

    title = f"Where {name} looks"
    return Question(title, "queries", ATTENTION_KINDS, shares(weights), shares(null_weights), details)


def _choose_sites(all_sites: tuple[Site, ...], question: Question, pattern: str | None, head: int | None) -> list[Site]:
    """Return the sites that answer, all of one kind."""
    named = select_sites(all_sites, glob=pattern or "*", kind=question.kinds)
    sites = next(chosen for kind in question.kinds if (chosen := [site for site in named if site.kind == kind]))
    for site in sites:
        if head is not None and not 0 <= head < site.heads:
            raise RangeError(f"head is {head}, but {site.path!r} has heads 0 to {site.heads - 1}.")
    return sites


def _combine(
    moment: PastStep, readings: list[Reading], question: Question, head: int | None, max_bytes: int
) -> np.ndarray:
    """Reduce every reading, take a head or their mean, and average the sites on the finest grid."""
    finest = max((reading.site.grid for reading in readings), key=lambda grid: grid[0] * grid[1])
    is_over_tokens = question.side == "queries" and readings[0].site.kind == "attn2"
    parts = []
    for reading in readings:
        by_head = _reduce(moment, reading, question, max_bytes)
        part = by_head.mean(dim=0) if head is None else by_head[head]
        if not is_over_tokens:
            part = resize_map(part.unflatten(0, reading.site.grid), finest, keep_sum=question.side == "queries")
        parts.append(part)
    return torch.stack(parts).mean(dim=0).numpy()


def _reduce(moment: PastStep, reading: Reading, question: Question, max_bytes: int) -> torch.Tensor:
    """Answer for one site, (heads, positions)."""
    site, row = reading.site, moment.sample_row
    q, k = reading.get("q")[row], _keys(reading, question)[row]
    if question.weights is None:
        grid = None if question.side == "entropy" else site.grid
        found = attention_reduce(q, k, None, max_bytes, scale=reading.scale, grid=grid, entropy=grid is None)
        if question.side in ("entropy", "spread"):
            return found.get(question.side)
        return found.get("mean_position")[..., int(question.side == "mean_y")]
    weights = question.weights(reading)
    if question.side == "queries":
        found = attention_reduce(q, k, None, max_bytes, scale=reading.scale, rows=weights[None])
        return found.get("rows")[:, 0]
    if site.kind == "attn2" and len(weights) != k.shape[1]:
        raise StateError(
            f"{site.path!r} reads {k.shape[1]} tokens, but the text has {len(weights)}: it does not read the prompt."
        )
    if question.extra_tokens is not None:
        k = torch.cat([k, _extra_keys(moment, site, question.extra_tokens).to(k)], dim=1)
        weights = torch.cat([torch.zeros_like(weights), torch.ones(len(question.extra_tokens))])
    return attention_reduce(q, k, weights[:, None], max_bytes, scale=reading.scale).get("columns")[..., 0]


def _keys(reading: Reading, question: Question) -> torch.Tensor:
    """Return the keys that a question is about, (B, heads, K, d)."""
    if question.adapter is None:
        return reading.get("k")
    if question.adapter not in reading.image_keys:
        raise StateError(
            f"{reading.site.path!r} reads no images through the IP-Adapter number {question.adapter} in the pass "
            f"{reading.guidance_pass!r}; load it, and call the pipeline with a scale above 0."
        )
    return reading.image_keys[question.adapter]


def _extra_keys(moment: PastStep, site: Site, tokens: torch.Tensor) -> torch.Tensor:
    """Project tokens (n, D) to keys (heads, n, d) with the network's own weights."""
    project, part, num_parts = key_projection(submodule(uncompiled(moment.network), site.path))
    with moment.lock, torch.no_grad():
        keys = project(tokens).chunk(num_parts, dim=-1)[part]
    return keys.unflatten(-1, (site.heads, -1)).transpose(0, 1)


def _chance(
    moment: PastStep, readings: list[Reading], question: Question, head: int | None, max_bytes: int
) -> np.ndarray:
    """Compute the null baseline of a question that was answered from readings."""
    if question.null_weights is not None:
        return _combine(moment, readings, replace(question, weights=question.null_weights), head, max_bytes)
    # The same latents with the words in another order.
    details, guidance_pass = question.details, readings[0].guidance_pass
    shuffled = shuffled_words(moment.reader, details["text"], tuple(details["tokens"]), details["word"])
    sites = [reading.site for reading in readings]
    with moment.lock, torch.no_grad():
        changed = moment.with_text(guidance_pass, shuffled)
        shuffled_readings, _ = watch_call(changed, sites, wanted_passes=[guidance_pass])
    return _combine(moment, list(shuffled_readings.values()), question, head, max_bytes)


def _token_names(
    moment: PastStep, question: Question, guidance_pass: str, found: np.ndarray | None, site: Site
) -> list[str]:
    """Name the tokens that a question about queries is answered by."""
    if question.adapter is None:
        return token_names(moment.reader, moment.text(guidance_pass))
    # Nothing was read where the replay is refused; then the tokens of one picture.
    layer = submodule(uncompiled(moment.network), site.path)
    number = int(layer.processor.num_tokens[question.adapter]) if found is None else len(found)
    return [f"image token {index}" for index in range(number)]


def _exhibit(
    run: Askable,
    moment: PastStep,
    question: Question,
    sites: list[Site],
    found: np.ndarray | None,
    null: np.ndarray | None,
    verdict: Verdict,
    details: dict[str, Any],
) -> Exhibit:
    """Put array, words and origin together."""
    step, is_over_tokens = moment.record.step_index, question.side == "queries" and sites[0].kind == "attn2"
    if is_over_tokens:
        details["token_names"] = _token_names(moment, question, details["guidance_pass"], found, sites[0])
    if found is None:
        finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
        found = np.full((len(details["token_names"]),) if is_over_tokens else finest, np.nan, dtype=np.float32)
    where = sites[0].path if len(sites) == 1 else f"the mean of {len(sites)} {sites[0].kind} sites"
    which = "mean of the heads" if details["head"] is None else f"head {details['head']}"
    units = {"entropy": "nat", "keys": "share of attention", "queries": "share of attention"}
    return Exhibit(
        array=found,
        axes=("token",) if is_over_tokens else ("h", "w"),
        unit=units.get(question.side, "half the picture's side"),
        caption=(
            f"{question.title} at step {step} in the pass {details['guidance_pass']!r}: {where}, {which}. "
            f"Replay: {verdict}."
        ),
        provenance={
            "query": "attention",
            **moment.origin,
            "run": run.name,
            "step": step,
            "sites": [site.path for site in sites],
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
            **details,
        },
        verdict=verdict.name,
        baseline=null,
        kind="curves" if is_over_tokens else "heatmap",
    )
