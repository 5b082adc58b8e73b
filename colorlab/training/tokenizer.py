"""Build the family's tokenizer: CLIP's byte-pair scheme on a small vocabulary, every known word one token."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from colorlab.methods.text import WORDS_ARE_TOKENS
from colorlab.networks.libraries import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 77
"""Tokens of a prompt, with start and end, as in Stable Diffusion."""


def train_tokenizer(words: Sequence[str], folder: Path) -> CLIPTokenizer:
    """Train byte-pair merges until each word is one token, and save them.

    Any other text is spelled in smaller pieces, down to bytes: no text is impossible.

    Args:
        words: lower-case words.
        folder: gets the tokenizer's files.

    Returns:
        The tokenizer; prompts are padded with the end token, as in Stable Diffusion.
    """
    byte_pairs = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    byte_pairs.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    byte_pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    byte_pairs.train_from_iterator(words, trainer)
    model = json.loads(byte_pairs.to_str())["model"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge) for merge in model["merges"]]
    tokens = dict.fromkeys(
        [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    )
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.init_kwargs[WORDS_ARE_TOKENS] = True
    tokenizer.save_pretrained(folder)
    return tokenizer
