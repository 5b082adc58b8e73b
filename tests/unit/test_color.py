import itertools
import math

import numpy as np
import pytest
import torch

from colorlab.color import (
    CHROMATIC_COLORS,
    COLORS,
    LIGHTNESS_RANGE,
    delta_e,
    delta_e_2000,
    fit_chroma_to_gamut,
    gray_to_lightness,
    image_to_gray,
    lab_to_rgb,
    lightness_to_gray,
    nearest_color_name,
    rgb_to_lab,
)
from colorlab.errors import ShapeError

GRAYS = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16) / 255


def random_image(seed: int = 0, size: int = 32) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_lab_round_trip() -> None:
    image = random_image()
    assert (lab_to_rgb(rgb_to_lab(image)) - image).abs().max() < 1e-4


def test_half_precision_is_computed_in_float32() -> None:
    image = random_image().half()
    lab = rgb_to_lab(image)
    assert lab.dtype == torch.float16
    assert torch.equal(lab, rgb_to_lab(image.float()).half())


def test_lab_of_known_colors() -> None:
    # CIELAB of the sRGB primaries, D65, as given by scikit-image's rgb2lab.
    from skimage.color import rgb2lab

    image = random_image(size=8)[:1]
    expected = rgb2lab(image[0].permute(1, 2, 0).double().numpy())
    assert np.abs(rgb_to_lab(image)[0].permute(1, 2, 0).numpy() - expected).max() < 0.05


def test_gray_and_lightness_are_inverse() -> None:
    assert (lightness_to_gray(gray_to_lightness(GRAYS)) - GRAYS).abs().max() < 1e-6
    assert gray_to_lightness(GRAYS).flatten().diff().min() > 0


def test_lightness_of_gray_is_that_of_the_gray_picture() -> None:
    assert (gray_to_lightness(GRAYS) - rgb_to_lab(GRAYS.expand(1, 3, 16, 16))[:, :1]).abs().max() < 1e-4


def test_gray_of_an_image_has_its_lightness() -> None:
    image = random_image()
    assert (gray_to_lightness(image_to_gray(image)) - rgb_to_lab(image)[:, :1]).abs().max() < 1e-3
    assert (image_to_gray(GRAYS.expand(1, 3, 16, 16)) - GRAYS).abs().max() < 1e-6


def test_chroma_in_gamut_is_left_alone() -> None:
    lab = rgb_to_lab(random_image())
    assert torch.equal(fit_chroma_to_gamut(lab[:, :1], lab[:, 1:]), lab[:, 1:])


def test_chroma_is_fitted_into_the_gamut_at_the_same_lightness_and_hue() -> None:
    generator = torch.Generator().manual_seed(1)
    lightness = 100 * torch.rand(1, 1, 64, 64, generator=generator)
    lightness[..., :2, :], lightness[..., 2:4, :] = 0.0, 100.0
    ab = 240 * torch.rand(1, 2, 64, 64, generator=generator) - 120
    fitted = fit_chroma_to_gamut(lightness, ab)
    rgb = lab_to_rgb(torch.cat([lightness, fitted], dim=1), clip=False)
    assert rgb.min() > -1e-4
    assert rgb.max() < 1 + 1e-4
    cross = ab[:, 0] * fitted[:, 1] - ab[:, 1] * fitted[:, 0]
    assert cross.abs().max() < 1e-2
    assert ((fitted**2).sum(1) <= (ab**2).sum(1) + 1e-3).all()
    # As saturated as the gamut allows: 1 % more is outside wherever something was cut.
    was_cut = (fitted != ab).any(dim=1) & ((fitted**2).sum(1) > 100)
    more = lab_to_rgb(torch.cat([lightness, 1.01 * fitted], dim=1), clip=False)
    is_outside = ((more < 0) | (more > 1)).any(dim=1)
    assert was_cut.sum() > 1000
    assert is_outside[was_cut].all()


def test_fitting_twice_changes_nothing() -> None:
    lightness = torch.linspace(0, 100, 64).view(1, 1, 8, 8)
    once = fit_chroma_to_gamut(lightness, torch.full((1, 2, 8, 8), 90.0))
    assert torch.equal(fit_chroma_to_gamut(lightness, once), once)


def test_color_differences_are_zero_for_equal_and_symmetric() -> None:
    lab1, lab2 = rgb_to_lab(random_image(1, 8)), rgb_to_lab(random_image(2, 8))
    for difference in (delta_e, delta_e_2000):
        assert difference(lab1, lab1).abs().max() == 0
        assert torch.allclose(difference(lab1, lab2), difference(lab2, lab1), atol=1e-4)
        assert difference(lab1, lab2).shape == (2, 1, 8, 8)


def test_delta_e_2000_of_published_pairs() -> None:
    # Sharma, Wu, Dalal: The CIEDE2000 color-difference formula (2005), Table 1, pairs 1 and 25.
    first = torch.tensor([[50.0, 2.6772, -79.7751], [60.2574, -34.0099, 36.2677]]).view(2, 3, 1, 1)
    second = torch.tensor([[50.0, 0.0, -82.7485], [60.4626, -34.1751, 39.4387]]).view(2, 3, 1, 1)
    assert delta_e_2000(first, second).flatten().tolist() == pytest.approx([2.0425, 1.2644], abs=1e-4)
    assert delta_e(first, second).flatten()[0].item() == pytest.approx(math.hypot(2.6772, 2.9734), abs=1e-3)


def test_every_color_is_in_gamut_at_every_lightness_of_the_range() -> None:
    lightness = torch.linspace(*LIGHTNESS_RANGE, 101).view(1, 1, 101, 1)
    for a, b in COLORS.values():
        lab = torch.cat([lightness, torch.full_like(lightness, a), torch.full_like(lightness, b)], dim=1)
        rgb = lab_to_rgb(lab, clip=False)
        assert rgb.min() >= 0
        assert rgb.max() <= 1


def test_colors_are_far_apart_and_chromatic_ones_saturated() -> None:
    assert len(COLORS) == 12
    assert min(math.dist(p, q) for p, q in itertools.combinations(COLORS.values(), 2)) >= 14
    assert len(CHROMATIC_COLORS) == 8
    lightness = torch.linspace(*LIGHTNESS_RANGE, 26).view(1, 1, 26, 1)
    for name in CHROMATIC_COLORS:
        wanted = 1.1 * torch.tensor(COLORS[name]).view(1, 2, 1, 1).expand(1, 2, 26, 1)
        assert not torch.equal(fit_chroma_to_gamut(lightness, wanted), wanted), f"{name} could be 10 % more saturated"


def test_each_center_has_its_own_name() -> None:
    assert [nearest_color_name(ab) for ab in COLORS.values()] == list(COLORS)
    assert nearest_color_name(torch.tensor(list(COLORS.values())).view(3, 4, 2)).tolist() == [
        list(COLORS)[row : row + 4] for row in (0, 4, 8)
    ]
    assert nearest_color_name((42.0, 27.0)) == "red"


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ShapeError, match="image has shape"):
        rgb_to_lab(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ShapeError, match="ab has shape"):
        fit_chroma_to_gamut(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 5))
    with pytest.raises(ShapeError, match="ab"):
        nearest_color_name([1.0, 2.0, 3.0])
