import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.networks.libraries import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from colorlab.sampling import SOLVERS, NoiseSchedule, State, find_solver, first_state, initial_noise, step_noise
from colorlab.sampling.ddim import ddim_target_timestep

torch.set_num_threads(1)

SHAPE = (1, 4, 6, 5)
SPACINGS = ("leading", "linspace", "trailing")
STEP_COUNTS = (1, 2, 7, 20, 30, 60)
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Stand in for a network: a smooth, deterministic function that mixes pixels and depends on the timestep."""
    phase = timestep / 1000
    return 0.8 * torch.sin(1.3 * x + 2 * phase) + 0.3 * torch.tanh(x.roll(1, -1) - phase) + 0.1 * math.cos(9 * phase)


def our_run(
    name: str,
    schedule: NoiseSchedule,
    timesteps: torch.Tensor,
    start: torch.Tensor,
    *,
    eta: float = 0.0,
    model: Callable[[torch.Tensor, float], torch.Tensor] = network,
) -> list[State]:
    state = first_state(start, schedule=schedule, timesteps=timesteps)
    states = [state]
    while not state.is_finished:
        output = model(state.latents, state.timestep)
        noise_pred = schedule.to_noise_pred(output, state.latents, state.timestep)
        noise = step_noise(0, state.step_index, 0, SHAPE) if eta else None
        state = SOLVERS[name].step(state, noise_pred, schedule=schedule, timesteps=timesteps, eta=eta, noise=noise)
        states.append(state)
    return states


def their_config(schedule: NoiseSchedule, spacing: str) -> dict[str, Any]:
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "steps_offset", "prediction_type")
    return {name: getattr(schedule, name) for name in names} | {"timestep_spacing": spacing}


def their_scheduler(name: str, schedule: NoiseSchedule, spacing: str) -> Any:
    config = their_config(schedule, spacing)
    if name == "ddim":
        return DDIMScheduler(**config, clip_sample=False, set_alpha_to_one=schedule.set_alpha_to_one)
    kind = {"euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}[name]
    return kind(**config, final_sigmas_type=schedule.final_sigmas_type)


def their_run(
    name: str, schedule: NoiseSchedule, spacing: str, num_steps: int, start: torch.Tensor, *, eta: float = 0.0
) -> list[torch.Tensor]:
    """Return the variance-preserving latents of every step of diffusers' scheduler."""
    scheduler = their_scheduler(name, schedule, spacing)
    scheduler.set_timesteps(num_steps)

    def scale(step_index: int) -> torch.Tensor | float:
        """Variance exploding over variance preserving: sqrt(1 + sigma^2)."""
        return (1 + scheduler.sigmas[step_index] ** 2) ** 0.5 if name == "euler" else 1.0

    sample = start * scale(0)
    path = [start]
    for k, timestep in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(sample, timestep), timestep.item())
        extra = {"eta": eta, "variance_noise": step_noise(0, k, 0, SHAPE).to(sample)} if eta else {}
        sample = scheduler.step(output, timestep, sample, **extra).prev_sample
        path.append(sample / scale(k + 1))
    return path


def largest_difference(states: list[State], path: list[torch.Tensor]) -> float:
    """Return the largest difference over a whole trajectory, relative to the latents where they exceed 1."""
    assert len(states) == len(path)
    scale = max(1.0, max(x.abs().max().item() for x in path))
    return max((s.latents - x).abs().max().item() for s, x in zip(states, path, strict=True)) / scale


def compare(
    name: str, schedule: NoiseSchedule, spacing: str, num_steps: int, dtype: torch.dtype, eta: float = 0.0
) -> float:
    start = initial_noise(3, 0, SHAPE).to(dtype)
    timesteps = schedule.timesteps(num_steps, spacing, solver=name)
    states = our_run(name, schedule, timesteps, start, eta=eta)
    assert all(state.latents.dtype == dtype for state in states)
    return largest_difference(states, their_run(name, schedule, spacing, num_steps, start, eta=eta))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SOLVERS)
