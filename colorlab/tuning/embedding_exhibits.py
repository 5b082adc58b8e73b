"""What can be seen of the embedding that reproduces a picture: how far it went, and where its identifiers look.

| paper | here |
| --- | --- |
| e_opt, began from T(c') | `EmbeddingMove`, `embedding_distance` |
| identifiers of c', color words of the target in their places | `identifier_attention` |
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from colorlab.errors import StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.baselines import random_shifts
from colorlab.inspection.phrases import overlap
from colorlab.inspection.places import resize_map, token_names
from colorlab.inspection.replay import Moment, moment_of, watch_call
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.views import origin
from colorlab.methods.adaptation import EMBEDDING, Adaptation
from colorlab.methods.diffcolor import DiffColor
from colorlab.methods.identifiers import Rewriting
from colorlab.networks.environment import eagerly
from colorlab.networks.sites import Site, select_sites
from colorlab.runs.run import Run

__all__ = ["EmbeddingMove", "embedding_distance", "identifier_attention", "measure_move"]

_SHARE = 0.25
"""Cells that count as those where a token is looked at: the quarter that gives it most. Ours."""


@dataclass(frozen=True, eq=False)
class EmbeddingMove:
    """How far the optimized embedding is from T(c'), the text that it began from.

    Args:
        distances: (N,), length of the difference, by token.
        cosines: (N,), cosine, by token.
        distance: of all tokens as one vector.
        cosine: the same.
        length: of T(c') as one vector, which `distance` is to be compared with.
    """

    distances: np.ndarray
    cosines: np.ndarray
    distance: float
    cosine: float
    length: float

    def __str__(self) -> str:
        return (
            f"As a whole e_opt is {self.distance:.3g} from T(c'), whose length is {self.length:.3g}; "
            f"cosine {self.cosine:.4f}."
        )


def measure_move(adaptation: Adaptation) -> EmbeddingMove:
    """Measure how far the second stage moved the embedding.

    Raises:
        StateError: no embedding was sought.
    """
    optimized, identified = adaptation.optimized, adaptation.tensors.get(f"{EMBEDDING}/identified")
    if optimized is None or identified is None:
        raise StateError("The adaptation has no embedding that reproduces the picture; tune stage 2, too.")
    # Double: cosines of nearly equal vectors.
    after, before = optimized[0].double(), identified[0].double()
    difference = after - before
    return EmbeddingMove(
        torch.linalg.vector_norm(difference, dim=-1).numpy(),
        F.cosine_similarity(after, before, dim=-1).numpy(),
        float(torch.linalg.vector_norm(difference)),
        float(F.cosine_similarity(after.flatten(), before.flatten(), dim=0)),
        float(torch.linalg.vector_norm(before)),
    )


def embedding_distance(method: DiffColor) -> Exhibit:
    """Show how far the embedding that reproduces the picture is from the context's, token by token.

    Returns:
        (measure, token): distance, and cosine; those of the whole in the caption and the provenance.

    Raises:
        StateError: the model has no second stage.
    """
    adaptation, rewriting = _second_stage(method)
    move = measure_move(adaptation)
    return Exhibit(
        np.stack([move.distances, move.cosines]),
        ("measure", "token"),
        "",
        f"How far stage 2 moved each token from {rewriting.text!r}. {move}",
        provenance={
            "query": "embedding_distance",
            "labels": ["distance", "cosine"],
            "token_names": token_names(method, rewriting.text),
            "distance": move.distance,
            "cosine": move.cosine,
            "length": move.length,
        },
        kind="stacked_curves",
    )


def identifier_attention(run: Run, step: int, *, site: str = "*") -> Exhibit:
    """Show where identifiers are looked at under e_opt, and where the words in their places are under e_tgt.

    Both from the latents of the step (replay: one network call, and one more for each embedding). A run that names no
    target has the identifiers alone.

    Args:
        run: of a tuned model, that has taken the step.
        step: index of the step.
        site: path of a cross-attention site, or a pattern with `*`; several are averaged on the finest grid.

    Returns:
        (map, h, w), share of attention, mean over heads: identifiers, then the words of the target; NaN where the
        replay is refused. The null baseline is the mean over all other tokens. `overlaps` of the provenance holds the
        intersection over union of the quarters of cells that look most, of each identifier with its word, and of each
        two identifiers; `overlaps_by_chance` the mean of the same after random moves.

    Raises:
        StateError: the step was not taken, or the model has no second stage.
        RangeError: the prompt does not fit the context, or there is no such site.
    """
    if not isinstance(run.method, DiffColor):
        raise StateError(f"{run.method.name} has no identifiers; use a model of DiffColor.")
    method, moment = run.method, moment_of(run, step)
    _, rewriting = _second_stage(method)
    places = rewriting.identifier_tokens(method.components)
    embeddings, words = _ends(method, moment.segment.conditioning.prompt, places)
    sites = select_sites(moment.sites, glob=site, kind="attn2")
    verdict = shelf_of(moment.owner).get(moment, sites, network_sites=moment.sites).verdict
    maps = {name: _read_maps(moment, tokens, list(places.values()), sites) for name, tokens in embeddings.items()}
    overlaps, by_chance = _overlaps(maps, words)
    found = torch.cat(list(maps.values()))
    if verdict.name == "refused":
        found, overlaps, by_chance = torch.full_like(found, torch.nan), {}, {}
    told = "; ".join(f"{name} {value:.2f} (by chance {by_chance[name]:.2f})" for name, value in overlaps.items())
    return Exhibit(
        found.numpy(),
        ("map", "h", "w"),
        "share of attention",
        f"Where identifiers are looked at under e_opt, and the target's words in their places under e_tgt, at step "
        f"{step}: mean of the heads and of {len(sites)} cross-attention sites. "
        + (f"Overlap of the quarters that look most: {told}. " if told else "")
        + f"Replay: {verdict}.",
        provenance={
            **origin(run, moment, "identifier_attention"),
            "labels": [f"{word} ({noun}), {end}" for end, by_noun in words.items() for noun, word in by_noun.items()],
            "tokens": list(places.values()),
            "sites": [chosen.path for chosen in sites],
            "overlaps": overlaps,
            "overlaps_by_chance": by_chance,
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
        },
        verdict=verdict.name,
        # The shares of all tokens sum to 1.
        baseline=((1 - found) / (embeddings["e_opt"].shape[1] - 1)).numpy(),
        kind="maps",
    )


def _second_stage(method: DiffColor) -> tuple[Adaptation, Rewriting]:
    """Return the adaptation with its context; StateError where no embedding was sought."""
    adaptation = method.adaptation
    rewriting = None if adaptation is None else adaptation.rewriting
    if adaptation is None or adaptation.optimized is None or rewriting is None:
        raise StateError(
            f"{method.model_name!r} has no embedding that reproduces a picture; tune it first, stage 2 included, or "
            "take one with colorizer.with_adaptation(...)."
        )
    return adaptation, rewriting


def _ends(
    method: DiffColor, prompt: str, places: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, str]]]:
    """Return the embeddings (1, N, D) at the ends of the path, and the words at some places of each by noun."""
    adaptation, rewriting = _second_stage(method)
    assert adaptation.optimized is not None
    identifiers = [rewriting.places[place] for place in sorted(rewriting.places)]
    embeddings = {"e_opt": adaptation.optimized.to(method.device, method.dtype)}
    words = {"e_opt": dict(zip(places, identifiers, strict=True))}
    if not rewriting.is_context(prompt):
        aligned = rewriting.align(prompt, method.components)
        with method.lock, torch.no_grad():
            embeddings["e_tgt"] = method.encode_prompt(aligned.text).tokens
        by_index = {index: word for index, _, word in aligned.rows}
        words["e_tgt"] = {noun: by_index[index] for noun, index in places.items()}
    return embeddings, words


def _read_maps(moment: Moment, tokens: torch.Tensor, places: Sequence[int], sites: Sequence[Site]) -> torch.Tensor:
    """Repeat a step under other tokens (1, N, D), and return the attention to some of them, (len(places), h, w)."""
    prepared: Any = moment.segment.prepared
    other = replace(prepared, text={**prepared.text, "cond": tokens})
    moment = replace(moment, segment=replace(moment.segment, prepared=other))
    with moment.lock, eagerly(), torch.no_grad():
        readings, _ = watch_call(moment, sites, wanted_passes=["cond"])
    columns = torch.zeros(tokens.shape[1], len(places))
    columns[list(places), range(len(places))] = 1
    finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
    parts = []
    for reading in readings.values():
        q, k = (reading.get(name)[moment.sample_row] for name in ("q", "k"))
        shares = attention_reduce(q, k, columns, scale=reading.scale).get("columns").mean(dim=0).T
        grids = shares.unflatten(1, reading.site.grid)
        parts.append(torch.stack([resize_map(part, finest, keep_sum=False) for part in grids]))
    return torch.stack(parts).mean(dim=0)


def _overlaps(
    maps: Mapping[str, torch.Tensor], words: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the overlap of each identifier with its word of the target and of each two, as found and by chance."""
    identifiers = list(zip(words["e_opt"].values(), maps["e_opt"], strict=True))
    pairs = [(f"{a} and {b}", one, other) for (a, one), (b, other) in itertools.combinations(identifiers, 2)]
    if "e_tgt" in maps:
        targets = zip(words["e_tgt"].values(), maps["e_tgt"], strict=True)
        # The word may be the identifier once more, read by the text encoder.
        named = [(f"{a} and {b}" if a != b else f"{a}, both ends", one, other)
                 for (a, one), (b, other) in zip(identifiers, targets, strict=True)]  # fmt: skip
        pairs = [*named, *pairs]
    found, by_chance = {}, {}
    for name, one, other in pairs:
        mask = _most(one)
        moves = random_shifts((one.shape[-2], one.shape[-1]))
        found[name] = overlap(other, mask)
        by_chance[name] = float(np.mean([overlap(other.roll(move, dims=(-2, -1)), mask) for move in moves]))
    return found, by_chance


def _most(values: torch.Tensor) -> torch.Tensor:
    """Return 1 in the quarter of the cells (h, w) with the largest values, 0 elsewhere."""
    mask = torch.zeros(values.numel())
    mask[values.flatten().topk(max(1, round(_SHARE * values.numel()))).indices] = 1
    return mask.view_as(values)
