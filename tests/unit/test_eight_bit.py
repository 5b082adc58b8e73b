"""8-bit pictures as OpenCV computes them; its own numbers are compared in tests/parity."""

import numpy as np
import pytest
import torch

from colorlab.color import rgb_to_lab
from colorlab.eight_bit import lab8_to_rgb8, resize8_area, resize8_lanczos4, rgb8_to_lab8, to_truncated8
from colorlab.errors import ShapeError


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (13, 9, 3), dtype=np.uint8)


def test_lab_there_and_back(picture):
    lab8 = rgb8_to_lab8(picture)
    exact = rgb_to_lab(torch.from_numpy(picture / 255.0).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert np.abs(lab8 - (exact * [2.55, 1, 1] + [0, 128, 128])).max() <= 1.5
    assert np.abs(lab8_to_rgb8(lab8).astype(int) - picture).mean() < 2
    gray = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.abs(lab8_to_rgb8(rgb8_to_lab8(gray)).astype(int) - gray).max() <= 2


@pytest.mark.parametrize("resize", [resize8_area, resize8_lanczos4])
def test_resizing(picture, resize):
    assert np.array_equal(resize(picture, (13, 9)), picture)
    for size in ((5, 4), (26, 30), (20, 4), (1, 1)):
        assert resize(picture, size).shape == (*size, 3)
        constant = np.full((13, 9), 77, dtype=np.uint8)
        assert np.abs(resize(constant, size).astype(int) - 77).max() <= 1
    with pytest.raises(ShapeError, match="expected uint8"):
        resize(picture / 255.0, (5, 4))


def test_area_is_the_mean():
    blocks = np.kron(np.array([[0, 100], [200, 50]], dtype=np.uint8), np.ones((4, 3), dtype=np.uint8))
    assert resize8_area(blocks, (2, 2)).tolist() == [[0, 100], [200, 50]]


def test_decoded_pictures_are_cut_not_rounded():
    image = torch.tensor([-0.5, 0.9999, 0.5, 1.5]).reshape(1, 1, 2, 2).repeat(1, 3, 1, 1)
    assert to_truncated8(image)[..., 0].tolist() == [[0, 254], [127, 255]]
