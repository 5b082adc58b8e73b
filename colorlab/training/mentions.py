"""Nouns inside full captions, and which object each of them means.

Cross-attention reads the hidden states of a caption's tokens one by one, so the state of "car" in "a red car and a blue
house" has to carry red, and only red. Contrasting whole phrases does not ask for that; contrasting mentions does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from colorlab.errors import StateError
from colorlab.networks.libraries import CLIPTokenizer
from colorlab.training.scene_captions import with_article

Things = Sequence[tuple[str, str]]
"""(color, kind) of the instances of a scene."""


@dataclass(frozen=True)
class Mentions:
    """Places of nouns in a list of texts.

    Args:
        texts: B captions.
        rows: (M,) int64, index of the text.
        positions: (M,) int64, index of the noun's token, counted with the start token.
        labels: M strings, "color kind".
    """

    texts: list[str]
    rows: torch.Tensor
    positions: torch.Tensor
    labels: list[str]


def find_mentions(tokenizer: CLIPTokenizer, texts: Sequence[str], things: Sequence[Things]) -> Mentions:
    """Find the noun of every instance that a caption names with its color.

    Args:
        tokenizer: knows each color and kind as one token.
        texts: B captions.
        things: what each of them may name.

    Returns:
        One mention for each (text, instance) that is named with its color.

    Raises:
        StateError: a color or kind is not one token.
    """
    rows, positions, labels = [], [], []
    for row, (ids, named) in enumerate(zip(tokenizer(list(texts))["input_ids"], things, strict=True)):
        pairs = list(pairwise(ids))
        for color, kind in dict.fromkeys(named):
            pair = (_token(tokenizer, color), _token(tokenizer, kind))
            if pair in pairs:
                rows.append(row)
                positions.append(pairs.index(pair) + 1)
                labels.append(f"{color} {kind}")
    return Mentions(list(texts), torch.tensor(rows).long(), torch.tensor(positions).long(), labels)


def exchange_colors(text: str, things: Things) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Give every instance that a caption names the color of the next one.

    Args:
        text: caption.
        things: the instances.

    Returns:
        The caption with its color words passed on, and the instances as it now describes them.
    """
    colors = [color for color, _ in things]
    passed_on = tuple(zip([*colors[1:], *colors[:1]], [kind for _, kind in things], strict=True))
    names = {
        with_article(f"{color} {kind}"): with_article(f"{new} {kind}")
        for (color, kind), (new, _) in zip(things, passed_on, strict=True)
    }
    pattern = "|".join(rf"\b{re.escape(name)}\b" for name in names)
    return re.sub(pattern, lambda match: names[match[0]], text), passed_on


def _token(tokenizer: CLIPTokenizer, word: str) -> int:
    """Return the one token of a word."""
    ids = tokenizer(word)["input_ids"]
    if len(ids) != 3:
        raise StateError(f"{word!r} is {len(ids) - 2} tokens, but 1 is expected; train the tokenizer with this word.")
    return int(ids[1])
