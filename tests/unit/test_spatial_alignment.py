"""Spatial alignment: lightness stays, chroma finds its place, drift is told."""

import numpy as np
import pytest
import torch

from colorlab.color import gray_to_lightness, lab_to_rgb, rgb_to_lab
from colorlab.errors import RangeError, ShapeError
from colorlab.images import load_image, to_uint8
from colorlab.mechanisms.spatial_alignment import BACK_ENDS, align, measure_drift


def structured_gray(size=64):
    """Return a gray picture (1, 1, H, W) with edges and texture."""
    y, x = np.mgrid[0:size, 0:size] / size
    picture = 0.35 + 0.3 * ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.08) + 0.05 * np.sin(30 * x) * np.cos(23 * y)
    return torch.from_numpy(picture).float()[None, None]


def colored(gray, ab):
    """Return a picture of the lightness of a gray one and one chroma everywhere or by pixel."""
    plane = torch.as_tensor(ab, dtype=torch.float32)
    plane = plane.view(1, 2, 1, 1).expand(1, 2, *gray.shape[-2:]) if plane.ndim == 1 else plane
    return lab_to_rgb(torch.cat([gray_to_lightness(gray), plane], dim=1))


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_the_lightness_is_that_of_the_gray_picture_after_8_bits(backend):
    gray = structured_gray()
    generated = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    aligned = align(generated, gray, backend=backend)
    stored = load_image(to_uint8(aligned))
    assert float((rgb_to_lab(stored)[:, :1] - gray_to_lightness(gray)).abs().max()) < 0.5


@pytest.mark.parametrize("backend", BACK_ENDS)
def test_a_picture_that_is_aligned_already_with_one_chroma_stays(backend):
    gray = structured_gray()
    image = colored(gray, [12.0, -15.0])
    assert float((align(image, gray, backend=backend) - image).abs().max()) < 0.01


def test_the_guided_filter_takes_bleeding_back_to_the_edge():
    gray = structured_gray()
    inside = (gray > 0.5).float()
    spread = torch.nn.functional.max_pool2d(inside, 5, 1, 2)
    image = colored(gray, torch.cat([30 * spread, 0 * spread], dim=1))
    outside = (spread - inside) > 0
    left = [
        float(rgb_to_lab(align(image, gray, backend=backend, radius_px=32.0))[:, 1:2][outside].mean())
        for backend in ("lab", "guided")
    ]
    assert left[0] == pytest.approx(30, abs=0.5)
    assert left[1] < 0.6 * left[0]


def test_flow_brings_moved_chroma_back():
    gray = structured_gray()
    inside = (gray > 0.5).float()
    still = colored(gray, torch.cat([30 * inside, 0 * inside], dim=1))
    moved = torch.roll(still, 3, dims=-1)
    errors = {
        backend: float(
            (rgb_to_lab(align(moved, gray, backend=backend, radius_px=8.0)) - rgb_to_lab(still)).abs().mean()
        )
        for backend in BACK_ENDS
    }
    assert errors["flow"] < 0.6 * errors["lab"]
    drift = measure_drift(moved, gray)
    assert 0.3 < drift.flow_px < 8


def test_drift_is_none_for_the_picture_itself_and_large_for_another():
    gray = structured_gray()
    same = measure_drift(gray.repeat(1, 3, 1, 1), gray)
    assert same.ssim == pytest.approx(1.0, abs=1e-4)
    assert not same.is_large
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert measure_drift(noise, gray).is_large
    assert "misplaced" in str(measure_drift(noise, gray))


def test_wrong_back_ends_and_sizes_are_refused():
    gray = structured_gray(16)
    with pytest.raises(RangeError, match="one of lab, guided, flow is expected"):
        align(gray.repeat(1, 3, 1, 1), gray, backend="swap")
    with pytest.raises(ShapeError):
        align(torch.zeros(1, 3, 8, 8), gray)


def test_tiny_and_constant_pictures_can_be_aligned():
    for size in (1, 2, 9):
        gray = torch.full((1, 1, size, size), 0.5)
        for backend in ("lab", "guided"):
            assert torch.isfinite(align(torch.rand(1, 3, size, size), gray, backend=backend)).all()
