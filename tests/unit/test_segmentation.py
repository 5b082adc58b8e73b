"""Masks from words, clicks and attention: the protocol, tiny foreign networks, and what attention is made into."""

import numpy as np
import pytest
import torch
from tiny import tiny_lcad, tiny_picture, tiny_tokenizer

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, WeightsError
from colorlab.evaluation.mask_quality import evaluate_masks, intersection_over_union
from colorlab.evaluation.scenes import scene_gray
from colorlab.networks.libraries import CLIPSegConfig, CLIPSegForImageSegmentation, SamConfig, SamModel
from colorlab.segmentation import AttentionSegmenter, ClipSegSegmenter, SamSegmenter, Segmenter, Target, propose_masks
from colorlab.segmentation.attention import deal_out, phrase_attention, smooth_within
from colorlab.training.scenes import make_scene

GRAY = tiny_picture()
SHAPE = GRAY.shape


@pytest.fixture(scope="module")
def clipseg() -> ClipSegSegmenter:
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={
            **small,
            "num_hidden_layers": 2,
            "vocab_size": 64,
            "max_position_embeddings": 16,
            "bos_token_id": 52,
            "eos_token_id": 53,
            "pad_token_id": 53,
        },
        vision_config={**small, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ClipSegSegmenter(CLIPSegForImageSegmentation(config), tiny_tokenizer(), threshold=0.0)


@pytest.fixture(scope="module")
def sam() -> SamSegmenter:
    small = {"hidden_size": 16, "num_attention_heads": 2, "mlp_dim": 16}
    config = SamConfig(
        vision_config={
            **small,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={**small, "num_hidden_layers": 1, "iou_head_hidden_dim": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SamSegmenter(SamModel(config))


def test_all_are_segmenters(clipseg, sam):
    assert all(isinstance(one, Segmenter) for one in (clipseg, sam, AttentionSegmenter(tiny_lcad())))


def test_clipseg_deals_every_pixel_to_the_likeliest_phrase(clipseg):
    given = Conditioning(gray=GRAY, prompt="a ab and a cd")
    masks = propose_masks(given, clipseg)
    # At threshold 0 every pixel belongs to one phrase, and to one alone.
    first, second = (masks.get(name, np.zeros(SHAPE, bool)) for name in ("ab", "cd"))
    assert first.shape == second.shape == SHAPE
    assert np.array_equal(first, ~second)
    assert clipseg.segment(given, [Target("ab#2")])[0].all()
    strict = ClipSegSegmenter(clipseg.model, clipseg.tokenizer, threshold=1.0)
    assert propose_masks(given, strict) == {}


def test_sam_reads_clicks(sam):
    given = Conditioning(gray=GRAY, prompt="a ab and a cd")
    (mask,) = sam.segment(given, [Target("ab", (10.0, 20.0))])
    assert mask.shape == SHAPE
    assert mask.dtype == bool
    both = sam.segment(given, [Target("ab", (10.0, 20.0)), Target("cd", (50.0, 5.0))])
    assert np.array_equal(both[0], mask)
    with pytest.raises(RangeError, match="SAM finds objects by clicks, but 'ab' has none"):
        propose_masks(given, sam)
    with pytest.raises(RangeError, match=r"click on 'ab' is at \(60, 5\), but \(x, y\) within 56x40"):
        propose_masks(given, sam, pixels={"ab": (60, 5)})


@pytest.mark.parametrize("kind", [ClipSegSegmenter, SamSegmenter])
def test_weights_are_the_users(kind, tmp_path):
    with pytest.raises(WeightsError, match=r"holds no config.json; give the folder of a model that you fetched"):
        kind.from_pretrained(tmp_path)


def test_sam_comes_back_from_a_folder(sam, tmp_path):
    sam.model.save_pretrained(tmp_path)
    given, target = Conditioning(gray=GRAY, prompt="a ab"), [Target("ab", (10.0, 20.0))]
    again = SamSegmenter.from_pretrained(tmp_path).segment(given, target)
    assert np.array_equal(again[0], sam.segment(given, target)[0])


def test_what_cannot_be_looked_for(clipseg):
    with pytest.raises(RangeError, match="no gray picture to find objects in"):
        propose_masks(Conditioning(prompt="a ab"), clipseg)
    with pytest.raises(RangeError, match="names no object to look for"):
        propose_masks(Conditioning(gray=GRAY, prompt=""), clipseg)
    with pytest.raises(RangeError, match="'zz' names words that are not in the prompt"):
        AttentionSegmenter(tiny_lcad()).segment(Conditioning(gray=GRAY, prompt="a ab"), [Target("zz")])


def test_attention_to_phrases_needs_one_call_and_no_masks():
    method = tiny_lcad()
    given = Conditioning(gray=GRAY, prompt="a b c", masks={"b": GRAY > 128})
    attention = phrase_attention(method, given, ["a", "c"], num_noises=3)
    assert attention.shape == (2, 4, 4)
    assert 0 < float(attention.min()) < float(attention.sum(dim=0).max()) < 1
    assert method.network_calls["unet"] == 1
    assert torch.equal(attention, phrase_attention(method, given, ["a", "c"], num_noises=3))
    masks = AttentionSegmenter(method, num_noises=2).segment(given, [Target("a"), Target("c")])
    assert [mask.shape for mask in masks] == [SHAPE, SHAPE]
    assert not (masks[0] & masks[1]).any()


def test_dealing_out_gives_a_greedy_word_one_object():
    """Both objects draw the first word more; the second word still gets the one that it draws comparatively much."""
    attention = np.full((2, 4, 4), 0.01)
    attention[:, :, 0] = np.array([[0.9], [0.1]])
    attention[:, :, 3] = np.array([[0.6], [0.3]])
    owners = deal_out(attention)
    assert owners.sum(axis=0) == pytest.approx(np.ones((4, 4)))
    assert (owners[0, :, 0] > 0.5).all()
    assert (owners[1, :, 3] > 0.5).all()


def test_smoothing_is_the_mean_within_superpixels():
    values = np.arange(8.0).reshape(1, 2, 4)
    halves = np.array([[0, 0, 1, 1]] * 2)
    assert smooth_within(values, [halves])[0, 0].tolist() == [2.5, 2.5, 4.5, 4.5]
    assert np.array_equal(smooth_within(values, [np.arange(8).reshape(2, 4)]), values)


class Exact:
    """Knows the scenes."""

    def __init__(self, scenes):
        self.masks = {scene_gray(scene).tobytes(): scene.instances for scene in scenes}

    def segment(self, conditioning, targets):
        gray = (np.asarray(conditioning.gray) * 255).round().astype(np.uint8).tobytes()
        return [instance.mask for instance in self.masks[gray]]


def test_exact_masks_are_measured_as_such_and_others_are_not(monkeypatch):
    scenes = [make_scene(seed, size_px=64, num_instances=2) for seed in (1, 2)]
    monkeypatch.setattr("colorlab.evaluation.mask_quality.held_out_scenes", lambda protocol, size_px: iter(scenes))
    rows = evaluate_masks(Exact(scenes), 2, size_px=64).rows
    assert [row.value for row in rows] == [1.0, 0.0, 1.0, 100.0]
    with pytest.raises(RangeError, match="num_scenes is 0"):
        evaluate_masks(Exact(scenes), 0)
    assert intersection_over_union(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0
