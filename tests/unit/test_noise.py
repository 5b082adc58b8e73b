import itertools

import pytest
import torch

from colorlab.errors import RangeError
from colorlab.sampling import initial_noise, step_noise

torch.set_num_threads(1)

SHAPE = (1, 4, 16, 16)


def test_noise_is_a_function_of_its_arguments():
    torch.manual_seed(1)
    first = (initial_noise(7, 0, SHAPE), step_noise(7, 3, 0, SHAPE))
    torch.manual_seed(2)
    torch.randn(5)
    for noise, again in zip(first, (initial_noise(7, 0, SHAPE), step_noise(7, 3, 0, SHAPE)), strict=True):
        assert torch.equal(noise, again)
        assert (noise.dtype, noise.device.type, tuple(noise.shape)) == (torch.float32, "cpu", SHAPE)


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    initial_noise(0, 0, SHAPE)
    step_noise(0, 0, 0, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_triple_has_its_own_noise():
    triples = list(itertools.product((0, 1, 2, 10, 11, 2**32), repeat=3))
    draws = [step_noise(*triple, (8,)) for triple in triples]
    draws += [initial_noise(seed, sample_index, (8,)) for seed, sample_index in itertools.product(range(6), repeat=2)]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_neighbours_are_not_correlated_and_values_are_normal():
    draws = torch.stack([step_noise(seed, k, 0, (4096,)) for seed in range(3) for k in range(3)])
    assert draws.mean().abs() < 0.02
    assert (draws.std() - 1).abs() < 0.02
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.08


def test_any_integer_is_a_seed():
    for seed in (-1, 0, 2**31, 2**63, 10**30):
        assert torch.isfinite(initial_noise(seed, 0, (4,))).all()
    assert not torch.equal(initial_noise(-1, 0, (4,)), initial_noise(1, 0, (4,)))


@pytest.mark.parametrize("arguments", [(0.5, 0, (4,)), (True, 0, (4,)), (0, -1, (4,)), (0, 0, (4, -1)), (0, 0, (2.0,))])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(RangeError, match="expected"):
        initial_noise(*arguments)
    with pytest.raises(RangeError, match="step_index"):
        step_noise(0, -1, 0, (4,))
