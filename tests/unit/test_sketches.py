"""Line drawings: what they show of a picture, their negatives, blank ones, and bad input."""

import numpy as np
import pytest
import torch

from colorlab.errors import ImageError, RangeError
from colorlab.images import resize_image
from colorlab.sketches import extract_sketch, fit_sketch, invert_sketch, is_blank, is_inverted, is_photograph
from colorlab.training.scenes import TEST_SEEDS, make_scene, sketch


@pytest.fixture(scope="module")
def disc():
    y, x = np.mgrid[0:64, 0:96]
    return np.where((y - 32) ** 2 + (x - 48) ** 2 < 400, 40, 200).astype(np.uint8)


@pytest.mark.parametrize("style", ["xdog", "canny"])
def test_lines_lie_on_edges_and_flat_areas_are_paper(disc, style):
    lines = extract_sketch(disc, style=style)
    assert lines.shape == disc.shape
    assert lines.dtype == np.float32
    y, x = np.mgrid[0:64, 0:96]
    distance = np.abs(np.hypot(y - 32, x - 48) - 20)
    assert lines[distance < 1].mean() < 0.6
    assert (lines[distance > 6] == 1).all()


def test_a_scenes_own_sketch_and_the_extracted_one_agree_more_than_chance():
    scene = make_scene(TEST_SEEDS[0])
    exact, found = sketch(scene) < 0.5, extract_sketch(scene.image) < 0.5
    near = torch.nn.functional.max_pool2d(torch.from_numpy(exact.astype(np.float32))[None, None], 3, 1, 1)[0, 0] > 0
    assert near.numpy()[found].mean() > 2 * near.numpy().mean()


def test_negatives_are_told_and_turned_around(disc):
    lines = extract_sketch(disc)
    assert not is_inverted(lines)
    assert is_inverted(invert_sketch(lines))
    np.testing.assert_allclose(invert_sketch(invert_sketch(lines)), lines, atol=1e-6)
    assert not is_inverted(sketch(make_scene(TEST_SEEDS[1])))


@pytest.mark.parametrize("style", ["xdog", "canny"])
def test_a_picture_is_told_from_its_lines(style):
    picture = make_scene(TEST_SEEDS[2]).image
    assert is_photograph(picture.mean(axis=2) / 255)
    lines = extract_sketch(picture, style=style)
    assert not is_photograph(lines)
    assert not is_photograph(invert_sketch(lines))


@pytest.mark.parametrize("style", ["xdog", "canny"])
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 3)])
def test_pictures_narrower_than_the_blur_are_drawn_too(style, size):
    assert is_blank(extract_sketch(np.full(size, 90, np.uint8), style=style))
    assert extract_sketch(np.full(size, 90, np.uint8), style=style).shape == size
    # A step along the longer side is an edge, however narrow the picture is.
    if max(size) > 1:
        step = np.full(size, 200, np.uint8)
        step[tuple(slice(0, side // 2 if side == 300 else None) for side in size)] = 40
        assert not is_blank(extract_sketch(step, style=style))


def crossed(size, width, *, ink=1.0):
    """Draw a vertical and a horizontal line on paper of a size."""
    drawing = torch.ones(1, 1, size, size)
    drawing[..., size // 4 : size // 4 + width] = 1 - ink
    drawing[..., 3 * size // 4 : 3 * size // 4 + width, :] = 1 - ink
    return drawing


@pytest.mark.parametrize(("size", "width"), [(129, 1), (192, 1), (512, 1), (512, 4), (400, 3), (2000, 1), (4000, 2)])
@pytest.mark.parametrize("ink", [1.0, 0.3])
def test_lines_of_larger_drawings_stay_as_dark_as_they_were(size, width, ink):
    fitted = fit_sketch(crossed(size, width, ink=ink), (128, 128))
    assert fitted.shape == (1, 1, 128, 128)
    assert float(1 - fitted[0, 0, 64].min()) == pytest.approx(ink, abs=0.02)
    assert float(1 - fitted[0, 0, :, 64].min()) == pytest.approx(ink, abs=0.02)
    assert float((fitted > 0.9).float().mean()) > 0.9, "paper stays paper"


def test_a_dark_area_leaves_fine_lines_elsewhere_alone():
    plain, blotted = crossed(512, 1), crossed(512, 1)
    blotted[..., 260:360, 260:360] = 0
    fitted = [fit_sketch(drawing, (128, 128)) for drawing in (plain, blotted)]
    far = torch.ones(128, 128, dtype=torch.bool)
    far[60:96, 60:96] = False
    assert torch.equal(fitted[0][0, 0][far], fitted[1][0, 0][far])
    assert float(fitted[1][0, 0, 70:85, 70:85].max()) == 0


def test_specks_of_dust_make_no_lines():
    generator = torch.Generator().manual_seed(0)
    dusty = (torch.rand(1, 1, 1024, 1024, generator=generator) > 0.005).float()
    assert float((fit_sketch(dusty, (128, 128)) < 0.5).float().mean()) < 0.005
    dusty[..., 500:501, :] = 0
    assert float(fit_sketch(dusty, (128, 128))[0, 0, 62].max()) < 0.1


def test_drawings_are_fitted_one_by_one_and_either_side_may_shrink():
    drawings = torch.cat([crossed(400, 1), crossed(400, 6, ink=0.4)])
    together = fit_sketch(drawings, (128, 96))
    for index in range(2):
        assert torch.equal(together[index : index + 1], fit_sketch(drawings[index : index + 1], (128, 96)))
    flat = torch.ones(1, 1, 64, 512)
    flat[..., 100] = 0
    assert float(fit_sketch(flat, (256, 128))[0, 0, 128].min()) < 0.02


def test_drawings_that_do_not_shrink_are_resized_alone():
    drawing = torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fit_sketch(drawing, (64, 48)), drawing)
    torch.testing.assert_close(fit_sketch(drawing, (128, 96)), resize_image(drawing, (128, 96)))
    assert bool((fit_sketch(torch.ones(1, 1, 300, 300), (128, 128)) == 1).all())


def test_a_large_sketch_of_a_scene_shrinks_to_about_its_small_one():
    for seed in TEST_SEEDS[:4]:
        small, large = (torch.from_numpy(sketch(make_scene(seed, size_px=px)))[None, None] for px in (128, 256))
        fitted, averaged = (1 - shrink(large.clamp(0, 1), (128, 128)) for shrink in (fit_sketch, resize_image))
        ink = float((1 - small).mean())
        assert abs(float(fitted.mean()) - ink) < 0.6 * abs(float(averaged.mean()) - ink)


def test_flat_pictures_give_blank_sketches():
    assert is_blank(extract_sketch(np.full((32, 32), 90, np.uint8)))


def test_bad_input_is_one_sentence(disc):
    with pytest.raises(RangeError, match="style is 'pencil', but one of xdog, canny is expected"):
        extract_sketch(disc, style="pencil")
    with pytest.raises(ImageError, match="no-such-file"):
        extract_sketch("no-such-file.png")
