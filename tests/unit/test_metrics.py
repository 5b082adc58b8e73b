"""Metrics and intervals: identities first, then numbers from elsewhere."""

import json
import math

import numpy as np
import pytest
import torch

from colorlab.color import lab_to_rgb
from colorlab.errors import RangeError, ShapeError
from colorlab.evaluation.metrics import (
    bootstrap_interval,
    colorfulness,
    mean_chroma,
    mean_delta_e,
    paired_difference_interval,
    psnr,
    ssim,
    wilson_interval,
)
from colorlab.evaluation.report import Report, bootstrapped, proportion, ratio_of_means


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


def test_a_gray_picture_has_no_color(noise: torch.Tensor) -> None:
    gray = noise.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert colorfulness(gray).abs().max() < 1e-4
    assert mean_chroma(gray).max() < 0.05


def test_colorfulness_of_half_red_half_blue() -> None:
    # rg = 255, 0 and yb = 127.5, -255: spread (127.5, 191.25), mean (127.5, -63.75).
    image = torch.zeros(1, 3, 2, 2)
    image[:, 0, 0] = 1.0
    image[:, 2, 1] = 1.0
    expected = math.hypot(127.5, 191.25) + 0.3 * math.hypot(127.5, -63.75)
    assert float(colorfulness(image)) == pytest.approx(expected, rel=1e-6)


def test_each_picture_of_a_batch_is_measured_alone(noise: torch.Tensor) -> None:
    other = noise.flip(0)
    for metric in (colorfulness, mean_chroma):
        alone = torch.cat([metric(image[None]) for image in noise])
        torch.testing.assert_close(metric(noise), alone)
    for pair_metric in (psnr, ssim, mean_delta_e):
        alone = torch.cat([pair_metric(a[None], b[None]) for a, b in zip(noise, other, strict=True)])
        torch.testing.assert_close(pair_metric(noise, other), alone)


def test_equal_pictures(noise: torch.Tensor) -> None:
    assert torch.isinf(psnr(noise, noise)).all()
    torch.testing.assert_close(ssim(noise, noise), torch.ones(3))
    assert float(mean_delta_e(noise, noise).max()) == 0.0


def test_psnr_of_a_known_error(noise: torch.Tensor) -> None:
    base = noise * 0.5
    torch.testing.assert_close(psnr(base + 0.1, base), torch.full((3,), 20.0), atol=1e-3, rtol=0)


def test_ssim_falls_with_noise(noise: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    weak, strong = (noise + s * torch.randn(noise.shape, generator=generator) for s in (0.02, 0.3))
    assert (ssim(weak, noise) > ssim(strong, noise)).all()


def test_delta_e_76_is_the_distance_in_lab() -> None:
    lab = torch.tensor([50.0, 10.0, 10.0]).view(1, 3, 1, 1).expand(-1, -1, 4, 4)
    shifted = lab + torch.tensor([0.0, 3.0, 4.0]).view(1, 3, 1, 1)
    difference = mean_delta_e(lab_to_rgb(lab), lab_to_rgb(shifted), formula="76")
    assert float(difference) == pytest.approx(5.0, abs=0.01)


def test_pictures_that_do_not_fit_are_refused(noise: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="target has shape"):
        psnr(noise, noise[..., :-1])
    with pytest.raises(ShapeError):
        colorfulness(noise[0])
    with pytest.raises(RangeError, match="expected one of"):
        mean_delta_e(noise, noise, formula="94")


def test_wilson_interval_against_published_values() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3 (score).
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(29, 29)[1] == pytest.approx(1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(RangeError):
        wilson_interval(3, 2)


def test_bootstrap_is_deterministic_and_covers_the_mean() -> None:
    values = np.random.default_rng(0).normal(10.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert low < values.mean() < high
    # The interval of a mean is about 4 standard errors wide.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20.0, rel=0.15)


def test_bootstrap_keeps_rows_together() -> None:
    top = np.array([2.0, 4.0, 6.0, 80.0])
    assert bootstrap_interval(top, top / 2, statistic=ratio_of_means) == pytest.approx((2.0, 2.0))


def test_bootstrap_of_nothing_and_of_unequal_columns() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval([]))
    with pytest.raises(ShapeError):
        bootstrap_interval([1.0], [1.0, 2.0])


def test_paired_difference_interval() -> None:
    low, high = paired_difference_interval(30, 10, 200)
    assert low < 20 / 200 < high
    assert low > 0  # McNemar: chi² = (30 - 10)² / 40 = 10, clearly a difference
    mirrored = paired_difference_interval(10, 30, 200)
    assert mirrored == pytest.approx((-high, -low))
    low, high = paired_difference_interval(0, 0, 50)
    assert low < 0 < high
    assert paired_difference_interval(0, 0, 0) == (-1.0, 1.0)
    with pytest.raises(RangeError):
        paired_difference_interval(5, 5, 9)


def test_targets_are_judged() -> None:
    assert proportion("p", 96, 100, at_least=95.0).reached is True
    assert proportion("p", 94, 100, at_least=95.0).reached is False
    assert proportion("p", 94, 100).reached is None
    assert bootstrapped("b", [1.0, 1.2], at_least=0.6, at_most=1.0).reached is False
    assert bootstrapped("b", [], at_least=0.0).reached is False


def test_report_as_table_and_json() -> None:
    report = Report("A title", (proportion("right", 19, 20, at_least=90.0), bootstrapped("empty", [])), {"seed": 0})
    lines = report.to_table().splitlines()
    assert lines[0] == "A title"
    assert len({len(line) for line in lines[2:]}) == 1
    assert "95.0 %" in lines[4]
    assert "at least 90 % (reached)" in lines[4]
    parsed = json.loads(report.to_json())
    assert parsed["rows"][0]["value"] == 95.0
    assert parsed["rows"][1]["value"] is None
    assert parsed["details"] == {"seed": 0}
