"""Words to the tokens that cross-attention receives, and a sentence for every word that does not arrive."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from colorlab.errors import RangeError

__all__ = [
    "WORDS_ARE_TOKENS",
    "EncodedText",
    "encode_text",
    "encode_text_vector",
    "tokenize",
    "tokens_between",
    "word_spans",
]

WORDS_ARE_TOKENS = "words_are_tokens"
"""Entry of a tokenizer's configuration: every word the model knows is one token, a word in pieces is unknown to it."""


@dataclass(frozen=True)
class EncodedText:
    """An encoded prompt.

    Args:
        tokens: (1, N, D), the text encoder's last hidden state, padded to the tokenizer's length N; of a text vector
            (1, 1, D).
        notes: sentences for the user: what was cut off, which words the vocabulary does not have.
    """

    tokens: torch.Tensor
    notes: tuple[str, ...] = ()


def encode_text(text: str, tokenizer: Any, text_encoder: torch.nn.Module) -> EncodedText:
    """Encode a prompt as Stable Diffusion does: last hidden state with the final norm, padded to full length.

    Args:
        text: any length; "" is the empty prompt.
        tokenizer: a CLIP tokenizer.
        text_encoder: a CLIP text model; the tokens have its device and dtype.

    Returns:
        The tokens, and notes on what did not fit or is unknown.

    Source: CompVis/latent-diffusion `FrozenCLIPEmbedder`; L-CAD 2305.15217 uses it unchanged.
    """
    ids, notes = _read(text, tokenizer, text_encoder)
    return EncodedText(text_encoder(ids).last_hidden_state, notes)


def encode_text_vector(
    text: str, tokenizer: Any, text_encoder: torch.nn.Module, *, num_skipped_blocks: int = 0
) -> EncodedText:
    """Encode a text into one unit vector of the space that CLIP's pictures share.

    Args:
        text: any length.
        tokenizer: a CLIP tokenizer.
        text_encoder: a CLIP text tower with its projection; the vector has its device and dtype.
        num_skipped_blocks: how many of the last transformer blocks are left out, in front of the final norm.

    Returns:
        The vector as one token (1, 1, D), and notes on what did not fit or is unknown.

    Source: ColorizeDiffusion, arXiv 2401.01456; tellurion-kanata/colorizeDiffusion@d876b7e runs all blocks, @c9bd9fb
        skips one.
    """
    encoder: Any = text_encoder
    ids, notes = _read(text, tokenizer, text_encoder)
    states = encoder(input_ids=ids, output_hidden_states=True).hidden_states
    hidden = encoder.text_model.final_layer_norm(states[len(states) - 1 - num_skipped_blocks])
    # The first end token closes the text; padding may repeat it.
    end = (ids[0] == tokenizer.eos_token_id).nonzero()[0, 0]
    vector = encoder.text_projection(hidden[:, end])
    return EncodedText(torch.nn.functional.normalize(vector, dim=-1)[:, None], notes)


def _read(text: str, tokenizer: Any, text_encoder: torch.nn.Module) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Spell a text as (1, N) token ids on the encoder's device, and say what of it does not arrive."""
    config: Any = text_encoder.config
    max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    encoded = tokenizer(text, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    return encoded.input_ids.to(next(text_encoder.parameters()).device), _notes(text, tokenizer, max_length)


def tokenize(text: str, components: Mapping[str, Any]) -> Any:
    """Tokenize a text as `encode_text` does, with the place of every token in it; a transformers `BatchEncoding`.

    Args:
        text: a prompt.
        components: of a model, with `tokenizer` and `text_encoder`.
    """
    tokenizer, config = components["tokenizer"], components["text_encoder"].config
    max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    return tokenizer(text, padding="max_length", max_length=max_length, truncation=True, return_offsets_mapping=True)


def word_spans(text: str, word: str) -> list[tuple[int, int]]:
    """Return where a word, or words in a row, stand in a text: (start, end) of every occurrence, in characters.

    Raises:
        RangeError: the word is empty.
    """
    if not isinstance(word, str) or not word.strip():
        raise RangeError(f"word is {word!r}, but at least one word is expected.")
    pattern = rf"(?<!\w){re.escape(word.strip())}(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, flags=re.IGNORECASE)]


def tokens_between(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    """Return the positions of the tokens of text[start:end] by the offsets that `tokenize` gives."""
    return tuple(index for index, (first, last) in enumerate(offsets) if first < end and last > start)


_NUM_WORDS_SHOWN = 6
"""How many of the last words that a model reads of a long text are told."""


def _notes(text: str, tokenizer: Any, max_length: int) -> tuple[str, ...]:
    """Say what of the text does not reach the model."""
    notes = []
    # Not `tokenize`, which logs a warning of its own for long texts.
    encoded = tokenizer(text, add_special_tokens=False, verbose=False)
    ids = encoded.input_ids
    # Two places belong to the start and the end token.
    room = max_length - 2
    name = repr(text if len(text) <= 40 else text[:40] + "...")
    if len(ids) > room:
        kept = " ".join(tokenizer.decode(ids[:room]).split()[-_NUM_WORDS_SHOWN:])
        notes.append(
            f"The text {name} has {len(ids)} tokens and this model reads {room}: "
            f"what follows {kept!r} is ignored; shorten it."
        )
    num_unknown = ids.count(tokenizer.unk_token_id)
    if num_unknown:
        notes.append(f"The text {name} has {num_unknown} tokens that this model does not know; it ignores them.")
    spelled = _spelled_words(text, encoded) if tokenizer.init_kwargs.get(WORDS_ARE_TOKENS) else ()
    if spelled:
        notes.append(
            f"This small model does not know {', '.join(map(repr, spelled))}; it reads such words in pieces that mean "
            "nothing to it."
        )
    return tuple(notes)


def _spelled_words(text: str, encoded: Any) -> tuple[str, ...]:
    """Return the words that were split into several tokens, each once, in the order of the text."""
    spans: dict[int, list[int]] = {}
    for position, word in enumerate(encoded.word_ids()):
        spans.setdefault(word, []).append(position)
    words = [
        text[encoded.token_to_chars(positions[0]).start : encoded.token_to_chars(positions[-1]).end]
        for positions in spans.values()
        if len(positions) > 1
    ]
    return tuple(dict.fromkeys(words))
