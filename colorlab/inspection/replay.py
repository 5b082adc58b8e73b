"""Replay: asks the networks about a past step once more, with read-only hooks, and says how well the answer agrees.

| verdict | meaning |
| --- | --- |
| `exact` | same environment, and every prediction equal bit for bit |
| `close` | largest difference over largest prediction at most 1e-4 (16-bit weights: 2e-2) |
| `refused` | further off: what would be read is not what made the picture |
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import nn

from colorlab.errors import StateError
from colorlab.inspection.moments import Askable, PastStep, Predicted, Recorded
from colorlab.inspection.places import picture_size, text_of_pass
from colorlab.mechanisms.instance_guidance import InstanceGuidance
from colorlab.methods.base import Method
from colorlab.networks.environment import Environment, eagerly, environment_of
from colorlab.networks.probe import Probe, Reading
from colorlab.networks.sites import Site, find_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, decode_picture, predict_step
from colorlab.sampling.records import StepRecord
from colorlab.sampling.state import State

__all__ = [
    "TOLERANCE",
    "TOLERANCE_HALF",
    "Moment",
    "Replay",
    "Verdict",
    "judge",
    "moment_of",
    "replay_step",
    "run_sites",
    "watch_call",
]

TOLERANCE = 1e-4
TOLERANCE_HALF = 2e-2


@dataclass(frozen=True)
class Verdict:
    """How well a replay agrees with what was recorded.

    Args:
        name: "exact", "close" or "refused".
        difference: largest absolute difference of a prediction over the largest absolute prediction; NaN where a
            prediction is not finite.
        reasons: why it is not exact.
    """

    name: str
    difference: float
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.name == "exact":
            return "exact"
        return f"{self.name}, off by {self.difference:.2g} of the largest prediction ({'; '.join(self.reasons)})"


@dataclass(frozen=True, eq=False)
class Moment:
    """A step of a run as it was taken: everything a replay needs; a `PastStep`.

    Args:
        method: the loaded model.
        segment: what was in force.
        state: before the step.
        record: of the step.
    """

    method: Method
    segment: Segment
    state: State
    record: StepRecord

    @property
    def guidance_passes(self) -> tuple[str, ...]:
        """Names of the network calls of the step, in batch order."""
        return self.method.guidance_passes(self.segment.settings, self.record.timestep)

    @property
    def num_samples(self) -> int:
        """Pictures of each pass."""
        return len(self.state.latents)

    @property
    def sample_row(self) -> int:
        """A run is one picture."""
        return 0

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        network: nn.Module = self.method.unet
        return network

    @property
    def sites(self) -> tuple[Site, ...]:
        """All inspectable places of the denoising network."""
        return find_sites(self.method.unet, self.state.latents.shape)

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock of the model."""
        return self.method.lock

    @property
    def owner(self) -> Method:
        """The loaded model."""
        return self.method

    @property
    def reader(self) -> Method:
        """The loaded model, which encodes prompts."""
        return self.method

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture that was given, else of the one that comes out."""
        return picture_size(self.method, self.segment.conditioning, self.state.latents.shape)

    @property
    def prediction_unit(self) -> str:
        """A run keeps predicted noise, whatever its network predicts."""
        return "noise standard deviations"

    @property
    def matrix_edits(self) -> tuple[str, ...]:
        """What in force changes scores or probabilities: mechanisms by name, then edits."""
        settings, masks = self.segment.settings, self.segment.conditioning.masks
        names = [
            mechanism.name
            for mechanism in self.method.mechanisms
            if isinstance(mechanism, InstanceGuidance) and masks and mechanism.acts(settings, self.record.timestep)
        ]
        edits = [repr(edit) for edit in self.segment.edits if getattr(edit, "changes_matrices", False)]
        return (*names, *edits)

    @property
    def clean(self) -> torch.Tensor:
        """Clean latents (1, C, h, w) that the guided prediction implies."""
        return self.record.pred_original_sample

    def picture(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode and finish clean latents (1, C, h, w) as the picture itself, without rounding to 8 bits."""
        return decode_picture(self.method, self.segment, latents)

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Ask the networks once more through the method's own `predict`, under the same edits."""
        return predict_step(self.method, self.segment, self.state, watch=watch)

    def text(self, guidance_pass: str) -> str:
        """Return the prompt of a guidance pass; StateError if the method has no text encoder."""
        return text_of_pass(self.method, self.segment.conditioning, guidance_pass)

    def with_text(self, guidance_pass: str, text: str) -> "Moment":
        """Return this moment under another prompt in one guidance pass, encoded."""
        name = "negative_prompt" if guidance_pass == "uncond" else "prompt"
        conditioning = self.segment.conditioning.replace(**{name: text})
        prepared = self.method.prepare(conditioning, self.segment.settings)
        return replace(self, segment=replace(self.segment, conditioning=conditioning, prepared=prepared))


