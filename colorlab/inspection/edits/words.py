"""Edits of words in cross-attention: heavier or lighter, another word, none, or in one place only."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from colorlab.errors import RangeError
from colorlab.inspection.edits.base import WordEdit, cells_of, check_number, read_only_mask
from colorlab.inspection.places import text_of_pass, word_spans, word_tokens
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
            self._check_keys(call, values, 1, where.guidance_pass)
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
            tokens = self._other_tokens(call, name, len(positions))
            for site in sites:
                layer = submodule(call.network, site.path)
                for place, project in (("k", layer.to_k), ("v", layer.to_v)):
                    put = partial(self._put, call, positions, project(tokens))
                    patches.append(Patch(site.path, place, put, name))  # type: ignore[arg-type]
        return patches

    def _put(
        self, call: EditCall, positions: list[int], rows: torch.Tensor, tensor: torch.Tensor, where: PatchCall
    ) -> torch.Tensor:
        """Put rows (n, heads * d) at positions of keys or values."""
        self._check_keys(call, tensor, 1, where.guidance_pass)
        changed = tensor.clone()
        changed[:, positions] = rows
        return changed

    def _other_tokens(self, call: EditCall, guidance_pass: str, room: int) -> torch.Tensor:
        """Encode the text with the other word in place and return (room, D) tokens of it."""
        method, text = call.method, text_of_pass(call.method, call.conditioning, guidance_pass)
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
        return method.encode_prompt(changed).tokens[0, positions]


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

    mask: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mask", read_only_mask(self.mask))

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Mask the word's keys for the cells outside."""
        patches = []
        for site in self._cross_sites(call):
            outside = ~cells_of(call, self.mask, site.grid, least=1e-6).flatten()
            patches += _forbid(self, call, site.path, outside)
        return patches


@dataclass(frozen=True, eq=False, repr=False)
class Remove(WordEdit):
    """Take a word away: its keys are masked everywhere, its place in the sentence is kept.

    The other tokens keep what the text encoder told them of the word, and share the attention that it drew.

    Args:
        word: a word, or words in a row, of the prompt.
        occurrence: which one if it comes several times, 0 first.
        site: which cross-attention sites.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.

    Source: ours; the attention knockout of arXiv 2304.14767, in cross-attention.
    """

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Mask the word's keys for all cells."""
        patches = []
        for site in self._cross_sites(call):
            patches += _forbid(self, call, site.path, torch.ones(site.num_positions, dtype=torch.bool))
        return patches


def _forbid(edit: WordEdit, call: EditCall, path: str, cells: torch.Tensor) -> list[Patch]:
    """Return patches of one site that hide the tokens of a word from cells (Q,) bool."""
    positions = edit._positions(call)

    def forbid(scores: torch.Tensor, where: PatchCall) -> torch.Tensor:
        edit._check_keys(call, scores, 3, where.guidance_pass)
        hidden = torch.zeros(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        hidden[:, positions[where.guidance_pass]] = cells.to(scores.device)[:, None]
        return scores.masked_fill(hidden, -torch.inf)

    return [Patch(path, "scores", forbid, name) for name in positions]
