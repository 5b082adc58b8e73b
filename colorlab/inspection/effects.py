"""What the edits of a branch do at one step: the same step with them less the same step without them."""

from dataclasses import replace

import numpy as np
import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.places import resize_map, word_tokens
from colorlab.inspection.replay import Moment, judge, moment_of, run_sites
from colorlab.networks.environment import eagerly, environment_of
from colorlab.networks.passes import check_passes
from colorlab.networks.patching import Patch, PatchCall, patched
from colorlab.networks.sites import Site, select_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import predict_step

__all__ = ["effect"]


def effect(
    run: Run, step: int, *, word: str | None = None, occurrence: int = 0, guidance_pass: str = "cond"
) -> Exhibit:
    """Show what the edits of a branch change at a step (replay: two network calls, with the edits and without).

    Args:
        run: a branch with edits that has taken the step.
        step: index of the step.
        word: None for the change of the guided prediction; a word of the prompt for the change of the attention that
            cells give to it, read from the matrices that the network really uses. Edits of keys, values and features
            also show there, except at the first site they reach.
        occurrence: which one if the word comes several times.
        guidance_pass: whose attention.

    Returns:
        (h, w). Without a word: length over the latent channels of the difference, in noise standard deviations, at
        least 0. With a word: difference of the attention, [-1, 1], mean over heads and cross-attention sites. The
        verdict is that of the step with its edits.

    Raises:
        StateError: the step was not taken, or has no edits.
        RangeError: there is no such word or pass.
    """
    moment = moment_of(run, step)
    edits = moment.segment.edits
    if not edits:
        raise StateError(f"Step {step} of {run.name!r} has no edits; branch(step=..., edits=[...]) makes them.")
    plain = replace(moment, segment=replace(moment.segment, edits=()))
    sites: tuple[Site, ...] = ()
    positions: tuple[int, ...] = ()
    if word is not None:
        check_passes([guidance_pass], moment.guidance_passes)
        sites = select_sites(run_sites(run), kind="attn2")
        positions = _positions(moment, guidance_pass, word, occurrence)
    with moment.method.lock, eagerly(), torch.no_grad():
        predictions, seen = _ask(moment, sites, positions, guidance_pass)
        others, others_seen = _ask(plain, sites, positions, guidance_pass)
        environment = replace(environment_of(moment.method.unet), is_compiled=False)
        # With matrices in the open a prediction is within rounding only; its verdict is judged without them.
        unwatched = predictions if word is None else predict_step(moment.method, moment.segment, moment.state)
        guided, other = (moment.method.guide(part, moment.segment.settings) for part in (predictions, others))
    verdict = judge(moment.record, unwatched, environment)
    array = torch.linalg.vector_norm(guided - other, dim=1)[0].float() if word is None else seen - others_seen
    if verdict.name == "refused":
        array = torch.full_like(array, float("nan"))
    names = "; ".join(map(repr, edits))
    what = "the guided prediction" if word is None else f"the attention to {word!r} in the pass {guidance_pass!r}"
    return Exhibit(
        array=np.asarray(array),
        axes=("h", "w"),
        unit="noise standard deviations" if word is None else "share of attention",
        caption=(
            f"What the edits change at step {step} in {what}, both from the recorded state: {names}. Replay: {verdict}."
        ),
        provenance={
            "query": "effect",
            "model": run.method.model_name,
            "weights": run.method.weights_hash,
            "run": run.name,
            "step": step,
            "edits": [repr(edit) for edit in edits],
            "word": word,
            "guidance_pass": None if word is None else guidance_pass,
            "sites": [site.path for site in sites],
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
        },
        verdict=verdict.name,
        kind="heatmap" if word is None else "difference",
    )


def _positions(moment: Moment, guidance_pass: str, word: str, occurrence: int) -> tuple[int, ...]:
    """Return the tokens of a word of the prompt."""
    text = moment.text(guidance_pass)
    positions = word_tokens(moment.method, text, word, occurrence)
    if not positions:
        raise RangeError(f"{word!r} is not in {text!r}; name a word of the prompt.")
    return positions


def _ask(
    moment: Moment, sites: tuple[Site, ...], positions: tuple[int, ...], guidance_pass: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Repeat a step; return its predictions and the attention to some tokens, averaged on the finest grid."""
    seen: dict[str, torch.Tensor] = {}

    def look(probs: torch.Tensor, where: PatchCall) -> None:
        seen[where.site] = probs[0][..., list(positions)].sum(dim=-1).mean(dim=0).cpu()

    # As patches that change nothing they come after the edits, and see what those left.
    watch = patched(
        moment.method.unet,
        [Patch(site.path, "probs", look, guidance_pass) for site in sites],
        guidance_passes=moment.guidance_passes,
        step_index=moment.state.step_index,
        num_samples=moment.num_samples,
    )
    predictions = predict_step(moment.method, moment.segment, moment.state, watch=watch)
    if not sites:
        return predictions, torch.empty(0)
    finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
    maps = [resize_map(seen[site.path].unflatten(0, site.grid), finest, keep_sum=False) for site in sites]
    return predictions, torch.stack(maps).mean(dim=0)