def test_whole_trajectory_equals_diffusers(name, spacing, prediction_type, dtype):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    differences = {n: compare(name, schedule, spacing, n, dtype) for n in STEP_COUNTS}
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SOLVERS)
def test_nearly_all_timesteps_equal_diffusers(name, spacing):
    # Not 999: with so many leading steps DPM-Solver++ would leave the timesteps. Not 998: see `timesteps`, Deviation.
    # Float32 rounds 997 times: 5e-6 to 1.4e-5, by processor.
    assert compare(name, NoiseSchedule(prediction_type="v_prediction"), spacing, 997, torch.float32) < 3e-5


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule(set_alpha_to_one=True),
        NoiseSchedule(steps_offset=0),
        NoiseSchedule(final_sigmas_type="sigma_min"),
        NoiseSchedule(beta_schedule="linear", beta_start=0.0001, beta_end=0.02, steps_offset=0),
        NoiseSchedule(num_train_timesteps=640),
    ],
    ids=["alpha_to_one", "no_offset", "sigma_min", "linear_betas", "640_timesteps"],
)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SOLVERS)
def test_conventions_equal_diffusers(name, spacing, schedule):
    # 14 and 15: below 15 steps DPM-Solver++ ends with a first-order step even where noise is left.
    differences = {n: compare(name, schedule, spacing, n, torch.float64) for n in (7, 14, 15)}
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ddim_with_noise_equals_diffusers(eta, spacing, prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    differences = {n: compare("ddim", schedule, spacing, n, torch.float32, eta) for n in (7, 30)}
    assert max(differences.values()) < 1e-5, differences


@pytest.mark.parametrize("name", SOLVERS)
def test_a_start_in_the_middle_equals_diffusers(name):
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(20, solver=name)
    noise, original = initial_noise(0, 0, SHAPE), torch.tanh(initial_noise(1, 0, SHAPE))
    state = first_state(noise, schedule=schedule, timesteps=timesteps, original_latents=original, strength=0.6)
    assert state.step_index == 8

    scheduler = their_scheduler(name, schedule, "leading")
    scheduler.set_timesteps(20)
    their_timesteps = scheduler.timesteps[8:]
    if name != "ddim":
        scheduler.set_begin_index(8)
    sample = scheduler.add_noise(original, noise, their_timesteps[:1])
    for timestep in their_timesteps:
        output = network(scheduler.scale_model_input(sample, timestep), timestep.item())
        sample = scheduler.step(output, timestep, sample).prev_sample

    while not state.is_finished:
        noise_pred = network(state.latents, state.timestep)
        state = SOLVERS[name].step(state, noise_pred, schedule=schedule, timesteps=timesteps)
    assert (state.latents - sample).abs().max() < 1e-5


def test_first_latents_of_diffusers_euler_are_ours_times_a_known_factor():
    schedule = NoiseSchedule()
    for spacing in SPACINGS:
        scheduler = their_scheduler("euler", schedule, spacing)
        scheduler.set_timesteps(20)
        sigma = scheduler.sigmas[0].item()
        factor = float(scheduler.init_noise_sigma) / math.sqrt(1 + sigma**2)
        expected = 1.0 if spacing == "leading" else sigma / math.sqrt(1 + sigma**2)
        assert factor == pytest.approx(expected, abs=1e-6)


def test_ddim_is_euler_in_other_words():
    schedule = NoiseSchedule(set_alpha_to_one=True)
    timesteps = schedule.timesteps(30)
    start = initial_noise(0, 0, SHAPE).double()
    for ddim, euler in zip(
        our_run("ddim", schedule, timesteps, start), our_run("euler", schedule, timesteps, start), strict=True
    ):
        # The schedule's numbers are float32, and latents reach 20.
        assert (ddim.latents - euler.latents).abs().max() < 1e-6 * max(1.0, float(ddim.latents.abs().max()))


def test_first_step_of_dpmpp_is_ddim():
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(20)
    start = State(0, timesteps[0].item(), initial_noise(0, 0, SHAPE).double())
    noise_pred = network(start.latents, start.timestep)
    steps = [SOLVERS[n].step(start, noise_pred, schedule=schedule, timesteps=timesteps) for n in ("ddim", "dpmpp_2m")]
    assert (steps[0].latents - steps[1].latents).abs().max() < 1e-6


@pytest.mark.parametrize("name", SOLVERS)
def test_a_perfect_prediction_leads_to_the_picture(name):
    schedule = NoiseSchedule(set_alpha_to_one=True, prediction_type="sample")
    picture = torch.tanh(initial_noise(5, 0, SHAPE)).double()
    timesteps = schedule.timesteps(10, solver=name)
    start = initial_noise(0, 0, SHAPE).double()
    end = our_run(name, schedule, timesteps, start, model=lambda x, timestep: picture)[-1]
    assert (end.latents - picture).abs().max() < 1e-6


def test_second_order_converges_faster():
    """For normal data of width s the exact path is known: x_t / sqrt(alpha^2 s^2 + sigma^2) is constant."""
    schedule, width = NoiseSchedule(set_alpha_to_one=True), 0.4
    start = initial_noise(0, 0, SHAPE).double()

    def exact(x: torch.Tensor, timestep: float) -> torch.Tensor:
        alpha, sigma = schedule.alpha_sigma_at(timestep)
        return sigma * x / (alpha**2 * width**2 + sigma**2)

    def error(name: str, num_steps: int) -> float:
        # The last step is of first order for every solver, so look at the state before it.
        timesteps = schedule.timesteps(num_steps, "trailing", solver=name)
        widths = [math.hypot(alpha * width, sigma) for alpha, sigma in map(schedule.alpha_sigma_at, timesteps.tolist())]
        before_last = our_run(name, schedule, timesteps, start, model=exact)[-2]
        return (before_last.latents - start * widths[-1] / widths[0]).abs().max().item()

    for num_steps in (20, 40):
        assert error("dpmpp_2m", num_steps) < 0.4 * error("ddim", num_steps)
    assert error("ddim", 100) < 0.5 * error("ddim", 20)


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_are_pure_and_any_state_is_a_restart(name):
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(20, solver=name)
    eta = 0.5 if SOLVERS[name].takes_eta else 0.0
    states = our_run(name, schedule, timesteps, initial_noise(0, 0, SHAPE), eta=eta)
    before = [state.latents.clone() for state in states]
    for k in (0, 1, 7, 18):
        state = states[k]
        while not state.is_finished:
            noise_pred = network(state.latents, state.timestep)
            noise = step_noise(0, state.step_index, 0, SHAPE) if eta else None
            options = {"schedule": schedule, "timesteps": timesteps, "eta": eta, "noise": noise}
            following = SOLVERS[name].step(state, noise_pred, **options)
            assert following.equals(SOLVERS[name].step(state, noise_pred, **options))
            state = following
            assert state.equals(states[state.step_index])
    assert all(torch.equal(a, b.latents) for a, b in zip(before, states, strict=True))


def test_history_belongs_to_dpmpp_only():
    schedule = NoiseSchedule()
    for name, length in (("ddim", 0), ("euler", 0), ("dpmpp_2m", 1)):
        states = our_run(name, schedule, schedule.timesteps(7, solver=name), initial_noise(0, 0, SHAPE))
        assert states[0].history == ()
        assert {len(state.history) for state in states[1:]} == {length}


def test_half_precision_steps_are_computed_in_float32():
    schedule = NoiseSchedule()
    for name, solver in SOLVERS.items():
        timesteps = schedule.timesteps(20, solver=name)
        latents = initial_noise(0, 0, SHAPE).half()
        noise_pred = network(latents.float(), 951).half()
        results = []
        for dtype in (torch.float16, torch.float32):
            state = State(0, timesteps[0].item(), latents.to(dtype))
            results.append(solver.step(state, noise_pred.to(dtype), schedule=schedule, timesteps=timesteps))
        assert results[0].latents.dtype == torch.float16
        assert torch.equal(results[0].latents, results[1].latents.half())


@pytest.mark.parametrize("steps_offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_ends_each_step_where_diffusers_does(spacing, steps_offset):
    schedule = NoiseSchedule(steps_offset=steps_offset)
    for num_steps in range(1, 1000):
        timesteps = schedule.timesteps(num_steps, spacing)
        k = num_steps // 2
        assert ddim_target_timestep(timesteps, k, 1000) == timesteps[k].item() - 1000 // num_steps, num_steps


@pytest.mark.parametrize("num_steps", [7, 20, 30, 60])
def test_ddim_follows_a_published_list_as_it_is(num_steps):
    timesteps = NoiseSchedule().timesteps(num_steps, as_published=True)
    targets = [ddim_target_timestep(timesteps, k, 1000) for k in range(len(timesteps))]
    assert targets[:-1] == timesteps[1:].tolist()
    assert targets[-1] < 0


def test_find_solver_knows_its_names():
    assert [find_solver(name).name for name in SOLVERS] == list(SOLVERS)
    with pytest.raises(RangeError, match=r"'heun'.*'ddim'"):
        find_solver("heun")


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_steps_are_refused(name):
    schedule, step = NoiseSchedule(), SOLVERS[name].step
    timesteps = schedule.timesteps(5, solver=name)
    x = initial_noise(0, 0, SHAPE)
    state = State(0, timesteps[0].item(), x)
    options = {"schedule": schedule, "timesteps": timesteps}
    with pytest.raises(StateError, match="All 5 steps are done"):
        step(State(5, None, x), x, **options)
    with pytest.raises(StateError, match="list of timesteps"):
        step(dataclasses.replace(state, timestep=state.timestep - 1), x, **options)
    with pytest.raises(ShapeError, match="noise_pred"):
        step(state, x[:, :3], **options)
    if SOLVERS[name].takes_eta:
        with pytest.raises(RangeError, match="no noise"):
            step(state, x, eta=0.5, **options)
        with pytest.raises(ShapeError, match="noise"):
            step(state, x, eta=0.5, noise=x[:, :3], **options)
        with pytest.raises(RangeError, match="eta"):
            step(state, x, eta=1.5, noise=x, **options)
    else:
        with pytest.raises(RangeError, match="adds no noise"):
            step(state, x, eta=0.5, noise=x, **options)


def test_ddim_refuses_timesteps_between_integers():
    schedule = NoiseSchedule()
    timesteps = schedule.timesteps(7, "linspace", solver="euler")
    x = initial_noise(0, 0, SHAPE)
    with pytest.raises(RangeError, match="integers"):
        SOLVERS["ddim"].step(State(0, timesteps[0].item(), x), x, schedule=schedule, timesteps=timesteps)
