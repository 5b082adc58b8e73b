"""Attention queries: who looks where, at one past step, from one replayed network call.

| asked | default sites | array |
| --- | --- | --- |
| `word` | cross-attention | (h, w): attention of each cell to the word's tokens, their pieces summed |
| `token` | cross-attention | (h, w): the same for tokens by position, those of an exemplar, for instance |
| `pixel`, `region`, direction "from" | self-attention | (h, w): where the cell or region looks; sums to 1 |
| the same at cross-attention sites | - | (token,): which words it looks at; sums to 1 |
| `pixel`, `region`, direction "to" | self-attention | (h, w): share of each cell's attention that lands there |
| `measure` | self-attention | (h, w): entropy, spread or mean position of each cell's attention |

A word that is not in the prompt can be asked for as well. It is encoded in the prompt's template, which is to say at
the places of the prompt's own words, one after the other; the mean of its keys is appended to the real ones, and what
it would take is shown. Its value is ignored: the picture never sees it.

How far to trust that map (`benchmarks/off_prompt.py`: 47 words of 8 captions, asked of `mini/lcad` as if they were not
there, step 8 of 20): encoded at its own place a word gives its map, correlation 0.997 in the median and 0.97 at least;
as above 0.73 in the median, one in ten below 0.19; encoded alone 0.50. The maps of two different words of a prompt
correlate by -0.01. So the map is about the word, but not only: compare it with another word and the baseline.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.baselines import shuffled_moment
from colorlab.inspection.codings import as_step, call_of, choose_pass, where_asked
from colorlab.inspection.moments import Askable, PastCall
from colorlab.inspection.places import context_names, resize_map
from colorlab.inspection.questions import Direction, Measure, Question, ask_measure, ask_place, ask_tokens, ask_word
from colorlab.inspection.replay import watch_call
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.verdicts import Verdict
from colorlab.inspection.views import origin
from colorlab.networks.attention import key_projection
from colorlab.networks.passes import submodule
from colorlab.networks.probe import Reading
from colorlab.networks.sites import Site, select_sites, sites_of_network, uncompiled

__all__ = ["answer", "attention"]


def attention(
    run: Askable,
    step: int,
    *,
    word: str | None = None,
    occurrence: int = 0,
    token: int | Sequence[int] | None = None,
    pixel: tuple[float, float] | None = None,
    region: Any = None,
    measure: Measure | None = None,
    direction: Direction = "from",
    site: str | None = None,
    head: int | None = None,
    guidance_pass: str | None = None,
    baseline: bool = False,
    max_bytes: int = 2**26,
) -> Exhibit:
    """Show attention at a past step (replay: one network call, none if the step was asked about before).

    Args:
        run: any run or recording that has taken the step.
        step: index of the step.
        word: a word, or words in a row; one of word, token, pixel, region and measure is given.
        occurrence: which one if the word comes several times in the prompt.
        token: position of a token of the context, or several: image tokens, for instance, CLS first, then the patches
            of the exemplar row by row.
        pixel: (x, y) of the picture.
        region: mask (H, W) of the picture, or a stroke.
        measure: "entropy" (nat), "spread", "mean_x" or "mean_y" (the picture reaches from -1 to 1).
        direction: whether the pixel or region looks ("from") or is looked at ("to").
        site: path of a site, or a pattern with `*`; None for all of the denoising network that can answer. Those of
            other networks have its name in front, `control_network.*` or `vae.decoder.*`, see `run.sites`. Several
            are averaged on the finest grid among them.
        head: index; None for the mean.
        guidance_pass: in which pass; None for the one that sees all that was given, `cond` or `full`. Encoders and
            decoders have none, and there it does not count.
        baseline: whether to add what chance would give: for a word, the same token positions with the prompt's words
            shuffled (one more network call); for tokens, as many of the others; for a pixel, the mean of 32 random
            ones; for a region, of 16 random moves; for a measure, even attention.
        max_bytes: working memory of the reduction.

    Returns:
        An exhibit with the verdict of its replay; its array is NaN where the replay is refused.

    Raises:
        StateError: the step was not taken, or the network cannot be read.
        RangeError: nothing, or more than one thing, is asked for; a word, pixel, site, head or pass does not exist.
    """
    moment = call_of(run, step, site)
    guidance_pass = choose_pass(moment, guidance_pass)
    question = _ask(moment, guidance_pass, word, occurrence, token, pixel, region, measure, direction)
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
    moment: PastCall,
    question: Question,
    *,
    site: str | None,
    head: int | None,
    guidance_pass: str,
    baseline: bool,
    max_bytes: int,
) -> Exhibit:
    """Replay a moment and ask every reading; arguments, result and errors as `attention`."""
    all_sites = moment.sites
    sites = _choose_sites(all_sites, question, site, head)
    replay = shelf_of(moment.owner).get(moment, sites, network_sites=all_sites)
    found: np.ndarray | None = None
    null: np.ndarray | None = None
    if replay.verdict.name != "refused":
        readings = [replay.reading(site, guidance_pass) for site in sites]
        found = _combine(moment, readings, question, head, max_bytes)
        if baseline:
            null = _chance(moment, readings, question, head, max_bytes)
    details = {"head": head, "guidance_pass": guidance_pass, **question.details}
    return _exhibit(run, moment, question, sites, found, null, replay.verdict, details)


def _ask(
    moment: PastCall,
    guidance_pass: str,
    word: str | None,
    occurrence: int,
    token: int | Sequence[int] | None,
    pixel: tuple[float, float] | None,
    region: Any,
    measure: Measure | None,
    direction: Direction,
) -> Question:
    """Turn the arguments into a question."""
    asked = {"word": word, "token": token, "pixel": pixel, "region": region, "measure": measure}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RangeError(
            f"{' and '.join(given) or 'Nothing'} came, but one of word, token, pixel, region and measure is expected."
        )
    if word is not None:
        return ask_word(as_step(moment, "a word"), guidance_pass, word, occurrence)
    if token is not None:
        return ask_tokens(token)
    if measure is not None:
        return ask_measure(measure)
    return ask_place(moment, pixel, region, direction)


def _choose_sites(all_sites: tuple[Site, ...], question: Question, pattern: str | None, head: int | None) -> list[Site]:
    """Return the sites that answer, all of one kind and one network."""
    named = select_sites(sites_of_network(all_sites, pattern or "*"), glob=pattern or "*", kind=question.kinds)
    sites = next(chosen for kind in question.kinds if (chosen := [site for site in named if site.kind == kind]))
    for site in sites:
        if head is not None and not 0 <= head < site.heads:
            raise RangeError(f"head is {head}, but {site.path!r} has heads 0 to {site.heads - 1}.")
    return sites


def _combine(
    moment: PastCall, readings: list[Reading], question: Question, head: int | None, max_bytes: int
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


def _reduce(moment: PastCall, reading: Reading, question: Question, max_bytes: int) -> torch.Tensor:
    """Answer for one site, (heads, positions)."""
    site, row = reading.site, moment.sample_row
    q, k = reading.get("q")[row], _keys(reading, question)[row]
    if question.weights is None:
        grid = None if question.side == "entropy" else site.grid
        found = attention_reduce(q, k, None, max_bytes, scale=reading.scale, grid=grid, entropy=grid is None)
        if question.side in ("entropy", "spread"):
            return found.get(question.side)
        return found.get("mean_position")[..., int(question.side == "mean_y")]
    if question.side == "queries":
        weights = question.weights(site, q.shape[1])
        found = attention_reduce(q, k, None, max_bytes, scale=reading.scale, rows=weights[None])
        return found.get("rows")[:, 0]
    weights = question.weights(site, k.shape[1])
    if question.reads_words:
        num_more = as_step(moment, "a word").reader.num_more_tokens
        if len(weights) + num_more != k.shape[1]:
            raise StateError(
                f"{site.path!r} reads {k.shape[1]} tokens, but the text has {len(weights)}: it does not read the "
                "prompt."
            )
        weights = functional.pad(weights, (0, num_more))
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


def _extra_keys(moment: PastCall, site: Site, tokens: torch.Tensor) -> torch.Tensor:
    """Project tokens (n, D) to keys (heads, n, d) with the network's own weights."""
    project, part, num_parts = key_projection(_layer(moment, site))
    with moment.lock, torch.no_grad():
        keys = project(tokens).chunk(num_parts, dim=-1)[part]
    return keys.unflatten(-1, (site.heads, -1)).transpose(0, 1)


