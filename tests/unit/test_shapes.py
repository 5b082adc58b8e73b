import math

import numpy as np
import pytest
import torch

from colorlab.errors import RangeError, ShapeError
from colorlab.shapes import check_finite, check_range, check_shape


def test_words_are_bound_to_sizes() -> None:
    assert check_shape(torch.zeros(2, 3, 4, 5), "B 3 H W", "image") == {"B": 2, "H": 4, "W": 5}
    assert check_shape(np.zeros((7, 2)), "N 2", "points") == {"N": 7}


def test_a_repeated_word_has_to_agree() -> None:
    assert check_shape(torch.zeros(4, 4), "N N", "matrix") == {"N": 4}
    with pytest.raises(ShapeError, match=r"matrix has shape \(4, 5\), but \(N, N\) is expected: axis 1 is 5"):
        check_shape(torch.zeros(4, 5), "N N", "matrix")


def test_words_bound_elsewhere_have_to_agree() -> None:
    sizes = check_shape(torch.zeros(1, 1, 4, 5), "B 1 H W", "gray")
    assert check_shape(torch.zeros(1, 9, 4, 5), "B C H W", "map", sizes=sizes) == {"B": 1, "C": 9, "H": 4, "W": 5}
    with pytest.raises(ShapeError, match="axis 3 is 6 instead of W = 5"):
        check_shape(torch.zeros(1, 2, 4, 6), "B 2 H W", "ab", sizes=sizes)
    assert sizes == {"B": 1, "H": 4, "W": 5}


def test_underscore_takes_any_size() -> None:
    assert check_shape(torch.zeros(3, 8), "_ D", "tokens") == {"D": 8}


@pytest.mark.parametrize("x", [torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), [[1.0]], None, "picture"])
def test_wrong_shapes_and_types_are_told(x: object) -> None:
    with pytest.raises(ShapeError, match=r"\(B, 3, H, W\) is expected"):
        check_shape(x, "B 3 H W", "image")


@pytest.mark.parametrize(
    "value", [0, 0.5, 1, np.float32(0.25), torch.tensor([0.0, 1.0]), np.array([0.3]), torch.zeros(0)]
)
def test_range_includes_its_ends(value: object) -> None:
    check_range(value, 0.0, 1.0, "strength")


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, math.nan, math.inf, torch.tensor([0.5, math.nan]), None, "1"])
def test_values_outside_the_range_are_told(value: object) -> None:
    with pytest.raises(RangeError, match="strength"):
        check_range(value, 0.0, 1.0, "strength")


def test_range_is_written_in_words() -> None:
    with pytest.raises(RangeError, match="scale is 0, but at least 1 is expected"):
        check_range(0, 1, math.inf, "scale")
    with pytest.raises(RangeError, match="runs from -1 to 3, but at most 2 is expected"):
        check_range([-1, 3], -math.inf, 2, "x")


def test_finite() -> None:
    check_finite(torch.ones(3), "latents")
    check_finite(torch.ones(3, dtype=torch.int64), "timesteps")
    with pytest.raises(RangeError, match="latents holds 2 values that are NaN or infinite out of 3"):
        check_finite(torch.tensor([1.0, math.nan, math.inf]), "latents")
