"""Sources: what the color of a picture can be due to, and how each is taken away.

A kind of source is one class with two members, `labels` and `without`; `find_sources` looks for every kind.

| source | taken away |
| --- | --- |
| word | its keys are masked in every pass, and its place is kept |
| stroke | left out of the hint |
| group of exemplar patches | its colors: what is left is gray; without all groups there is no exemplar |
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from colorlab.color import image_to_gray
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.inspection.edits.words import Remove
from colorlab.inspection.places import word_spans, word_tokens
from colorlab.runs.edits import Edit
from colorlab.runs.run import Run
from colorlab.strokes import Stroke

__all__ = [
    "ExemplarSources",
    "Sources",
    "StrokeSources",
    "WordSources",
    "find_exemplar",
    "find_sources",
    "find_strokes",
    "find_words",
]

OTHER_WORDS = "(other words)"
# Along a side of an exemplar that no network sees as patches. Ours.
_NUM_CELLS = 16


class Sources(Protocol):
    """The sources of one kind in one run."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What each is called."""
        ...

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Take some of them away.

        Args:
            conditioning: of one stretch of the run; from other kinds something may be missing already.
            removed: rising indices of `labels`, at least one.

        Returns:
            The conditioning to encode in its place, and the edits that come after the run's own.
        """
        ...


@dataclass(frozen=True)
class WordSources:
    """Words of the prompt; without them means that their keys are masked in every pass, and their places kept.

    Args:
        groups: sources, each of one or several (word, occurrence).
        everywhere: whether the text encoder does not hear of a removed word either, see `colorlab.edits.Remove`.
    """

    groups: tuple[tuple[tuple[str, int], ...], ...]
    everywhere: bool = True

    @property
    def labels(self) -> tuple[str, ...]:
        """The words; a later one of the same spelling has its number."""
        return tuple(
            OTHER_WORDS if len(group) > 1 else word if not occurrence else f"{word} ({occurrence + 1})"
            for group in self.groups
            for word, occurrence in group[:1]
        )

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Return the same conditioning, and one edit for all words that are removed and that its prompt has."""
        named = [
            (word, occurrence)
            for index in removed
            for word, occurrence in self.groups[index]
            if occurrence < len(word_spans(conditioning.prompt, word))
        ]
        if not named:
            return conditioning, ()
        words, occurrences = zip(*named, strict=True)
        return conditioning, (Remove(words, occurrence=occurrences, everywhere=self.everywhere),)


def find_words(run: Run, *, words: Sequence[str] | None = None, everywhere: bool = True) -> WordSources | None:
    """Find the words of a run's prompt.

    Args:
        run: any run; its prompt at the start counts.
        words: those that are told apart, the first occurrence of each; all others together are one more source. None
            for every word.
        everywhere: see `WordSources`.

    Returns:
        The words that the model reads; None where it reads none.

    Raises:
        RangeError: a word is not in the prompt.
    """
    text = run.segment_at(0).conditioning.prompt
    if "tokenizer" not in run.method.components:
        return None
    found: list[tuple[str, int]] = []
    for match in re.finditer(r"\w+", text):
        word = match.group().lower()
        named = (word, sum(word == other for other, _ in found))
        if _is_read(run, text, *named):
            found.append(named)
    if words is None:
        return WordSources(tuple((named,) for named in found), everywhere) if found else None
    chosen = [(word.lower(), 0) for word in words]
    missing = [word for word in chosen if word not in found]
    if missing or len(set(chosen)) != len(chosen):
        there = ", ".join(dict.fromkeys(word for word, _ in found))
        raise RangeError(f"words are {list(words)}, but different single words of the prompt are expected: {there}.")
    rest = tuple(named for named in found if named not in chosen)
    return WordSources((*((named,) for named in chosen), *((rest,) if rest else ())), everywhere)