def _layer(moment: PastCall, site: Site) -> Any:
    """Return the attention layer of a site."""
    return submodule(uncompiled(moment.networks[site.network]), site.module)


def _chance(
    moment: PastCall, readings: list[Reading], question: Question, head: int | None, max_bytes: int
) -> np.ndarray:
    """Compute the null baseline of a question that was answered from readings."""
    if question.weights is None:
        # Queries of length 0 look everywhere alike.
        even = [replace(reading, q=torch.zeros_like(reading.get("q"))) for reading in readings]
        return _combine(moment, even, question, head, max_bytes)
    if question.null_weights is not None:
        return _combine(moment, readings, replace(question, weights=question.null_weights), head, max_bytes)
    # The same latents with the words in another order.
    guidance_pass, sites = readings[0].guidance_pass, [reading.site for reading in readings]
    word, positions = question.details["word"], tuple(question.details["tokens"])
    with moment.lock, torch.no_grad():
        shuffled = shuffled_moment(as_step(moment, "a word"), guidance_pass, word=word, positions=positions)
        shuffled_readings, _ = watch_call(shuffled, sites, wanted_passes=[guidance_pass])
    return _combine(moment, list(shuffled_readings.values()), question, head, max_bytes)


def _token_names(
    moment: PastCall, question: Question, guidance_pass: str, found: np.ndarray | None, site: Site
) -> list[str]:
    """Name the tokens that a question about queries is answered by."""
    number = None if found is None else len(found)
    if question.adapter is None:
        return context_names(as_step(moment, "words"), guidance_pass, number)
    # Nothing was read where the replay is refused; then the tokens of one picture.
    layer = _layer(moment, site)
    return [f"image token {index}" for index in range(number or int(layer.processor.num_tokens[question.adapter]))]


