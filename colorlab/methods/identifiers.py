"""Prompts with identifiers: "a photo of a cat" becomes "a photo of a sks cat", so that a color has a place of its own.

An identifier is a rare word of one token. It stands where a color word could stand, in front of each object; a target
text that names a color there has as many tokens, and each token of the one is the same place of the other.

Source: DiffColor, arXiv 2308.01655; where identifiers stand is not known, the reading is ours.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from colorlab.color import COLORS
from colorlab.errors import RangeError
from colorlab.mechanisms.embedding_path import EmbeddingPath
from colorlab.methods.text import tokenize, tokens_between

__all__ = ["COLOR_WORDS", "IDENTIFIERS", "AlignedTarget", "Rewriting", "check_context", "rewrite"]

IDENTIFIERS = ("sks", "zwx", "ohwx", "qvz", "xjk", "vpt")
"""Rare words without meaning, for textual identifiers; those that are one token of the model's vocabulary are used."""

_MORE_COLORS = """
grey white black beige violet magenta maroon crimson scarlet teal turquoise navy golden gold silver tan lime indigo
khaki cream
"""
COLOR_WORDS = frozenset(COLORS) | frozenset(_MORE_COLORS.split())
"""Words that name a color; a context may hold none of them."""

_ARTICLES = frozenset({"a", "an", "the"})
_MEDIA = frozenset(("photo", "photograph", "picture", "image", "painting", "drawing", "scene", "view", "shot"))
_PREPOSITIONS = """
of on in at with without and or under over near beside behind before above below between into onto through to by from
next is are was were that which who standing sitting lying flying
"""
_BREAKS = frozenset(_PREPOSITIONS.split())
_WORD = re.compile(r"[\w'-]+|[^\w\s]")


