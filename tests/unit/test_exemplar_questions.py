"""What can be asked of a model that reads an exemplar and no words, in Python and in the attention explorer."""

import warnings

import numpy as np
import pytest
from colorlab_widgets import AttentionExplorer, ViewModel
from pages import send
from tiny import tiny_colorizediffusion, tiny_colorizer

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError, StateError
from colorlab.inspection.chroma import decode_chroma
from colorlab.methods.base import ConditioningWarning


@pytest.fixture
def conditioning():
    sketch = np.ones((40, 56), np.float32)
    sketch[10:30, 20] = sketch[10, 20:40] = 0
    exemplar = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    return Conditioning(sketch=sketch, exemplar=exemplar)


@pytest.fixture
def colorizer():
    return tiny_colorizer(tiny_colorizediffusion())


@pytest.fixture
def run(colorizer, conditioning):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        return colorizer.start(conditioning).finish(progress=False)


def test_the_pass_with_the_exemplar_is_meant_where_none_is_named(run):
    site = next(site.path for site in run.sites(kind="resnet"))
    named, meant = (run.attention(0, pixel=(20, 11), **given) for given in ({"guidance_pass": "full"}, {}))
    assert np.array_equal(named.array, meant.array)
    assert run.features(0, site).provenance["guidance_pass"] == "full"
    with pytest.raises(RangeError, match="no guidance pass 'cond'"):
        run.attention(0, pixel=(20, 11), guidance_pass="cond")


def test_a_place_looks_at_numbered_patches_and_words_are_told_to_be_unread(run):
    found = run.attention(0, pixel=(20, 11), site="*attn2", baseline=True)
    assert found.provenance["token_names"] == [f"token {index}" for index in range(len(found.array))]
    assert found.array.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(StateError, match="colorizediffusion reads no words"):
        run.attention(0, word="car")


def test_the_explorer_shows_a_click_and_offers_no_words(colorizer, conditioning):
    model = ViewModel(colorizer, conditioning.replace(prompt="a red car"))
    view = AttentionExplorer(model)
    model.colorize()
    assert model.worker.join(60)
    send(view.picture, "click", x=20.0, y=11.0)
    assert model.worker.join(60)
    assert view.picture.overlay
    assert "pixel (20, 11)" in view.caption.value
    assert "full" in view.caption.value
    assert view.looked_at.bars
    assert (view.words.words, view.other_word.layout.display) == ([], "none")
    assert view.looked_at.description.startswith("Patches")
    model.close()


def test_a_text_edit_is_a_source_of_the_color_that_it_brings(colorizer, conditioning):
    edits = [Manipulation("a blue car", 40.0), Manipulation("a red car", 30.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditioningWarning)
        run = colorizer.start(conditioning.replace(manipulations=edits)).finish(progress=False)
        without = colorizer.start(conditioning.replace(manipulations=edits[1:])).finish(progress=False)
    region = np.zeros((40, 56), bool)
    region[:20] = True
    study = run.study.plan.provenance(region=region)
    labels = study.finish(progress=False).provenance["labels"]
    assert labels[:2] == ["text edit 0 'a blue car'", "text edit 1 'a red car'"]
    first = next(part.ab[:, 0] for part in study.parts if part.removed == {0})
    expected, whole = (
        decode_chroma(one.method, one.segment_at(one.num_steps), one.state.latents)[:, :20].mean(dim=(1, 2))
        for one in (without, run)
    )
    assert first == pytest.approx(expected, abs=1e-2)
    assert float((expected - whole).abs().max()) > 0.1