def _exhibit(
    run: Askable,
    moment: PastCall,
    question: Question,
    sites: list[Site],
    found: np.ndarray | None,
    null: np.ndarray | None,
    verdict: Verdict,
    details: dict[str, Any],
) -> Exhibit:
    """Put array, words and origin together."""
    is_over_tokens = question.side == "queries" and sites[0].kind == "attn2"
    if is_over_tokens:
        details["token_names"] = _token_names(moment, question, details["guidance_pass"], found, sites[0])
    if found is None:
        finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
        found = np.full((len(details["token_names"]),) if is_over_tokens else finest, np.nan, dtype=np.float32)
    of_network = f" of {sites[0].network}" if sites[0].network else ""
    where = sites[0].path if len(sites) == 1 else f"the mean of {len(sites)} {sites[0].kind} sites{of_network}"
    which = "mean of the heads" if details["head"] is None else f"head {details['head']}"
    edited = list(moment.matrix_edits)
    # Maps follow from queries and keys; what edits do to scores and probabilities comes after them.
    note = f" Before {'; '.join(edited)}: see effect(step, word=...)." if edited else ""
    units = {"entropy": "nat", "keys": "share of attention", "queries": "share of attention"}
    return Exhibit(
        array=found,
        axes=("token",) if is_over_tokens else ("h", "w"),
        unit=units.get(question.side, "half the picture's side"),
        caption=(
            f"{question.title} {where_asked(moment, details['guidance_pass'])}: {where}, {which}. "
            f"Replay: {verdict}.{note}"
        ),
        provenance={
            **origin(run, moment, "attention"),
            "before_edits": edited,
            "sites": [site.path for site in sites],
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
            **details,
        },
        verdict=verdict.name,
        baseline=null,
        kind="curves" if is_over_tokens else "heatmap",
    )
