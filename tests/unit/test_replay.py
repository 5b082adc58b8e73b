"""Replay: a past step asked once more gives the recorded bits, and says so when it does not."""

import gc
import time
import warnings
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from tiny import tiny_colorizer, tiny_components, tiny_lcad, tiny_picture, tiny_text_to_image

from colorlab.errors import RangeError, StateError
from colorlab.inspection.replay import judge, moment_of, replay_step, run_sites
from colorlab.inspection.shelf import ReplayShelf, shelf_of
from colorlab.methods.text_to_image import TextToImage
from colorlab.networks.environment import environment_of
from colorlab.networks.patching import Patch

SITE = "mid_block.attentions.0.transformer_blocks.0.attn2"
CASES = [
    {"solver": "ddim", "eta": 0.7},
    {"solver": "euler", "timestep_spacing": "linspace"},
    {"solver": "dpmpp_2m"},
    {"solver": "ddim", "guidance_scale": 1.0},
]


@pytest.fixture
def run(colorizer, picture):
    return colorizer.start(picture, prompt="a red car").finish(progress=False)


def attention_sites(run):
    return [site for site in run_sites(run) if site.is_attention]


def equal_runs(run, other):
    states = all(a.equals(b) for a, b in zip(run.states, other.states, strict=True))
    return states and (run.image == other.image).all()


@pytest.mark.parametrize("shortcuts", CASES, ids=lambda shortcuts: "-".join(map(str, shortcuts.values())))
def test_every_step_replays_exactly(colorizer, shortcuts):
    run = colorizer.start(tiny_picture(30, 110), prompt="a red car", **shortcuts).finish(progress=False)
    assert run.state.latents.shape[-2] != run.state.latents.shape[-1]
    sites = run_sites(run)
    for step in range(run.num_steps):
        replay = replay_step(moment_of(run, step), sites)
        assert str(replay.verdict) == "exact"
        passes = run.records[step].predictions
        assert set(replay.readings) == {(site.path, name) for site in sites for name in passes}


def test_a_watched_run_equals_an_unwatched_one(picture):
    watched, unwatched = (tiny_colorizer().start(picture, prompt="a red car") for _ in range(2))
    for state in watched:
        replay_step(moment_of(watched, state.step_index - 1), run_sites(watched))
    assert equal_runs(watched, unwatched.finish(progress=False))


def test_after_a_rewind_and_on_branches(run):
    before = replay_step(moment_of(run, 3), attention_sites(run))
    branch = run.branch(step=2, prompt="a blue boat", guidance_scale=2.0).finish(progress=False)
    assert [replay_step(moment_of(branch, k), attention_sites(run)).verdict.name for k in range(4)] == ["exact"] * 4
    other = replay_step(moment_of(branch, 3), attention_sites(run))
    assert not torch.equal(other.readings[SITE, "cond"].k, before.readings[SITE, "cond"].k)
    run.rewind(1)
    with pytest.raises(StateError, match="step is 3, but this run has taken steps 0 to 0 of 4"):
        moment_of(run, 3)
    again = replay_step(moment_of(run.finish(progress=False), 3), attention_sites(run))
    assert again.verdict.name == "exact"
    assert torch.equal(again.readings[SITE, "cond"].q, before.readings[SITE, "cond"].q)


class Silence:
    """An edit that takes the values out of one cross-attention in one pass."""

    def check(self, call, tree):
        assert call.step_index == 1

    def enter(self, latents, call):
        return latents

    def patches(self, call):
        def zero(values, where):
            return torch.zeros_like(values)

        return [Patch(SITE, "v", zero, guidance_pass="cond", steps=range(1, 3))]


def test_a_branch_with_edits_replays_under_its_edits(run):
    branch = run.branch(step=1, edits=[Silence()]).finish(progress=False)
    assert not branch.states[2].equals(run.states[2])
    for step in range(4):
        assert replay_step(moment_of(branch, step), attention_sites(run)).verdict.name == "exact"
    moment = moment_of(branch, 2)
    without = replace(moment, segment=replace(moment.segment, edits=()))
    assert replay_step(without, attention_sites(run)).verdict.name == "refused"


