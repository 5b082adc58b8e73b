import math

import pytest
import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.sampling import classifier_free, initial_noise

UNCOND, COND = initial_noise(0, 0, (1, 4, 3, 5)), initial_noise(1, 0, (1, 4, 3, 5))


def test_scale_one_returns_the_condition_itself():
    assert classifier_free(UNCOND, COND, 1.0) is COND


def test_equal_predictions_are_left_alone():
    assert torch.equal(classifier_free(COND, COND, 7.5), COND)


def test_guidance_is_a_straight_line_from_uncond_through_cond():
    for scale in (1.5, 5.0):
        guided = classifier_free(UNCOND, COND, scale)
        assert (guided - (scale * COND + (1 - scale) * UNCOND)).abs().max() < 1e-5
    assert (classifier_free(UNCOND, COND, 1.0 + 1e-6) - COND).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [0.5, -1.0, math.nan, math.inf])
def test_impossible_scales_are_refused(scale):
    with pytest.raises(RangeError, match="guidance_scale"):
        classifier_free(UNCOND, COND, scale)


def test_predictions_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match="noise_pred_uncond"):
        classifier_free(UNCOND[:, :3], COND, 2.0)
    with pytest.raises(ShapeError, match="noise_pred_uncond"):
        classifier_free(UNCOND[:, :3], COND, 1.0)
