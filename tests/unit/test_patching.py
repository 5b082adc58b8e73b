"""Patches: nothing changed is nothing moved, what is changed is where it was asked for, and the network is restored."""

import pytest
import torch
from tiny import tiny_unet

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.networks.patching import PATCH_PLACES, Patch, patched
from colorlab.networks.sites import find_sites

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2"
SELF = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
PASSES = ("uncond", "cond")


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return tiny_unet(4).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 12, 20, generator=generator), torch.randn(2, 5, 16, generator=generator)


def predict(unet, inputs):
    with torch.no_grad():
        return unet(inputs[0], 500, encoder_hidden_states=inputs[1]).sample


def run_patched(unet, inputs, *patches, step_index=0):
    with patched(unet, patches, guidance_passes=PASSES, step_index=step_index):
        return predict(unet, inputs)


def identity(tensor, call):
    return tensor.clone()


def zero(tensor, call):
    return torch.zeros_like(tensor)


def is_untouched(unet, processors):
    hooks = [m for m in unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    return not hooks and unet.attn_processors == processors


def test_an_identity_at_every_block_output_gives_the_same_bits(unet, inputs):
    sites = find_sites(unet, (4, 12, 20), kind=("resnet", "transformer", "block"))
    patches = [Patch(site.path, "output", identity) for site in sites]
    assert torch.equal(run_patched(unet, inputs, *patches), predict(unet, inputs))


@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_an_identity_at_every_projection_gives_the_same_bits(unet, inputs, place):
    sites = find_sites(unet, (4, 12, 20), kind=("attn1", "attn2"))
    patches = [Patch(site.path, place, identity) for site in sites]
    assert torch.equal(run_patched(unet, inputs, *patches), predict(unet, inputs))


@pytest.mark.parametrize("place", ["scores", "probs"])
def test_an_identity_of_every_attention_matrix_is_within_rounding(unet, inputs, place):
    sites = find_sites(unet, (4, 12, 20), kind=("attn1", "attn2"))
    patches = [Patch(site.path, place, identity, guidance_pass="cond") for site in sites]
    plain, found = predict(unet, inputs), run_patched(unet, inputs, *patches)
    assert (found - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert torch.equal(found[0], plain[0]), "a pass that is not patched moved"


@pytest.mark.parametrize(("site", "place"), [("mid_block", "output"), *((ATTENTION, p) for p in PATCH_PLACES[1:])])
def test_a_patch_changes_its_own_pass_alone(unet, inputs, site, place):
    plain = predict(unet, inputs)
    for row, name in enumerate(PASSES):
        found = run_patched(unet, inputs, Patch(site, place, zero, guidance_pass=name))
        assert torch.equal(found[1 - row], plain[1 - row])
        assert (found[row] - plain[row]).abs().max() > 1e-5
    both = run_patched(unet, inputs, Patch(site, place, zero))
    assert not torch.equal(both[0], plain[0])
    assert not torch.equal(both[1], plain[1])


def test_passes_may_come_in_several_calls(unet, inputs):
    patch = Patch(ATTENTION, "v", zero, guidance_pass="cond")
    together = run_patched(unet, inputs, patch)
    with patched(unet, [patch], guidance_passes=PASSES, step_index=0):
        apart = [predict(unet, [part[row : row + 1] for part in inputs]) for row in range(2)]
        with pytest.raises(StateError, match="called with 2 rows after 2, but the passes uncond, cond"):
            predict(unet, inputs)
    assert torch.allclose(torch.cat(apart), together, atol=1e-5)


def test_a_patch_acts_at_its_steps_alone(unet, inputs):
    patch, plain = Patch("mid_block", "output", zero, steps=range(2, 4)), predict(unet, inputs)
    moved = [not torch.equal(run_patched(unet, inputs, patch, step_index=step), plain) for step in range(5)]
    assert moved == [False, False, True, True, False]


def test_patches_compose_in_order_also_when_nested(unet, inputs):
    def double(tensor, call):
        return tensor * 2

    def plus_one(tensor, call):
        return tensor + 1

    def both(tensor, call):
        return tensor * 2 + 1

    for site, place in (("mid_block", "output"), (ATTENTION, "scores"), (SELF, "probs")):
        expected = run_patched(unet, inputs, Patch(site, place, both))
        in_a_list = run_patched(unet, inputs, Patch(site, place, double), Patch(site, place, plus_one))
        with patched(unet, [Patch(site, place, double)], guidance_passes=PASSES, step_index=0):
            nested = run_patched(unet, inputs, Patch(site, place, plus_one))
        turned = run_patched(unet, inputs, Patch(site, place, plus_one), Patch(site, place, double))
        assert torch.equal(in_a_list, expected)
        assert torch.equal(nested, expected)
        assert place == "scores" or not torch.equal(turned, expected)


def test_scores_and_probabilities_are_what_they_are_called(unet, inputs):
    seen = {}

    def look(tensor, call):
        seen[call.place, call.guidance_pass] = tensor
        assert (call.site, call.step_index) == (ATTENTION, 7)

    run_patched(unet, inputs, Patch(ATTENTION, "scores", look), Patch(ATTENTION, "probs", look), step_index=7)
    assert seen["probs", "cond"].shape == (1, 2, 60, 5)
    assert torch.equal(seen["scores", "cond"].softmax(-1), seen["probs", "cond"])
    # All weight on one token equals giving every token the value of that one.
    one = run_patched(unet, inputs, Patch(ATTENTION, "probs", lambda p, call: torch.eye(5)[3].expand_as(p)))
    same = run_patched(unet, inputs, Patch(ATTENTION, "v", lambda v, call: v[:, 3:4].expand_as(v)))
    assert torch.allclose(one, same, atol=1e-5)


def test_a_patched_down_block_also_feeds_its_skip_connections(unet, inputs):
    seen = []
    handle = unet.up_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["res_hidden_states_tuple"]), with_kwargs=True
    )
    run_patched(unet, inputs, Patch("down_blocks.1", "output", zero))
    handle.remove()
    assert not seen[0][-1].any()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["patch", "body"])
