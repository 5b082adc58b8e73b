"""What is asked about attention, in the units of an attention matrix: weights of its keys or of its queries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from colorlab.errors import RangeError
from colorlab.inspection.baselines import random_pixels, random_shifts
from colorlab.inspection.moments import PastCall, PastStep
from colorlab.inspection.places import (
    check_pixel,
    coverage,
    pixel_cell,
    template_tokens,
    token_names,
    word_tokens,
)
from colorlab.networks.sites import ATTENTION_KINDS, Site, SiteKind

__all__ = ["Direction", "Measure", "Question", "ask_measure", "ask_place", "ask_tokens", "ask_word"]

Direction = Literal["from", "to"]
Measure = Literal["entropy", "spread", "mean_x", "mean_y"]

Weights = Callable[[Site, int], torch.Tensor]


@dataclass(frozen=True)
class Question:
    """What is asked of every reading.

    Args:
        title: for the caption.
        side: which axis of the matrix the weights belong to, or the name of a measure.
        kinds: of sites that can answer, the preferred one first.
        weights: (positions,) of the keys or queries of a site, whose number is the second argument; None for a measure.
        null_weights: the same for the baseline; None where it comes about in another way.
        details: for the provenance.
        extra_tokens: (n, D) embeddings whose keys are appended; their weight is 1, that of all others 0.
        adapter: number of the IP-Adapter whose pictures are the keys; None for the context.
    """

    title: str
    side: str
    kinds: tuple[SiteKind, ...]
    weights: Weights | None = None
    null_weights: Weights | None = None
    details: dict[str, Any] = field(default_factory=dict)
    extra_tokens: torch.Tensor | None = None
    adapter: int | None = None

    @property
    def reads_words(self) -> bool:
        """Whether the keys are the words of a text."""
        return "word" in self.details


def ask_measure(measure: Measure) -> Question:
    """Ask for a number that sums up the attention of each cell.

    Raises:
        RangeError: there is no such measure.
    """
    if measure not in get_args(Measure):
        raise RangeError(f"measure is {measure!r}, but one of {', '.join(get_args(Measure))} is expected.")
    kinds: tuple[SiteKind, ...] = ATTENTION_KINDS if measure == "entropy" else ("attn1",)
    return Question(f"{measure.replace('_', ' ').capitalize()} of the attention of each cell", measure, kinds)


def ask_word(moment: PastStep, guidance_pass: str, word: str, occurrence: int) -> Question:
    """Ask how much each cell attends to a word, or would attend to one that is not in the text."""
    reader, text = moment.reader, moment.text(guidance_pass)
    positions = word_tokens(reader, text, word, occurrence)
    details = {"word": word, "occurrence": occurrence, "text": text, "tokens": list(positions)}
    indicator = torch.zeros(len(token_names(reader, text)))
    indicator[list(positions)] = 1
    title = f"Attention to {word!r}"
    if positions:
        return Question(title, "keys", ("attn2",), lambda site, number: indicator, None, details)
    with moment.lock, torch.no_grad():
        extra_tokens = template_tokens(reader, text, word)
    return Question(
        f"{title}, which the prompt does not have,",
        "keys",
        ("attn2",),
        lambda site, number: indicator,
        None,
        {**details, "is_in_prompt": False},
        extra_tokens,
    )


def ask_tokens(token: int | Sequence[int]) -> Question:
    """Ask how much each cell attends to tokens of the context by their positions, whatever they stand for.

    Raises:
        RangeError: there is none, one comes twice, or is no position (those beyond the end tell the weights).
    """
    tokens = [token] if isinstance(token, int) else list(token)
    is_wrong = not tokens or len(set(tokens)) != len(tokens)
    if is_wrong or any(not isinstance(index, int) or isinstance(index, bool) or index < 0 for index in tokens):
        raise RangeError(f"token is {token!r}, but the position of a token, 0 first, or of several, is expected.")

    def chosen(site: Site, number: int) -> torch.Tensor:
        if max(tokens) >= number:
            raise RangeError(f"token is {token!r}, but {site.path!r} reads tokens 0 to {number - 1}.")
        weights = torch.zeros(number)
        weights[tokens] = 1
        return weights

    def others(site: Site, number: int) -> torch.Tensor:
        if len(tokens) == number:
            raise RangeError(f"All {number} tokens are asked for, so there is no baseline; ask without it.")
        return (1 - chosen(site, number)) * len(tokens) / (number - len(tokens))

    name = f"token {tokens[0]}" if len(tokens) == 1 else f"{len(tokens)} tokens"
    return Question(f"Attention to {name}", "keys", ("attn2",), chosen, others, {"tokens": tokens})


def ask_place(moment: PastCall, pixel: tuple[float, float] | None, region: Any, direction: Direction) -> Question:
    """Ask where a pixel or region looks, or who looks at it.

    Raises:
        RangeError: there is no such direction, pixel or region.
        ShapeError: the region has another size than the picture.
    """
    if direction not in get_args(Direction):
        raise RangeError(f"direction is {direction!r}, but 'from' or 'to' is expected.")
    size = moment.image_size
    details: dict[str, Any] = {"direction": direction}
    if pixel is not None:
        point = check_pixel(pixel, size)
        name = f"pixel ({round(point[0], 1):g}, {round(point[1], 1):g})"
        details["pixel"] = list(point)

        def weights(site: Site, number: int) -> torch.Tensor:
            return _shares([point], size, site)

        def null_weights(site: Site, number: int) -> torch.Tensor:
            return _shares(random_pixels(size), size, site)
    else:
        name = "the region"
        details["share_of_picture"] = float(coverage(region, size, (1, 1)))

        def weights(site: Site, number: int) -> torch.Tensor:
            return coverage(region, size, site.grid)

        def null_weights(site: Site, number: int) -> torch.Tensor:
            parts = [coverage(region, size, site.grid, shift=shift) for shift in random_shifts(size)]
            return torch.stack(parts).mean(dim=0)

    if direction == "to":
        return Question(f"Attention of each cell to {name}", "keys", ("attn1",), weights, null_weights, details)

    def normalised(raw: Weights) -> Weights:
        return lambda site, number: raw(site, number) / raw(site, number).sum()

    return Question(
        f"Where {name} looks", "queries", ATTENTION_KINDS, normalised(weights), normalised(null_weights), details
    )


def _shares(pixels: list[tuple[float, float]], size: tuple[int, int], site: Site) -> torch.Tensor:
    """Return the share of pixels that fall into each cell of a site, (positions,)."""
    cells = torch.tensor([pixel_cell(pixel, size, site.grid) for pixel in pixels])
    return torch.bincount(cells, minlength=site.num_positions) / len(cells)
