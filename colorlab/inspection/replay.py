"""Replay: makes a call of the past once more, with read-only hooks, and says how well the answer agrees.

The calls are the steps of a run (`Moment`, control network and denoising network) and what comes before and after them
(`colorlab.inspection.codings`); how they are judged is said in `colorlab.inspection.verdicts`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn

from colorlab.errors import RangeError, StateError
from colorlab.inspection.moments import Askable, PastCall, PastStep, Predicted, Recorded
from colorlab.inspection.places import picture_size, text_of_pass
from colorlab.inspection.verdicts import Verdict, compare_tensors
from colorlab.mechanisms.instance_guidance import InstanceGuidance
from colorlab.methods.base import Method
from colorlab.networks.environment import Environment, eagerly, environment_of
from colorlab.networks.passes import call_name
from colorlab.networks.probe import Probe, Reading
from colorlab.networks.sites import Site, find_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, decode_picture, predict_step
from colorlab.sampling.records import StepRecord
from colorlab.sampling.state import State

__all__ = [
    "CONTROL_NETWORK",
    "ModelCall",
    "Moment",
    "Replay",
    "judge",
    "moment_of",
    "replay_step",
    "run_sites",
    "step_networks",
    "step_sites",
    "watch_call",
]

CONTROL_NETWORK = "control_network"
"""Component that every step asks before the denoising network, and what stands in front of its sites."""


class ModelCall:
    """What all calls of a loaded model have in common, steps as well as encodings and decodings."""

    if TYPE_CHECKING:

        @property
        def method(self) -> Method:
            """The loaded model; a field or a property of the calls themselves."""

    @property
    def sample_row(self) -> int:
        """A run is one picture."""
        return 0

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock of the model."""
        return self.method.lock

    @property
    def owner(self) -> Method:
        """The loaded model."""
        return self.method


@dataclass(frozen=True, eq=False)
class Moment(ModelCall):
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
    def identity(self) -> tuple[object, ...]:
        """A record belongs to one step of one path and never changes."""
        return (self.record,)

    @property
    def step_index(self) -> int:
        """Index of the step."""
        return self.record.step_index

    @property
    def guidance_passes(self) -> tuple[str, ...]:
        """Names of the network calls of the step, in batch order."""
        return self.method.guidance_passes(self.segment.settings, self.record.timestep)

    @property
    def num_samples(self) -> int:
        """Pictures of each pass."""
        return len(self.state.latents)

    @property
    def network(self) -> nn.Module:
        """The denoising network."""
        network: nn.Module = self.method.unet
        return network

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The networks that a step asks: the denoising one, and the control network if there is one."""
        return step_networks(self.method)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All inspectable places of these networks."""
        return step_sites(self.method, self.state.latents.shape)

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

    def judge(self, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
        """Compare predictions with the recorded ones."""
        return judge(self.record, predictions, environment)

    def predict(self, watch: AbstractContextManager[Any]) -> dict[str, torch.Tensor]:
        """Ask the networks once more through the method's own `predict`, under the same edits."""
        return predict_step(self.method, self.segment, self.state, watch=watch)

    def text(self, guidance_pass: str) -> str:
        """Return the prompt of a guidance pass; StateError if the method has no text encoder."""
        return text_of_pass(self.method, self.segment.conditioning, guidance_pass, self.segment.settings)

    def with_text(self, guidance_pass: str, text: str) -> "Moment":
        """Return this moment under another prompt in one guidance pass, encoded."""
        if guidance_pass == "uncond":
            conditioning = self.segment.conditioning.replace(negative_prompt=text)
        else:
            # Masks are named by words of the prompt, which the other text may not have.
            conditioning = self.segment.conditioning.replace(prompt=text, masks={})
        prepared = self.method.prepare_other_text(conditioning, self.segment.settings)
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

    def reading(self, site: Site, guidance_pass: str) -> Reading:
        """Return what was read at a site in a pass, or in a numbered call.

        Raises:
            RangeError: there was no such call.
        """
        if (site.path, guidance_pass) not in self.readings:
            made = ", ".join(name for path, name in self.readings if path == site.path)
            raise RangeError(f"{site.network} was not called as {guidance_pass!r}; it was called as {made}.")
        return self.readings[site.path, guidance_pass]

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


def step_networks(method: Method) -> dict[str, nn.Module]:
    """Return the networks that every step asks, by the names of their sites; the denoising one first."""
    control = method.networks.get(CONTROL_NETWORK)
    return {"": method.unet} | ({} if control is None else {CONTROL_NETWORK: control})


def step_sites(method: Method, latent_shape: Sequence[int]) -> tuple[Site, ...]:
    """List the sites of these networks for latents of a shape."""
    networks = step_networks(method)
    return tuple(site for name, network in networks.items() for site in find_sites(network, latent_shape, name=name))


def run_sites(run: Run) -> tuple[Site, ...]:
    """List the sites of the denoising network for the latents of a run; those that edits may change."""
    return find_sites(run.method.unet, run.state.latents.shape)


def replay_step(
    moment: PastCall,
    sites: Sequence[Site],
    *,
    wanted_passes: Sequence[str] | None = None,
    device: torch.device | str | None = "cpu",
    max_bytes: int = 2**30,
) -> Replay:
    """Repeat a call and read sites.

    The batch is made up as it was. A compiled network is called eagerly, since hooks of compiled modules are never
    called; such a replay is `close` at best.

    Args:
        moment: the call, a step for instance.
        sites: what to read.
        wanted_passes: in which passes; None for all.
        device: where readings are kept; None for the device of the network.
        max_bytes: the replay that would read more of one network raises StateError.

    Returns:
        Readings and verdict; no readings when refused.
    """
    with moment.lock, eagerly():
        readings, predictions = watch_call(
            moment, sites, wanted_passes=wanted_passes, device=device, max_bytes=max_bytes
        )
        environment = replace(environment_of(moment.network), is_compiled=False)
    verdict = moment.judge(predictions, environment)
    return Replay({} if verdict.name == "refused" else readings, verdict, environment)


def watch_call(
    moment: PastCall,
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
    probes = [
        Probe(
            moment.networks[name],
            [site for site in sites if site.network == name],
            guidance_passes=moment.guidance_passes,
            wanted_passes=wanted_passes,
            num_samples=moment.num_samples,
            device=device,
            max_bytes=max_bytes,
        )
        for name in dict.fromkeys(site.network for site in sites)
    ]
    predictions = moment.predict(_together(probes))
    readings = {key: reading for probe in probes for key, reading in probe.items()}
    # How often a network without named passes is called is not known before; once is expected.
    passes = wanted_passes or moment.guidance_passes or [call_name(0)]
    missing = [(site.path, name) for site in sites for name in passes if (site.path, name) not in readings]
    if missing:
        raise StateError(
            f"The call never came to {missing[0][0]!r} in the pass {missing[0][1]!r}, so nothing was read there; a "
            "hook of a compiled module is never called, and what is switched off or not needed computes nothing."
        )
    return readings, predictions


@contextmanager
def _together(probes: Sequence[Probe]) -> Iterator[None]:
    """Have several probes read, each its own network."""
    with ExitStack() as stack:
        for probe in probes:
            stack.enter_context(probe)
        yield


def judge(record: Predicted, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
    """Compare replayed predictions with the recorded ones.

    Args:
        record: of the step.
        predictions: of the replay, by guidance pass.
        environment: of the replay.
    """
    return compare_tensors(record.predictions, predictions, record.environment, environment)
