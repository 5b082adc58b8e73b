"""Phrases and masks: which words of a prompt describe the object that a mask marks.

A mask is named by the words that describe its object, as they stand in the prompt: `{"red cup": mask}`. Where they
stand there several times the name says which: `"red cup#2"` is the second. Naming a mask anew is how a pairing is
edited.

As published the phrases are what stands between commas, and the masks belong to them in their order, whatever their
names.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.methods.text import tokenize, tokens_between, word_spans

__all__ = ["Pair", "comma_spans", "object_phrases", "pair_masks", "phrase_mask_arrays", "phrase_tokens"]

# Where the description of one object ends, and words that say where it is; before "of" stands what kind of picture.
_SEPARATORS = r"[,;.]|\band\b|\bnext to\b|\bbeside\b|\bon\b|\bin\b|\bunder\b|\bat\b|\bover\b|\bwith\b"
_PLACE_WORDS = ("on", "in", "under", "at", "over")
_LEADS = r"(?:.*\bof\s+)?(?:(?:a|an|the)\s+)?"
_COMMA = ",</w>"
_NUMBERED = re.compile(r"^(.*\S)\s*#\s*(\d+)$")


@dataclass(frozen=True)
class Pair:
    """A mask and the words of the prompt that describe its object.

    Args:
        name: of the mask.
        phrase: the words, as they stand in the prompt.
        tokens: positions of their tokens, the start token counted.
        pieces: these tokens as they are spelt.
    """

    name: str
    phrase: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]


def object_phrases(prompt: str) -> tuple[str, ...]:
    """List the words that describe objects in a prompt, as names for masks, in their order.

    By commas, "and" and words of place, articles left out: a proposal to choose from, not grammar. Words that come
    several times are numbered.

    Example:
        >>> object_phrases("a red cup, a blue cup and a red cup on the table")
        ('red cup#1', 'blue cup', 'red cup#2')
    """
    names, before, start = [], "", 0
    for part in re.split(f"({_SEPARATORS})", prompt, flags=re.IGNORECASE):
        match = re.match(rf"\s*{_LEADS}(.*\S)", part, flags=re.IGNORECASE)
        is_separator = re.fullmatch(_SEPARATORS, part, flags=re.IGNORECASE) is not None
        if match and not is_separator and before not in _PLACE_WORDS:
            spans = word_spans(prompt, match[1])
            number = spans.index((start + match.start(1), start + match.end(1))) + 1
            names.append(match[1] if len(spans) == 1 else f"{match[1]}#{number}")
        before = part.lower() if is_separator else before
        start += len(part)
    return tuple(names)


def pair_masks(
    conditioning: Conditioning, components: Mapping[str, Any], *, as_published: bool = False
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Find the words that each mask of a conditioning belongs to.

    Args:
        conditioning: with masks.
        components: of the model that reads the prompt, with `tokenizer` and `text_encoder`.
        as_published: by order instead of by name.

    Returns:
        One pair for each mask in their order, and notes: words that are cut off, a phrase like a masked one that has no
        mask.

    Raises:
        RangeError: a mask has no words in the prompt, or several that could be meant, or those of another mask; or it
            covers everything; as published: there are not as many phrases as masks.
    """
    prompt = conditioning.prompt
    for name, mask in conditioning.masks.items():
        if mask.all():
            raise RangeError(
                f"The mask {name!r} covers the whole picture, so that it tells no object from another; mark the object "
                "alone, or leave the mask out."
            )
    encoded = tokenize(prompt, components)
    pieces = components["tokenizer"].convert_ids_to_tokens(encoded["input_ids"])
    if as_published:
        return _pairs_by_order(conditioning, pieces, _num_words(encoded)), ()
    pairs: list[Pair] = []
    notes: list[str] = []
    owners: dict[int, str] = {}
    for name in conditioning.masks:
        tokens, phrase, read = _tokens_of(name, prompt, encoded)
        if read != phrase:
            notes.append(f"Of the phrase {phrase!r} this model reads {read!r} only; shorten the prompt.")
        for token in tokens:
            if token in owners:
                raise RangeError(
                    f"The masks {owners[token]!r} and {name!r} are both named by the word {pieces[token]!r} at place "
                    f"{token} of the prompt; name each by words of its own."
                )
            owners[token] = name
        pairs.append(Pair(name, phrase, tokens, tuple(pieces[token] for token in tokens)))
    return tuple(pairs), (*notes, *_lonely_phrases(prompt, pairs, encoded["offset_mapping"]))


