"""Probe: what it reads is what attention got, and nobody notices that it was there."""

import pytest
import torch
from tiny import tiny_unet

from colorlab.errors import RangeError, StateError
from colorlab.networks.patching import Patch, patched
from colorlab.networks.probe import Probe
from colorlab.networks.sites import find_site, find_sites

PASSES = ("uncond", "cond")
LATENTS = (4, 12, 20)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return tiny_unet(4).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 12, 20, generator=generator), torch.randn(2, 5, 16, generator=generator)


def predict(unet, inputs, **more):
    with torch.no_grad():
        return unet(inputs[0], 500, encoder_hidden_states=inputs[1], **more).sample


def has_hooks(unet):
    return any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_watched_equals_unwatched_and_everything_asked_for_is_read(unet, inputs):
    sites, processors = find_sites(unet, LATENTS), dict(unet.attn_processors)
    with Probe(unet, sites, guidance_passes=PASSES) as probe:
        watched = predict(unet, inputs)
        assert unet.attn_processors == processors
    assert torch.equal(watched, predict(unet, inputs))
    assert set(probe) == {(site.path, name) for site in sites for name in PASSES}
    for site in sites:
        reading = probe[site.path, "cond"]
        if site.is_attention:
            num_keys = site.num_positions if site.kind == "attn1" else 5
            width = site.channels // site.heads
            assert reading.q.shape == (1, site.heads, site.num_positions, width)
            assert reading.k.shape == (1, site.heads, num_keys, width)
        else:
            assert reading.features.shape == (1, site.channels, *site.grid)
    with pytest.raises(StateError, match="'mid_block' is a block, which has no q"):
        probe["mid_block", "cond"].get("q")
    assert probe.num_bytes == sum(reading.num_bytes for reading in probe.values())
    assert not has_hooks(unet)


def test_queries_and_keys_give_the_probabilities_that_attention_uses(unet, inputs):
    sites, seen = find_sites(unet, LATENTS, kind=("attn1", "attn2")), {}

    def look(probs, call):
        seen[call.site, call.guidance_pass] = probs

    with (
        patched(unet, [Patch(s.path, "probs", look) for s in sites], guidance_passes=PASSES, step_index=0),
        Probe(unet, sites, guidance_passes=PASSES) as probe,
    ):
        predict(unet, inputs)
    for key, reading in probe.items():
        probs = (reading.q @ reading.k.transpose(-1, -2) * reading.scale).softmax(-1)
        assert torch.allclose(probs, seen[key], atol=1e-6), key


def test_a_probe_reads_what_a_patch_put_there(unet, inputs):
    site = find_site(unet, LATENTS, "mid_block.attentions.0.transformer_blocks.0.attn1")
    patches = [Patch(site.path, "q", lambda q, call: torch.full_like(q, 3), guidance_pass="cond")]
    with (
        patched(unet, patches, guidance_passes=PASSES, step_index=0),
        Probe(unet, [site], guidance_passes=PASSES) as probe,
    ):
        predict(unet, inputs)
    assert (probe[site.path, "cond"].q == 3).all()
    assert (probe[site.path, "uncond"].q != 3).any()


def test_passes_in_one_call_and_in_several_read_the_same(unet, inputs):
    sites = find_sites(unet, LATENTS, kind="attn2")
    with Probe(unet, sites, guidance_passes=PASSES) as together:
        predict(unet, inputs)
    with Probe(unet, sites, guidance_passes=PASSES) as apart:
        for row in range(2):
            predict(unet, [part[row : row + 1] for part in inputs])
    for key in together:
        assert torch.allclose(together[key].q, apart[key].q, atol=1e-5)


def test_only_the_wanted_passes_are_stored_and_the_budget_holds(unet, inputs):
    sites = find_sites(unet, LATENTS, kind="attn1")
    with Probe(unet, sites, guidance_passes=PASSES, wanted_passes=["cond"]) as probe:
        predict(unet, inputs)
    assert {name for _, name in probe} == {"cond"}
    needed = probe.num_bytes
    with Probe(unet, sites, guidance_passes=PASSES, wanted_passes=["cond"], max_bytes=needed):
        predict(unet, inputs)
    with (
        pytest.raises(StateError, match="more than max_bytes"),
        Probe(unet, sites, guidance_passes=PASSES, wanted_passes=["cond"], max_bytes=needed - 1),
    ):
        predict(unet, inputs)
    assert not has_hooks(unet)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_hooks_are_gone_after_an_error(unet, error):
    def enter_and_fail():
        with Probe(unet, find_sites(unet, LATENTS), guidance_passes=PASSES):
            assert has_hooks(unet)
            raise error

    with pytest.raises(error):
        enter_and_fail()
    assert not has_hooks(unet)


def test_the_hooks_are_gone_when_the_last_one_cannot_be_set(unet, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(unet.up_blocks[1], "register_forward_hook", fail)
    with pytest.raises(KeyboardInterrupt), Probe(unet, find_sites(unet, LATENTS), guidance_passes=PASSES):
        pass
    assert not has_hooks(unet)


def test_what_cannot_be_read_says_so(unet, inputs):
    site = find_site(unet, LATENTS, "mid_block.attentions.0.transformer_blocks.0.attn2")
    with pytest.raises(RangeError, match="no guidance pass 'full'"):
        Probe(unet, [site], guidance_passes=PASSES, wanted_passes=["full"])
    with pytest.raises(RangeError, match="holds a site twice"):
        Probe(unet, [site, site], guidance_passes=PASSES)
    with pytest.raises(RangeError, match="different names"):
        Probe(unet, [site], guidance_passes=["cond", "cond"])
    with pytest.raises(StateError, match="attention mask"), Probe(unet, [site], guidance_passes=PASSES):
        predict(unet, inputs, encoder_attention_mask=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(StateError, match="called with 2 rows"), Probe(unet, [site], guidance_passes=["cond"]):
        predict(unet, inputs)
    processors = dict(unet.attn_processors)
    unet.set_attention_slice(1)
    with pytest.raises(StateError, match="attends by SlicedAttnProcessor"), Probe(unet, [site], guidance_passes=PASSES):
        pass
    unet.set_attn_processor(processors)
    assert not has_hooks(unet)


def test_fused_projections_are_read_in_their_parts_and_unfused_ones_as_ever(inputs):
    torch.manual_seed(0)
    unet = tiny_unet(4).eval()
    sites = find_sites(unet, LATENTS, kind=("attn1", "attn2"))

    def read():
        with Probe(unet, sites, guidance_passes=PASSES) as probe:
            watched = predict(unet, inputs)
        assert torch.equal(watched, predict(unet, inputs))
        assert len(probe) == 2 * len(sites)
        return dict(probe)

    plain = read()
    unet.fuse_qkv_projections()
    fused = read()
    with (
        pytest.raises(StateError, match="are fused"),
        patched(unet, [Patch(sites[0].path, "k", lambda k, call: k)], guidance_passes=PASSES, step_index=0),
    ):
        pass
    unet.unfuse_qkv_projections()
    again = read()
    for key, reading in plain.items():
        for name in ("q", "k"):
            assert torch.equal(reading.get(name), again[key].get(name))
            assert torch.allclose(reading.get(name), fused[key].get(name), atol=1e-5)