@dataclass(frozen=True)
class AlignedTarget:
    """A target text whose tokens lie on those of the rewritten context.

    Args:
        text: the target; where it names no color of an object, with that object's identifier.
        rows: (token index, token of the context, token of the target), start and end tokens left out.
        objects: token indices of each object's phrase, from the place of its color to its noun, by noun.
        num_tokens: tokens with padding.
    """

    text: str
    rows: tuple[tuple[int, str, str], ...]
    objects: Mapping[str, tuple[int, ...]]
    num_tokens: int

    def etas(self, by_object: Mapping[str, float], *, rest: float = 0.0) -> tuple[float, ...]:
        """Return one eta for each token, for `embedding_path.token_etas`.

        Args:
            by_object: noun -> eta of its phrase.
            rest: eta of every other token, padding included, where the text encoder gathers the whole text.

        Raises:
            RangeError: no object is called so, or an eta is out of the range of `embedding_path.eta`.
        """
        for eta in (rest, *by_object.values()):
            EmbeddingPath.parameters[0].check(eta, EmbeddingPath.name)
        etas = [float(rest)] * self.num_tokens
        for noun, eta in by_object.items():
            if noun not in self.objects:
                raise RangeError(f"The target has no object {noun!r}; it has {', '.join(self.objects)}.")
            for index in self.objects[noun]:
                etas[index] = float(eta)
        return tuple(etas)

    def __repr__(self) -> str:
        width = max(len(context) for _, context, _ in self.rows)
        lines = (
            f"{index:3d}  {context:<{width}}  {target}{'' if target == context else '  <-'}"
            for index, context, target in self.rows
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Rewriting:
    """A context prompt with an identifier in front of each object.

    Args:
        context: as the user wrote it.
        words: of the context.
        places: position among the words -> identifier that stands in front of it.
        nouns: the same positions -> noun of the object.
    """

    context: str
    words: tuple[str, ...]
    places: Mapping[int, str]
    nouns: Mapping[int, str]

    @property
    def text(self) -> str:
        """The rewritten prompt."""
        return " ".join(self._filled(self.places))

    def align(self, target: str, components: Mapping[str, Any]) -> AlignedTarget:
        """Lay a target text onto the rewritten context.

        Args:
            target: the context with a color word in front of one or several objects.
            components: of a model, with `tokenizer` and `text_encoder`.

        Raises:
            RangeError: the target is the context, says something else than the context, or has more tokens.
        """
        found = self._read(_words(target), target)
        if not found:
            raise RangeError(
                f"The target {target!r} is the context itself; name a color in front of an object, as in "
                f"{self._example()!r}."
            )
        filled = {**self.places, **found}
        mine, its = self._tokens(self.places, components), self._tokens(filled, components)
        if [number for number, _ in mine] != [number for number, _ in its]:
            longer = next(word for (a, _), (b, word) in zip(mine, its, strict=True) if a != b)
            raise RangeError(
                f"The target {target!r} is longer than the context: {longer!r} is several tokens of this model, where "
                "one has its place; take another word."
            )
        rows: list[tuple[int, str, str]] = []
        objects: dict[str, tuple[int, ...]] = {}
        index = 1
        positions = self._positions()
        for (number, word), (_, other), position in zip(mine, its, positions, strict=True):
            rows += [(index + k, word, other) for k in range(number)]
            for noun, members in self._members().items():
                if position in members:
                    objects[noun] = (*objects.get(noun, ()), *range(index, index + number))
            index += number
        num_tokens = len(tokenize("", components).input_ids)
        return AlignedTarget(" ".join(self._filled(filled)), tuple(rows), objects, num_tokens)

    def identifier_tokens(self, components: Mapping[str, Any]) -> dict[str, int]:
        """Return the token index of each object's identifier, and of the word in its place, by noun."""
        found: dict[str, int] = {}
        index, members = 1, self._members()
        for (number, _), position in zip(self._tokens(self.places, components), self._positions(), strict=True):
            found |= {noun: index for noun, positions in members.items() if positions[0] == position}
            index += number
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        places, nouns = ({str(key): value for key, value in part.items()} for part in (self.places, self.nouns))
        return {"context": self.context, "words": list(self.words), "places": places, "nouns": nouns}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Rewriting":
        """Make a rewriting from plain values; the inverse of `to_dict`."""
        places, nouns = ({int(key): str(value) for key, value in values[part].items()} for part in ("places", "nouns"))
        return cls(str(values["context"]), tuple(values["words"]), places, nouns)

    def is_context(self, prompt: str) -> bool:
        """Return whether a prompt names no target: empty, the context, or the rewritten context."""
        asked = [_same(word) for word in _words(prompt)]
        return asked in ([], [_same(word) for word in self.words], [_same(word) for word in _words(self.text)])

    def _read(self, target: Sequence[str], text: str) -> dict[int, str]:
        """Find the word of the target at each place; places whose identifier or nothing stands there are left out."""
        found: dict[int, str] = {}
        index = 0
        for position, word in enumerate(self.words):
            inserted: list[str] = []
            while index < len(target) and _same(target[index]) != _same(word):
                inserted.append(target[index])
                index += 1
            if (
                position in self.places
                and not inserted
                and [_same(one) for one in target[index : index + 2]] == [_same(word)] * 2
            ):
                # An orange orange: the first one is its color.
                inserted.append(target[index])
                index += 1
            if index == len(target) or (inserted and position not in self.places):
                raise RangeError(
                    f"The target {text!r} is not the context {self.context!r} with colors: {word!r} has no place in "
                    f"it; change nothing but words in front of {', '.join(map(repr, self.nouns.values()))}."
                )
            if len(inserted) > 1:
                raise RangeError(
                    f"The target {text!r} is longer than the context: {' '.join(inserted)!r} stands where one word "
                    "has its place."
                )
            if inserted and inserted[0].lower() != self.places[position]:
                found[position] = inserted[0]
            index += 1
        if index < len(target):
            raise RangeError(
                f"The target {text!r} is longer than the context {self.context!r}: {' '.join(target[index:])!r} has no "
                "place in it."
            )
        return found

    def _filled(self, fillings: Mapping[int, str]) -> list[str]:
        """Return the words with one in front of each place, "a" and "an" as they fit."""
        words: list[str] = []
        for position, word in enumerate(self.words):
            if position in fillings:
                if words and words[-1].lower() in ("a", "an"):
                    words[-1] = "an" if fillings[position][0] in "aeio" else "a"
                words.append(fillings[position])
            words.append(word)
        return words

    def _positions(self) -> list[float]:
        """Return where each filled word belongs: a position among the words, half one less for a filling."""
        return sorted([*range(len(self.words)), *(position - 0.5 for position in self.places)])

    def _members(self) -> dict[str, tuple[float, ...]]:
        """Return the positions of each object's phrase, its filling included, by noun."""
        members: dict[str, tuple[float, ...]] = {}
        for place, noun in self.nouns.items():
            end = next(k for k in range(place, len(self.words)) if self.words[k] == noun)
            count = sum(name.partition(" ")[0] == noun for name in members)
            members[f"{noun} {count + 1}" if count else noun] = (place - 0.5, *range(place, end + 1))
        return members

    def _tokens(self, fillings: Mapping[int, str], components: Mapping[str, Any]) -> list[tuple[int, str]]:
        """Return (number of tokens, word) of every filled word, as the model reads the whole text."""
        words = self._filled(fillings)
        text, spans = "", []
        for word in words:
            start = len(text) + (1 if text else 0)
            text = f"{text} {word}" if text else word
            spans.append((start, start + len(word)))
        offsets = tokenize(text, components)["offset_mapping"]
        return [(len(tokens_between(offsets, *span)), word) for span, word in zip(spans, words, strict=True)]

    def _example(self) -> str:
        """Return a target that would do."""
        place = next(iter(self.places))
        return " ".join(word for word in self._filled({place: "blue"}))


def check_context(context: str, *, nouns: Sequence[str] = ()) -> None:
    """Raise unless a text can be the context of a tuning.

    Args:
        context: what a picture shows.
        nouns: words of it that are objects, whatever else they can mean: an orange, a rose.

    Raises:
        RangeError: it is empty or names colors.
    """
    if not context.strip():
        raise RangeError("The context prompt is empty; say what the picture shows, as in 'a photo of a cat'.")
    things = {noun.lower() for noun in nouns}
    named = [word for word in _words(context.lower()) if word in COLOR_WORDS and word not in things]
    if named:
        raise RangeError(
            f"The context prompt {context!r} already names the color {named[0]!r}; leave colors out, they are for the "
            f"target, or name it with all other objects as a thing: nouns=[{named[0]!r}, ...] (--noun {named[0]})."
        )


def rewrite(context: str, components: Mapping[str, Any], *, nouns: Sequence[str] = ()) -> Rewriting:
    """Put an identifier in front of each object of a context prompt.

    Args:
        context: names no color, such as "a photo of a cat on a sofa".
        components: of a model, with `tokenizer` and `text_encoder`.
        nouns: which words are objects; by default the last words of phrases that begin with an article.

    Raises:
        RangeError: the context is empty, names colors, has no noun, or not those given; or the model has no rare word.
    """
    check_context(context, nouns=nouns)
    words = _words(context)
    places = _given_places(words, nouns) if nouns else _found_places(words)
    if not places:
        raise RangeError(
            f"No object was found in {context!r}; write it with an article, as in 'a photo of a cat'. Without one it "
            "is named by --noun cat on the command line, and by nouns=('cat',) in Python."
        )
    free = [name for name in IDENTIFIERS if name not in words and _num_tokens(name, components) == 1]
    if not free:
        raise RangeError(f"None of {', '.join(IDENTIFIERS)} is a single token of this model; it cannot be tuned so.")
    # More objects than identifiers: the first ones are told apart.
    pairs = list(zip(sorted(places), free, strict=False))
    return Rewriting(context, tuple(words), dict(pairs), {place: places[place] for place, _ in pairs})


def _found_places(words: Sequence[str]) -> dict[int, str]:
    """Find phrases that begin with an article: position after it -> last word of the phrase."""
    places = {}
    for position, word in enumerate(words):
        if word.lower() not in _ARTICLES:
            continue
        rest = list(words[position + 1 :])
        length = next((k for k, other in enumerate(rest) if _ends_phrase(other)), len(rest))
        if length and rest[length - 1].lower() not in _MEDIA:
            places[position + 1] = rest[length - 1]
    return places


def _ends_phrase(word: str) -> bool:
    """Return whether a word stands behind the noun of a phrase."""
    return word.lower() in _BREAKS | _ARTICLES or not word[0].isalnum()


def _given_places(words: Sequence[str], nouns: Sequence[str]) -> dict[int, str]:
    """Find the words that the user named."""
    lowered = [word.lower() for word in words]
    places = {}
    for noun in nouns:
        if noun.lower() not in lowered:
            raise RangeError(f"The context has no word {noun!r}; it has {', '.join(words)}.")
        position = lowered.index(noun.lower())
        places[position] = words[position]
    return places


def _num_tokens(word: str, components: Mapping[str, Any]) -> int:
    """Return as how many tokens the model reads a word."""
    return len(components["tokenizer"](word, add_special_tokens=False).input_ids)


def _words(text: str) -> list[str]:
    """Split a text into words and signs."""
    return _WORD.findall(text)


def _same(word: str) -> str:
    """Return what words that count as equal have in common: the case, and "a" and "an", do not matter."""
    lowered = word.lower()
    return "a" if lowered == "an" else lowered
