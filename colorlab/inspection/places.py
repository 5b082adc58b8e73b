"""Where a word, a pixel or a region lies in an attention matrix: from the user's units to tokens and cells."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.errors import RangeError, ShapeError
from colorlab.inspection.moments import Reader
from colorlab.strokes import Stroke, Strokes

__all__ = [
    "coverage",
    "pixel_cell",
    "resize_map",
    "shuffled_words",
    "token_names",
    "word_tokens",
]


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
    if not isinstance(word, str) or not word.strip():
        raise RangeError(f"word is {word!r}, but at least one word is expected.")
    found = list(re.finditer(rf"(?<!\w){re.escape(word.strip())}(?!\w)", text, flags=re.IGNORECASE))
    if not found:
        return ()
    if not 0 <= occurrence < len(found):
        raise RangeError(
            f"occurrence is {occurrence}, but {word!r} comes {len(found)} time(s) in {text!r}; count from 0."
        )
    start, end = found[occurrence].span()
    offsets = _tokenized(reader, text)["offset_mapping"]
    positions = tuple(index for index, (first, last) in enumerate(offsets) if first < end and last > start)
    if not positions:
        raise RangeError(f"{word!r} lies beyond the {len(offsets)} tokens that this model reads; shorten the prompt.")
    return positions


def token_names(reader: Reader, text: str) -> list[str]:
    """Return the tokens of a text as they are spelt, one for each key of the cross-attention."""
    names: list[str] = reader.components["tokenizer"].convert_ids_to_tokens(_tokenized(reader, text)["input_ids"])
    return names


def shuffled_words(reader: Reader, text: str, positions: tuple[int, ...], word: str) -> str:
    """Return a text with its words in another order, drawn by a fixed seed, and another word at `positions`.

    Raises:
        RangeError: there is no such order, because the text has one word or the same everywhere.
    """
    words = text.split()
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        order = torch.randperm(len(words), generator=generator).tolist()
        shuffled = " ".join(words[index] for index in order)
        places: set[int] = set()
        for match in range(len(re.findall(rf"(?<!\w){re.escape(word.strip())}(?!\w)", shuffled, flags=re.IGNORECASE))):
            places |= set(word_tokens(reader, shuffled, word, match))
        if shuffled != text and not places & set(positions):
            return shuffled
    raise RangeError(f"The words of {text!r} have no other order without {word!r} at its place, so it has no baseline.")


def pixel_cell(pixel: tuple[float, float], size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Return the row-major index of the grid cell that a pixel falls into.

    Args:
        pixel: (x, y) in pixels of the picture, origin top left.
        size: (height, width) of the picture.
        grid: (h, w).

    Raises:
        RangeError: the pixel lies outside the picture.
    """
    x, y = pixel
    if not (0 <= x < size[1] and 0 <= y < size[0]):
        raise RangeError(
            f"pixel is {tuple(pixel)}, but (x, y) within {size[1]}x{size[0]} (width x height) is expected."
        )
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


def _tokenized(reader: Reader, text: str) -> Mapping[str, Any]:
    """Tokenize a text as `encode_text` does, with the place of every token in it."""
    tokenizer, config = reader.components["tokenizer"], reader.components["text_encoder"].config
    max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    encoded: Mapping[str, Any] = tokenizer(
        text, padding="max_length", max_length=max_length, truncation=True, return_offsets_mapping=True
    )
    return encoded
