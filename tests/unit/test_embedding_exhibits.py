"""What can be seen of the embedding that reproduces a picture: its distance by token, and where identifiers look."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_diffcolor, tiny_lcad, tiny_picture

from colorlab.errors import RangeError, StateError
from colorlab.methods.adaptation import Adaptation
from colorlab.tuning import TuningWarning
from colorlab.tuning.embedding_exhibits import embedding_distance, identifier_attention, measure_move

CONTEXT = "a photo of a cat on a sofa"
TARGET = "a photo of a red cat on a blue sofa"
SKS, ZWX = 5, 9


@pytest.fixture(scope="module")
def tuned():
    """A tiny model that was tuned on a picture of two objects."""
    colorizer = tiny_colorizer(tiny_diffcolor())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        tuning = colorizer.tune(tiny_picture(), prompt=CONTEXT, preset="smoke").finish(progress=False)
    return colorizer.with_adaptation(tuning.adaptation)


def test_distance_and_cosine_are_those_of_the_tokens_and_of_the_whole(tuned):
    adaptation = tuned.method.adaptation
    before = adaptation.tensors["embedding/identified"]
    # Twice as long, another direction, and the same.
    after = before.clone()
    after[0, 1] *= 2
    after[0, 2] *= -1
    move = measure_move(Adaptation({**adaptation.tensors, "embedding/optimized": after}, adaptation.info))
    lengths = torch.linalg.vector_norm(before[0].double(), dim=-1).numpy()
    assert move.distances[:4] == pytest.approx([0, lengths[1], 2 * lengths[2], 0])
    assert move.cosines[:4] == pytest.approx([1, 1, -1, 1])
    assert move.distance == pytest.approx(np.linalg.norm([lengths[1], 2 * lengths[2]]))
    assert move.length == pytest.approx(np.linalg.norm(lengths))
    assert -1 < move.cosine < 1


def test_the_distance_is_shown_by_token_with_the_whole_in_words(tuned):
    exhibit = embedding_distance(tuned.method)
    assert exhibit.provenance["token_names"][SKS].startswith("sks")
    assert exhibit.array.shape == (2, len(exhibit.provenance["token_names"]))
    assert exhibit.array[0].max() > 0
    whole = float(np.linalg.norm(exhibit.array[0]))
    assert exhibit.provenance["distance"] == pytest.approx(whole, rel=1e-5)
    assert f"{whole:.3g} from T(c')" in exhibit.caption
    axes = exhibit.plot().axes
    assert [each.get_ylabel() for each in axes] == ["distance", "cosine"]
    assert list(axes[1].lines[0].get_ydata()) == list(exhibit.array[1])
    names = [label.get_text().removesuffix("</w>") for label in axes[1].get_xticklabels()]
    assert names == [
        "<|startoftext|>",
        *["a", "photo", "of", "a", "sks", "cat", "on", "a", "zwx", "sofa"],
        "<|endoftext|>",
    ]
    with pytest.raises(StateError, match="tune it first, stage 2 included"):
        embedding_distance(tiny_diffcolor())


def test_maps_of_identifiers_and_colors_stand_side_by_side_with_their_overlap(tuned):
    run = tuned.start(tiny_picture(), prompt=TARGET).finish(progress=False)
    exhibit = identifier_attention(run, 1)
    assert exhibit.verdict == "exact"
    labels = ["sks (cat), e_opt", "zwx (sofa), e_opt", "red (cat), e_tgt", "blue (sofa), e_tgt"]
    assert exhibit.provenance["labels"] == labels
    assert exhibit.provenance["tokens"] == [SKS, ZWX]
    overlaps, by_chance = exhibit.provenance["overlaps"], exhibit.provenance["overlaps_by_chance"]
    assert list(overlaps) == list(by_chance) == ["sks and red", "zwx and blue", "sks and zwx"]
    assert all(0 <= value <= 1 for value in (*overlaps.values(), *by_chance.values()))
    assert f"sks and red {overlaps['sks and red']:.2f} (by chance {by_chance['sks and red']:.2f})" in exhibit.caption
    # By hand, for one of them.
    quarters = [set(np.argsort(-each.ravel(), kind="stable")[: each.size // 4]) for each in exhibit.array[[0, 2]]]
    by_hand = len(quarters[0] & quarters[1]) / len(quarters[0] | quarters[1])
    assert overlaps["sks and red"] == pytest.approx(by_hand)
    assert exhibit.baseline == pytest.approx((1 - exhibit.array) / 11, rel=1e-5)
    assert len([cell for cell in exhibit.plot().axes if cell.get_title()]) == 8, "maps, null baselines below"


def test_the_maps_are_those_of_runs_at_the_ends_of_the_path(tuned):
    settings = tuned.settings.with_mechanism("gray_start", start="noise_gray")
    run = tuned.start(tiny_picture(), settings, prompt=TARGET).finish(progress=False)
    exhibit = identifier_attention(run, 0)
    for eta, rows in ((0.0, (0, 1)), (1.0, (2, 3))):
        end = tuned.start(tiny_picture(), settings.with_mechanism("embedding_path", eta=eta), prompt=TARGET)
        # The first step starts from the same latents whatever the words are.
        end.finish(progress=False)
        for row, token in zip(rows, (SKS, ZWX), strict=True):
            asked = end.attention(0, token=token, baseline=True)
            assert exhibit.array[row] == pytest.approx(asked.array, abs=1e-6)
            assert exhibit.baseline[row] == pytest.approx(asked.baseline, abs=1e-6)


def test_a_run_without_a_target_has_the_identifiers_alone(tuned):
    run = tuned.start(tiny_picture()).finish(progress=False)
    exhibit = identifier_attention(run, 0)
    assert exhibit.provenance["labels"] == ["sks (cat), e_opt", "zwx (sofa), e_opt"]
    assert list(exhibit.provenance["overlaps"]) == ["sks and zwx"]
    kept = tuned.start(tiny_picture(), prompt="a photo of a cat on a blue sofa").finish(progress=False)
    names = list(identifier_attention(kept, 0).provenance["overlaps"])
    assert names == ["sks, both ends", "zwx and blue", "sks and zwx"]


def test_runs_that_have_no_identifiers_say_so(tuned):
    with pytest.raises(StateError, match="has no identifiers"):
        identifier_attention(tiny_colorizer(tiny_lcad()).start(tiny_picture()), 0)
    plain = tuned.without_adaptation().start(tiny_picture(), prompt=CONTEXT).finish(progress=False)
    with pytest.raises(StateError, match="tune it first"):
        identifier_attention(plain, 0)
    off = tuned.start(tiny_picture(), prompt="a sofa", mechanisms={"embedding_path": {"is_on": False}})
    with pytest.raises(RangeError, match="has no place in it"):
        identifier_attention(off.finish(progress=False), 0)
