"""What ColorizeDiffusion shows of itself: position weights over exemplar and picture, tokens, both guidance fields."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizediffusion, tiny_colorizer, tiny_picture

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.position_weights import relative_similarity
from colorlab.plotting import LabFigure

EXEMPLAR = np.kron(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
EDITS = (
    Manipulation("blue car", 8.0, anchor_text="red car", control_text="red car"),
    Manipulation("green", 5.0, control_text="tree"),
)


@pytest.fixture(scope="module")
def colorizer():
    return tiny_colorizer(tiny_colorizediffusion())


@pytest.fixture(scope="module")
def sketch():
    return 1 - (np.abs(np.diff(tiny_picture().astype(float), axis=1, prepend=40)) > 20).astype(np.float32)


def run_of(colorizer, sketch, *, edits=EDITS, sketch_scale=2.0, **changes):
    settings = colorizer.settings.replace(**changes).with_mechanism("dual_guidance", sketch_guidance_scale=sketch_scale)
    conditioning = Conditioning(sketch=sketch, exemplar=EXEMPLAR, manipulations=edits)
    return colorizer.start(conditioning, settings).finish(progress=False)


@pytest.fixture(scope="module")
def run(colorizer, sketch):
    return run_of(colorizer, sketch)


def test_maps_of_patches_lie_over_the_exemplar_and_not_over_the_picture(run):
    found = run.explain()
    assert {
        f"position_weights.{name}_{edit}" for name in ("similarities", "relative", "weights") for edit in (0, 1)
    } <= (set(found))
    for name in ("similarities_0", "relative_1", "weights_1", "moved"):
        exhibit = found[f"position_weights.{name}"]
        assert exhibit.kind == "matrix"
        assert exhibit.array.shape == (4, 4)
        assert exhibit.pictures["exemplar"].shape == (32, 32, 3)
        # The view is the exemplar itself, squeezed: its corners have the exemplar's colors.
        assert np.abs(exhibit.pictures["exemplar"][2, 2].astype(int) - EXEMPLAR[3, 3]).max() <= 3
        assert isinstance(exhibit.plot(), LabFigure)
    similarity = torch.tensor(found["position_weights.similarities_0"].array).reshape(1, 16, 1)
    relative = relative_similarity(similarity).reshape(4, 4)
    np.testing.assert_allclose(found["position_weights.relative_0"].array, relative, atol=1e-6)
    assert found["position_weights.weights_0"].provenance["is_signed"]


def test_tokens_before_and_after_are_those_of_the_edits_in_their_order(run):
    found = run.explain()
    tokens = [found[f"position_weights.tokens_{edit}"] for edit in (0, 1)]
    assert tokens[0].provenance["labels"] == ["target, before", "target, after", "anchor, before", "anchor, after"]
    assert tokens[1].provenance["labels"] == ["target, before", "target, after"]
    assert isinstance(tokens[0].plot(), LabFigure)
    # Without an anchor L += w t, of a unit vector t: the projection rises by the weight.
    weights = found["position_weights.weights_1"].array
    np.testing.assert_allclose(tokens[1].array[1] - tokens[1].array[0], weights, atol=1e-4)


def test_weights_of_one_value_are_that_value_everywhere_in_the_picture(colorizer, sketch):
    # As published an edit of everything weighs every patch by d, and attention sums to 1.
    edit = Manipulation("blue", 6.0)
    settings = colorizer.settings.with_mechanism("position_weights", mode="published")
    given = Conditioning(sketch=sketch, exemplar=EXEMPLAR, manipulations=[edit])
    run = colorizer.start(given, settings).finish(progress=False)
    value = run.explain()["position_weights.weights_0"].array
    assert np.ptp(value) == 0
    shown = run.position_weights(1, baseline=True)
    assert shown.verdict == "exact"
    np.testing.assert_allclose(shown.array, value[0, 0], rtol=1e-5)
    np.testing.assert_allclose(shown.baseline, value[0, 0], rtol=1e-5)


def test_weights_over_the_picture_are_the_sum_of_attention_to_each_patch(run):
    weights = run.explain()["position_weights.weights_1"].array.flatten()
    maps = [run.attention(2, token=patch, guidance_pass="full").array for patch in range(16)]
    shown = run.position_weights(2, 1)
    np.testing.assert_allclose(shown.array, sum(w * one for w, one in zip(weights, maps, strict=True)), atol=1e-4)
    assert shown.unit == "position weight"
    one = run.position_weights(2, 1, site="mid_block*", head=1)
    assert one.array.shape != shown.array.shape or not np.allclose(one.array, shown.array)


def test_what_has_no_weights_over_the_picture_is_said(colorizer, sketch, run):
    with pytest.raises(RangeError, match="edit is 2, but the run has edits 0 to 1"):
        run.position_weights(0, 2)
    with pytest.raises(StateError, match="no local text edits"):
        run_of(colorizer, sketch, edits=()).position_weights(0)
    hidden = colorizer.settings.with_mechanism("exemplar_attention", skip_start=0.0, skip_end=0.4)
    early = run_of(colorizer, sketch, mechanisms=hidden.mechanisms)
    with pytest.raises(StateError, match="At step 0 the exemplar does not count"):
        early.position_weights(0)
    assert np.isfinite(early.position_weights(3).array).all()


def test_both_guidance_fields_by_step(run, colorizer, sketch):
    lengths, angle = run.guidance_fields(), run.guidance_fields(shown="angle")
    assert lengths.array.shape == (2, 4)
    assert lengths.provenance["labels"] == ["exemplar", "sketch"]
    record = run.records[2]
    fields = [record.predictions["full"] - record.predictions[name] for name in ("no_exemplar", "no_sketch")]
    for row, field in enumerate(fields):
        assert lengths.array[row, 2] == pytest.approx(float(field.square().mean().sqrt()), rel=1e-5)
    cosine = float((fields[0] * fields[1]).sum() / (fields[0].norm() * fields[1].norm()))
    assert angle.array[2] == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.01)
    assert all(isinstance(exhibit.plot(), LabFigure) for exhibit in (lengths, angle))

    single = run_of(colorizer, sketch, sketch_scale=1.0)
    assert single.guidance_fields().provenance["labels"] == ["exemplar"]
    with pytest.raises(StateError, match="one guidance field only"):
        single.guidance_fields(shown="angle")
    with pytest.raises(StateError, match="has no guidance field"):
        run_of(colorizer, sketch, sketch_scale=1.0, guidance_scale=1.0).guidance_fields()
    with pytest.raises(RangeError, match="shown is 'norms', but one of lengths, angle"):
        run.guidance_fields(shown="norms")


def test_a_matrix_is_drawn_with_numbers_and_without_a_picture():
    values = np.arange(-8.0, 8.0).reshape(4, 4)
    for is_signed in (True, False):
        exhibit = Exhibit(values, ("row", "column"), "", "Cells.", {"is_signed": is_signed}, kind="matrix")
        figure = exhibit.plot()
        assert {text.get_text() for text in figure.axes[0].texts} >= {"-8", "7", "0"}
        assert figure.to_array().ndim == 3
