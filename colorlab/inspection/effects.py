"""What the edits of a branch do at one step: the same step with them less the same step without them."""

from dataclasses import dataclass, replace

import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.baselines import elsewhere
from colorlab.inspection.codings import choose_pass
from colorlab.inspection.places import resize_map, word_tokens
from colorlab.inspection.replay import Moment, judge, moment_of
from colorlab.inspection.verdicts import Verdict
from colorlab.inspection.views import origin
from colorlab.networks.environment import eagerly, environment_of
from colorlab.networks.patching import Patch, PatchCall, patched
from colorlab.networks.sites import Site, find_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import predict_step

__all__ = ["effect"]


@dataclass(frozen=True, eq=False)
class _Change:
    """What edits change at a step.

    Args:
        array: (h, w), with the edits less without them.
        verdict: of the step with its edits.
        what: was compared, in words.
        unit: of the array.
        sites: at which attention was read.
        guidance_pass: in which it was read.
    """

    array: torch.Tensor
    verdict: Verdict
    what: str
    unit: str
    sites: tuple[Site, ...] = ()
    guidance_pass: str | None = None


def effect(
    run: Run,
    step: int,
    *,
    word: str | None = None,
    occurrence: int = 0,
    guidance_pass: str | None = None,
    baseline: bool = False,
) -> Exhibit:
    """Show what the edits of a branch change at a step (replay: two network calls, with the edits and without).

    Args:
        run: a branch with edits that has taken the step.
        step: index of the step.
        word: None for the change of the guided prediction; a word of the prompt for the change of the attention that
            cells give to it, read from the matrices that the network really uses. Edits of keys, values and features
            also show there, except at the first site they reach.
        occurrence: which one if the word comes several times.
        guidance_pass: whose attention; None for the pass that sees all that was given, `cond` or `full`.
        baseline: whether to add the same map elsewhere, the mean of 16 random moves.

    Returns:
        (h, w). Without a word: length over the latent channels of the difference, in noise standard deviations, at
        least 0. With a word: difference of the attention, [-1, 1], mean over heads and cross-attention sites. The
        verdict is that of the step with its edits; NaN where it is refused.

    Raises:
        StateError: the step was not taken, or has no edits.
        RangeError: there is no such word or pass.
    """
    moment = moment_of(run, step)
    edits = [repr(edit) for edit in moment.segment.edits]
    if not edits:
        raise StateError(f"Step {step} of {run.name!r} has no edits; branch(step=..., edits=[...]) makes them.")
    if word is None:
        change = _change_of_prediction(moment)
    else:
        change = _change_of_attention(moment, guidance_pass, word, occurrence)
    verdict = change.verdict
    array = change.array if verdict.name != "refused" else torch.full_like(change.array, torch.nan)
    return Exhibit(
        array=array.numpy(),
        axes=("h", "w"),
        unit=change.unit,
        caption=(
            f"What the edits change at step {step} in {change.what}, both from the recorded state: {'; '.join(edits)}. "
            f"Replay: {verdict}."
        ),
        provenance={
            **origin(run, moment, "effect"),
            "edits": edits,
            "word": word,
            "guidance_pass": change.guidance_pass,
            "sites": [site.path for site in change.sites],
            "difference": verdict.difference,
            "reasons": list(verdict.reasons),
        },
        verdict=verdict.name,
        baseline=elsewhere(array).numpy() if baseline else None,
        kind="heatmap" if word is None else "difference",
    )


def _change_of_prediction(moment: Moment) -> _Change:
    """Compare the guided predictions of a step."""
    method, settings = moment.method, moment.segment.settings
    with method.lock, eagerly(), torch.no_grad():
        environment = replace(environment_of(method.unet), is_compiled=False)
        edited, plain = (predict_step(method, each.segment, each.state) for each in (moment, _without_edits(moment)))
        difference = method.guide(edited, settings) - method.guide(plain, settings)
    lengths = torch.linalg.vector_norm(difference, dim=1)[0].float()
    verdict = judge(moment.record, edited, environment)
    return _Change(lengths, verdict, "the guided prediction", "noise standard deviations")


def _change_of_attention(moment: Moment, asked_pass: str | None, word: str, occurrence: int) -> _Change:
    """Compare the attention to a word at a step."""
    guidance_pass = choose_pass(moment, asked_pass)
    method, sites = moment.method, find_sites(moment.method.unet, moment.state.latents.shape, kind="attn2")
    positions = _positions(moment, guidance_pass, word, occurrence)
    with method.lock, eagerly(), torch.no_grad():
        edited, plain = (_attention(each, sites, positions, guidance_pass) for each in (moment, _without_edits(moment)))
        environment = replace(environment_of(method.unet), is_compiled=False)
        # With matrices in the open a prediction is within rounding only; its verdict is judged without them.
        verdict = judge(moment.record, predict_step(method, moment.segment, moment.state), environment)
    what = f"the attention to {word!r} in the pass {guidance_pass!r}"
    return _Change(edited - plain, verdict, what, "share of attention", sites, guidance_pass)


def _without_edits(moment: Moment) -> Moment:
    """Return the same step without its edits."""
    return replace(moment, segment=replace(moment.segment, edits=()))


def _positions(moment: Moment, guidance_pass: str, word: str, occurrence: int) -> tuple[int, ...]:
    """Return the tokens of a word of the prompt."""
    text = moment.text(guidance_pass)
    positions = word_tokens(moment.method, text, word, occurrence)
    if not positions:
        raise RangeError(f"{word!r} is not in {text!r}; name a word of the prompt.")
    return positions


def _attention(moment: Moment, sites: tuple[Site, ...], positions: tuple[int, ...], guidance_pass: str) -> torch.Tensor:
    """Repeat a step; return the attention to some tokens (h, w), averaged on the finest grid."""
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
    predict_step(moment.method, moment.segment, moment.state, watch=watch)
    finest = max((site.grid for site in sites), key=lambda grid: grid[0] * grid[1])
    maps = [resize_map(seen[site.path].unflatten(0, site.grid), finest, keep_sum=False) for site in sites]
    return torch.stack(maps).mean(dim=0)
