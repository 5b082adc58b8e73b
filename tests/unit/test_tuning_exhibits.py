"""What can be seen of a tuning: bench, split gradient, path of eta, two trajectories, drift of weights."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.tuning.exhibits import (
    contrastive_bench,
    eta_sheet,
    gradient_split,
    overlaid_trajectories,
    weight_drift,
)

CONTEXT = "a photo of a cat"
TARGET = "a photo of a blue cat"


@pytest.fixture(scope="module")
def tuned(whole):
    """A tiny model with an adaptation of all stages."""
    return tiny_colorizer(tiny_diffcolor()).with_adaptation(whole.adaptation)


def painted():
    """Return a colored picture (H, W, 3) uint8."""
    picture = np.repeat(tiny_picture()[..., None], 3, axis=2)
    picture[..., 0] = 255 - picture[..., 0]
    return picture


def test_the_bench_is_a_softmax_and_a_gray_picture_is_its_own_baseline():
    method = tiny_diffcolor()
    gray = contrastive_bench(method, tiny_picture(), CONTEXT)
    assert gray.array.sum() == pytest.approx(1, abs=1e-5)
    assert gray.array == pytest.approx(gray.baseline, abs=1e-3)
    assert gray.provenance["labels"][0] == "a colorful photo of a cat"
    colored = contrastive_bench(method, painted(), CONTEXT)
    assert not np.allclose(colored.array, colored.baseline, atol=1e-4)
    prompts = "a gray photo of {}; a red photo of {}"
    settings = method.default_settings.with_mechanism("contrastive_tuning", anti_color=prompts)
    edited = contrastive_bench(method, painted(), CONTEXT, settings)
    assert edited.provenance["labels"][1:] == ["a gray photo of a cat", "a red photo of a cat"]
    assert edited.plot() is not None


def test_the_gradient_is_split_into_lightness_and_chroma():
    exhibit = gradient_split(tiny_diffcolor(), painted(), CONTEXT)
    assert exhibit.array.shape[0] == 2
    assert exhibit.provenance["labels"] == ["lightness", "chroma"]
    assert (exhibit.array >= 0).all()
    assert exhibit.array.sum(axis=(1, 2)).min() > 0
    assert 0 < exhibit.provenance["chroma_share"] < 1
    assert exhibit.plot() is not None


def test_the_sheet_has_a_picture_and_a_margin_for_each_eta(tuned):
    conditioning = Conditioning(gray=tiny_picture(), prompt=TARGET)
    sheet = eta_sheet(tuned.method, conditioning, tuned.settings, etas=(0.0, 1.0))
    assert list(sheet.pictures) == ["eta 0", "eta 1"]
    assert sheet.array.shape == (2,)
    plain = tuned.start(tiny_picture(), mechanisms={"embedding_path": {"eta": 0.0}})
    # At 0 the words are those that reproduce the picture, guided against the same empty prompt.
    assert np.array_equal(sheet.pictures["eta 0"], plain.finish(progress=False).image)
    assert sheet.plot() is not None
    with pytest.raises(RangeError, match="etas is empty"):
        eta_sheet(tuned.method, conditioning, tuned.settings, etas=())
    with pytest.raises(RangeError, match="is the context itself"):
        eta_sheet(tuned.method, conditioning.replace(prompt=CONTEXT), tuned.settings)


def test_two_trajectories_share_a_plane_and_their_beginning(tuned):
    run = tuned.start(tiny_picture(), num_inference_steps=6).finish(progress=False)
    other = tuned.start(tiny_picture(), prompt=TARGET, num_inference_steps=6).finish(progress=False)
    exhibit = overlaid_trajectories(run, other)
    assert exhibit.array.shape == (2, 2, 7)
    assert exhibit.array[0, :, 0] == pytest.approx(exhibit.array[1, :, 0], abs=1e-4)
    assert not np.allclose(exhibit.array[0, :, -1], exhibit.array[1, :, -1], atol=1e-4)
    same = overlaid_trajectories(run, run)
    assert same.array[0] == pytest.approx(same.array[1])
    assert exhibit.plot() is not None
    with pytest.raises(StateError, match="needs 3 states"):
        overlaid_trajectories(run, tuned.start(tiny_picture(), num_inference_steps=6))
    with pytest.raises(ShapeError, match="compare like with like"):
        overlaid_trajectories(run, tuned.start(tiny_picture(), num_inference_steps=10).finish(progress=False))


def test_the_drift_of_weights_is_that_of_the_merged_network(tuned):
    exhibit = weight_drift(tuned.method)
    assert list(exhibit.array) == sorted(exhibit.array, reverse=True)
    block = "mid_block"
    moved = whole = 0.0
    for (name, before), (_, after) in zip(
        tuned.method.base_unet.named_parameters(), tuned.method.unet.named_parameters(), strict=True
    ):
        if name.startswith(block):
            moved += float((after - before).double().square().sum())
            whole += float(before.double().square().sum())
    found = exhibit.array[exhibit.provenance["labels"].index(block)]
    assert found == pytest.approx((moved / whole) ** 0.5, rel=1e-3)
    assert weight_drift(tuned.method, "contrastive").array.max() > 0
    with pytest.raises(StateError, match="carries no changes"):
        weight_drift(tiny_diffcolor())
    with pytest.raises(RangeError, match="is expected"):
        weight_drift(tuned.method, "embedding")
    assert not torch.equal(
        tuned.method.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight,
        tuned.method.base_unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight,
    )
