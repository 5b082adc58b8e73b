import dataclasses
import pickle

import pytest
import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.sampling import NoiseSchedule, State, StepRecord, initial_noise

X = initial_noise(0, 0, (1, 4, 3, 5))


def test_state_is_frozen():
    state = State(0, 951, X)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.step_index = 1
    with pytest.raises(TypeError):
        hash(state.latents == X) and state[0]


def test_after_step_walks_down_the_list():
    timesteps = NoiseSchedule().timesteps(3)
    states = [State(0, timesteps[0].item(), X)]
    for _ in range(3):
        states.append(states[-1].after_step(X, timesteps))
    assert [state.step_index for state in states] == [0, 1, 2, 3]
    assert [state.timestep for state in states] == [*timesteps.tolist(), None]
    assert [state.is_finished for state in states] == [False, False, False, True]


def test_after_step_keeps_the_dtype():
    timesteps = NoiseSchedule().timesteps(3)
    state = State(0, timesteps[0].item(), X.half()).after_step(X, timesteps, history=(X,))
    assert (state.latents.dtype, state.history[0].dtype) == (torch.float16, torch.float16)
    assert state.without_history().history == ()
    assert torch.equal(state.without_history().latents, state.latents)


def test_equals_looks_at_every_bit():
    state = State(1, 951, X, (X,))
    assert state.equals(State(1, 951, X.clone(), (X.clone(),)))
    assert state.equals(pickle.loads(pickle.dumps(state)))
    assert state.equals(state.to("cpu"))
    other = X.clone()
    other[0, 0, 0, 0] = torch.nextafter(other[0, 0, 0, 0], torch.tensor(9.0))
    for different in (
        State(2, 951, X, (X,)),
        State(1, 901, X, (X,)),
        State(1, 951, other, (X,)),
        State(1, 951, X, (other,)),
        State(1, 951, X),
        State(1, 951, X.double(), (X.double(),)),
    ):
        assert not state.equals(different)


@pytest.mark.parametrize("arguments", [(-1, 5, X), (0.5, 5, X), (0, -3, X), (0, float("nan"), X)])
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(RangeError, match="expected"):
        State(*arguments)


@pytest.mark.parametrize("arguments", [(0, 5, X[0]), (0, 5, X.int()), (0, 5, X, (X[:, :2],)), (0, 5, None)])
def test_impossible_tensors_are_refused(arguments):
    with pytest.raises(ShapeError, match="expected"):
        State(*arguments)


def test_record_keeps_named_predictions():
    predictions = {"uncond": X, "cond": X + 1}
    record = StepRecord(3, 801, predictions, X, X)
    predictions["cond"] = X - 1
    assert torch.equal(record.predictions["cond"], X + 1)
    assert dict(record.network_inputs) == {}
    assert record.num_bytes == 4 * X.numel() * 4
    copy = record.to("cpu")
    assert (copy.step_index, copy.timestep, list(copy.predictions)) == (3, 801, ["uncond", "cond"])
    assert torch.equal(pickle.loads(pickle.dumps(record)).noise_pred, X)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.timestep = 1


@pytest.mark.parametrize(
    "tensors",
    [({"cond": X[:, :2]}, X, X), ({"cond": X}, X, X[:, :2]), ({"cond": X}, X[0], X), ({}, X, X)],
)
def test_records_that_do_not_fit_are_refused(tensors):
    with pytest.raises(ShapeError, match="expected"):
        StepRecord(0, 5, *tensors)
