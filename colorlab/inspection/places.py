"""Where a word, a pixel or a region lies in an attention matrix: from the user's units to tokens and cells."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.inspection.moments import PastStep, Reader
from colorlab.methods.base import Method
from colorlab.methods.text import tokenize, tokens_between, word_spans
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes

__all__ = [
    "check_pixel",
    "context_names",
    "coverage",
    "picture_size",
    "pixel_cell",
    "reads_words",
    "resize_map",
    "shuffled_words",
    "template_tokens",
    "text_of_pass",
    "token_names",
    "tokenized",
    "word_spans",
    "word_tokens",
]


def reads_words(reader: Reader | Method) -> bool:
    """Return whether cross-attention receives words: a tokenizer alone may read texts that edit an exemplar."""
    return "tokenizer" in reader.components and "text_encoder" in reader.components


def text_of_pass(method: Method, conditioning: Conditioning, guidance_pass: str, settings: Settings) -> str:
    """Return the text whose tokens the cross-attention of a guidance pass receives.

    Raises:
        StateError: the method has no text encoder.
    """
    if not reads_words(method):
        raise StateError(f"{method.name} reads no words; name a pixel, a region or a site instead.")
    # `uncond`, and a pass made from it such as `degraded_uncond`.
    if guidance_pass.endswith("uncond"):
        return conditioning.negative_prompt
    return method.text_in_force(conditioning.prompt, settings)


def word_tokens(reader: Reader, text: str, word: str, occurrence: int = 0) -> tuple[int, ...]:
    """Return the positions of a word, or of words in a row, among the tokens of a text.

    Args:
        reader: whose tokenizer reads the text.
        text: a prompt.
        word: whole words, upper or lower case.
        occurrence: which one if it comes several times, 0 first.

    Returns:
        Rising positions, the start token counted; a word of several pieces has several. Empty where the word is not in
        the text.

    Raises:
        RangeError: the word is empty, comes less often, or lies beyond the tokens that the model reads.
    """
    found = word_spans(text, word)
    if not found:
        return ()
    if not 0 <= occurrence < len(found):
        raise RangeError(
            f"occurrence is {occurrence}, but {word!r} comes {len(found)} time(s) in {text!r}; count from 0."
        )
    positions = _positions_between(reader, text, *found[occurrence])
    if not positions:
        length = len(token_names(reader, text))
        raise RangeError(f"{word!r} lies beyond the {length} tokens that this model reads; shorten the prompt.")
    return positions


def _positions_between(reader: Reader, text: str, start: int, end: int) -> tuple[int, ...]:
    """Return the positions of the tokens of text[start:end]; empty beyond what the model reads."""
    return tokens_between(tokenized(reader, text)["offset_mapping"], start, end)


def template_tokens(reader: Reader, text: str, word: str, *, num_places: int = 8) -> torch.Tensor:
    """Encode a word as if it were in a text: at the places of the words that are there, one after the other.

    What a text encoder makes of a word depends on where it stands at least as much as on the word; alone, and so at
    the first place, it resembles no word of a prompt. The caller holds the lock of the model.

    Args:
        reader: whose text encoder is asked.
        text: a prompt.
        word: one, or several in a row.
        num_places: at most so many, spread evenly over the text.

    Returns:
        (pieces, D), the mean over the places; that of the word alone where the text is empty.

    Raises:
        RangeError: the word has more pieces than the model reads anywhere in this text.
    """
    word = word.strip()
    spans = [match.span() for match in re.finditer(r"\w+", text)] or [(0, len(text))]
    chosen = sorted({round(index * (len(spans) - 1) / max(num_places - 1, 1)) for index in range(num_places)})
    found: list[torch.Tensor] = []
    for start, end in (spans[index] for index in chosen):
        there = f"{text[:start]}{word}{text[end:]}"
        positions = _positions_between(reader, there, start, start + len(word))
        encoded = reader.encode_prompt(there).tokens[0, list(positions)]
        # At the end of a long text a word may be cut short.
        if not found or len(encoded) == len(found[0]):
            found.append(encoded)
    if not len(found[0]):
        raise RangeError(f"{word!r} lies beyond the tokens that this model reads; shorten the prompt.")
    return torch.stack(found).mean(dim=0)


def token_names(reader: Reader, text: str) -> list[str]:
    """Return the tokens of a text as they are spelt, one for each key of the cross-attention."""
    names: list[str] = reader.components["tokenizer"].convert_ids_to_tokens(tokenized(reader, text)["input_ids"])
    return names


def context_names(moment: PastStep, guidance_pass: str, number: int | None) -> list[str]:
    """Name the tokens that cross-attention reads: as they are spelt, or by position where they are no words.

    Args:
        moment: the step.
        guidance_pass: in which pass.
        number: of tokens; None where nothing was read.
    """
    if reads_words(moment.reader):
        names = token_names(moment.reader, moment.text(guidance_pass))
        num_all = len(names) + moment.reader.num_more_tokens
        if number in (None, num_all):
            return names + [f"token {index}" for index in range(len(names), num_all)]
    return [f"token {index}" for index in range(number or 0)]


def shuffled_words(reader: Reader, text: str, positions: tuple[int, ...], word: str) -> str:
    """Return a text with its words in another order, drawn by a fixed seed, and at `positions` none that is `word`.

    Without a word any other order will do.

    Raises:
        RangeError: there is no such order, because the text has one word or the same everywhere.
    """
    words = text.split()
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        order = torch.randperm(len(words), generator=generator).tolist()
        shuffled = " ".join(words[index] for index in order)
        places: set[int] = set()
        for match in range(len(word_spans(shuffled, word)) if positions else 0):
            places |= set(word_tokens(reader, shuffled, word, match))
        if shuffled != text and not places & set(positions):
            return shuffled
    without = f" without {word!r} at its place" if word else ""
    raise RangeError(f"The words of {text!r} have no other order{without}, so there is no baseline; ask without it.")


def picture_size(method: Method, conditioning: Conditioning, latent_shape: Sequence[int]) -> tuple[int, int]:
    """Return the (height, width) of the picture of a conditioning, whose latents are (..., h, w)."""
    height, width = latent_shape[-2:]
    return conditioning.size or (height * method.latent_factor, width * method.latent_factor)


def check_pixel(pixel: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Return a pixel as (x, y).

    Args:
        pixel: two numbers, origin top left.
        size: (height, width) of the picture.

    Raises:
        RangeError: it is something else, or lies outside of the picture.
    """
    expected = f"(x, y) within {size[1]}x{size[0]} (width x height) is expected"
    try:
        x, y = (float(number) for number in pixel)
    except (TypeError, ValueError):
        raise RangeError(f"pixel is {pixel!r}, but {expected}.") from None
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise RangeError(f"pixel is ({x:g}, {y:g}), but {expected}.")
    return x, y


