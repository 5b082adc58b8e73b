"""Edits of words in cross-attention: heavier or lighter, another word, none, or in one place only."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from colorlab.errors import RangeError
from colorlab.inspection.edits.base import (
    SiteEdit,
    WordEdit,
    cells_of,
    check_keys,
    check_number,
    find_word,
    read_only_mask,
)
from colorlab.inspection.places import text_of_pass, token_names, tokenized, word_spans, word_tokens
from colorlab.networks.passes import submodule
from colorlab.networks.patching import Patch, PatchCall
from colorlab.runs.edits import EditCall

__all__ = ["Remove", "Replace", "Restrict", "Reweight"]

MAX_SCALE = 100.0


@dataclass(frozen=True, eq=False, repr=False)
class Reweight(WordEdit):
    """Make a word count more or less: its attention, after the softmax, is multiplied.

    out = sum_j c_j P_j v_j, with c = `scale` at the tokens of the word and 1 elsewhere; the sum of c P is not made 1
    again. Computed as P (c v), which is the same and keeps the network's own kernels: a scale of 1 gives equal bits.

    Args:
        word: a word, or words in a row, of the prompt.
        scale: c, from -100 to 100; 0 takes away what the word says while it keeps drawing attention (`Remove` lets the
            other words have that), negative turns it round. The paper uses -2 to 2.
        occurrence: which one if it comes several times, 0 first.
        site: which cross-attention sites.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.

    Raises:
        RangeError: `scale` is out of range.

    Source: Prompt-to-Prompt, arXiv 2208.01626, Sec. 3.2, "Attention Re-weighting".
    """

    scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.scale, "scale", -MAX_SCALE, MAX_SCALE)

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Scale the values of the word's tokens."""
        sites, positions = self._cross_sites(call), self._positions(call)

        def reweight(values: torch.Tensor, where: PatchCall) -> torch.Tensor:
            check_keys(repr(self), values.shape[1], self._num_tokens(call, where.guidance_pass))
            factors = torch.ones(values.shape[1], 1, dtype=values.dtype, device=values.device)
            factors[positions[where.guidance_pass]] = self.scale
            return values * factors

        return [Patch(site.path, "v", reweight, name) for site in sites for name in positions]


@dataclass(frozen=True, eq=False, repr=False)
class Replace(WordEdit):
    """Put another word in the place of a word: the keys and values of its tokens become those of the other.

    The other word is encoded within the prompt, at the place of the first. All other tokens stay as they were, although
    the text encoder has told them of the old word; to change them too, branch with another prompt.

    Args:
        word: a word, or words in a row, of the prompt.
        by: the other word; of at most as many tokens. If it has fewer, its last one fills the rest.
        occurrence: which one if it comes several times, 0 first.
        site: which cross-attention sites.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.

    Raises:
        RangeError: `by` is empty; when branching: it has more tokens than the word.

    Source: ours; the whole-prompt form is "Word Swap" of Prompt-to-Prompt, arXiv 2208.01626, see `PromptToPrompt`.
    """

    by: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.by, str) or not self.by.strip():
            raise RangeError(f"by is {self.by!r}, but a word is expected.")

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Replace keys and values at the word's tokens."""
        sites, patches = self._cross_sites(call), []
        for name, positions in self._positions(call).items():
            tokens, others = self._other_tokens(call, name, len(positions))
            for site in sites:
                layer = submodule(call.network, site.path)
                for place, project in (("k", layer.to_k), ("v", layer.to_v)):
                    put = partial(self._put, call, positions, project(tokens)[0, others])
                    patches.append(Patch(site.path, place, put, name))  # type: ignore[arg-type]
        return patches

    def _put(
        self, call: EditCall, positions: list[int], rows: torch.Tensor, tensor: torch.Tensor, where: PatchCall
    ) -> torch.Tensor:
        """Put rows (n, heads * d) at positions of keys or values."""
        check_keys(repr(self), tensor.shape[1], self._num_tokens(call, where.guidance_pass))
        changed = tensor.clone()
        changed[:, positions] = rows
        return changed

    def _other_tokens(self, call: EditCall, guidance_pass: str, room: int) -> tuple[torch.Tensor, list[int]]:
        """Encode the text with the other word in place; return its tokens and which `room` of them are the word's.

        All tokens, in a batch made up as that of the network: fewer rows would be projected to other last bits.
        """
        method = call.method
        text = text_of_pass(method, call.conditioning, guidance_pass, call.settings)
        start, end = word_spans(text, self.word)[self.occurrence]
        changed = text[:start] + self.by.strip() + text[end:]
        # The occurrence among those of the other word, which may stand in the text already.
        earlier = len(word_spans(text[:start], self.by))
        positions = list(word_tokens(method, changed, self.by, earlier))
        if len(positions) > room:
            raise RangeError(
                f"{self.by!r} has {len(positions)} tokens and {self.word!r} {room}; take a shorter word, or branch "
                f"with prompt={changed!r}."
            )
        positions += positions[-1:] * (room - len(positions))
        tokens = method.encode_prompt(changed).tokens
        tokens = torch.cat([tokens, tokens[:, -1:].expand(-1, method.num_more_tokens, -1)], dim=1)
        return tokens.expand(len(call.guidance_passes), -1, -1), positions


