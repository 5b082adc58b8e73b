"""Sources: what the color of a picture can be due to, and how each is taken away.

A kind of source is one class with two members, `labels` and `without`; `find_sources` looks for every kind.

| source | taken away |
| --- | --- |
| word | its keys are masked in every pass, and its place is kept |
| stroke | left out of the hint |
| text edit of the exemplar | left out of the edits |
| group of exemplar patches | its colors: what is left is gray; without all groups there is no exemplar |

A branch has other words, strokes, text edits or another exemplar from some step on: the sources of all steps are found,
and each is taken away at the steps that have it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from colorlab.color import image_to_gray
from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError
from colorlab.inspection.edits.words import Remove
from colorlab.inspection.places import word_tokens
from colorlab.runs.edits import Edit
from colorlab.runs.run import Run
from colorlab.strokes import Stroke

__all__ = [
    "ExemplarSources",
    "Sources",
    "StrokeSources",
    "TextEditSources",
    "WordSources",
    "find_exemplars",
    "find_sources",
    "find_strokes",
    "find_text_edits",
    "find_words",
    "given_by_step",
]

Source = TypeVar("Source")
Word = tuple[str, int]
"""A word and its occurrence."""

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
        groups: sources, each of one or several words.
        read: which words of a prompt the model reads, for every prompt of the run.
        everywhere: whether the text encoder does not hear of a removed word either, see `colorlab.edits.Remove`.
    """

    groups: tuple[tuple[Word, ...], ...]
    read: Mapping[str, Sequence[Word]]
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
        there = self.read.get(conditioning.prompt, ())
        named = [word for index in removed for word in self.groups[index] if word in there]
        if not named:
            return conditioning, ()
        words, occurrences = zip(*named, strict=True)
        return conditioning, (Remove(words, occurrence=occurrences, everywhere=self.everywhere),)


def find_words(run: Run, *, words: Sequence[str] | None = None, everywhere: bool = True) -> WordSources | None:
    """Find the words of a run's prompts.

    Args:
        run: any run; words that a branch was given count, and those that it no longer has.
        words: those that are told apart, the first occurrence of each; all others together are one more source. None
            for every word.
        everywhere: see `WordSources`.

    Returns:
        The words that the model reads; None where it reads none.

    Raises:
        RangeError: a word is in no prompt.
    """
    if "prompt" not in run.method.fields_read():
        return None
    read = {conditioning.prompt: _read_words(run, conditioning.prompt) for conditioning in given_by_step(run).values()}
    found = _united(read.values())
    if words is None:
        return WordSources(tuple((named,) for named in found), read, everywhere) if found else None
    chosen = [(word.lower(), 0) for word in words]
    missing = [word for word in chosen if word not in found]
    if missing or len(set(chosen)) != len(chosen):
        there = ", ".join(dict.fromkeys(word for word, _ in found))
        raise RangeError(f"words are {list(words)}, but different single words of the prompt are expected: {there}.")
    rest = tuple(named for named in found if named not in chosen)
    return WordSources((*((named,) for named in chosen), *((rest,) if rest else ())), read, everywhere)


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
        return conditioning.replace(strokes=_left(conditioning.strokes, self.strokes, removed)), ()


def find_strokes(run: Run) -> StrokeSources | None:
    """Find the strokes of all steps of a run; None where there is none that the method reads."""
    strokes = tuple(_united(conditioning.strokes for conditioning in given_by_step(run).values()))
    return StrokeSources(strokes) if strokes and "strokes" in run.method.fields_read() else None


