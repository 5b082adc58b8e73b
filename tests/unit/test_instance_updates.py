"""Closed forms of instance guidance: equal to autograd, zero where nothing is asked, and symmetric in what is alike."""

import pytest
import torch
from torch.nn import functional

from colorlab.errors import RangeError
from colorlab.mechanisms.instance_updates import (
    hard_scores,
    masks_on_grid,
    release_update,
    resize_masks,
    softmax_loss,
    softmax_update,
    strength_update,
)

BATCH, HEADS, QUERIES, TOKENS, PHRASES = 2, 3, 6, 7, 2


@pytest.fixture
def scores() -> torch.Tensor:
    return 3 * torch.randn(BATCH, HEADS, QUERIES, TOKENS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def phrase_tokens() -> torch.Tensor:
    tokens = torch.zeros(1, PHRASES, TOKENS)
    tokens[0, 0, [1, 2]] = 1
    tokens[0, 1, [4, 5, 6]] = 1
    return tokens


@pytest.fixture
def masks() -> torch.Tensor:
    # Different for the two pictures, overlapping, with fractions as edges have them.
    return torch.rand(BATCH, PHRASES, QUERIES, generator=torch.Generator().manual_seed(1)).round(decimals=1)


def test_the_release_is_the_gradient_of_its_loss(scores, phrase_tokens, masks):
    scores = scores.double().requires_grad_()
    loss = torch.zeros((), dtype=torch.double)
    for picture in range(BATCH):
        for phrase in range(PHRASES):
            own = scores[picture][..., phrase_tokens[0, phrase].bool()].sigmoid()
            wanted = masks[picture, phrase].double()[None, :, None].expand_as(own)
            loss = loss + functional.binary_cross_entropy(own, wanted)
    (gradient,) = torch.autograd.grad(loss, scores)
    update = release_update(scores.detach(), phrase_tokens, masks)
    torch.testing.assert_close(update, -gradient, rtol=1e-9, atol=1e-12)


def test_the_first_version_is_the_gradient_of_its_loss(scores, phrase_tokens, masks):
    scores = scores.double().requires_grad_()
    (gradient,) = torch.autograd.grad(softmax_loss(scores, phrase_tokens, masks, cell_share=4.0), scores)
    update = softmax_update(scores.detach(), phrase_tokens, masks, cell_share=4.0)
    torch.testing.assert_close(update, -gradient, rtol=1e-9, atol=1e-12)


def test_strength_is_the_release_without_its_division(scores, phrase_tokens, masks):
    number = HEADS * QUERIES * phrase_tokens.sum(dim=-1)
    update = strength_update(scores, phrase_tokens, masks, 2.5)
    release = release_update(scores, phrase_tokens, masks)
    for phrase in range(PHRASES):
        own = phrase_tokens[0, phrase].bool()
        torch.testing.assert_close(update[..., own], 2.5 * number[0, phrase] * release[..., own])
    assert float(update.abs().max()) <= 2.5
    assert torch.equal(update[..., [0, 3]], torch.zeros(BATCH, HEADS, QUERIES, 2))


def test_the_bound_of_the_release_is_why_it_does_nothing():
    """Three tokens and eight heads at 32x32: no score moves by more than 1 / (8 * 3 * 1024)."""
    scores = 5 * torch.randn(1, 8, 1024, 77, generator=torch.Generator().manual_seed(2))
    tokens = torch.zeros(1, 1, 77)
    tokens[0, 0, 1:4] = 1
    update = release_update(scores, tokens, (torch.arange(1024) % 2).float()[None, None])
    assert float(update.abs().max()) <= (1 + 1e-6) / (8 * 3 * 1024)
    assert float(update.abs().max()) == pytest.approx(4.1e-5, rel=0.02)


def test_hard_hides_phrases_outside_and_leaves_all_else(scores, phrase_tokens):
    masks = torch.zeros(1, PHRASES, QUERIES)
    masks[0, 0, :2] = 1
    masks[0, 1, 1:] = 0.01
    changed = hard_scores(scores, phrase_tokens, masks)
    hidden = torch.isinf(changed)
    assert hidden[..., 2:, 1:3].all()
    assert hidden[..., 0, 4:].all()
    assert int(hidden.sum()) == BATCH * HEADS * (4 * 2 + 3)
    assert torch.equal(changed[~hidden], scores[~hidden])


@pytest.mark.parametrize("update", [release_update, softmax_update])
def test_no_phrases_change_nothing(update, scores):
    assert torch.equal(update(scores, torch.zeros(1, 0, TOKENS), torch.zeros(1, 0, QUERIES)), torch.zeros_like(scores))
    assert torch.equal(hard_scores(scores, torch.zeros(1, 0, TOKENS), torch.zeros(1, 0, QUERIES)), scores)


def test_each_picture_of_a_batch_is_guided_by_its_own_masks(scores, phrase_tokens, masks):
    together = strength_update(scores, phrase_tokens, masks, 3.0)
    for picture in range(BATCH):
        rows = slice(picture, picture + 1)
        alone = strength_update(scores[rows], phrase_tokens, masks[rows], 3.0)
        torch.testing.assert_close(together[rows], alone)


def test_equal_masks_of_two_phrases_guide_both_alike(scores):
    tokens = torch.zeros(1, 2, TOKENS)
    tokens[0, 0, 1] = tokens[0, 1, 2] = 1
    scores[..., 2] = scores[..., 1]
    mask = torch.rand(1, 1, QUERIES).expand(-1, 2, -1)
    update = strength_update(scores, tokens, mask, 1.0)
    assert torch.equal(update[..., 1], update[..., 2])


def test_masks_come_to_grids_by_their_share_or_as_published_by_one_pixel():
    masks = torch.zeros(1, 1, 8, 8)
    masks[0, 0, 0:3, 0:3] = 1
    assert masks_on_grid(masks, (2, 2))[0, 0].tolist() == [9 / 16, 0, 0, 0]
    assert masks_on_grid(masks, (2, 2), as_published=True)[0, 0].tolist() == [1, 0, 0, 0]
    masks = masks.roll((1, 1), dims=(2, 3))
    # A small object between the sampled pixels vanishes as published, and does not otherwise.
    assert masks_on_grid(masks, (2, 2), as_published=True).sum() == 0
    assert masks_on_grid(masks, (2, 2)).sum() > 0
    resized = resize_masks(masks, (4, 4))
    assert 0 <= float(resized.min()) < float(resized.max()) <= 1
    assert torch.equal(resize_masks(masks, (8, 8)), masks)


def test_shapes_that_do_not_fit_are_told(scores, phrase_tokens, masks):
    with pytest.raises(RangeError, match=r"masks has shape \(2, 2, 5\), but \(2 or 1, phrases, Q = 6\)"):
        release_update(scores, phrase_tokens, masks[..., :5])
    with pytest.raises(RangeError, match=r"phrase_tokens has shape \(1, 2, 6\)"):
        softmax_update(scores, phrase_tokens[..., :6], masks)