def pixel_cell(pixel: tuple[float, float], size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Return the row-major index of the grid cell that a pixel falls into.

    Args:
        pixel: (x, y) in pixels of the picture, origin top left.
        size: (height, width) of the picture.
        grid: (h, w).

    Raises:
        RangeError: it is no pixel of the picture.
    """
    x, y = check_pixel(pixel, size)
    return int(y * grid[0] / size[0]) * grid[1] + int(x * grid[1] / size[1])


def coverage(
    region: Any, size: tuple[int, int], grid: tuple[int, int], *, shift: tuple[int, int] = (0, 0)
) -> torch.Tensor:
    """Return how much of every grid cell a region covers.

    Args:
        region: mask (H, W) of the size of the picture, bool or 0 and 1; or a `Stroke` or `Strokes`.
        size: (height, width) of the picture.
        grid: (h, w).
        shift: rows and columns by which the region is moved around the picture, cyclically.

    Returns:
        (h * w,) float32, [0, 1].

    Raises:
        ShapeError: the mask has another size.
        RangeError: it covers nothing.
    """
    if isinstance(region, Stroke):
        region = Strokes([region])
    mask = region.rasterize(*size)[1][0, 0].numpy() if isinstance(region, Strokes) else np.asarray(region)
    if mask.shape != size:
        raise ShapeError(f"region has shape {mask.shape}, but the size of the picture, {size}, is expected.")
    covered = torch.from_numpy((mask > 0).astype(np.float32)).roll(shift, dims=(0, 1))
    if not bool(covered.any()):
        raise RangeError("region covers no pixel; mark at least one.")
    return functional.adaptive_avg_pool2d(covered[None, None], grid).flatten()


def resize_map(values: torch.Tensor, grid: tuple[int, int], *, keep_sum: bool) -> torch.Tensor:
    """Bring a map (h, w) onto another grid.

    Args:
        values: (h, w) float.
        grid: wanted (h, w).
        keep_sum: whether the values are shares of a whole, which is then spread over the new cells.
    """
    if tuple(values.shape) == grid:
        return values
    resized = functional.interpolate(values[None, None], size=grid, mode="bilinear", align_corners=False)[0, 0]
    if keep_sum and float(resized.sum()) > 0:
        resized = resized * (values.sum() / resized.sum())
    return resized


def tokenized(reader: Reader, text: str) -> Any:
    """Tokenize a text as the reader's model does; see `colorlab.methods.text.tokenize`."""
    return tokenize(text, reader.components)