class FivePasses(TextToImage):
    """Five guidance passes in two calls of the network."""

    def guidance_passes(self, settings, timestep=None):
        return ("one", "two", "three", "four", "five")

    def predict(self, prepared, latents, timestep, settings):
        names = self.guidance_passes(settings)
        tokens = {name: prepared.text["cond"] * (index + 1) for index, name in enumerate(names)}
        first = self.predict_passes(latents, timestep, {name: tokens[name] for name in names[:3]})
        return first | self.predict_passes(latents, timestep, {name: tokens[name] for name in names[3:]})

    def guide(self, predictions, settings):
        return sum(predictions.values()) / 5


def test_five_passes_in_two_calls():
    colorizer = tiny_colorizer(FivePasses(tiny_components(0), working_px=32))
    run = colorizer.start(prompt="a red car").finish(progress=False)
    replay = replay_step(moment_of(run, 2), attention_sites(run), wanted_passes=["two", "five"])
    assert replay.verdict.name == "exact"
    two, five = (replay.readings[SITE, name].k for name in ("two", "five"))
    assert torch.allclose(two / 2, five / 5, atol=1e-6)


def test_the_verdict_is_close_in_another_environment_and_refused_with_other_weights(run):
    moment, sites = moment_of(run, 1), attention_sites(run)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        verdict = replay_step(moment, sites).verdict
    finally:
        torch.set_num_threads(threads)
    assert verdict.name == "close"
    assert verdict.reasons == (f"num_threads {threads} became {threads + 1}",)
    with torch.no_grad():
        run.method.unet.conv_in.weight.mul_(1.01)
    refused = replay_step(moment, sites)
    assert refused.verdict.name == "refused"
    assert refused.readings == {}
    assert "changed weights" in str(refused.verdict)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_replays_exactly_and_its_tolerance_is_wider(picture, dtype):
    method = tiny_lcad()
    for network in method.networks.values():
        network.to(dtype)
    run = tiny_colorizer(method).start(picture, prompt="a red car")
    run.step()
    moment = moment_of(run, 0)
    replay = replay_step(moment, attention_sites(run))
    assert replay.verdict.name == "exact"
    assert replay.readings[SITE, "cond"].q.dtype == dtype
    off = {name: pred * 1.01 for name, pred in moment.record.predictions.items()}
    assert judge(moment.record, off, replay.environment).name == "close"


def test_the_limits_of_the_verdicts(run):
    record = run.records[0]
    same = environment_of(run.method.unet)

    def verdict(factor, environment=same, of=record):
        return judge(of, {name: pred * factor for name, pred in of.predictions.items()}, environment).name

    assert [verdict(1.0), verdict(1 + 0.9e-4), verdict(1 + 1.2e-4)] == ["exact", "close", "refused"]
    assert verdict(float("nan")) == "refused"
    assert verdict(1.0, replace(same, torch="1.0")) == "close"
    assert verdict(1.01, replace(same, dtype="float16")) == "close"
    assert verdict(1.0, of=replace(record, environment=None)) == "close"
    assert judge(record, {"cond": record.predictions["cond"]}, same).name == "refused"


def test_a_compiled_network_is_replayed_uncompiled_and_close(picture):
    compiled, plain = tiny_colorizer(), tiny_colorizer()
    compiled.method.unet.compile(backend="eager")
    run = compiled.start(picture, prompt="a red car")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.step()
    assert run.records[0].environment.is_compiled
    replay = replay_step(moment_of(run, 0), attention_sites(run))
    assert replay.verdict.name == "close"
    assert replay.verdict.reasons == ("is_compiled True became False",)
    reference = plain.start(picture, prompt="a red car")
    reference.step()
    expected = replay_step(moment_of(reference, 0), attention_sites(run))
    assert torch.allclose(replay.readings[SITE, "cond"].q, expected.readings[SITE, "cond"].q, atol=1e-5)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_replay_leaves_the_model_as_it_was(run, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    moment, sites, unet = moment_of(run, 1), attention_sites(run), run.method.unet
    with monkeypatch.context() as patch:
        patch.setattr(unet.up_blocks[0], "forward", fail)
        with pytest.raises(error):
            replay_step(moment, sites)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())
    assert replay_step(moment, sites).verdict.name == "exact"


