import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.networks.libraries import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from colorlab.sampling import SOLVERS, NoiseSchedule, initial_noise

torch.set_num_threads(1)

SHAPE = (2, 4, 3, 5)
KINDS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def is_usable(timesteps: np.ndarray) -> bool:
    return bool(timesteps[0] <= 999 and timesteps[-1] >= 0 and (np.diff(timesteps) < 0).all())


@pytest.mark.parametrize("steps_offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_timesteps_equal_diffusers_for_every_count(solver, spacing, steps_offset):
    schedule = NoiseSchedule(steps_offset=steps_offset)
    theirs = KINDS[solver](**BETAS, timestep_spacing=spacing, steps_offset=steps_offset)
    # Every count up to 120, then some, then all near the end, where lists break.
    for num_steps in (*range(1, 121), *range(121, 990, 13), *range(990, 1001)):
        theirs.set_timesteps(num_steps)
        # Rounding gives some trailing lists a surplus -1 at the end.
        expected = theirs.timesteps.numpy()[:num_steps]
        if is_usable(expected):
            ours = schedule.timesteps(num_steps, spacing, solver=solver)
            np.testing.assert_array_equal(ours.numpy(), expected, err_msg=f"{num_steps} steps")
        else:
            with pytest.raises(RangeError, match=f"{num_steps}"):
                schedule.timesteps(num_steps, spacing, solver=solver)


def test_the_surplus_timestep_of_diffusers_is_left_out():
    theirs = DDIMScheduler(**BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(61)
    assert (len(theirs.timesteps), theirs.timesteps[-1].item()) == (62, -1), "diffusers repaired it: drop the deviation"
    assert NoiseSchedule().timesteps(61, "trailing").tolist() == theirs.timesteps.tolist()[:-1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_timesteps_are_integers_except_between_those_of_euler(solver):
    for spacing in ("leading", "linspace", "trailing"):
        timesteps = NoiseSchedule().timesteps(7, spacing, solver=solver)
        is_between = solver == "euler" and spacing == "linspace"
        assert timesteps.dtype == (torch.float32 if is_between else torch.int64)
    assert NoiseSchedule().timesteps(10, "linspace", solver="euler").dtype == torch.int64


@pytest.mark.parametrize(
    ("count", "spacing", "solver"),
    [(0, "leading", "ddim"), (-1, "leading", "ddim"), (1001, "trailing", "ddim"), (1000, "leading", "ddim"),
     (999, "leading", "dpmpp_2m"), (1000, "linspace", "dpmpp_2m"), (2.5, "leading", "ddim"), (True, "leading", "ddim"),
     (20, "karras", "ddim"), (20, "leading", "heun")],
)  # fmt: skip
def test_impossible_lists_are_refused(count, spacing, solver):
    with pytest.raises(RangeError, match=r"expected|another count"):
        NoiseSchedule().timesteps(count, spacing, solver=solver)


def test_published_list():
    schedule = NoiseSchedule()
    assert schedule.timesteps(50, as_published=True).tolist() == schedule.timesteps(50).tolist()
    assert len(schedule.timesteps(30, as_published=True)) == 31
    assert len(schedule.timesteps(60, as_published=True)) == 63
    crashing = {3, 9, 27, 36, 37, *range(101, 112), *range(251, 334), *range(501, 1001)}
    for num_steps in range(1, 1001):
        if num_steps in crashing:
            with pytest.raises(RangeError, match="another count"):
                schedule.timesteps(num_steps, as_published=True)
        else:
            stride = 1000 // num_steps
            assert schedule.timesteps(num_steps, as_published=True).tolist() == list(range(1, 1001, stride))[::-1]
    with pytest.raises(RangeError, match="leading"):
        schedule.timesteps(20, "trailing", as_published=True)


def test_published_list_equals_the_recorded_one():
    folder = os.environ.get("COLORLAB_REFERENCE")
    if not folder:
        pytest.skip("COLORLAB_REFERENCE is not set: the recorded lists of L-CAD were not compared (1 case)")
    recorded = json.loads((Path(folder) / "lcad" / "case3_schedule.json").read_text())["timesteps_by_S"]
    schedule = NoiseSchedule()
    for num_steps, case in recorded.items():
        if case["crashes_out_of_range"]:
            with pytest.raises(RangeError):
                schedule.timesteps(int(num_steps), as_published=True)
        else:
            ours = schedule.timesteps(int(num_steps), as_published=True)
            assert (len(ours), ours[0].item(), ours[-1].item()) == (case["count"], case["first"], case["last"])
            if case["descending"] is not None:  # Long lists are recorded by their ends only.
                assert ours.tolist() == case["descending"]
    assert len(recorded) > 10


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "linear"])
def test_noise_levels_equal_diffusers(beta_schedule):
    schedule = NoiseSchedule(beta_schedule=beta_schedule)
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule=beta_schedule)
    assert torch.equal(schedule.alphas_cumprod, theirs.alphas_cumprod)
    assert schedule.alphas_cumprod.dtype == torch.float32
    assert torch.equal(schedule.sigmas, ((1 - theirs.alphas_cumprod) / theirs.alphas_cumprod) ** 0.5)


