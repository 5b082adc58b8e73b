"""The components: frames are confirmed, errors are shown in place, pictures are encoded without loss."""

import io

import numpy as np
import pytest
from colorlab_widgets.page import Bars, Chips, Compare, Gallery, Path2D, Picture
from colorlab_widgets.pictures import as_colors, encode_png, open_upload, small
from pages import confirm, send
from PIL import Image

from colorlab.errors import ImageError, RangeError


def picture_of(value, size=(6, 8)):
    return np.full((*size, 3), value, dtype=np.uint8)


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_at_most_two_frames_are_under_way_and_the_newest_comes_last():
    page = Picture()
    for value in range(10):
        page.show(picture_of(value))
    assert page.frame == 2
    assert decoded(page.image).max() == 1
    confirm(page)
    assert page.frame == 3
    assert decoded(page.image).max() == 9
    assert page.size == (6, 8)
    page.show(picture_of(20))
    assert decoded(page.image).max() == 20


def test_a_page_that_is_opened_again_gets_the_newest_frame():
    page = Picture()
    for value in (1, 2, 3):
        page.show(picture_of(value))
    # The page died with two frames under way; a new one draws what the state holds, and says so.
    page.set_state({"shown": page.frame})
    assert decoded(page.image).max() == 3


def test_events_reach_their_function_and_errors_are_shown_in_place():
    seen = []

    def refuse(x, y):
        seen.append((x, y))
        raise RangeError("That is no place.")

    page = Picture({"click": refuse})
    assert page.is_clickable
    send(page, "click", x=3.0, y=4.0)
    assert (seen, page.problem) == ([(3.0, 4.0)], "That is no place.")
    send(page, "unknown", x=1)
    page = Picture({"click": lambda x, y: None}, problem="old")
    send(page, "click", x=3.0, y=4.0)
    assert page.problem == ""


@pytest.mark.parametrize("component", [Bars, Chips, Compare, Gallery, Path2D, Picture])
def test_every_component_brings_its_script_and_the_shared_style(component):
    page = component()
    assert page._esm.count("export default") == 1
    assert "function component(view)" in page._esm
    assert ".colorlab" in page._css
    page.close()


def test_a_gallery_shows_what_it_is_given():
    page = Gallery()
    page.show([("mean", "Mean of all", picture_of(7)), ("head 0", "One", picture_of(9))])
    assert page.items == [["mean", "Mean of all"], ["head 0", "One"]]
    assert [decoded(png).max() for png in page.images] == [7, 9]


def test_pictures_are_encoded_without_loss():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(decoded(encode_png(picture)), picture)


def test_colors_of_a_map_reach_from_end_to_end_and_nan_is_gray():
    rgb = as_colors(np.array([[0.0, 1.0], [2.0, np.nan]]))
    assert rgb.shape == (2, 2, 3)
    assert (rgb[0, 0] < 5).all()
    assert rgb[1, 0].astype(int).sum() > rgb[0, 1].astype(int).sum()
    assert (rgb[1, 1] == 128).all()
    assert (as_colors(np.full((2, 2), np.nan)) == 128).all()
    assert len(np.unique(as_colors(np.full((2, 2), 3.0)).reshape(-1, 3), axis=0)) == 1


def test_small_copies_keep_their_shape_and_are_never_larger():
    assert small(picture_of(5, (100, 200)), 20).shape == (20, 40, 3)
    assert small(picture_of(5, (10, 20)), 20).shape == (10, 20, 3)


def test_an_upload_is_a_picture_or_refused_in_words():
    buffer = io.BytesIO()
    Image.fromarray(picture_of(90)).save(buffer, format="png")
    assert np.array_equal(open_upload(buffer.getvalue()), picture_of(90))
    with pytest.raises(ImageError, match="no picture that can be read"):
        open_upload(b"no picture")
