"""Pairing of masks with phrases: by their words, or as published by their order; and everything that can be wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import tiny_lcad, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.data import data_folder
from colorlab.errors import RangeError, ShapeError
from colorlab.methods.base import ConditioningWarning
from colorlab.methods.phrases import comma_spans, object_phrases, pair_masks
from colorlab.networks.libraries import CLIPTokenizer
from colorlab.settings import Settings

GRAY = tiny_picture()
LEFT, RIGHT = np.zeros(GRAY.shape, bool), np.zeros(GRAY.shape, bool)
LEFT[:, :20], RIGHT[:, 30:] = True, True
NUM_TOKENS = 77
CUPS = "a red cup, a blue cup"


@pytest.fixture(scope="module")
def components():
    """The tokenizer of the shipped family; of the text encoder only its length is asked."""
    tokenizer = CLIPTokenizer.from_pretrained(data_folder() / "mini" / "clip")
    config = SimpleNamespace(max_position_embeddings=NUM_TOKENS)
    return {"tokenizer": tokenizer, "text_encoder": SimpleNamespace(config=config)}


def conditioning(prompt: str, **masks: np.ndarray) -> Conditioning:
    return Conditioning(gray=GRAY, prompt=prompt, masks={name.replace("_", " "): mask for name, mask in masks.items()})


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a red cup, a blue cup and a hat on the table under a clear sky", ("red cup", "blue cup", "hat")),
        ("a picture of an olive kite next to a house at dusk", ("olive kite", "house")),
        ("the red cup, the red cup", ("red cup#1", "red cup#2")),
        ("a red cup and a cup", ("red cup", "cup#2")),
        ("", ()),
    ],
)
def test_objects_of_a_prompt_are_proposed_as_names(prompt, names):
    assert object_phrases(prompt) == names


def test_a_mask_belongs_to_the_tokens_of_its_words(components):
    pairs, notes = pair_masks(conditioning(CUPS, blue_cup=RIGHT, red_cup=LEFT), components)
    assert [(pair.name, pair.phrase, pair.tokens) for pair in pairs] == [
        ("blue cup", "blue cup", (6, 7)),
        ("red cup", "red cup", (2, 3)),
    ]
    assert pairs[0].pieces == ("blue</w>", "cup</w>")
    assert notes == ()


def test_naming_a_mask_anew_pairs_it_with_other_words(components):
    given = conditioning("a red cup and a hat", red_cup=LEFT)
    (pair,), _ = pair_masks(given.replace(masks={"hat": given.masks["red cup"]}), components)
    assert pair.tokens == (6,)


def test_words_that_come_twice_are_told_apart_by_their_number(components):
    prompt = "a red cup, a red cup"
    twice = conditioning(prompt).replace(masks={"red cup#1": LEFT, "red cup#2": RIGHT})
    pairs, _ = pair_masks(twice, components)
    assert [pair.tokens for pair in pairs] == [(2, 3), (6, 7)]
    with pytest.raises(RangeError, match=r"'red cup' come 2 times in the prompt.*name it 'red cup#1' to 'red cup#2'"):
        pair_masks(conditioning(prompt, red_cup=LEFT), components)
    with pytest.raises(RangeError, match=r"asks for number 3, but 'red cup' comes 2 time\(s\)"):
        pair_masks(conditioning(prompt).replace(masks={"red cup#3": LEFT}), components)


def test_more_masks_than_phrases(components):
    with pytest.raises(RangeError, match=r"'green cup' names words that are not .*objects there: 'red cup', 'hat'"):
        pair_masks(conditioning("a red cup and a hat", red_cup=LEFT, green_cup=RIGHT), components)
    with pytest.raises(RangeError, match="masks 'red cup' and 'cup' are both named by the word 'cup</w>' at place 3"):
        pair_masks(conditioning("a red cup", red_cup=LEFT, cup=RIGHT), components)


def test_more_phrases_than_masks_is_said_where_it_matters(components):
    _, (note,) = pair_masks(conditioning(CUPS, red_cup=LEFT), components)
    assert "'blue cup' has no mask although 'red cup' has one, so that it may color any cup" in note
    _, notes = pair_masks(conditioning("a red cup, a blue hat", red_cup=LEFT), components)
    assert notes == ()


def test_as_published_phrases_and_masks_go_by_order_and_number(components):
    pairs, _ = pair_masks(conditioning(CUPS, zz=LEFT, yy=RIGHT), components, as_published=True)
    assert [(pair.name, pair.tokens) for pair in pairs] == [("zz", (1, 2, 3)), ("yy", (5, 6, 7))]
    assert pairs[0].phrase == "a red cup"
    with pytest.raises(RangeError, match="prompt has 2 phrases between commas, but 1 masks came"):
        pair_masks(conditioning(CUPS, zz=LEFT), components, as_published=True)
    with pytest.raises(RangeError, match="prompt has 1 phrases between commas, but 2 masks came"):
        pair_masks(conditioning("a red cup", zz=LEFT, yy=RIGHT), components, as_published=True)
    with pytest.raises(RangeError, match="phrase of the mask 'yy' is empty: the prompt ends with a comma"):
        pair_masks(conditioning("a red cup,", zz=LEFT, yy=RIGHT), components, as_published=True)


def test_only_a_comma_of_its_own_splits():
    assert comma_spans(["a</w>", ",,</w>", "b</w>"]) == ((1, 4),)
    assert comma_spans(["a</w>", ",</w>", "b</w>"]) == ((1, 2), (3, 4))
    assert comma_spans([]) == ((1, 1),)


def test_phrases_beyond_what_the_model_reads(components):
    prompt = "a " * (NUM_TOKENS - 3) + "cup hat"
    (pair,), notes = pair_masks(conditioning(prompt, cup=LEFT), components)
    assert pair.tokens == (NUM_TOKENS - 2,)
    assert notes == ()
    with pytest.raises(RangeError, match=r"'hat' of the mask 'hat' lie beyond the 77 tokens.*shorten the prompt"):
        pair_masks(conditioning(prompt, hat=LEFT), components)
    _, (note,) = pair_masks(conditioning(prompt, cup_hat=LEFT), components)
    assert "Of the phrase 'cup hat' this model reads 'cup' only" in note


def test_masks_that_tell_nothing(components):
    with pytest.raises(RangeError, match="mask 'hat' covers the whole picture, so that it tells no object"):
        pair_masks(conditioning("a hat", hat=np.ones(GRAY.shape, bool)), components)
    with pytest.raises(RangeError, match="mask 'hat' is empty"):
        conditioning("a hat", hat=np.zeros(GRAY.shape, bool))
    with pytest.raises(ShapeError, match="mask 'hat' is 8 x 8 pixels, but the picture is 40 x 56"):
        conditioning("a hat", hat=np.ones((8, 8), bool))


def test_a_run_tells_the_notes_and_refuses_two_passes_without_masks():
    method = tiny_lcad()
    settings = Settings(num_inference_steps=2)
    with pytest.warns(ConditioningWarning, match="'y b' has no mask"):
        method.warn(method.prepare(conditioning("x b, y b", x_b=LEFT), settings).notes)
    two = settings.with_mechanism("instance_guidance", passes="two")
    with pytest.raises(RangeError, match="asks for a second pass, but the conditioning has no masks"):
        method.prepare(conditioning("a b"), two)
    off = settings.with_mechanism("instance_guidance", is_on=False)
    assert method.prepare(conditioning("a b", nobody=LEFT), off).instance_masks is None
