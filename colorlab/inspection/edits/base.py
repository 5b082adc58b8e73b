"""What all edits share: steps, sites by pattern, guidance passes, words, and source runs."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.inspection.places import coverage, picture_size, text_of_pass, token_names, word_tokens
from colorlab.inspection.replay import moment_of, watch_call
from colorlab.networks.environment import eagerly
from colorlab.networks.passes import check_passes
from colorlab.networks.patching import Patch
from colorlab.networks.probe import Reading
from colorlab.networks.sites import Site
from colorlab.runs.edits import EditCall
from colorlab.runs.run import Run
from colorlab.runs.segments import timesteps_of
from colorlab.runs.tree import Tree
from colorlab.sampling.state import State

__all__ = [
    "BaseEdit",
    "SiteEdit",
    "SourceEdit",
    "WordEdit",
    "cells_of",
    "check_keys",
    "check_number",
    "find_word",
    "passes_of",
    "read_only_mask",
]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class BaseEdit(ABC):
    """An edit of some steps.

    Args:
        steps: at which steps it acts, counted from the start of the run; None for all.

    Raises:
        RangeError: `steps` is no range that rises from at least 0.
    """

    # Whether scores or probabilities are changed, which queries and keys do not show.
    changes_matrices: ClassVar[bool] = False

    steps: range | None = None

    def __post_init__(self) -> None:
        steps = self.steps
        if steps is not None and (not isinstance(steps, range) or not steps or min(steps) < 0 or steps.step < 0):
            raise RangeError(f"steps is {steps!r}, but a range such as range(4, 8), or None, is expected.")

    def __repr__(self) -> str:
        shown = [
            f"{part.name}={_shown(getattr(self, part.name))}"
            for part in sorted(fields(self), key=lambda part: bool(part.kw_only))
            if getattr(self, part.name) is not part.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def is_active(self, step_index: int) -> bool:
        """Return whether the edit acts at a step."""
        return self.steps is None or step_index in self.steps

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when the edit cannot act on a branch: what it names does not exist there.

        Raises:
            RangeError: a step, word, site, head or pass does not exist.
            StateError: the method has no words, or a source run has not got that far.
        """
        num_steps = call.settings.num_inference_steps
        if self.steps is not None and self.steps[-1] >= num_steps:
            raise RangeError(f"{self!r} names step {self.steps[-1]}, but the run has steps 0 to {num_steps - 1}.")

    def enter(self, latents: torch.Tensor, call: EditCall) -> torch.Tensor:
        """Return the latents that enter the step; the same unless an edit is about latents."""
        return latents

    def patches(self, call: EditCall) -> Sequence[Patch]:
        """Return the patches of one prediction; none at steps at which the edit does not act."""
        if not self.is_active(call.step_index):
            return ()
        # Some methods have passes that are asked at a part of the steps.
        return [patch for patch in self._patches(call) if patch.guidance_pass in (None, *call.guidance_passes)]

    @abstractmethod
    def _patches(self, call: EditCall) -> Sequence[Patch]:
        """Return the patches, whatever the step."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SiteEdit(BaseEdit):
    """An edit at sites in guidance passes.

    Args:
        site: path or pattern with `*`.
        guidance_pass: in which pass; None for all.
        steps: at which steps; None for all.
    """

    site: str = "*"
    guidance_pass: str | None = None

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when a step, site or pass does not exist."""
        super().check(call, tree)
        if self.guidance_pass is not None:
            check_passes([self.guidance_pass], call.guidance_passes)
        # Cheap, and it finds all that is wrong; edits that ask the networks for their patches override this.
        self._patches(call)


@dataclass(frozen=True, eq=False, repr=False)
class WordEdit(SiteEdit):
    """An edit of a word in cross-attention.

    Args:
        word: a word, or words in a row, of the prompt; in the pass `uncond` of the negative prompt.
        occurrence: which one if it comes several times, 0 first.
        site: which cross-attention sites; all by default.
        guidance_pass: in which pass; None for all whose text has the word.
        steps: at which steps; None for all.
    """

    word: str
    occurrence: int = field(default=0, kw_only=True)

    def _cross_sites(self, call: EditCall) -> tuple[Site, ...]:
        """Return the cross-attention sites that the edit names."""
        return call.sites(self.site, "attn2")

    def _positions(self, call: EditCall) -> dict[str, list[int]]:
        """Return where the tokens of the word are in the text of every pass that has it.

        Raises:
            RangeError: no pass has it.
        """
        names = call.guidance_passes if self.guidance_pass is None else (self.guidance_pass,)
        return find_word(call, self.word, self.occurrence, names)

    def _num_tokens(self, call: EditCall, guidance_pass: str) -> int:
        """Return how many tokens the text of a pass has."""
        return len(token_names(call.method, text_of_pass(call.method, call.conditioning, guidance_pass, call.settings)))


