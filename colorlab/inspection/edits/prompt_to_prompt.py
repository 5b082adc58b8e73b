"""Prompt-to-prompt: another prompt, painted along the attention of a source run, so that the layout stays."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.inspection.edits.base import SourceEdit, check_keys, check_number, passes_of
from colorlab.inspection.places import text_of_pass, tokenized
from colorlab.networks.passes import check_passes
from colorlab.networks.patching import Patch, PatchCall
from colorlab.networks.probe import Reading
from colorlab.networks.sites import Site
from colorlab.runs.edits import EditCall
from colorlab.runs.tree import Tree

__all__ = ["PromptToPrompt", "align_refined", "align_replaced"]

MODES = ("replace", "refine")


@dataclass(frozen=True, eq=False, repr=False)
class PromptToPrompt(SourceEdit):
    """Take the attention maps of a source run over into a branch with another prompt.

    | paper | here |
    | --- | --- |
    | M_t, the source's cross-attention at the step | `source_probs`, from q and k of its step, asked once more |
    | Edit(M_t, M*_t), word swap | mode "replace": M_t, each word's share given to the word in its place |
    | Edit(M_t, M*_t), adding a phrase | mode "refine": M_t at tokens both prompts have, M*_t at the new ones |
    | tau, steps of cross-attention injection | `cross_share` of the steps, from the first |
    | self-attention injection | `self_share` of the steps, from the first, on grids of up to `max_self_positions` |

    Use it as `source.branch(step=0, prompt=..., edits=[PromptToPrompt(source)])`. One more network call a step.

    Args:
        source: a run of the same tree, picture and timesteps that has taken the steps in question.
        mode: "replace" (prompts of as many words) or "refine" (words were added).
        cross_share: share of the steps with the source's cross-attention, [0, 1].
        self_share: share of the steps with its self-attention, [0, 1].
        max_self_positions: self-attention of finer grids is left alone.
        guidance_pass: in which pass; as in the paper, the one with the prompt.
        steps: of these shares, only these steps; None for all.

    Raises:
        RangeError: an argument is out of range; when branching: the prompts do not correspond, or the source does not
            fit.

    Source: Prompt-to-Prompt, arXiv 2208.01626 v1, Algorithm 1 and Sec. 3.2; shares and the limit of 32 x 32 positions
        by `google/prompt-to-prompt`, `AttentionControlEdit`.
    Deviation: the source's step is computed again instead of beside the branch's; the limit is the paper's 16 x 16
        where `max_self_positions=256`. No local blend: see `PatchLatents`.
    """

    changes_matrices: ClassVar[bool] = True

    mode: str = "replace"
    cross_share: float = field(default=0.8, kw_only=True)
    self_share: float = field(default=0.4, kw_only=True)
    max_self_positions: int = field(default=1024, kw_only=True)
    guidance_pass: str = field(default="cond", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise RangeError(f"mode is {self.mode!r}, but one of {', '.join(map(repr, MODES))} is expected.")
        for name in ("cross_share", "self_share"):
            check_number(getattr(self, name), name, 0.0, 1.0)
        check_number(self.max_self_positions, "max_self_positions", 0, math.inf)

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when the source does not fit, or its prompt does not correspond to the branch's."""
        super().check(call, tree)
        check_passes([self.guidance_pass], call.guidance_passes)
        check_passes([self.guidance_pass], passes_of(self.source))
        self._alignment(call)

    def _num_steps_needed(self, call: EditCall) -> int:
        """Return how many steps the source has to have taken."""
        share = max(self.cross_share, self.self_share)
        return min(super()._num_steps_needed(call), math.ceil(share * call.settings.num_inference_steps))

    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Read the source's attention and put it in."""
        done = call.step_index / call.settings.num_inference_steps
        cross = call.sites(kind="attn2") if done < self.cross_share else ()
        own: tuple[Site, ...] = ()
        if done < self.self_share:
            own = tuple(site for site in call.sites(kind="attn1") if site.num_positions <= self.max_self_positions)
        if self.guidance_pass not in call.guidance_passes or not (cross or own):
            return ()
        readings = self._read(call, (*cross, *own), [self.guidance_pass])
        mapping, new = self._alignment(call)
        return [
            Patch(
                site.path,
                "probs",
                partial(_take_over, readings[site.path, self.guidance_pass], *alignment),
                self.guidance_pass,
            )
            for sites, alignment in ((cross, (mapping, new)), (own, (None, None)))
            for site in sites
        ]

    def _alignment(self, call: EditCall) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which token of the source's prompt becomes which of the branch's; see `align_replaced`."""
        last = self.source.num_steps - 1
        both = (self.source.segment_at(min(call.step_index, last)), call)
        texts = [text_of_pass(call.method, one.conditioning, self.guidance_pass, one.settings) for one in both]
        encoded = [tokenized(call.method, text) for text in texts]
        if self.mode == "refine":
            return align_refined(*encoded)
        return align_replaced(*(part.word_ids() for part in encoded), texts=texts)


def align_replaced(
    source: Sequence[int | None], target: Sequence[int | None], *, texts: Sequence[str] = ("", "")
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each word's attention to the word in its place.

    Args:
        source: for each token of the source's text the index of its word; None for start, end and padding.
        target: the same for the target's text, of as many tokens.
        texts: the two texts, for the error.

    Returns:
        mapping: (K, K) float; target attention = source attention @ mapping. Rows sum to 1.
        new: (K,) float, 1 where the target keeps its own attention; all 0.

    Raises:
        RangeError: the texts have different numbers of words.

    Source: `google/prompt-to-prompt`, `seq_aligner.get_replacement_mapper`.
    """
    words = [sorted({word for word in part if word is not None}) for part in (source, target)]
    if len(words[0]) != len(words[1]):
        raise RangeError(
            f"{texts[0]!r} has {len(words[0])} words that the model reads and {texts[1]!r} {len(words[1])}, but mode "
            "'replace' needs equally many; use mode='refine'."
        )
    mapping = torch.zeros(len(source), len(target))
    pairs: list[tuple[int | None, int | None]] = [*zip(*words, strict=True), (None, None)]
    for old, new in pairs:
        rows = [index for index, word in enumerate(source) if word == old]
        columns = [index for index, word in enumerate(target) if word == new]
        if old is None or len(rows) == len(columns):
            # Start to start, end to end; padding that has no counterpart goes to the last.
            for place, row in enumerate(rows):
                mapping[row, columns[min(place, len(columns) - 1)]] = 1
        else:
            mapping[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1 / len(columns)
    return mapping, torch.zeros(len(target))


def align_refined(source: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the words that two tokenized texts have in common, in order; see `tokenized`.

    Returns:
        As `align_replaced`; `new` is 1 at tokens that the source does not have.

    Source: `google/prompt-to-prompt`, `seq_aligner.get_refinement_mapper`.
    Deviation: longest common rows of words (difflib) in place of Needleman-Wunsch over tokens.
    """
    words = [_words(part) for part in (source, target)]
    mapping = torch.zeros(len(source["input_ids"]), len(target["input_ids"]))
    new = torch.ones(mapping.shape[1])
    old, wanted = ([word for word, _ in part] for part in words)
    for block in difflib.SequenceMatcher(a=old, b=wanted, autojunk=False).get_matching_blocks():
        for offset in range(block.size):
            rows, columns = words[0][block.a + offset][1], words[1][block.b + offset][1]
            mapping[rows, columns] = 1
            new[columns] = 0
    return mapping, new


def _words(encoded: Any) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return the words of a tokenized text: token ids and positions of each; start, end and padding are one each."""
    words: list[tuple[tuple[int, ...], list[int]]] = []
    before = None
    for position, (token, word) in enumerate(zip(encoded["input_ids"], encoded.word_ids(), strict=True)):
        if word is not None and word == before:
            tokens, positions = words[-1]
            words[-1] = ((*tokens, token), [*positions, position])
        else:
            words.append(((token,), [position]))
        before = word
    return words


def _take_over(
    source: Reading,
    mapping: torch.Tensor | None,
    new: torch.Tensor | None,
    probs: torch.Tensor,
    where: PatchCall,
) -> torch.Tensor:
    """Return the source's probabilities (B, heads, Q, K), those of its tokens brought to their places."""
    q, k = source.get("q").float(), source.get("k").float()
    source_probs = (q @ k.transpose(-1, -2) * source.scale).softmax(dim=-1)
    if mapping is None or new is None:
        return source_probs.expand_as(probs)
    # Keys behind those of the words, of an exemplar for instance, correspond one to one.
    num_more = probs.shape[-1] - len(mapping)
    check_keys("PromptToPrompt", probs.shape[-1], len(mapping))
    mapping, new = torch.block_diag(mapping, torch.eye(num_more)), functional.pad(new, (0, num_more))
    return source_probs @ mapping.to(probs) + probs * new.to(probs)
