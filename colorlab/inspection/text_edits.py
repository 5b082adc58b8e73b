"""Where a local text edit of the exemplar reaches the picture: its position weights, seen through cross-attention.

The weights belong to patches of the exemplar; every cell of the picture mixes patches by its attention. With
probabilities P (cells, patches) and weights w (patches,), P w is the mean weight of what a cell looks at: how much of
the edit arrives there.
"""

from dataclasses import replace

import torch

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.codings import as_step, call_of
from colorlab.inspection.queries import answer
from colorlab.inspection.questions import Question
from colorlab.networks.sites import Site
from colorlab.runs.run import Run

__all__ = ["position_weights"]

_PASS = "full"
_NULL_SEED = 0


def position_weights(
    run: Run,
    step: int,
    edit: int = 0,
    *,
    site: str | None = None,
    head: int | None = None,
    baseline: bool = False,
    max_bytes: int = 2**26,
) -> Exhibit:
    """Show the position weights of a local edit over the picture (replay: one network call, none for further ones).

    Args:
        run: a run of ColorizeDiffusion's Attention model that has taken the step, with text edits.
        step: index of the step.
        edit: which one, 0 first.
        site: path of a cross-attention site, or a pattern with `*`; None for the mean of all.
        head: index; None for the mean.
        baseline: whether to add the same weights at shuffled places of the exemplar.
        max_bytes: working memory.

    Returns:
        (h, w): mean weight of the patches that each cell looks at; NaN where the replay is refused.

    Raises:
        StateError: the step was not taken, the run has no local edits, or the exemplar did not count at the step.
        RangeError: there is no such edit, site or head.
    """
    moment = as_step(call_of(run, step, site), "text edits")
    values = _weights_of(run, step, edit)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(_NULL_SEED))

    def chosen(of: Site, number: int) -> torch.Tensor:
        if number != len(values):
            raise StateError(f"At step {step} the exemplar does not count, so that no edit of it reaches the picture.")
        return values

    question = Question(
        f"Position weights of edit {edit} through attention",
        "keys",
        ("attn2",),
        chosen,
        lambda of, number: chosen(of, number)[order],
        {"query": "position_weights", "edit": edit, "is_signed": bool((values < 0).any())},
    )
    found = answer(
        run,
        moment,
        question,
        site=site,
        head=head,
        guidance_pass=_PASS,
        baseline=baseline,
        max_bytes=max_bytes,
    )
    return replace(found, unit="position weight")


def _weights_of(run: Run, step: int, edit: int) -> torch.Tensor:
    """Return the position weights (N,) float32 of an edit that is in force at a step."""
    weights: tuple[torch.Tensor, ...] = getattr(run.segment_at(step).prepared, "weights", ())
    if not weights:
        raise StateError(
            "This run has no local text edits, which only models that read the exemplar's patches have; give "
            "manipulations=[colorlab.Manipulation(...)] and an exemplar."
        )
    if not 0 <= edit < len(weights):
        raise RangeError(f"edit is {edit}, but the run has edits 0 to {len(weights) - 1}.")
    return weights[edit].detach().float().cpu()[0, :, 0]
