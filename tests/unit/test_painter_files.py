"""Drawings as files, and the colors of the brush."""

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from colorlab_widgets.painter import colors
from colorlab_widgets.painter.drawing import Drawing
from colorlab_widgets.painter.files import drawing_to_json, json_to_drawing, png_to_strokes, strokes_to_png
from PIL import Image

from colorlab.color import rgb_to_lab
from colorlab.errors import ColorlabError, ImageError, RangeError, ShapeError
from colorlab.strokes import Stroke, Strokes

SIZE = (30, 44)
STROKES = Strokes(
    [
        Stroke([(5, 5), (30, 22), (40, 4)], (200, 40, 40), 3.0, first_step=2),
        Stroke([(8, 20), (30, 12)], (40, 40, 200), 2.0),
        Stroke([(22, 15)], (10, 200, 10), 4.0, last_step=7),
    ]
)
MASK = np.zeros(SIZE, dtype=bool)
MASK[4:9, 3:30] = True
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8) | np.uint8([0, 0, 0, 128])


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png")
    return buffer.getvalue()


def same_pixels(one: Strokes, other: Strokes, size: tuple[int, int] = SIZE) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.rasterize(*size), other.rasterize(*size), strict=True))


def test_json_loses_nothing_and_takes_plain_strokes_too() -> None:
    drawing = Drawing(STROKES, {"red car": MASK, "house": ~MASK})
    assert json_to_drawing(drawing_to_json(drawing, SIZE), SIZE) == drawing
    assert json_to_drawing(STROKES.to_json(), SIZE) == Drawing(STROKES)
    doubled = json_to_drawing(drawing_to_json(Drawing(STROKES), SIZE), (60, 88))
    assert doubled.strokes == STROKES.resized(SIZE, (60, 88))


def test_a_png_brings_the_same_pixels_back() -> None:
    data = strokes_to_png(STROKES, SIZE)
    read = png_to_strokes(data, SIZE)
    assert same_pixels(read, STROKES)
    assert len(read) < 20
    assert strokes_to_png(read, SIZE) == data
    assert png_to_strokes(strokes_to_png(Strokes(), SIZE), SIZE) == Strokes()


@pytest.mark.parametrize("seed", range(6))
def test_any_flat_hint_becomes_strokes_of_the_same_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    palette = random.integers(0, 256, (3, 4), dtype=np.uint8)
    palette[:, 3] = [0, 255, 255]
    hint = palette[random.integers(0, 3, (12, 17))].repeat(2, axis=0).repeat(2, axis=1)
    strokes = png_to_strokes(encoded(hint), hint.shape[:2])
    pixels, mask = (part[0].numpy() for part in strokes.rasterize(*hint.shape[:2]))
    assert np.array_equal(mask[0] > 0, hint[..., 3] > 0)
    painted = mask[0] > 0
    assert np.array_equal(np.round(pixels * 255).transpose(1, 2, 0)[painted], hint[painted][:, :3])


@pytest.mark.parametrize(
    ("data", "problem", "words"),
    [
        (b"no picture", ImageError, "PNG file"),
        (encoded(np.zeros((4, 4, 3), dtype=np.uint8)), ImageError, "alpha"),
        (encoded(NOISE), RangeError, "flat colors"),
    ],
)  # fmt: skip
def test_a_picture_that_is_no_hint_is_told(data: bytes, problem: type[Exception], words: str) -> None:
    with pytest.raises(problem, match=words):
        png_to_strokes(data, SIZE)


@pytest.mark.parametrize(
    "values",
    ["", "3", "{}", {"size": [30], "strokes": []}, {"size": [0, 4], "strokes": []}, {"size": [30, 44], "strokes": [3]},
     {"size": [30, 44], "strokes": [], "masks": {"a": {"encoding": "png", "data": "!"}}}],
)  # fmt: skip
def test_json_that_is_no_drawing_is_told(values: Any) -> None:
    with pytest.raises(ColorlabError) as caught:
        json_to_drawing(values if isinstance(values, str) else json.dumps(values), SIZE)
    assert str(caught.value).endswith(".")


def test_masks_of_another_picture_are_told() -> None:
    with pytest.raises(ShapeError, match="30 x 44"):
        json_to_drawing(drawing_to_json(Drawing(masks={"a": MASK}), SIZE), (60, 88))


def test_colors_are_read_as_browsers_write_them() -> None:
    for text in ("#c82828", "rgb(200, 40, 40)", "#C82828"):
        assert colors.text_to_color(text) == (200, 40, 40)
    assert colors.text_to_color("red") == (255, 0, 0)
    assert colors.color_to_hex((200, 40, 4)) == "#c82804"
    for text in ("", "reddish", "#12"):
        with pytest.raises(RangeError, match="no color"):
            colors.text_to_color(text)


@pytest.mark.parametrize("lightness", [0.0, 12.0, 50.0, 88.0, 100.0])
def test_an_allowed_color_has_the_lightness_and_the_hue(lightness: float) -> None:
    for ab in ((120.0, 20.0), (-90.0, 60.0), (10.0, -120.0), (5.0, 5.0)):
        color = colors.allowed_color(lightness, ab)
        lab = rgb_to_lab(torch.tensor(color).view(1, 3, 1, 1) / 255.0).flatten().tolist()
        assert lab[0] == pytest.approx(lightness, abs=0.8)
        if np.hypot(lab[1], lab[2]) > 5:
            turned = np.arctan2(lab[2], lab[1]) - np.arctan2(ab[1], ab[0])
            assert abs((turned + np.pi) % (2 * np.pi) - np.pi) < 0.12


def test_the_wheel_shows_what_its_lightness_allows_and_nothing_else() -> None:
    side = 64
    wheel = colors.wheel_picture(60, side)
    shown = np.argwhere(wheel[..., 3] > 0)
    assert 0.05 < len(shown) / side**2 < 0.5
    for row, column in shown[::37]:
        ab = ((column + 0.5) / side * 272 - 136, 136 - (row + 0.5) / side * 272)
        assert colors.allowed_color(60.0, ab) == tuple(wheel[row, column, :3])
        assert colors.chroma_of(colors.allowed_color(60.0, ab)) == pytest.approx(ab, abs=1.2)
    middle = wheel[side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1]
    assert (middle[..., 3] == 255).all()
    assert (colors.wheel_picture(100, side)[..., 3] > 0).sum() < 10
    assert max(np.hypot(*colors.chroma_of(color)) for color in ((0, 0, 255), (255, 0, 255))) < colors.WHEEL_CHROMA


def test_the_main_colors_of_a_picture_come_by_frequency() -> None:
    picture = np.zeros((20, 30, 3), dtype=np.uint8)
    picture[:, 18:] = (200, 40, 40)
    picture[:4, :4] = (40, 40, 200)
    assert colors.main_colors(picture) == ((0, 0, 0), (200, 40, 40), (40, 40, 200))
    assert len(colors.main_colors(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))) == 8


def test_the_lightness_of_gray_is_that_of_its_color() -> None:
    picture = np.full((2, 3, 3), 119, dtype=np.uint8)
    assert colors.picture_lightness(picture) == pytest.approx(np.full((2, 3), 50.0), abs=0.5)
