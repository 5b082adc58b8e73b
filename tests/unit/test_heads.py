"""Head ranking: ablation equals brute force on full probabilities, and the model is left as it was."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_picture

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError, StateError
from colorlab.inspection.baselines import random_shifts
from colorlab.inspection.chroma import chroma_distance, decode_chroma
from colorlab.inspection.heads import Head, ablate_heads, mean_attention
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.inspection.study import StudyWarning
from colorlab.networks.patching import Patch, patched
from colorlab.runs.segments import predict_step

SIZE = (30, 110)
CROSS = "mid_block.attentions.0.transformer_blocks.0.attn2"
SELF = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def run():
    return tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car").finish(progress=False)


def attention_sites(run):
    return [site for site in run_sites(run) if site.is_attention]


def brute_force(moment, head):
    """Ablate one head through the full matrix: every row of its probabilities becomes their mean."""

    def level(probs, call):
        changed = probs.clone()
        changed[:, head.index] = probs[:, head.index].mean(dim=-2, keepdim=True)
        return changed

    method, record = moment.method, moment.record
    with patched(method.unet, [Patch(head.site, "probs", level)], guidance_passes=moment.guidance_passes, step_index=0):
        predictions = predict_step(method, moment.segment, moment.state)
    guided = method.guide(predictions, moment.segment.settings)
    return method.schedule.to_original_sample(guided, moment.state.latents, record.timestep)


def has_hooks(method):
    return any(module._forward_hooks or module._forward_pre_hooks for module in method.unet.modules())


def test_ablated_heads_equal_brute_force_on_full_probabilities(run):
    moment, sites = moment_of(run, 1), attention_sites(run)
    heads = [Head(CROSS, 0), Head(SELF, 1), Head(SELF, 0)]
    means = mean_attention(replay_step(moment, sites).readings, 2**24)
    with torch.no_grad():
        together = ablate_heads(moment, heads, means)
        for head, clean in zip(heads, together, strict=True):
            expected = brute_force(moment, head)
            scale = float(expected.abs().max())
            assert float((clean - expected).abs().max()) <= 1e-5 * scale
            assert float((clean - moment.record.pred_original_sample).abs().max()) > 1e-4 * scale


def test_the_mean_row_equals_float64(run):
    moment, sites = moment_of(run, 2), attention_sites(run)
    replay = replay_step(moment, sites)
    for key, row in mean_attention(replay.readings, 2**24).items():
        reading = replay.readings[key]
        scores = reading.q[0].double() @ reading.k[0].double().transpose(-1, -2) * reading.scale
        assert (row - scores.softmax(dim=-1).mean(dim=-2)).abs().max() <= 1e-5
        assert torch.allclose(row.sum(dim=-1), torch.ones(len(row)), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_ranking_is_the_distance_of_decoded_chroma(run, batch_size):
    moment = moment_of(run, 1)
    study = run.study.plan.head_ranking(1, batch_size=batch_size)
    found = study.finish(progress=False)
    number = sum(site.heads for site in attention_sites(run))
    assert study.num_calls == study.cost.calls == -(-number // batch_size)
    assert found.array.shape == (number,)
    assert (np.diff(found.array) <= 0).all()
    assert set(zip(found.provenance["sites"], found.provenance["heads"], strict=True)) == {
        (site.path, index) for site in attention_sites(run) for index in range(site.heads)
    }
    before = decode_chroma(run.method, moment.segment, moment.record.pred_original_sample)
    for rank in (0, number - 1):
        head = Head(found.provenance["sites"][rank], found.provenance["heads"][rank])
        with torch.no_grad():
            after = decode_chroma(run.method, moment.segment, brute_force(moment, head))
        assert found.array[rank] == pytest.approx(float(chroma_distance(before, after).mean()), abs=1e-3)
    assert found.caption.count(found.provenance["sites"][0]) == 1
    assert found._repr_png_().startswith(b"\x89PNG")


def test_a_region_and_a_pattern_narrow_the_question(run):
    mask = np.zeros(SIZE, dtype=bool)
    mask[:10, :20] = True
    found = run.study.head_ranking(1, site=CROSS, region=mask, progress=False)
    moment, head = moment_of(run, 1), Head(CROSS, found.provenance["heads"][0])
    before = decode_chroma(run.method, moment.segment, moment.record.pred_original_sample)
    with torch.no_grad():
        after = decode_chroma(run.method, moment.segment, brute_force(moment, head))
    assert found.array[0] == pytest.approx(float(chroma_distance(before, after)[:10, :20].mean()), abs=1e-3)
    with_chance = run.study.head_ranking(1, site=CROSS, region=mask, baseline=True, progress=False)
    distance = chroma_distance(before, after)
    moved = [distance[torch.tensor(mask).roll(move, dims=(0, 1))].mean() for move in random_shifts(SIZE)]
    assert np.array_equal(with_chance.array, found.array)
    assert with_chance.baseline[0] == pytest.approx(float(torch.stack(moved).mean()), abs=1e-3)
    assert with_chance._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(RangeError, match="no region came"):
        run.study.head_ranking(1, baseline=True)
    cross = run.study.head_ranking(1, kind="attn2", progress=False)
    assert cross.array.size == sum(site.heads for site in run_sites(run) if site.kind == "attn2")
    linear = run.study.head_ranking(1, site=CROSS, region=mask, decoder="linear", progress=False)
    assert linear.provenance["decoder_error"]["mean"] > 0
    with pytest.raises(RangeError, match="covers no pixel"):
        run.study.head_ranking(1, region=np.zeros(SIZE))
    with pytest.raises(RangeError, match="there are: resnet"):
        run.study.head_ranking(1, site="mid_block.resnets.0")
    with pytest.raises(StateError, match="has taken steps 0 to 3 of 4"):
        run.study.head_ranking(4)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_hooks_are_gone_when_it_is_stopped_in_a_call(run, monkeypatch, error):
    unet, calls = run.method.unet, iter(range(99))
    processors, forward = dict(unet.attn_processors), unet.conv_out.forward

    def fail(*args):
        if next(calls) == 2:
            assert has_hooks(run.method)
            raise error
        return forward(*args)

    run.attention(1, word="red")
    monkeypatch.setattr(unet.conv_out, "forward", fail)
    study = run.study.plan.head_ranking(1, batch_size=2)
    if error is KeyboardInterrupt:
        with pytest.warns(StudyWarning):
            assert study.finish(progress=False).provenance["num_done"] == 4
    else:
        with pytest.raises(RuntimeError):
            study.finish(progress=False)
        assert study.num_done == 4
    monkeypatch.undo()
    assert not has_hooks(run.method)
    assert unet.attn_processors == processors
    assert replay_step(moment_of(run, 1), attention_sites(run)).verdict.name == "exact"


def test_a_step_that_cannot_be_repeated_is_told():
    run = tiny_colorizer().start(tiny_picture(*SIZE), prompt="a red car")
    run.step()
    with torch.no_grad():
        run.method.unet.conv_out.weight.mul_(1.5)
    with pytest.raises(StateError, match="cannot be repeated as it was"):
        run.study.head_ranking(0, progress=False)


def test_chroma_is_that_of_the_finished_picture(run):
    decoded = decode_chroma(run.method, run.segment_at(4), run.state.latents)
    lab = rgb_to_lab(torch.tensor(run.image).permute(2, 0, 1)[None] / 255.0)
    assert float(chroma_distance(decoded, lab[0, 1:]).mean()) < 1.0
