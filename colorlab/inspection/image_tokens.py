"""Attention to pictures: the second set of keys that an IP-Adapter brings into cross-attention.

An IP-Adapter attends twice from the same queries: to the text as ever, and to a few tokens of a picture, each with a
softmax of its own. The shares of a cell sum to 1 over the tokens of the picture; the adapter's scale is not in them.
"""

from collections.abc import Sequence
from dataclasses import replace

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.inspection.codings import choose_pass
from colorlab.inspection.moments import Askable
from colorlab.inspection.queries import answer
from colorlab.inspection.questions import ask_place, ask_tokens
from colorlab.inspection.replay import moment_of

__all__ = ["image_attention"]


def image_attention(
    run: Askable,
    step: int,
    *,
    token: int | Sequence[int] | None = None,
    pixel: tuple[float, float] | None = None,
    adapter: int = 0,
    site: str | None = None,
    head: int | None = None,
    guidance_pass: str | None = None,
    baseline: bool = False,
    max_bytes: int = 2**26,
) -> Exhibit:
    """Show attention to the pictures of an IP-Adapter (replay: one network call, none for further questions).

    Args:
        run: a recording of a pipeline with an IP-Adapter.
        step: index of the step.
        token: position of an image token, or several; those of several pictures come one after the other.
        pixel: (x, y) of the picture that is made; one of token and pixel is given.
        adapter: number of the IP-Adapter, in the order of loading.
        site: path of a cross-attention site, or a pattern; None for the mean of all.
        head: index; None for the mean.
        guidance_pass: in which pass, None for the one that sees all that was given, `cond` or `full`; in that
            without guidance images are those of no picture.
        baseline: whether to add what chance would give: for tokens, as many of the others; for a pixel, the mean of 32
            random ones.
        max_bytes: working memory of the reduction.

    Returns:
        Of a token, (h, w): attention of each cell to it. Of a pixel, (token,): what it looks at; sums to 1. NaN where
        the replay is refused.

    Raises:
        StateError: the step was not taken; there is no such adapter, or its scale is 0 there.
        RangeError: not one of token and pixel is given; a token, pixel, site, head or pass does not exist.
    """
    if (token is None) == (pixel is None):
        raise RangeError("Give one of token and pixel.")
    moment = moment_of(run, step)
    guidance_pass = choose_pass(moment, guidance_pass)

    question = ask_tokens(token) if token is not None else ask_place(moment, pixel, None, "from")
    details = {**question.details, "query": "image_attention", "adapter": adapter}
    title = question.title.replace("token", "image token")
    question = replace(question, title=title, kinds=("attn2",), adapter=adapter, details=details)
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
