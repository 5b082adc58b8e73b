"""Replay: asks the networks about a past step once more, with read-only hooks, and says how well the answer agrees.

| verdict | meaning |
| --- | --- |
| `exact` | same environment, and every prediction equal bit for bit |
| `close` | largest difference over largest prediction at most 1e-4 (16-bit weights: 2e-2) |
| `refused` | further off: what would be read is not what made the picture |
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from colorlab.errors import StateError
from colorlab.methods.base import Method
from colorlab.networks.environment import Environment, environment_of
from colorlab.networks.probe import Probe, Reading
from colorlab.networks.sites import Site, find_sites
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, predict_step
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
    """A step of a run as it was taken: everything a replay needs.

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


def moment_of(run: Run, step: int) -> Moment:
    """Return a step that a run has taken.

    Raises:
        StateError: it has not.
    """
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
    moment: Moment,
    sites: Sequence[Site],
    *,
    wanted_passes: Sequence[str] | None = None,
    device: torch.device | str | None = "cpu",
    max_bytes: int = 2**30,
) -> Replay:
    """Repeat the network call of a step, through the method's own `predict` and under the same edits, and read sites.

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
    method = moment.method
    with method.lock, _eagerly():
        readings, predictions = watch_call(
            moment, sites, wanted_passes=wanted_passes, device=device, max_bytes=max_bytes
        )
        environment = replace(environment_of(method.unet), is_compiled=False)
    verdict = judge(moment.record, predictions, environment)
    return Replay({} if verdict.name == "refused" else readings, verdict, environment)


def watch_call(
    moment: Moment,
    sites: Sequence[Site],
    *,
    wanted_passes: Sequence[str] | None = None,
    device: torch.device | str | None = "cpu",
    max_bytes: int = 2**30,
) -> tuple[dict[tuple[str, str], Reading], dict[str, torch.Tensor]]:
    """Ask the networks about a moment with a probe on; without a verdict, for moments that never were (baselines).

    The caller holds the lock of the method. Arguments as `replay_step`.

    Returns:
        The readings, and the prediction of every pass.
    """
    probe = Probe(
        moment.method.unet,
        sites,
        guidance_passes=moment.guidance_passes,
        wanted_passes=wanted_passes,
        num_samples=moment.num_samples,
        device=device,
        max_bytes=max_bytes,
    )
    with probe:
        predictions = predict_step(moment.method, moment.segment, moment.state)
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


def judge(record: StepRecord, predictions: Mapping[str, torch.Tensor], environment: Environment) -> Verdict:
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


@contextmanager
def _eagerly() -> Iterator[None]:
    """Call compiled modules uncompiled within."""
    # Older torch has no switch; there the replay of a compiled network reads nothing, and says so.
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
