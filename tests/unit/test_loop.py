import pytest
import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.sampling import (
    SOLVERS,
    NoiseSchedule,
    State,
    classifier_free,
    first_state,
    initial_noise,
    sample_step,
    step_noise,
)

torch.set_num_threads(1)

SHAPE = (1, 4, 6, 5)
SCHEDULE = NoiseSchedule()


def predict(latents: torch.Tensor, timestep: float) -> dict[str, torch.Tensor]:
    return {"uncond": torch.sin(latents + timestep / 500), "cond": torch.tanh(latents - timestep / 900)}


def guide(predictions: dict[str, torch.Tensor]) -> torch.Tensor:
    return classifier_free(predictions["uncond"], predictions["cond"], 3.0)


def options(name: str = "ddim", num_steps: int = 10, **changes: object) -> dict:
    timesteps = SCHEDULE.timesteps(num_steps, solver=name)
    return {
        "predict": predict,
        "guide": guide,
        "solver": SOLVERS[name],
        "schedule": SCHEDULE,
        "timesteps": timesteps,
        **changes,
    }


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("euler", 0.0), ("dpmpp_2m", 0.0)])
def test_any_state_goes_on_bit_for_bit(name, eta):
    arguments = options(name, eta=eta, seed=4)
    state = first_state(initial_noise(4, 0, SHAPE), schedule=SCHEDULE, timesteps=arguments["timesteps"])
    states, records = [state], []
    while not state.is_finished:
        state, record = sample_step(state, **arguments)
        states.append(state)
        records.append(record)
    assert [record.step_index for record in records] == list(range(10))
    assert [record.timestep for record in records] == arguments["timesteps"].tolist()
    for k in (0, 4, 9):
        again, record = sample_step(states[k], **arguments)
        assert again.equals(states[k + 1])
        assert torch.equal(record.noise_pred, records[k].noise_pred)
        assert torch.equal(record.pred_original_sample, records[k].pred_original_sample)


def test_record_says_what_was_predicted():
    arguments = options()
    state = State(0, 901, initial_noise(0, 0, SHAPE))
    following, record = sample_step(state, **arguments)
    predictions = predict(state.latents, 901)
    assert all(torch.equal(record.predictions[name], predictions[name]) for name in ("uncond", "cond"))
    assert torch.equal(record.noise_pred, guide(predictions))
    noisy = SCHEDULE.add_noise(record.pred_original_sample, record.noise_pred, 901)
    assert (noisy - state.latents).abs().max() < 1e-5
    expected = SCHEDULE.add_noise(record.pred_original_sample, record.noise_pred, 801)
    assert (following.latents - expected).abs().max() < 1e-5


def test_stochastic_steps_draw_the_noise_of_their_step():
    state = State(2, 701, initial_noise(0, 0, SHAPE))
    arguments = options(eta=1.0, seed=5, sample_index=3)
    following, record = sample_step(state, **arguments)
    expected = SOLVERS["ddim"].step(
        state,
        record.noise_pred,
        schedule=SCHEDULE,
        timesteps=arguments["timesteps"],
        eta=1.0,
        noise=step_noise(5, 2, 3, SHAPE),
    )
    assert following.equals(expected)
    assert not following.equals(sample_step(state, **{**arguments, "seed": 6})[0])
    assert not following.equals(sample_step(state, **{**arguments, "sample_index": 4})[0])


def test_results_hold_no_gradient():
    weight = torch.ones((), requires_grad=True)
    following, record = sample_step(
        State(0, 901, initial_noise(0, 0, SHAPE)),
        **options(predict=lambda x, t: {"cond": weight * x}, guide=lambda predictions: weight * predictions["cond"]),
    )
    tensors = (following.latents, record.noise_pred, record.pred_original_sample, record.predictions["cond"])
    assert not any(tensor.requires_grad for tensor in tensors)


def test_finished_and_broken_steps_are_refused():
    x = initial_noise(0, 0, SHAPE)
    with pytest.raises(StateError, match="All 10 steps are done"):
        sample_step(State(10, None, x), **options())
    with pytest.raises(RangeError, match=r"step 0.*float32"):
        sample_step(State(0, 901, x), **options(guide=lambda predictions: predictions["cond"] / 0))
    with pytest.raises(ShapeError, match="noise_pred"):
        sample_step(State(0, 901, x), **options(guide=lambda predictions: predictions["cond"][:, :2]))


def test_full_strength_starts_from_noise():
    noise = initial_noise(0, 0, SHAPE)
    state = first_state(noise, schedule=SCHEDULE, timesteps=SCHEDULE.timesteps(10))
    assert state.equals(State(0, 901, noise))
    assert state.equals(
        first_state(noise, schedule=SCHEDULE, timesteps=SCHEDULE.timesteps(10), original_latents=noise * 0)
    )


@pytest.mark.parametrize(
    ("num_steps", "strength", "num_done"), [(10, 0.7, 7), (100, 0.29, 29), (20, 0.04, 0), (10, 0.0, 0), (3, 0.999, 2)]
)
def test_partial_strength_does_the_last_part_of_the_steps(num_steps, strength, num_done):
    noise, original = initial_noise(0, 0, SHAPE), torch.tanh(initial_noise(1, 0, SHAPE))
    timesteps = SCHEDULE.timesteps(num_steps)
    state = first_state(noise, schedule=SCHEDULE, timesteps=timesteps, original_latents=original, strength=strength)
    assert state.step_index == num_steps - num_done
    if num_done == 0:
        assert state.equals(State(num_steps, None, original))
    else:
        assert state.timestep == timesteps[num_steps - num_done]
        assert torch.equal(state.latents, SCHEDULE.add_noise(original, noise, state.timestep))
        arguments = options(num_steps=num_steps)
        assert sample_step(state, **arguments)[0].step_index == state.step_index + 1


def test_impossible_starts_are_refused():
    noise, timesteps = initial_noise(0, 0, SHAPE), SCHEDULE.timesteps(10)
    with pytest.raises(StateError, match="no picture"):
        first_state(noise, schedule=SCHEDULE, timesteps=timesteps, strength=0.5)
    with pytest.raises(RangeError, match="strength"):
        first_state(noise, schedule=SCHEDULE, timesteps=timesteps, strength=1.5)
    with pytest.raises(ShapeError, match="original_latents"):
        first_state(noise, schedule=SCHEDULE, timesteps=timesteps, original_latents=noise[:, :2], strength=0.5)