def phrase_tokens(names: Sequence[str], prompt: str, components: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Return the positions of the tokens of phrases, named as masks are.

    Raises:
        RangeError: the words of a name are not in the prompt, are there several times, or are not read.
    """
    encoded = tokenize(prompt, components)
    return tuple(_tokens_of(name, prompt, encoded)[0] for name in names)


def comma_spans(pieces: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return where the phrases between commas lie among the tokens of a prompt, as the released demo splits them.

    Args:
        pieces: tokens as a CLIP tokenizer spells them, start and end token left out.

    Returns:
        (first, end) of each phrase, the start token counted, the end exclusive and commas left out. Only a comma that
        is a token of its own counts; after a last comma comes an empty phrase.

    Source: `changzheng123/L-CAD@3e1d8d6`, the demo script's split list.
    """
    commas = [index + 1 for index, piece in enumerate(pieces) if piece == _COMMA]
    starts = [1, *(comma + 1 for comma in commas)]
    return tuple(zip(starts, [*commas, len(pieces) + 1], strict=True))


def _pairs_by_order(conditioning: Conditioning, pieces: Sequence[str], num_words: int) -> tuple[Pair, ...]:
    """Pair masks with the phrases between commas, in their order."""
    spans = comma_spans(pieces[1 : 1 + num_words])
    if len(spans) != len(conditioning.masks):
        raise RangeError(
            f"The prompt has {len(spans)} phrases between commas, but {len(conditioning.masks)} masks came; as "
            "published each phrase has one mask, in the same order."
        )
    pairs = []
    for (name, _), (first, end) in zip(conditioning.masks.items(), spans, strict=True):
        if first == end:
            raise RangeError(f"The phrase of the mask {name!r} is empty: the prompt ends with a comma; leave it out.")
        own = tuple(pieces[first:end])
        pairs.append(Pair(name, "".join(own).replace("</w>", " ").strip(), tuple(range(first, end)), own))
    return tuple(pairs)


def _num_words(encoded: Any) -> int:
    """Count the tokens of the text itself: start, end and padding tokens cover no character."""
    return sum(last > first for first, last in encoded["offset_mapping"])


def _tokens_of(name: str, prompt: str, encoded: Any) -> tuple[tuple[int, ...], str, str]:
    """Return the tokens of a mask's phrase, the phrase, and what of it the model reads."""
    start, end = _span_of(name, prompt)
    offsets = encoded["offset_mapping"]
    tokens = tokens_between(offsets, start, end)
    if not tokens:
        raise RangeError(
            f"The words {prompt[start:end]!r} of the mask {name!r} lie beyond the {len(offsets)} tokens that this "
            "model reads, so that they guide nothing; shorten the prompt, or leave the mask out."
        )
    return tokens, prompt[start:end], prompt[start : min(end, offsets[tokens[-1]][1])]


def _span_of(name: str, prompt: str) -> tuple[int, int]:
    """Find the words of a mask's name in the prompt, (start, end) in characters."""
    match = _NUMBERED.match(name.strip())
    words, number = (match[1], int(match[2])) if match else (name, None)
    spans = word_spans(prompt, words)
    if not spans:
        known = ", ".join(map(repr, object_phrases(prompt))) or "none"
        raise RangeError(
            f"The mask {name!r} names words that are not in the prompt {prompt!r}; name it by words of the prompt "
            f"(objects there: {known})."
        )
    if number is None and len(spans) > 1:
        raise RangeError(
            f"The words {words!r} come {len(spans)} times in the prompt, so that it is open which of them the mask is "
            f"for; name it '{words}#1' to '{words}#{len(spans)}'."
        )
    if number is not None and not 1 <= number <= len(spans):
        raise RangeError(f"The mask {name!r} asks for number {number}, but {words!r} comes {len(spans)} time(s).")
    return spans[(number or 1) - 1]


def _lonely_phrases(prompt: str, pairs: Sequence[Pair], offsets: Sequence[tuple[int, int]]) -> list[str]:
    """Say which phrases end in the noun of a masked one but have no mask: their color may go to any such object."""
    nouns = {pair.phrase.split()[-1].lower(): pair.phrase for pair in pairs}
    taken = {token for pair in pairs for token in pair.tokens}
    notes = []
    for name in object_phrases(prompt):
        noun = name.partition("#")[0].split()[-1].lower()
        tokens = tokens_between(offsets, *_span_of(name, prompt))
        if noun in nouns and tokens and not taken & set(tokens):
            notes.append(
                f"The phrase {name!r} has no mask although {nouns[noun]!r} has one, so that it may color any {noun}; "
                "give it one, too."
            )
    return notes


def phrase_mask_arrays(
    conditioning: Conditioning, pairs: Sequence[Pair], num_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of each phrase, (K, num_tokens) float32 of 0 and 1, and its mask, (K, H, W) float32."""
    tokens = np.zeros((len(pairs), num_tokens), dtype=np.float32)
    for row, pair in zip(tokens, pairs, strict=True):
        row[list(pair.tokens)] = 1
    return tokens, np.stack([conditioning.masks[pair.name] for pair in pairs]).astype(np.float32)