@dataclass(frozen=True)
class StrokeSources:
    """Strokes; without one means that it is left out of the hint.

    Args:
        strokes: in the order of painting.
    """

    strokes: tuple[Stroke, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Number and color of each."""
        return tuple(f"stroke {index} {stroke.color}" for index, stroke in enumerate(self.strokes))

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Return the conditioning with the other strokes; strokes that are not of this set stay."""
        kept = list(conditioning.strokes)
        for stroke in (self.strokes[index] for index in removed):
            # Equal strokes are as many sources, each taken away once.
            if stroke in kept:
                kept.remove(stroke)
        return conditioning.replace(strokes=kept), ()


def find_strokes(run: Run) -> StrokeSources | None:
    """Find the strokes of a run's conditioning at the start; None where there is none that the method reads."""
    strokes = tuple(run.segment_at(0).conditioning.strokes)
    return StrokeSources(strokes) if strokes and "strokes" in run.method.fields_read() else None


@dataclass(frozen=True, eq=False)
class ExemplarSources:
    """Groups of exemplar patches, in rows and columns over the whole exemplar.

    Args:
        exemplar: (H, W, 3), that of the run's start.
        grid: rows and columns of groups.
        side: patches along one side, as the image encoder cuts the exemplar; groups consist of whole patches.
    """

    exemplar: np.ndarray
    grid: tuple[int, int]
    side: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Row and column of each, the first at the top left."""
        return tuple(f"exemplar {row + 1}, {column + 1}" for row, column in np.ndindex(self.grid))

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Return the conditioning with those parts of the exemplar gray; another exemplar, given later, stays."""
        if conditioning.exemplar is None or not np.array_equal(conditioning.exemplar, self.exemplar):
            return conditioning, ()
        if len(removed) == len(self.labels):
            return conditioning.replace(exemplar=None), ()
        gray = image_to_gray(torch.tensor(self.exemplar).permute(2, 0, 1)[None])[0, 0].numpy()
        changed = self.exemplar.copy()
        for index in removed:
            place = self._place(index)
            changed[place] = gray[place][..., None]
        return conditioning.replace(exemplar=changed), ()

    def _place(self, index: int) -> tuple[slice, slice]:
        """Return the rows and columns of pixels of a group."""
        row, column = divmod(index, self.grid[1])
        height, width = self.exemplar.shape[:2]
        return self._span(row, self.grid[0], height), self._span(column, self.grid[1], width)

    def _span(self, number: int, count: int, size_px: int) -> slice:
        """Return the pixels of one of `count` parts of a side, cut between patches."""
        patches = (number * self.side // count, (number + 1) * self.side // count)
        first, last = (round(patch * size_px / self.side) for patch in patches)
        return slice(first, last)


def find_exemplar(run: Run, *, grid: tuple[int, int] = (2, 2)) -> ExemplarSources | None:
    """Find the groups of patches of a run's exemplar at the start; None where there is none that the method reads.

    Args:
        run: any run.
        grid: rows and columns of groups.

    Raises:
        RangeError: there are not so many patches.
    """
    exemplar = run.segment_at(0).conditioning.exemplar
    if exemplar is None or "exemplar" not in run.method.fields_read():
        return None
    networks: Any = run.method.networks
    encoders = [networks[name] for name in ("image_encoder", "projected_image_encoder") if name in networks]
    side = encoders[0].config.image_size // encoders[0].config.patch_size if encoders else _NUM_CELLS
    is_grid = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(count, int) for count in grid)
    if not is_grid or min(grid) < 1 or max(grid) > side:
        raise RangeError(f"exemplar_grid is {grid!r}, but (rows, columns) of 1 to {side} patches each are expected.")
    return ExemplarSources(exemplar, grid, side)


def find_sources(
    run: Run, *, words: Sequence[str] | None = None, everywhere: bool = True, exemplar_grid: tuple[int, int] = (2, 2)
) -> tuple[Sources, ...]:
    """Find all sources of a run; arguments as `find_words` and `find_exemplar`.

    Raises:
        RangeError: there is none.
    """
    kinds = [
        find_words(run, words=words, everywhere=everywhere),
        find_strokes(run),
        find_exemplar(run, grid=exemplar_grid),
    ]
    found = tuple(kind for kind in kinds if kind is not None)
    if not found:
        raise RangeError("This run has no words and nothing else that could be taken away; give it a prompt.")
    return found


def _is_read(run: Run, text: str, word: str, occurrence: int) -> bool:
    """Return whether a word lies within the tokens that the model reads."""
    try:
        return bool(word_tokens(run.method, text, word, occurrence))
    except RangeError:
        return False
