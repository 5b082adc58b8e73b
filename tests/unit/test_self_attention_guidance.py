"""Self-attention guidance as maths; what it does in a run is in test_ctrlcolor."""

import pytest
import torch

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance, received_attention
from colorlab.settings import Settings

GUIDANCE = SelfAttentionGuidance()


def settings(**parameters):
    return Settings().with_mechanism("self_attention_guidance", **parameters)


def test_received_attention_has_mean_one():
    probs = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    for heads in ("all", "first_half"):
        received = received_attention(probs, heads=heads)
        assert torch.allclose(received.mean(dim=1), torch.ones(3))
    assert torch.allclose(received_attention(probs, heads="first_half"), probs[:, :2].mean(1).sum(1))
    with pytest.raises(ShapeError):
        received_attention(probs[..., :3])


def test_the_published_mix_up_of_a_batch_is_published_only():
    probs = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    mixed = received_attention(probs, heads="first_half", as_published=True)
    own = received_attention(probs, heads="first_half")
    assert torch.equal(mixed[0], own[0])
    # The second picture gets the second half of the heads of the first, the third the first half of the second.
    assert torch.allclose(mixed[1], probs[0, 2:].mean(0).sum(0))
    assert torch.allclose(mixed[2], own[1])


def test_when_it_acts():
    assert GUIDANCE.acts(settings(), 601)
    assert not GUIDANCE.acts(settings(), 600)
    assert not GUIDANCE.acts(settings(sag_scale=0.0), 900)
    assert not GUIDANCE.acts(settings(is_on=False))
    names = ("uncond", "cond")
    assert GUIDANCE.passes(names, settings()) == ("degraded_uncond", "degraded_cond")
    assert GUIDANCE.passes(names, settings(variant="original"), 700) == ("degraded_uncond",)
    assert GUIDANCE.passes(("cond",), settings(), 700) == ("degraded_cond",)
    assert GUIDANCE.passes(names, settings(), 10) == ()
    with pytest.raises(RangeError, match="one of streamlined, original"):
        GUIDANCE.acts(settings(variant="other"))


@pytest.mark.parametrize("size", [(16, 16), (8, 12), (4, 4), (2, 1)])
def test_blurring_keeps_the_mean_level_and_acts_where_attention_goes(size):
    clean = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    received = torch.tensor([[1.5, 0.5], [0.5, 1.5]]).expand(2, 1, 2, 2)
    blurred = GUIDANCE.degrade(clean, received, settings())
    mask = GUIDANCE.salient(received, size, settings())
    assert torch.equal(blurred[mask.expand_as(clean) == 0], clean[mask.expand_as(clean) == 0])
    constant = GUIDANCE.degrade(torch.full_like(clean, 3.0), received, settings())
    assert torch.allclose(constant, torch.full_like(clean, 3.0), atol=1e-5)
    if min(size) > 4:
        assert not torch.allclose(blurred, clean)
    even = torch.ones(2, 1, 2, 2)
    assert torch.equal(GUIDANCE.degrade(clean, even, settings()), clean)


def test_the_blur_is_a_truncated_gaussian():
    point = torch.zeros(1, 4, 16, 16)
    point[:, :, 8, 8] = 1
    blurred = GUIDANCE.degrade(point, torch.full((1, 1, 2, 2), 2.0), settings())[0, 0]
    line = torch.exp(-0.5 * torch.arange(-4.0, 5.0) ** 2)
    line /= line.sum()
    assert torch.allclose(blurred[4:13, 4:13], line[:, None] * line, atol=1e-6)
    assert not blurred[:4].any()


def test_the_rule_is_away_from_the_degraded_prediction():
    one, other = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    got = GUIDANCE.guide(one, other, settings(sag_scale=0.5), base=one)
    assert torch.allclose(got, 1.5 * one - 0.5 * other)
    assert torch.equal(GUIDANCE.guide(one, one, settings(sag_scale=0.5), base=one), one)


def test_a_network_that_hands_out_no_attention_is_named():
    with pytest.raises(StateError, match="without compiling"):
        GUIDANCE.reading_of({})