@dataclass(frozen=True, eq=False)
class Replay:
    """What a replay read.

    Args:
        readings: by (path of the site, guidance pass).
        verdict: how well the predictions agree with the recorded ones.
        environment: in which the replay ran.
    """

    readings: Mapping[tuple[str, str], Reading]
    verdict: Verdict
    environment: Environment

    @property
    def num_bytes(self) -> int:
        """Bytes of all readings."""
        return sum(reading.num_bytes for reading in self.readings.values())


@overload
def moment_of(run: Run, step: int) -> Moment: ...


@overload
def moment_of(run: Recorded, step: int) -> PastStep: ...


def moment_of(run: Askable, step: int) -> PastStep:
    """Return a step that a run has taken, or that a recording holds.

    Raises:
        StateError: it has not.
    """
    if not isinstance(run, Run):
        return run.moment(step)
    states, records = run.states, run.records
    taken = min(len(states) - 1, len(records))
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < taken:
        have = f"steps 0 to {taken - 1}" if taken else "no step"
        raise StateError(f"step is {step!r}, but this run has taken {have} of {run.num_steps}; step() or finish() it.")
    return Moment(run.method, run.segment_at(step), states[step], records[step])


def run_sites(run: Run) -> tuple[Site, ...]:
    """List the inspectable sites of the denoising network for the latents of a run."""
    return find_sites(run.method.unet, run.state.latents.shape)


def replay_step(
    moment: PastStep,
    sites: Sequence[Site],
    *,
    wanted_passes: Sequence[str] | None = None,
    device: torch.device | str | None = "cpu",
    max_bytes: int = 2**30,
) -> Replay:
    """Repeat the network call of a step and read sites.

    The batch is made up as it was. A compiled network is called eagerly, since hooks of compiled modules are never
    called; such a replay is `close` at best.

    Args:
        moment: the step.
        sites: what to read.
        wanted_passes: in which passes; None for all.
        device: where readings are kept; None for the device of the network.
        max_bytes: the replay that would read more raises StateError.

    Returns:
        Readings and verdict; no readings when refused.
    """
    with moment.lock, eagerly():
        readings, predictions = watch_call(
            moment, sites, wanted_passes=wanted_passes, device=device, max_bytes=max_bytes
        )
        environment = replace(environment_of(moment.network), is_compiled=False)
    verdict = judge(moment.record, predictions, environment)
    return Replay({} if verdict.name == "refused" else readings, verdict, environment)


def watch_call(
    moment: PastStep,
    sites: Sequence[Site],
    *,
    wanted_passes: Sequence[str] | None = None,
    device: torch.device | str | None = "cpu",
    max_bytes: int = 2**30,
) -> tuple[dict[tuple[str, str], Reading], dict[str, torch.Tensor]]:
    """Ask the networks about a moment with a probe on; without a verdict, for moments that never were (baselines).

    The caller holds the lock. Arguments as `replay_step`.

    Returns:
        The readings, and the prediction of every pass.
    """
    probe = Probe(
        moment.network,
        sites,
        guidance_passes=moment.guidance_passes,
        wanted_passes=wanted_passes,
        num_samples=moment.num_samples,
        device=device,
        max_bytes=max_bytes,
    )
    predictions = moment.predict(probe)
    readings = dict(probe)
    if len(readings) != len(sites) * len(probe.wanted_passes):
        missing = next(
            (site.path, name) for site in sites for name in probe.wanted_passes if (site.path, name) not in readings
        )
        raise StateError(
            f"The call never came to {missing[0]!r} in the pass {missing[1]!r}, so nothing was read there; "
            "a hook of a compiled module is never called, and a skipped block computes nothing."
        )
    return readings, predictions


def judge(record: Predicted, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
    """Compare replayed predictions with the recorded ones.

    Args:
        record: of the step.
        predictions: of the replay, by guidance pass.
        environment: of the replay.
    """
    if set(predictions) != set(record.predictions):
        names = f"{', '.join(record.predictions)} became {', '.join(predictions)}"
        return Verdict("refused", float("nan"), (f"other guidance passes: {names}",))
    stored = [pred.float() for pred in record.predictions.values()]
    replayed = [predictions[name].float() for name in record.predictions]
    largest = max(float(pred.abs().max()) for pred in stored)
    apart = max(float((new - old).abs().max()) for new, old in zip(replayed, stored, strict=True))
    # Predictions that are all zero agree with zeros alone.
    difference = apart / largest if largest else (0.0 if apart == 0 else float("inf"))

    if record.environment is None:
        reasons: tuple[str, ...] = ("the environment of the step was not recorded",)
    else:
        reasons = record.environment.differences(environment)
    is_half = environment.is_half or (record.environment is not None and record.environment.is_half)
    if difference == 0 and not reasons:
        return Verdict("exact", 0.0)
    reasons = reasons or ("the same environment, yet other bits: nondeterministic kernels, or changed weights",)
    # Written so that NaN, which compares false with everything, is refused.
    is_close = difference <= (TOLERANCE_HALF if is_half else TOLERANCE)
    return Verdict("close" if is_close else "refused", difference, reasons)
