"""A run as a page: everything is in one file, within its size, and what the user wrote cannot break it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_picture

import colorlab
from colorlab.errors import ColorlabError, RangeError, StateError


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'application/json">(.*?)</script>', text, re.DOTALL).group(1))


def decoded(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB"))


def test_every_step_and_every_word_is_in_the_page(colorizer, picture, tmp_path):
    run = colorizer.start(picture, prompt="a red disc").finish(progress=False)
    data = data_of(run.to_html(tmp_path / "page.html"))
    assert data["words"] == ["a", "red", "disc"]
    assert [frame["label"] for frame in data["frames"]] == [
        *(f"step {k} of 4" for k in range(4)),
        "finished after 4 steps",
    ]
    for step, frame in enumerate(data["frames"]):
        shown = decoded(frame["picture"]).astype(float)
        assert np.abs(shown - run.preview(step)).mean() < 6, "but for JPEG the preview of the step"
        assert len(frame["maps"]) == 3
    red = run.attention(2, word="red").array
    brightness = decoded(data["frames"][2]["maps"][1]).astype(int).sum(-1)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == np.unravel_index(red.argmax(), red.shape)
    assert "exact" in data["verdict"]


def test_the_page_asks_for_nothing_outside(colorizer, picture, tmp_path):
    run = colorizer.start(picture, prompt="a red disc").finish(progress=False)
    text = run.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", text)
    assert "%%" not in text, "a place of the template was left empty"


def test_pictures_are_made_smaller_until_the_page_fits(colorizer, tmp_path):
    run = colorizer.start(tiny_picture(150, 200), num_inference_steps=3).finish(progress=False)
    whole = run.to_html(tmp_path / "page.html")
    assert decoded(data_of(whole)["frames"][0]["picture"]).shape == (150, 200, 3)
    limit = whole.stat().st_size - 1
    smaller = run.to_html(tmp_path / "smaller.html", max_bytes=limit)
    assert smaller.stat().st_size <= limit
    assert decoded(data_of(smaller)["frames"][0]["picture"]).shape == (96, 128, 3)


@pytest.mark.filterwarnings("ignore::colorlab.methods.base.ConditioningWarning")
@pytest.mark.parametrize(
    ("model", "words"),
    {
        "mini/lcad": ["a", "red", "ball"],
        "mini/ctrlcolor": ["a", "red", "ball"],
        "mini/colorizediffusion": [],  # its prompt is not read: it is colored by the exemplar
        "mini/diffcolor": ["a", "red", "ball"],
    }.items(),
)
def test_the_page_of_a_busy_photograph_fits_with_every_method(model, words, tmp_path):
    dice = np.random.default_rng(0)
    noise = dice.normal(0, 25, (600, 768))
    busy = (np.linspace(60, 190, 768) + noise).clip(0, 255).astype(np.uint8)
    exemplar = dice.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    cond = colorlab.Conditioning(gray=busy, prompt="a red ball", exemplar=exemplar)
    run = colorlab.load(model).start(cond).finish(progress=False)
    path = run.to_html(tmp_path / "page.html")
    data = data_of(path)
    assert path.stat().st_size <= 5_000_000
    assert len(data["frames"]) == run.num_steps + 1
    assert data["words"] == words
    assert all(len(frame["maps"]) == len(words) for frame in data["frames"])
    assert decoded(data["frames"][-1]["picture"]).shape[1] >= 256, "still a picture to look at"


def test_words_of_the_user_cannot_break_out(colorizer, picture, tmp_path):
    run = colorizer.start(picture, prompt="</script><script>alert(1)</script> %%title").finish(progress=False)
    path = run.to_html(tmp_path / "page.html")
    assert "<script>alert" not in path.read_text(encoding="utf-8")
    assert data_of(path)["words"] == ["script"], "what lies beyond the tokens that it reads has no map"


def test_what_cannot_be_written_is_said(colorizer, picture, tmp_path):
    run = colorizer.start(picture)
    with pytest.raises(StateError, match="taken no step"):
        run.to_html(tmp_path / "page.html")
    run.step()
    assert len(data_of(run.to_html(tmp_path / "page.html"))["frames"]) == 1
    with pytest.raises(RangeError, match=r"ends in \.html"):
        run.to_html(tmp_path / "page.png")
    with pytest.raises(ColorlabError, match="cannot be written"):
        run.to_html(tmp_path / "no" / "page.html")
    with pytest.raises(ColorlabError, match="at most 1000 are allowed"):
        run.to_html(tmp_path / "page.html", max_bytes=1000)
