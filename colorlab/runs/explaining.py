"""What the mechanisms of a run have to say about one of its steps, or about its encoding and decoding."""

from typing import TYPE_CHECKING

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import Call, Phase

if TYPE_CHECKING:
    from colorlab.runs.run import Run

__all__ = ["explain_call"]


def explain_call(run: "Run", step: int | None) -> dict[str, Exhibit]:
    """Let every mechanism of a run show what it did.

    Args:
        run: any run that has taken a step.
        step: a step that was taken; None for what happens once, before and after the steps (prepare and decode).

    Returns:
        The exhibits, named "mechanism.exhibit".
    """
    phases: tuple[Phase, ...] = ("prepare", "decode") if step is None else ("predict", "guide")
    call = _coding_call(run) if step is None else _step_call(run, step)
    with run.method.lock, torch.no_grad():
        return {
            f"{mechanism.name}.{name}": exhibit
            for mechanism in run.method.mechanisms
            if mechanism.phase in phases
            for name, exhibit in mechanism.explain(call).items()
        }


def _step_call(run: "Run", step: int) -> Call:
    """Put together what a mechanism needs to explain itself at a step."""
    segment = run.segment_at(step)
    tensors = segment.prepared.tensors()
    return Call(segment.settings, tensors, _origin(run, step), run.states[step].latents, run.records[step])


def _coding_call(run: "Run") -> Call:
    """Put together what a mechanism needs to explain itself before and after the steps."""
    last = run.num_steps if run.is_finished else run.step_index - 1
    segment, method = run.segment_at(last), run.method
    return Call(
        segment.settings,
        segment.prepared.tensors(),
        _origin(run, None),
        run.clean_latents(last),
        decode=lambda latents, settings: method.decode(latents, segment.prepared, settings),
        read_decoder=lambda latents: method.read_decoder(latents, segment.prepared, segment.settings),
    )


def _origin(run: "Run", step: int | None) -> dict[str, object]:
    """Say where the exhibits come from."""
    return {
        "model": run.method.model_name,
        "weights": run.method.weights_hash,
        "run": run.name,
        "step": step,
    }
