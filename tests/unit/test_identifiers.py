"""Prompts with identifiers: places of colors, alignment of tokens, and what cannot be aligned."""

import pytest
from tiny import tiny_components, word_tokenizer

from colorlab.errors import RangeError
from colorlab.methods.identifiers import Rewriting, check_context, rewrite


@pytest.fixture
def components():
    found = tiny_components(0)
    found["tokenizer"] = word_tokenizer("a an the photo of cat sofa on brown blue orange dark sks zwx ohwx")
    return found


CONTEXT = "a photo of a cat on a sofa"


def test_an_identifier_stands_in_front_of_each_object(components):
    rewriting = rewrite(CONTEXT, components)
    assert rewriting.text == "a photo of a sks cat on a zwx sofa"
    assert dict(rewriting.nouns) == {4: "cat", 7: "sofa"}
    assert Rewriting.from_dict(rewriting.to_dict()) == rewriting


def test_target_and_context_have_their_tokens_at_the_same_places(components):
    rewriting = rewrite(CONTEXT, components)
    aligned = rewriting.align("a photo of a brown cat on a blue sofa", components)
    assert [index for index, _, _ in aligned.rows] == list(range(1, 11))
    assert [(a, b) for _, a, b in aligned.rows if a != b] == [("sks", "brown"), ("zwx", "blue")]
    assert aligned.objects == {"cat": (5, 6), "sofa": (9, 10)}


def test_an_object_without_color_keeps_its_identifier(components):
    aligned = rewrite(CONTEXT, components).align("a photo of a cat on a blue sofa", components)
    assert aligned.text == "a photo of a sks cat on a blue sofa"


def test_articles_follow_the_color(components):
    aligned = rewrite(CONTEXT, components).align("a photo of an orange cat on a sofa", components)
    assert aligned.text == "a photo of an orange cat on a zwx sofa"


def test_a_thing_that_is_called_like_a_color_is_named_as_an_object(components):
    with pytest.raises(RangeError, match=r"names the color 'orange'; .* nouns=\['orange', \.\.\.\] \(--noun orange\)"):
        rewrite("a photo of an orange", components)
    rewriting = rewrite("a photo of an orange", components, nouns=["orange"])
    assert rewriting.text == "a photo of a sks orange"
    aligned = rewriting.align("a photo of a blue orange", components)
    assert (aligned.text, aligned.objects) == ("a photo of a blue orange", {"orange": (5, 6)})
    assert rewriting.align("a photo of an orange orange", components).text == "a photo of an orange orange"
    with pytest.raises(RangeError, match="names the color 'blue'"):
        rewrite("a photo of a blue orange", components, nouns=["orange"])


def test_identifiers_are_found_among_the_tokens(components):
    rewriting = rewrite(CONTEXT, components)
    assert rewriting.identifier_tokens(components) == {"cat": 5, "sofa": 9}
    assert rewrite("a cat on a cat", components).identifier_tokens(components) == {"cat": 2, "cat 2": 6}


def test_one_eta_for_each_object(components):
    aligned = rewrite(CONTEXT, components).align("a photo of a brown cat on a sofa", components)
    etas = aligned.etas({"cat": 1.0}, rest=0.25)
    assert len(etas) == aligned.num_tokens
    assert [index for index, eta in enumerate(etas) if eta == 1.0] == [5, 6]
    assert set(etas) == {1.0, 0.25}
    with pytest.raises(RangeError, match="no object 'dog'; it has cat, sofa"):
        aligned.etas({"dog": 1.0})


@pytest.mark.parametrize(("by_object", "rest"), [({"cat": 100.0}, 0.0), ({"cat": float("nan")}, 0.0), ({}, -1.0)])
def test_etas_that_the_path_does_not_take_are_refused_where_they_are_given(components, by_object, rest):
    aligned = rewrite(CONTEXT, components).align("a photo of a blue cat on a sofa", components)
    with pytest.raises(RangeError, match=r"eta is .*, but a number from 0 to 1\.5 is expected"):
        aligned.etas(by_object, rest=rest)


def test_two_objects_of_one_kind_are_told_apart(components):
    aligned = rewrite("a cat on a cat", components).align("a cat on a blue cat", components)
    assert set(aligned.objects) == {"cat", "cat 2"}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (CONTEXT, "is the context itself; name a color"),
        ("a photo of a sks cat on a zwx sofa", "is the context itself"),
        ("a photo of a dark blue cat on a sofa", "longer than the context: 'dark blue'"),
        ("a photo of a brown cat on a sofa on a sofa", "longer than the context"),
        ("a photo of a brown dog on a sofa", "has no place in it"),
        ("a blue photo of a cat on a sofa", "change nothing but words in front of 'cat', 'sofa'"),
        ("a photo of a maroon cat on a sofa", "longer than the context: 'maroon' is several tokens"),
    ],
)
def test_targets_that_do_not_fit_say_why(components, target, message):
    with pytest.raises(RangeError, match=message):
        rewrite(CONTEXT, components).align(target, components)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("", "is empty"),
        ("a photo of a Brown cat", "already names the color 'brown'"),
        ("cat on sofa", "No object was found"),
        ("a photo of", "No object was found"),
    ],
)
def test_contexts_that_cannot_be_used_say_why(components, context, message):
    with pytest.raises(RangeError, match=message):
        rewrite(context, components)


def test_nouns_can_be_named_where_no_article_stands(components):
    rewriting = rewrite("cat on sofa", components, nouns=("sofa",))
    assert rewriting.text == "cat on sks sofa"
    with pytest.raises(RangeError, match="no word 'dog'"):
        rewrite("cat on sofa", components, nouns=("dog",))


def test_a_model_without_rare_words_is_refused(components):
    components["tokenizer"] = word_tokenizer("a photo of cat")
    with pytest.raises(RangeError, match="single token"):
        rewrite("a photo of a cat", components)


def test_the_empty_prompt_and_the_context_ask_for_no_target(components):
    rewriting = rewrite(CONTEXT, components)
    assert rewriting.is_context("")
    assert rewriting.is_context("A photo of a cat on a sofa")
    assert rewriting.is_context(rewriting.text)
    assert not rewriting.is_context("a photo of a blue cat on a sofa")
    check_context(CONTEXT)
