"""Descriptions of several levels, in the panel and in training."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_picture

from colorlab.errors import RangeError
from colorlab.inspection.levels import description_levels
from colorlab.training.corpus import CAPTION_KINDS
from colorlab.training.latents import CURRICULUM, CaptionMix, EncodedPictures


def test_color_words_are_taken_out_one_level_after_the_other():
    levels = description_levels("an orange cup, a blue hat and an olive kite on the grass")
    assert levels == {
        "complete": "an orange cup, a blue hat and an olive kite on the grass",
        "partial": "an orange cup, a hat and a kite on the grass",
        "scarce": "a cup, a hat and a kite on the grass",
        "empty": "",
    }
    assert description_levels("a red umbrella")["scarce"] == "an umbrella"
    assert list(description_levels("a colorful picture")) == ["scarce", "empty"]


def test_the_panel_shows_one_picture_under_all_levels():
    run = tiny_colorizer().start(gray=tiny_picture(), prompt="red ab", seed=3)
    panel = run.study.levels({"one": "red ab", "two": "cd"}, baseline=True, progress=False)
    assert panel.baseline.shape == panel.array.shape
    assert np.isfinite(panel.baseline).all()
    assert list(panel.pictures) == ["one", "two"]
    assert panel.array.shape == tiny_picture().shape
    assert np.array_equal(panel.pictures["one"], run.finish(progress=False).image)
    assert panel.plot() is not None
    assert len(run.tree) == 1
    with pytest.raises(RangeError, match="prompts is empty"):
        run.study.levels({})


def test_shares_of_captions_follow_the_curriculum():
    assert CaptionMix().shares(0.0) == CaptionMix().shares(1.0)
    assert CURRICULUM.shares(0.0) == pytest.approx((0.5, 0.5, 0, 0))
    assert CURRICULUM.shares(1.0) == pytest.approx(CaptionMix().shares(1.0))
    assert sum(CURRICULUM.shares(0.3)) == pytest.approx(1)


class Captions:
    """A corpus of one scene, whose captions are their own positions."""

    captions = (tuple(map(str, range(len(CAPTION_KINDS)))),)


class Corpus:
    photographs = ()
    scenes = Captions()


def drawn(mix: CaptionMix, progress: float, number: int = 4000) -> dict[str, float]:
    encoded = EncodedPictures(Corpus(), np.zeros((1, 4, 2, 2), np.float16), None)
    texts = encoded.captions([0] * number, torch.Generator().manual_seed(0), mix, progress)
    return {name: texts.count(name) / number for name in ("", "0", "1", "2", "3")}


def test_captions_are_drawn_as_often_as_the_mix_says():
    shares = drawn(CaptionMix(dropout=0.25), 1.0)
    assert shares[""] == pytest.approx(0.25, abs=0.02)
    assert [shares[str(kind)] for kind in range(4)] == pytest.approx([0.25, 0.25, 1 / 6, 1 / 12], abs=0.02)
    assert drawn(CaptionMix(dropout=0.0), 1.0)[""] == 0
    begin = drawn(CURRICULUM, 0.0)
    assert begin["2"] == begin["3"] == 0


def test_a_mix_that_is_none_is_refused():
    with pytest.raises(RangeError, match="shares of complete, partial, scarce that sum to 1"):
        CaptionMix(levels=(0.5, 0.5, 0.5))
    with pytest.raises(RangeError, match=r"dropout is 1.0, but a number from 0 to below 1"):
        CaptionMix(dropout=1.0)
