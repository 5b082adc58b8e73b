"""A video in memory: what is carried from frame to frame, where shots begin, and what is refused."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_lcad, tiny_picture, tiny_text_to_image

import colorlab
from colorlab.color import gray_to_lightness, rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.errors import ImageError, RangeError, ShapeError
from colorlab.images import load_gray, load_image
from colorlab.settings import Settings
from colorlab.strokes import Stroke

FAST = Settings(num_inference_steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def colorizer() -> Colorizer:
    """A tiny CtrlColor that takes one step."""
    return Colorizer(tiny_ctrlcolor(), settings=FAST)


def moving_frames(number: int, size: tuple[int, int] = (32, 32), *, seed: int = 0) -> list[np.ndarray]:
    """A textured square that goes right by two pixels a frame, before a textured backdrop; (H, W) uint8 each."""
    random = np.random.default_rng(seed)
    backdrop = random.uniform(60, 100, size)
    thing = random.uniform(160, 220, (12, 12))
    frames = []
    for index in range(number):
        frame = backdrop.copy()
        left = 2 + 2 * index
        frame[10:22, left : left + 12] = thing[:, : size[1] - left]
        frames.append(frame.astype(np.uint8))
    return frames


def chroma(image: np.ndarray) -> np.ndarray:
    """(H, W, 2) of a picture (H, W, 3) uint8."""
    return rgb_to_lab(load_image(image))[0, 1:].permute(1, 2, 0).numpy()


def test_still_frames_keep_their_picture_and_need_no_network(colorizer: Colorizer) -> None:
    picture = tiny_picture(32, 32)
    first, second, third = colorlab.Sequence(colorizer, [picture] * 3)
    assert first.starts_shot
    assert first.known == 0.0
    alone = colorizer.start(picture).finish(progress=False)
    np.testing.assert_array_equal(first.image, alone.image)
    for frame in (second, third):
        assert not frame.starts_shot
        assert frame.known == 1.0
        assert frame.run is None
        # Chroma went through 8 bits; lightness is the input's.
        assert np.abs(frame.image.astype(int) - first.image.astype(int)).max() <= 2


def test_colors_follow_what_moves(colorizer: Colorizer) -> None:
    frames = moving_frames(4)
    red = Stroke([(8, 16)], (220, 30, 30), 6)
    colored = list(colorlab.Sequence(colorizer, frames, colorlab.Conditioning(strokes=[red])))
    assert [frame.starts_shot for frame in colored] == [True, False, False, False]
    for before, after in pairwise(colored):
        left = 2 + 2 * before.index
        inside = chroma(before.image)[12:20, left + 2 : left + 10]
        moved = chroma(after.image)[12:20, left + 4 : left + 12]
        assert np.abs(moved - inside).mean() < 1.5
        # It is the color that moved, and no color that is everywhere.
        assert np.abs(chroma(after.image)[12:20, left + 2 : left + 10] - inside).mean() > 3.0


def test_unknown_places_are_made_by_the_network_and_known_ones_kept(colorizer: Colorizer) -> None:
    _, second = colorlab.Sequence(colorizer, moving_frames(2))
    assert 0.5 < second.known < 1.0
    given = second.run.conditioning
    unknown = given.masks["unknown"]
    assert second.known == pytest.approx(1 - unknown.mean())
    assert not given.strokes
    base = (np.asarray(given.base_image) * 255).round().astype(np.uint8)
    assert np.abs(base.astype(int) - second.image.astype(int))[~unknown].max() <= 1


def test_lightness_is_that_of_every_frame(colorizer: Colorizer) -> None:
    frames = moving_frames(3, (40, 56))
    for frame, gray in zip(colorlab.Sequence(colorizer, frames), frames, strict=True):
        wanted = gray_to_lightness(load_gray(gray))
        assert (rgb_to_lab(load_image(frame.image))[:, :1] - wanted).abs().max() < 0.5


def test_a_cut_begins_a_new_shot(colorizer: Colorizer) -> None:
    frames = [*moving_frames(3), *moving_frames(2, seed=7)]
    strokes = [Stroke([(8, 16)], (220, 30, 30), 6)]
    colored = list(colorlab.Sequence(colorizer, frames, colorlab.Conditioning(prompt="a car", strokes=strokes)))
    assert [frame.index for frame in colored if frame.starts_shot] == [0, 3]
    # Strokes have a place in the first frame; words hold behind a cut too.
    assert len(colored[0].run.conditioning.strokes) == 1
    assert not colored[3].run.conditioning.strokes
    assert colored[3].run.conditioning.prompt == "a car"


def test_without_propagation_each_frame_stands_alone() -> None:
    colorizer = tiny_colorizer(tiny_lcad())
    frames = moving_frames(2)
    colored = list(colorlab.Sequence(colorizer, frames, propagate=False))
    for frame, gray in zip(colored, frames, strict=True):
        assert frame.starts_shot
        np.testing.assert_array_equal(frame.image, colorizer.start(gray).finish(progress=False).image)


def test_frames_are_taken_one_at_a_time(colorizer: Colorizer) -> None:
    taken = []

    def source() -> Any:
        for index, frame in enumerate(moving_frames(3)):
            taken.append(index)
            yield frame

    for frame in colorlab.Sequence(colorizer, source()):
        assert taken == list(range(frame.index + 1))


def test_what_was_encoded_for_a_frame_does_not_pile_up(colorizer: Colorizer) -> None:
    sizes = [
        colorizer.method.cache.num_bytes
        for _ in colorlab.Sequence(colorizer, (tiny_picture(32, 32) + index for index in range(6)))
    ]
    assert sizes[5] <= sizes[1]


def test_the_same_sequence_gives_the_same_pictures(colorizer: Colorizer) -> None:
    state = torch.random.get_rng_state()
    first, second = (list(colorlab.Sequence(colorizer, moving_frames(3))) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("channels", [3, 4])
def test_color_and_transparent_frames_count_by_their_lightness(colorizer: Colorizer, channels: int) -> None:
    gray = tiny_picture(32, 32)
    frame = np.repeat(gray[..., None], channels, axis=2)
    if channels == 4:
        frame[..., 3] = 255
        frame[:8, :8, 3] = 0
        gray[:8, :8] = 255
    (colored,) = colorlab.Sequence(colorizer, [frame])
    wanted = gray_to_lightness(load_gray(gray))
    assert (rgb_to_lab(load_image(colored.image))[:, :1] - wanted).abs().max() < 0.5


def test_no_frames_give_no_frames(colorizer: Colorizer) -> None:
    assert list(colorlab.Sequence(colorizer, [])) == []


def test_bad_frames(colorizer: Colorizer) -> None:
    with pytest.raises(ShapeError, match="Frame 1 is 40 x 32 pixels, but those before it are 32 x 32; bring all"):
        list(colorlab.Sequence(colorizer, [tiny_picture(32, 32), tiny_picture(40, 32)]))
    with pytest.raises(ImageError, match="frame 1"):
        list(colorlab.Sequence(colorizer, [tiny_picture(32, 32), "missing.png"]))


def test_models_and_settings_that_cannot(colorizer: Colorizer) -> None:
    with pytest.raises(RangeError, match=r"takes no colors as hints.*propagate=False"):
        colorlab.Sequence(tiny_colorizer(tiny_lcad()), [])
    with pytest.raises(RangeError, match="colors no gray pictures"):
        colorlab.Sequence(tiny_colorizer(tiny_text_to_image()), [], propagate=False)
    for settings in (FAST.replace(as_published=True), FAST.replace(mechanisms={"local_edit": {"mode": "rim"}})):
        with pytest.raises(RangeError, match="local_edit"):
            colorlab.Sequence(colorizer, [], settings=settings)
    picture = tiny_picture(32, 32)
    base = colorlab.Conditioning(gray=picture, base_image=np.repeat(picture[..., None], 3, axis=2))
    with pytest.raises(RangeError, match="base_image"):
        colorlab.Sequence(colorizer, [], base)
