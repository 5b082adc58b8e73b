"""Sources: what the color of a picture can be due to, and how each is taken away.

A kind of source is one class with two members, `labels` and `without`. The kinds that a run may have are found by the
functions in `SOURCE_FINDERS`; another kind (groups of exemplar patches, say) is one more class and one more finder.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.inspection.edits.words import Remove
from colorlab.inspection.places import word_spans, word_tokens
from colorlab.runs.edits import Edit
from colorlab.runs.run import Run
from colorlab.strokes import Stroke

__all__ = [
    "SOURCE_FINDERS",
    "Sources",
    "StrokeSources",
    "WordSources",
    "find_sources",
    "find_strokes",
    "find_words",
]

OTHER_WORDS = "(other words)"


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
        gone = [self.strokes[index] for index in removed]
        return conditioning.replace(strokes=[stroke for stroke in conditioning.strokes if stroke not in gone]), ()


def find_strokes(run: Run) -> StrokeSources | None:
    """Find the strokes of a run's conditioning at the start; None where there is none that the method reads."""
    strokes = tuple(run.segment_at(0).conditioning.strokes)
    return StrokeSources(strokes) if strokes and "strokes" in run.method.reads else None


SOURCE_FINDERS: tuple[Callable[[Run], Sources | None], ...] = (find_strokes,)
"""Finders of other kinds than words, each from a run to its sources of that kind, or None."""


def find_sources(run: Run, *, words: Sequence[str] | None = None, everywhere: bool = True) -> tuple[Sources, ...]:
    """Find all sources of a run; arguments as `find_words`.

    Raises:
        RangeError: there is none.
    """
    kinds = [find_words(run, words=words, everywhere=everywhere), *(find(run) for find in SOURCE_FINDERS)]
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