@dataclass(frozen=True, eq=False, repr=False)
class SourceEdit(BaseEdit):
    """An edit that takes something from the same step of another run.

    Args:
        source: a run of the same tree that has taken the steps in question.
        steps: at which steps; None for all.

    Raises:
        RangeError: `source` is no run.
    """

    source: Run

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.source, Run):
            raise RangeError(f"source is {type(self.source).__name__}, but a run of the same tree is expected.")

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when the source does not fit the branch, or has not taken the steps yet."""
        super().check(call, tree)
        source = self.source
        # A run that was pruned still serves the edits that were made with it.
        if source.tree is not tree:
            raise RangeError("source is a run of another tree; take one of run.tree.")
        if source.state.latents.shape[1:] != call.latent_shape:
            raise RangeError(
                f"source has latents {tuple(source.state.latents.shape[1:])}, this branch {call.latent_shape}; take a "
                "run of the same picture."
            )
        if not torch.equal(source.timesteps, timesteps_of(call.method, call.settings)):
            raise RangeError(
                "source visits other timesteps than this branch (number, spacing, solver), so that their steps do not "
                "correspond; use the same settings."
            )
        needed = self._num_steps_needed(call)
        if source.step_index < needed:
            raise StateError(
                f"source has taken {source.step_index} steps, but {needed} are needed; finish() it before branching."
            )

    def _num_steps_needed(self, call: EditCall) -> int:
        """Return how many steps the source has to have taken."""
        return call.settings.num_inference_steps if self.steps is None else self.steps[-1] + 1

    def _state(self, call: EditCall) -> State:
        """Return the source's state before the same step.

        Raises:
            StateError: the source was rewound to before it.
        """
        states = self.source.states
        if call.step_index >= len(states):
            raise StateError(
                f"source has states 0 to {len(states) - 1}, but that before step {call.step_index} is needed; it was "
                "rewound: finish() it again."
            )
        return states[call.step_index]

    def _read(
        self, call: EditCall, sites: Sequence[Site], guidance_passes: Sequence[str]
    ) -> dict[tuple[str, str], Reading]:
        """Ask the networks about the source's step once more, and read sites; one network call."""
        with eagerly():
            readings, _ = watch_call(
                moment_of(self.source, call.step_index), sites, wanted_passes=guidance_passes, device=None
            )
        return readings


def find_word(call: EditCall, word: str, occurrence: int, guidance_passes: Sequence[str]) -> dict[str, list[int]]:
    """Return where the tokens of a word are in the texts of guidance passes, by the pass; those without are left out.

    Raises:
        RangeError: no pass has it.
    """
    found: dict[str, list[int]] = {}
    problem: RangeError | None = None
    for name in guidance_passes:
        text = text_of_pass(call.method, call.conditioning, name, call.settings)
        try:
            positions = word_tokens(call.method, text, word, occurrence)
        except RangeError as error:
            problem = error
            continue
        if positions:
            found[name] = list(positions)
    if not found:
        text = text_of_pass(call.method, call.conditioning, guidance_passes[-1], call.settings)
        raise problem or RangeError(f"{word!r} is not in {text!r}; name a word of the prompt.")
    return found


def passes_of(run: Run) -> tuple[str, ...]:
    """Return the guidance passes of all steps of a run."""
    settings = run.settings
    steps = (run.method.guidance_passes(settings, timestep) for timestep in run.timesteps.tolist())
    return tuple(dict.fromkeys(name for names in steps for name in names))


def check_keys(edit: str, num_keys: int, num_tokens: int) -> None:
    """Raise StateError when a site does not read the tokens of the prompt; others may come behind them."""
    if num_keys < num_tokens:
        raise StateError(
            f"{edit} came to a site that reads {num_keys} tokens, but the text has {num_tokens}: it does not read the "
            "prompt; name other sites."
        )


def check_number(value: object, name: str, low: float, high: float) -> None:
    """Raise RangeError unless a value is a number within [low, high]; NaN is not."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise RangeError(f"{name} is {value!r}, but a number from {low:g} to {high:g} is expected.")


def read_only_mask(mask: Any) -> np.ndarray:
    """Return a mask as a read-only copy (H, W) bool.

    Raises:
        ShapeError: it has another shape.
        RangeError: it covers nothing.
    """
    array = np.array(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask) > 0
    if array.ndim != 2:
        raise ShapeError(f"mask has shape {array.shape}, but (H, W) of the picture is expected.")
    if not array.any():
        raise RangeError("mask covers no pixel; mark at least one.")
    array.setflags(write=False)
    return array


def cells_of(call: EditCall, mask: np.ndarray | None, grid: tuple[int, int], *, least: float) -> torch.Tensor:
    """Return which cells (h, w) of a grid a mask covers.

    Args:
        call: whose picture.
        mask: (H, W) of the picture; None for everything.
        grid: (h, w).
        least: share of a cell that has to be covered, above 0.

    Raises:
        ShapeError: the mask has not the size of the picture.
        RangeError: no cell is covered so far.
    """
    if mask is None:
        return torch.ones(grid, dtype=torch.bool)
    size = picture_size(call.method, call.conditioning, call.latent_shape)
    cells = (coverage(mask, size, grid) >= least).unflatten(0, grid)
    if not bool(cells.any()):
        raise RangeError(
            f"mask covers no cell of the {grid[0]}x{grid[1]} grid to {least:.0%}; take a larger one, or finer sites."
        )
    return cells


def _shown(value: Any) -> str:
    """Show a field in few characters."""
    if isinstance(value, Run):
        return value.name
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"<{' x '.join(map(str, value.shape))}>"
    return repr(value)