def test_levels_agree_with_each_other():
    schedule = NoiseSchedule()
    for timestep in (0, 1, 333, 999, 0.5, 832.5):
        alpha, sigma = schedule.alpha_sigma_at(timestep)
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-12)
        assert sigma / alpha == pytest.approx(schedule.sigma_at(timestep), rel=1e-4)
    middle = (schedule.sigma_at(832) + schedule.sigma_at(833)) / 2
    assert schedule.sigma_at(832.5) == pytest.approx(middle, rel=1e-9)
    for timestep in (-1, 1000, 999.5):
        with pytest.raises(RangeError, match="timestep"):
            schedule.sigma_at(timestep)


def test_add_noise_and_velocity_equal_diffusers():
    schedule, theirs = NoiseSchedule(prediction_type="v_prediction"), DDIMScheduler(**BETAS)
    latents, noise = initial_noise(0, 0, SHAPE), initial_noise(1, 0, SHAPE)
    timesteps = torch.tensor([3, 870])
    noisy = schedule.add_noise(latents, noise, timesteps)
    assert (noisy - theirs.add_noise(latents, noise, timesteps)).abs().max() < 1e-6
    velocity = schedule.training_target(latents, noise, timesteps)
    assert (velocity - theirs.get_velocity(latents, noise, timesteps)).abs().max() < 1e-6
    one = schedule.add_noise(latents[1:], noise[1:], 870)
    assert (one - noisy[1:]).abs().max() < 1e-6
    assert schedule.add_noise(latents.half(), noise, timesteps).dtype == torch.float16


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [1, 500, 998, torch.tensor([20, 700]), 499.5])
def test_a_network_that_meets_its_target_predicts_noise_and_picture(prediction_type, timestep):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    latents, noise = initial_noise(0, 0, SHAPE).double(), initial_noise(1, 0, SHAPE).double()
    noisy = schedule.add_noise(latents, noise, timestep)
    output = schedule.training_target(latents, noise, timestep)
    noise_pred = schedule.to_noise_pred(output, noisy, timestep)
    assert (noise_pred - noise).abs().max() < 1e-9
    assert (schedule.to_original_sample(noise_pred, noisy, timestep) - latents).abs().max() < 1e-9


def test_tensors_that_do_not_fit_are_refused():
    schedule, x = NoiseSchedule(prediction_type="v_prediction"), initial_noise(0, 0, SHAPE)
    with pytest.raises(ShapeError, match="noise"):
        schedule.add_noise(x, x[:1], 5)
    with pytest.raises(ShapeError, match="timesteps"):
        schedule.add_noise(x, x, torch.tensor([1, 2, 3]))
    with pytest.raises(ShapeError, match="timesteps"):
        schedule.add_noise(x, x, torch.tensor([1.0, 2.0]))
    with pytest.raises(RangeError, match="timesteps"):
        schedule.add_noise(x, x, torch.tensor([1, 1000]))
    with pytest.raises(ShapeError, match="model_output"):
        schedule.to_noise_pred(x[:, :2], x, 5)
    with pytest.raises(ShapeError, match="noise_pred"):
        schedule.to_original_sample(x[:, :2], x, 5)


def test_config_goes_both_ways_and_diffusers_reads_it():
    schedule = NoiseSchedule(prediction_type="v_prediction", set_alpha_to_one=True, steps_offset=0)
    config = json.loads(json.dumps(schedule.to_config()))
    assert NoiseSchedule.from_config(config) == schedule
    theirs = DDIMScheduler.from_config(config)
    assert theirs.config.prediction_type == "v_prediction"
    assert theirs.config.clip_sample is False
    assert torch.equal(theirs.alphas_cumprod, schedule.alphas_cumprod)


@pytest.mark.parametrize("kind", [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_configs_of_diffusers_schedulers_are_read(kind):
    theirs = kind(**BETAS, steps_offset=1, **({"clip_sample": False} if kind is DDIMScheduler else {}))
    schedule = NoiseSchedule.from_config(dict(theirs.config))
    assert torch.equal(schedule.alphas_cumprod, theirs.alphas_cumprod)
    assert schedule.steps_offset == 1


def test_missing_fields_of_a_config_take_the_defaults_of_diffusers():
    schedule = NoiseSchedule.from_config({})
    assert torch.equal(schedule.alphas_cumprod, DDIMScheduler().alphas_cumprod)
    assert (schedule.steps_offset, schedule.set_alpha_to_one) == (0, True)


@pytest.mark.parametrize(
    "config",
    [{"trained_betas": [0.1, 0.2]}, {"rescale_betas_zero_snr": True}, {"clip_sample": True},
     {"use_karras_sigmas": True}, {"prediction_type": "flow_prediction"}, {"beta_schedule": "squaredcos_cap_v2"}],
)  # fmt: skip
def test_configs_that_would_change_the_numbers_are_refused(config):
    with pytest.raises(RangeError, match=next(iter(config))):
        NoiseSchedule.from_config(config)


@pytest.mark.parametrize(
    "fields",
    [{"num_train_timesteps": 0}, {"beta_start": 0.5, "beta_end": 0.1}, {"beta_end": 1.0}, {"steps_offset": -1},
     {"beta_schedule": "cosine"}, {"prediction_type": "noise"}, {"final_sigmas_type": "one"}],
)  # fmt: skip
def test_impossible_schedules_are_refused(fields):
    with pytest.raises(RangeError, match=next(iter(fields))):
        NoiseSchedule(**fields)