def test_the_network_is_restored_whatever_happens(unet, inputs, error, moment):
    processors = dict(unet.attn_processors)

    def fail(tensor, call):
        raise error

    def enter_and_fail():
        with patched(
            unet,
            [Patch("mid_block", "output", fail), Patch(SELF, "probs", identity), Patch(SELF, "k", identity)],
            guidance_passes=PASSES,
            step_index=0,
        ):
            assert not is_untouched(unet, processors)
            if moment == "body":
                raise error
            predict(unet, inputs)

    with pytest.raises(error):
        enter_and_fail()
    assert is_untouched(unet, processors)


def test_a_failure_while_installing_restores_too(unet, inputs, monkeypatch):
    processors = dict(unet.attn_processors)
    attention = unet.get_submodule(ATTENTION)

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(attention.to_v, "register_forward_hook", fail)
    with pytest.raises(KeyboardInterrupt):
        run_patched(unet, inputs, Patch("mid_block", "output", zero), Patch(ATTENTION, "v", zero))
    assert is_untouched(unet, processors)


@pytest.mark.parametrize(
    ("patch", "error", "message"),
    [
        (Patch("mid_blok", "output", zero), RangeError, "no module 'mid_blok'"),
        (Patch("mid_block", "probs", zero), RangeError, "has an output, but 'probs'"),
        (Patch(ATTENTION, "output", zero), RangeError, "has q, k, v, scores and probs"),
        (Patch(ATTENTION, "v", zero, guidance_pass="full"), RangeError, "no guidance pass 'full'; .* uncond, cond"),
        (Patch(ATTENTION, "v", lambda v, call: v[:, :2]), ShapeError, r"returned \(1, 2, 16\), but \(1, 5, 16\)"),
        (Patch(ATTENTION, "scores", lambda s, call: 3), ShapeError, "returned int"),
    ],
)
def test_what_cannot_be_patched_says_so(unet, inputs, patch, error, message):
    with pytest.raises(error, match=message):
        run_patched(unet, inputs, patch)
    assert not unet._forward_pre_hooks


def test_a_patch_checks_itself():
    with pytest.raises(RangeError, match="place is 'logits'"):
        Patch(ATTENTION, "logits", zero)
    with pytest.raises(RangeError, match="steps is 3"):
        Patch(ATTENTION, "v", zero, steps=3)


def test_a_processor_of_its_own_is_not_overruled(unet, inputs):
    class Other:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return hidden_states

    attention = unet.get_submodule(SELF)
    saved = attention.processor
    attention.set_processor(Other())
    try:
        with pytest.raises(StateError, match="attends by Other"):
            run_patched(unet, inputs, Patch(SELF, "probs", zero))
    finally:
        attention.set_processor(saved)