@dataclass(frozen=True, eq=False, repr=False)
class Restrict(WordEdit):
    """Let a word be seen within a mask only: elsewhere its keys are masked and attention goes to the other tokens.

    Scores are set to minus infinity before the softmax, at the cells of each grid that the mask does not touch.

    Args:
        word: a word, or words in a row, of the prompt.
        mask: (H, W) of the picture, bool or 0 and 1. Kept as a read-only copy.
        occurrence: which one if it comes several times, 0 first.
        site: which cross-attention sites.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.

    Raises:
        ShapeError: `mask` is not (H, W); when branching: not of the size of the picture.
        RangeError: `mask` covers nothing.

    Source: instance-aware sampling of L-CAD, arXiv 2305.15217, which lets a word act on the instance it describes.
    Deviation: here of one word and any mask, before the softmax.
    """

    changes_matrices: ClassVar[bool] = True

    mask: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask", read_only_mask(self.mask))

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Mask the word's keys for the cells outside."""
        patches = []
        for name, positions in self._positions(call).items():
            num_tokens = self._num_tokens(call, name)
            for site in self._cross_sites(call):
                outside = ~cells_of(call, self.mask, site.grid, least=1e-6).flatten()
                forbid = partial(_forbid, repr(self), num_tokens, positions, outside)
                patches.append(Patch(site.path, "scores", forbid, name))
        return patches


@dataclass(frozen=True, eq=False, repr=False)
class Remove(SiteEdit):
    """Take words away: their keys are masked, their places in the sentence are kept.

    In the text encoder too (`everywhere`), so that no other token hears of them: all tokens are encoded again with the
    keys of these words masked, and cross-attention gets those. Else the other tokens, the end token and the padding
    above all, keep what they were told, and often carry the words on their own. In either case other tokens share the
    attention that the words drew. Two edits do not add up where they re-encode one text: name the words in one.

    Args:
        word: a word, or words in a row, of the prompt; or several of these.
        occurrence: which one of each word, 0 first; one number for all, or one for each.
        everywhere: whether the text encoder is kept from reading the words as well.
        site: which cross-attention sites.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.

    Raises:
        RangeError: no word came, or words and occurrences differ in number.

    Source: ours; the attention knockout of arXiv 2304.14767, in cross-attention and in the text encoder.
    """

    changes_matrices: ClassVar[bool] = True

    word: str | tuple[str, ...]
    occurrence: int | tuple[int, ...] = field(default=0, kw_only=True)
    everywhere: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.word, str):
            object.__setattr__(self, "word", tuple(self.word))
        if not isinstance(self.occurrence, int):
            object.__setattr__(self, "occurrence", tuple(self.occurrence))
        if not self.word:
            raise RangeError("word is empty, but at least one word is expected.")
        num_words = 1 if isinstance(self.word, str) else len(self.word)
        if isinstance(self.occurrence, tuple) and len(self.occurrence) != num_words:
            raise RangeError(f"occurrence is {self.occurrence}, but one number, or one for each word, is expected.")

    @property
    def named(self) -> tuple[tuple[str, int], ...]:
        """The words, each with its occurrence."""
        words = (self.word,) if isinstance(self.word, str) else self.word
        occurrences = self.occurrence if isinstance(self.occurrence, tuple) else (self.occurrence,) * len(words)
        return tuple(zip(words, occurrences, strict=True))

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Put the tokens in that were encoded without the words, and mask the words' keys."""
        sites, patches = call.sites(self.site, "attn2"), []
        for name, positions in self._positions(call).items():
            text = text_of_pass(call.method, call.conditioning, name, call.settings)
            num_tokens = len(token_names(call.method, text))
            for site in sites:
                if self.everywhere:
                    layer, tokens = submodule(call.network, site.path), _encode_without(call, text, positions)
                    for place, project in (("k", layer.to_k), ("v", layer.to_v)):
                        put = partial(_put_all, repr(self), project(tokens))
                        patches.append(Patch(site.path, place, put, name))  # type: ignore[arg-type]
                everywhere = torch.ones(site.num_positions, dtype=torch.bool)
                forbid = partial(_forbid, repr(self), num_tokens, positions, everywhere)
                patches.append(Patch(site.path, "scores", forbid, name))
        return patches

    def _positions(self, call: EditCall) -> dict[str, list[int]]:
        """Return where the tokens of all words are in the text of every pass that has one."""
        names = call.guidance_passes if self.guidance_pass is None else (self.guidance_pass,)
        found: dict[str, list[int]] = {}
        for word, occurrence in self.named:
            for name, positions in find_word(call, word, occurrence, names).items():
                found[name] = sorted({*found.get(name, []), *positions})
        return found


def _encode_without(call: EditCall, text: str, positions: list[int]) -> torch.Tensor:
    """Encode a text with some keys masked in the text encoder, (N, D), once."""
    method = call.method

    def encode() -> torch.Tensor:
        encoder = method.components["text_encoder"]
        ids = torch.tensor([tokenized(method, text)["input_ids"]], device=method.device)
        seen = torch.ones_like(ids)
        seen[0, positions] = 0
        method.network_calls["text_encoder"] += 1
        tokens: torch.Tensor = encoder(ids, attention_mask=seen).last_hidden_state[0]
        return tokens

    return method.cache.get("text_without", (text, tuple(positions)), encode)


def _put_all(name: str, rows: torch.Tensor, tensor: torch.Tensor, where: PatchCall) -> torch.Tensor:
    """Replace the keys or values (B, K, C) of all tokens of the prompt by rows (N, C); others behind them stay."""
    check_keys(name, tensor.shape[1], len(rows))
    return torch.cat([rows.expand(len(tensor), -1, -1), tensor[:, len(rows) :]], dim=1)


def _forbid(
    name: str,
    num_tokens: int,
    positions: list[int],
    cells: torch.Tensor,
    scores: torch.Tensor,
    where: PatchCall,
) -> torch.Tensor:
    """Hide tokens from cells (Q,) bool in scores (B, heads, Q, K)."""
    check_keys(name, scores.shape[3], num_tokens)
    hidden = torch.zeros(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    hidden[:, positions] = cells.to(scores.device)[:, None]
    return scores.masked_fill(hidden, -torch.inf)
