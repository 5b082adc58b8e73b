"""The first state, and the step from one state to the next."""

import math
from collections.abc import Callable, Mapping

import torch

from colorlab.errors import RangeError, StateError
from colorlab.sampling.noise import step_noise
from colorlab.sampling.records import Predictions, StepRecord
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.sampling.solvers import Solver
from colorlab.sampling.state import State, check_same_shape
from colorlab.shapes import check_range

__all__ = ["Guide", "Predict", "first_state", "sample_step"]

Predict = Callable[[torch.Tensor, int | float], Mapping[str, torch.Tensor]]
Guide = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def first_state(
    noise: torch.Tensor,
    *,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    original_latents: torch.Tensor | None = None,
    strength: float = 1.0,
) -> State:
    """Return the state that a run starts from.

    At full strength it is pure noise at the first timestep. Below, the first part of the steps is left out: the run
    starts in the middle of its list, from the original picture with as much noise as belongs there.

    Args:
        noise: (B, C, h, w) float, standard normal, see `initial_noise`.
        schedule: the noise schedule.
        timesteps: (number of steps,) the whole list of the run.
        original_latents: as `noise`, clean and scaled; needed when `strength` < 1.
        strength: share of the steps that are done, [0, 1]; 0 returns the original itself, finished.

    Returns:
        The first state; its `step_index` is the number of steps left out.

    Raises:
        StateError: `strength` < 1 and there is no picture to start from.
        RangeError: `strength` is outside [0, 1].
        ShapeError: `original_latents` has another shape than `noise`.

    Source: huggingface/diffusers:src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion_img2img.py,
        `get_timesteps`.
    Deviation: full strength ignores the original, where diffusers keeps the trace of it that the schedule leaves.
    """
    check_range(strength, 0, 1, "strength")
    num_steps = len(timesteps)
    if strength == 1:
        return State(0, timesteps[0].item(), noise)
    if original_latents is None:
        raise StateError(
            f"strength is {strength:g}, but there is no picture to start from; give one, or use strength=1."
        )
    check_same_shape(original_latents, noise, "original_latents")
    # The small term undoes rounding: 100 * 0.29 is 28.999999999999996.
    step_index = num_steps - math.floor(num_steps * strength + 1e-9)
    if step_index == num_steps:
        return State(num_steps, None, original_latents)
    timestep = timesteps[step_index].item()
    return State(step_index, timestep, schedule.add_noise(original_latents, noise, timestep))


def sample_step(
    state: State,
    *,
    predict: Predict,
    guide: Guide,
    solver: Solver,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    eta: float = 0.0,
    seed: int = 0,
    sample_index: int = 0,
) -> tuple[State, StepRecord]:
    """Ask the network, guide, and step: equal arguments give bit-equal results.

    Args:
        state: where to step from.
        predict: (latents, timestep) -> predicted noise of each guidance pass, by the name of the pass; see
            `Predictions` for what it may say beside that.
        guide: these predictions -> one.
        solver: one of `SOLVERS`.
        schedule: the noise schedule.
        timesteps: (number of steps,) the whole list of the run.
        eta: stochasticity of DDIM, [0, 1].
        seed: seed of the run; together with the step it decides the noise that `eta` > 0 adds.
        sample_index: which sample of the run.

    Returns:
        The next state, and the record of the step; both detached from any gradient.

    Raises:
        StateError: the run is over, or the state belongs to another list of timesteps.
        RangeError: the prediction is not finite, or `eta` is not possible.
    """
    if state.timestep is None:
        raise StateError(f"All {len(timesteps)} steps are done; start a new run, or go back to an earlier state.")
    asked = predict(state.latents, state.timestep)
    predictions = {name: pred.detach() for name, pred in asked.items()}
    noise_pred = guide(predictions).detach()
    inputs = dict(asked.network_inputs) if isinstance(asked, Predictions) else {}
    if isinstance(asked, Predictions) and asked.steer is not None:
        inputs["steering"] = asked.steer(noise_pred).detach()
        noise_pred = noise_pred + inputs["steering"]
    if not bool(torch.isfinite(noise_pred).all()):
        raise RangeError(
            f"The prediction of step {state.step_index} holds NaN or infinity ({noise_pred.dtype}); load the model "
            "with dtype=torch.float32, or lower the guidance scale."
        )
    noise = None
    if eta > 0:
        noise = step_noise(seed, state.step_index, sample_index, state.latents.shape).to(state.latents.device)
    following = solver.step(state, noise_pred, schedule=schedule, timesteps=timesteps, eta=eta, noise=noise)
    original = schedule.to_original_sample(noise_pred, state.latents, state.timestep)
    return following, StepRecord(state.step_index, state.timestep, predictions, noise_pred, original, inputs)
