"""Nouns in captions: where they stand, and captions whose colors were passed on."""

import pytest
import torch

from colorlab.errors import StateError
from colorlab.training.captions import vocabulary
from colorlab.training.clip import encode_mentions, mini_clip
from colorlab.training.mentions import exchange_colors, find_mentions
from colorlab.training.tokenizer import train_tokenizer

THINGS = (("red", "car"), ("orange", "umbrella"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(vocabulary(()), tmp_path_factory.mktemp("tokenizer"))


def test_a_mention_is_the_token_of_the_noun(tokenizer):
    text = "an orange umbrella and a red car on the grass"
    mentions = find_mentions(tokenizer, ["a car", text], [THINGS, THINGS])
    assert mentions.labels == ["red car", "orange umbrella"]
    assert mentions.rows.tolist() == [1, 1]
    words = ["<start>", *text.split()]
    assert [words[position] for position in mentions.positions] == ["car", "umbrella"]


def test_a_noun_whose_color_is_not_named_is_no_mention(tokenizer):
    mentions = find_mentions(tokenizer, ["a red picture of a car", "a car, a red umbrella"], [THINGS, THINGS])
    assert mentions.labels == []


def test_a_word_of_several_tokens_is_refused(tokenizer):
    with pytest.raises(StateError, match="'zzyzx' is"):
        find_mentions(tokenizer, ["a red zzyzx"], [(("red", "zzyzx"),)])


def test_colors_are_passed_on_with_their_articles():
    text, things = exchange_colors("a red car, an orange umbrella and a blue car", (*THINGS, ("blue", "car")))
    assert text == "an orange car, a blue umbrella and a red car"
    assert things == (("orange", "car"), ("blue", "umbrella"), ("red", "car"))


def test_one_object_keeps_its_color():
    assert exchange_colors("a red car at dusk", THINGS[:1]) == ("a red car at dusk", THINGS[:1])


def test_mentions_are_read_from_their_own_token_and_see_the_words_before_it_alone(tokenizer):
    torch.manual_seed(0)
    model = mini_clip(tokenizer, width=16).eval()
    texts = ["a red car and a blue house", "a red car and a green house"]
    mentions = find_mentions(
        tokenizer, texts, [(("red", "car"), ("blue", "house")), (("red", "car"), ("green", "house"))]
    )
    vectors = encode_mentions(model, tokenizer, mentions).detach()
    assert vectors.norm(dim=-1) == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(vectors[0], vectors[2], atol=1e-6)
    assert not torch.allclose(vectors[1], vectors[3], atol=1e-3)