def test_a_second_question_about_a_step_replays_nothing(run):
    shelf, sites = ReplayShelf(), run_sites(run)
    cross, own = ([site for site in sites if site.kind == kind][:1] for kind in ("attn2", "attn1"))
    first = shelf.get(moment_of(run, 1), cross, network_sites=sites)
    assert shelf.get(moment_of(run.branch(step=2), 1), own, network_sites=sites) is first
    assert shelf.num_replays == 1
    shelf.get(moment_of(run, 2), cross, network_sites=sites)
    run.rewind(1).finish(progress=False)
    assert shelf.get(moment_of(run, 1), cross, network_sites=sites) is not first
    assert shelf.num_replays == 3
    shelf.clear()
    assert shelf.num_bytes == 0


def test_the_shelf_keeps_to_its_budget_and_drops_what_was_used_first(run):
    sites = run_sites(run)
    cross = [site for site in sites if site.kind == "attn2"]
    one = ReplayShelf()
    one.get(moment_of(run, 0), cross)
    shelf = ReplayShelf(max_bytes=int(2.5 * one.num_bytes))
    for step in (0, 1, 0, 2):
        shelf.get(moment_of(run, step), cross)
        assert shelf.num_bytes <= shelf.max_bytes
    assert shelf.num_replays == 3
    shelf.get(moment_of(run, 0), cross)
    assert shelf.num_replays == 3, "the one used last was dropped"
    shelf.get(moment_of(run, 1), cross)
    assert shelf.num_replays == 4
    nothing = ReplayShelf(max_bytes=0)
    assert nothing.get(moment_of(run, 0), cross, network_sites=sites).readings
    assert nothing.num_bytes == 0
    with pytest.raises(RangeError, match="max_bytes is -1"):
        ReplayShelf(max_bytes=-1)


def test_the_shelf_keeps_only_so_many_however_small_they_are(run):
    cross = [site for site in run_sites(run) if site.kind == "attn2"]
    shelf = ReplayShelf(max_replays=2)
    for step in (0, 1, 2):
        shelf.get(moment_of(run, step), cross)
    shelf.get(moment_of(run, 1), cross)
    assert shelf.num_replays == 3
    shelf.get(moment_of(run, 0), cross)
    assert shelf.num_replays == 4, "the first was dropped"
    with pytest.raises(RangeError, match="max_replays -1"):
        ReplayShelf(max_replays=-1)


def test_what_was_replayed_goes_with_its_step(run):
    cross = [site for site in run_sites(run) if site.kind == "attn2"]
    shelf, own = ReplayShelf(), run.branch(step=1).finish(progress=False)
    for step in (0, 2):
        shelf.get(moment_of(own, step), cross)
    both_bytes = shelf.num_bytes
    own.rewind(1)
    gc.collect()
    assert shelf.num_bytes == both_bytes // 2, "step 0 is that of the run, too"
    shelf.get(moment_of(run, 0), cross)
    assert shelf.num_replays == 2


def test_garbage_that_is_collected_while_the_shelf_is_searched_breaks_nothing(run):
    cross = [site for site in run_sites(run) if site.kind == "attn2"]
    shelf, own = ReplayShelf(), run.branch(step=1).finish(progress=False)
    for moment_run, step in ((own, 2), (run, 0)):
        shelf.get(moment_of(moment_run, step), cross)
    both_bytes = shelf.num_bytes

    class Collecting(OrderedDict):
        """What is kept, with garbage collected on the way through it."""

        def items(self):
            for item in super().items():
                own.rewind(1)
                gc.collect()
                yield item

    shelf._kept = Collecting(shelf._kept)
    shelf.get(moment_of(run, 0), cross)
    assert shelf.num_replays == 2
    assert shelf.num_bytes == both_bytes // 2


def test_each_model_has_one_shelf(run):
    assert shelf_of(run.method) is shelf_of(run.method)
    assert shelf_of(run.method) is not shelf_of(tiny_text_to_image())


def test_taking_note_of_the_environment_is_cheap(run):
    started = time.thread_time()
    for _ in range(20):
        environment_of(run.method.unet)
    environment_s = (time.thread_time() - started) / 20
    started = time.thread_time()
    replay_step(moment_of(run, 0), [])
    assert environment_s < 0.1 * (time.thread_time() - started)


def test_a_step_that_was_not_taken_says_so():
    run = tiny_colorizer().start(tiny_picture(), prompt="a red car")
    for step in (0, -1, True, "1"):
        with pytest.raises(StateError, match="has taken no step of 4"):
            moment_of(run, step)
