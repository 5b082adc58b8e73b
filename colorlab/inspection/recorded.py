"""RecordedMoment: a step of a recorded pipeline call as a `PastStep`, which replays and queries take like any other."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from colorlab.errors import StateError
from colorlab.inspection.kept import Kept, map_leaves
from colorlab.inspection.pipelines import PromptReader, decode_latents, lock_of, prediction_unit
from colorlab.inspection.recorder import CallRecorder, FromControl, NetworkCall, RecordedStep, tensors_of
from colorlab.inspection.replay import judge
from colorlab.inspection.verdicts import Verdict
from colorlab.networks.environment import Environment
from colorlab.networks.sites import Site, find_sites, uncompiled

__all__ = ["RecordedMoment", "recorded_latents"]


@dataclass(frozen=True, eq=False)
class RecordedMoment:
    """A step of a recording: everything a replay needs; a `PastStep`.

    Args:
        recorder: what the call left behind.
        record: of the step.
        sample_row: which of several pictures is asked about.
        replaced: tensors that stand in for kept ones, by their index.
    """

    recorder: CallRecorder
    record: RecordedStep
    sample_row: int = 0
    replaced: Mapping[int, torch.Tensor] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[object, ...]:
        """A record belongs to one step and never changes."""
        return (self.record,)

    @property
    def step_index(self) -> int:
        """Index of the step."""
        return self.record.step_index

    @property
    def guidance_passes(self) -> tuple[str, ...]:
        """Parts of the batch, in order."""
        return tuple(self.record.predictions)

    @property
    def num_samples(self) -> int:
        """Pictures of each pass."""
        return self.record.num_samples

    @property
    def network(self) -> nn.Module:
        """The UNet as it was called."""
        return self.record.call.network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The UNet alone."""
        return {"": self.network}

    @property
    def owner(self) -> nn.Module:
        """The UNet."""
        return self.network

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock of the UNet."""
        lock: AbstractContextManager[Any] = lock_of(self.network)
        return lock

    @property
    def sites(self) -> tuple[Site, ...]:
        """All inspectable places of the UNet."""
        return find_sites(self.network, recorded_latents(self.recorder, self.record).shape)

    @property
    def reader(self) -> PromptReader:
        """The text encoders of the pipeline, with the options of the call."""
        return self.recorder.reader

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture that comes out of the pipeline's autoencoder."""
        height, width = recorded_latents(self.recorder, self.record).shape[-2:]
        factor = self.recorder.pipe.vae_scale_factor
        return height * factor, width * factor

    @property
    def prediction_unit(self) -> str:
        """A recording keeps what the network predicts, which need not be noise."""
        return prediction_unit(self.recorder.pipe.scheduler)

    @property
    def matrix_edits(self) -> tuple[str, ...]:
        """A pipeline has no edits."""
        return ()

    @property
    def clean(self) -> torch.Tensor:
        """Clean latents (1, C, h, w) of the scheduler after the step; StateError where it does not tell them."""
        if self.record.clean is None:
            raise StateError(f"Step {self.record.step_index} has no clean picture: {self.record.clean_source}.")
        return self.record.clean[self.sample_row : self.sample_row + 1]

    def picture(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode clean latents (1, C, h, w) by the pipeline's autoencoder."""
        with self.lock:
            return decode_latents(self.recorder.pipe, latents)

    def judge(self, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
        """Compare predictions with the recorded ones."""
        return judge(self.record, predictions, environment)

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Repeat the calls of the control networks, if any, and that of the UNet."""
        with watch, torch.no_grad():
            returned = [tensors_of(self._repeat(control, [])) for control in self.record.controls]
            output = tensors_of(self._repeat(self.record.call, returned))[0]
        return dict(zip(self.guidance_passes, output.cpu().chunk(len(self.guidance_passes)), strict=True))

    def text(self, guidance_pass: str) -> str:
        """Return the text of a pass; StateError if the call was given embeddings."""
        return self.reader.text(guidance_pass, self.sample_row)

    def with_text(self, guidance_pass: str, text: str) -> "RecordedMoment":
        """Return this moment under another text in one pass, tokens and pooled vector encoded by the pipeline."""
        tokens, pooled = self.reader.encode(text)
        row = self.guidance_passes.index(guidance_pass) * self.num_samples + self.sample_row
        arguments = self.record.call.kwargs
        added = arguments.get("added_cond_kwargs") or {}
        replaced = dict(self.replaced)
        for kept, encoded in ((arguments["encoder_hidden_states"], tokens), (added.get("text_embeds"), pooled)):
            if isinstance(kept, Kept) and encoded is not None:
                changed = self.recorder.tensors.get(kept)
                changed[row] = encoded[0].to(changed)
                replaced[kept.index] = changed
        return replace(self, replaced=replaced)

    def _repeat(self, call: NetworkCall, returned: list[list[torch.Tensor]]) -> Any:
        """Call a network as it was called."""

        def resolve(leaf: Kept | FromControl) -> torch.Tensor:
            if isinstance(leaf, FromControl):
                return returned[leaf.call][leaf.leaf]
            return self.replaced[leaf.index] if leaf.index in self.replaced else self.recorder.tensors.get(leaf)

        args, kwargs = (map_leaves(part, (Kept, FromControl), resolve) for part in (call.args, dict(call.kwargs)))
        return uncompiled(call.network)(*args, **kwargs)


def recorded_latents(recorder: CallRecorder, step: RecordedStep) -> torch.Tensor:
    """Return the latents (B, C, h, w) that the UNet got, variance preserving, without the channels beside them."""
    channels = next(iter(step.predictions.values())).shape[1]
    return recorder.tensors.on_cpu(step.call.kwargs["sample"])[: step.num_samples, :channels]
