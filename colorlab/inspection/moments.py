"""What replays and queries need to know of a call of the past, whoever made it.

A `Run` of colorlab and a `Recording` of a foreign pipeline keep different things; each hands out its steps as a
`PastStep`, and everything behind that is written once. The encoding and the decoding of a run are a `PastCall` too, of
networks that know neither words nor guidance.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from colorlab.inspection.verdicts import Verdict
from colorlab.methods.text import EncodedText
from colorlab.networks.environment import Environment
from colorlab.networks.sites import Site
from colorlab.runs.run import Run
from colorlab.sampling.state import State

__all__ = ["Askable", "PastCall", "PastStep", "Predicted", "Reader", "Recorded"]


class Predicted(Protocol):
    """What a network said at a step; the identity of the object stands for the step."""

    @property
    def step_index(self) -> int:
        """Index of the step."""

    @property
    def timestep(self) -> int | float:
        """Training timestep at which the network was asked."""

    @property
    def predictions(self) -> Mapping[str, torch.Tensor]:
        """(B, C, h, w) of each guidance pass, in batch order."""

    @property
    def environment(self) -> Environment | None:
        """In which the network was asked; None where nobody took note of it."""


class Reader(Protocol):
    """Who turns words into the tokens of the cross-attention; every `Method` is one."""

    @property
    def components(self) -> Mapping[str, Any]:
        """A tokenizer and a text encoder by these names, if there are any."""

    @property
    def num_more_tokens(self) -> int:
        """Tokens behind those of the text that are no words, of an exemplar for instance."""

    def encode_prompt(self, text: str) -> EncodedText:
        """Encode a text."""


class PastCall(Protocol):
    """A call of networks as it was made, which can be made again."""

    @property
    def identity(self) -> tuple[object, ...]:
        """Objects that stand for the call as long as they live; equal calls share them."""

    @property
    def step_index(self) -> int:
        """At which step; their number for the decoding of the picture."""

    @property
    def guidance_passes(self) -> tuple[str, ...] | None:
        """Names of the network calls of the step, in batch order; None where calls are numbered."""

    @property
    def num_samples(self) -> int:
        """Pictures of each pass."""

    @property
    def sample_row(self) -> int:
        """Which of them is asked about."""

    @property
    def network(self) -> nn.Module:
        """The network that stands for the environment of the call: the denoising one in a step."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that can be read, by the names that their sites have."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """All their inspectable places."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held around every use of the networks; reentrant."""

    @property
    def owner(self) -> object:
        """The object whose replays are kept together, and forgotten when it goes."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture whose pixels the user points at."""

    @property
    def matrix_edits(self) -> tuple[str, ...]:
        """What changes scores or probabilities after queries and keys have met."""

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Repeat the call with hooks on; the caller holds the lock. Returns what it gave, by name."""

    def judge(self, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
        """Compare what a replay gave with what was kept."""


class PastStep(PastCall, Protocol):
    """One step as it was taken, which can be taken again."""

    @property
    def record(self) -> Predicted:
        """What was predicted."""

    @property
    def guidance_passes(self) -> tuple[str, ...]:
        """Names of the network calls of the step, in batch order."""

    @property
    def reader(self) -> Reader:
        """Who reads words."""

    @property
    def prediction_unit(self) -> str:
        """Unit of the predictions."""

    @property
    def clean(self) -> torch.Tensor:
        """Clean latents (1, C, h, w) of the picture that is asked about; StateError where they are not known."""

    def picture(self, latents: torch.Tensor) -> torch.Tensor:
        """Turn clean latents (1, C, h, w) into a finished picture (1, 3, H, W), [0, 1]."""

    def text(self, guidance_pass: str) -> str:
        """Return the text whose tokens the cross-attention of a pass receives; StateError if there is none."""

    def with_text(self, guidance_pass: str, text: str) -> "PastStep":
        """Return the same step under another text in one pass; the caller holds the lock."""


class Recorded(Protocol):
    """A path of states that colorlab did not take itself."""

    @property
    def name(self) -> str:
        """What it is called in captions and provenance."""

    @property
    def origin(self) -> dict[str, Any]:
        """Model and weights, for the provenance."""

    @property
    def records(self) -> Sequence[Predicted]:
        """The steps that were taken."""

    @property
    def states(self) -> tuple[State, ...]:
        """State before every step, and the last one."""

    def preview(self, step: int) -> np.ndarray:
        """Return the clean picture of a step, (H, W, 3) uint8."""

    def moment(self, step: int) -> PastStep:
        """Return a step that was taken; StateError if it was not."""


Askable = Run | Recorded
"""What queries take."""