@dataclass(frozen=True)
class TextEditSources:
    """Text edits of an exemplar; without one means that the others are made alone, in their order.

    Args:
        edits: in the order in which they are made.
    """

    edits: tuple[Manipulation, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Number and target text of each."""
        return tuple(f"text edit {index} {edit.target_text!r}" for index, edit in enumerate(self.edits))

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Return the conditioning with the other edits; edits that are not of this set stay."""
        return conditioning.replace(manipulations=_left(conditioning.manipulations, self.edits, removed)), ()


def find_text_edits(run: Run) -> TextEditSources | None:
    """Find the text edits of all steps of a run; None where there is none that the method reads."""
    edits = tuple(_united(conditioning.manipulations for conditioning in given_by_step(run).values()))
    return TextEditSources(edits) if edits and "manipulations" in run.method.fields_read() else None


@dataclass(frozen=True, eq=False)
class ExemplarSources:
    """Groups of exemplar patches, in rows and columns over the whole exemplar.

    Args:
        exemplar: (H, W, 3).
        grid: rows and columns of groups.
        side: patches along one side, as the image encoder cuts the exemplar; groups consist of whole patches.
        name: tells it from other exemplars of the run.
    """

    exemplar: np.ndarray
    grid: tuple[int, int]
    side: int
    name: str = "exemplar"

    @property
    def labels(self) -> tuple[str, ...]:
        """Row and column of each, the first at the top left."""
        return tuple(f"{self.name} {row + 1}, {column + 1}" for row, column in np.ndindex(self.grid))

    def without(self, conditioning: Conditioning, removed: Sequence[int]) -> tuple[Conditioning, tuple[Edit, ...]]:
        """Return the conditioning with those parts of the exemplar gray; another exemplar stays."""
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


def find_exemplars(run: Run, *, grid: tuple[int, int] = (2, 2)) -> tuple[ExemplarSources, ...]:
    """Find the groups of patches of every exemplar of a run; none where there is none that the method reads.

    Args:
        run: any run.
        grid: rows and columns of groups.

    Raises:
        RangeError: there are not so many patches.
    """
    found: dict[str, np.ndarray] = {}
    for step, conditioning in given_by_step(run).items():
        exemplar = conditioning.exemplar
        if exemplar is not None and not any(np.array_equal(exemplar, other) for other in found.values()):
            found[f"exemplar of step {step}" if found else "exemplar"] = exemplar
    if not found or "exemplar" not in run.method.fields_read():
        return ()
    networks: Any = run.method.networks
    encoders = [networks[name] for name in ("image_encoder", "projected_image_encoder") if name in networks]
    side = encoders[0].config.image_size // encoders[0].config.patch_size if encoders else _NUM_CELLS
    is_grid = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(count, int) for count in grid)
    if not is_grid or min(grid) < 1 or max(grid) > side:
        raise RangeError(f"exemplar_grid is {grid!r}, but (rows, columns) of 1 to {side} patches each are expected.")
    return tuple(ExemplarSources(exemplar, grid, side, name) for name, exemplar in found.items())


def find_sources(
    run: Run, *, words: Sequence[str] | None = None, everywhere: bool = True, exemplar_grid: tuple[int, int] = (2, 2)
) -> tuple[Sources, ...]:
    """Find all sources of a run; arguments as `find_words` and `find_exemplars`.

    Raises:
        RangeError: there is none.
    """
    kinds = [
        find_words(run, words=words, everywhere=everywhere),
        find_strokes(run),
        find_text_edits(run),
        *find_exemplars(run, grid=exemplar_grid),
    ]
    found = tuple(kind for kind in kinds if kind is not None)
    if not found:
        raise RangeError("This run has no words and nothing else that could be taken away; give it a prompt.")
    return found


def given_by_step(run: Run) -> dict[int, Conditioning]:
    """Return what was given, by the first step that it governs; what governs the decoding alone is left out."""
    segments = [segment for segment in run.segments if segment.first_step < run.num_steps]
    return {segment.first_step: segment.conditioning for segment in segments}


def _united(groups: Iterable[Iterable[Source]]) -> list[Source]:
    """Return what is in any group, in order of appearance; equal ones as often as in the group that has most."""
    found: list[Source] = []
    for group in groups:
        known = list(found)
        for one in group:
            if one in known:
                known.remove(one)
            else:
                found.append(one)
    return found


def _left(there: Sequence[Source], known: Sequence[Source], removed: Sequence[int]) -> list[Source]:
    """Return what stays; of equal ones that goes which stands where it stands among the known ones."""
    gone: set[int] = set()
    for index in removed:
        equal = [place for place, one in enumerate(there) if one == known[index]]
        number = sum(one == known[index] for one in known[:index])
        gone |= set(equal[number : number + 1])
    return [one for place, one in enumerate(there) if place not in gone]


def _read_words(run: Run, text: str) -> list[Word]:
    """Return the words of a text that lie within the tokens that the model reads."""
    found: list[Word] = []
    for match in re.finditer(r"\w+", text):
        word = match.group().lower()
        named = (word, sum(word == other for other, _ in found))
        if _is_read(run, text, *named):
            found.append(named)
    return found


def _is_read(run: Run, text: str, word: str, occurrence: int) -> bool:
    """Return whether a word lies within the tokens that the model reads."""
    try:
        return bool(word_tokens(run.method, text, word, occurrence))
    except RangeError:
        return False
