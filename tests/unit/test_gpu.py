"""What is promised of a device: on a CPU here, and on CUDA where there is one (`-m gpu`)."""

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_lcad, tiny_picture

import colorlab
from colorlab.inspection.attention import attention_reduce
from colorlab.inspection.edits import AblateHead, AblateSite, Restrict, Reweight
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.inspection.verdicts import TOLERANCE, TOLERANCE_HALF

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SITE = "mid_block.attentions.0.transformer_blocks.0.attn2"


def start(device, dtype=torch.float32, **shortcuts):
    method = tiny_lcad()
    for network in method.networks.values():
        network.to(device, dtype)
    return tiny_colorizer(method).start(tiny_picture(), prompt="a red car", **shortcuts)


def tolerance(device, dtype):
    """Return how far equal work may be apart: not at all on a CPU."""
    return 0.0 if device == "cpu" else TOLERANCE if dtype == torch.float32 else TOLERANCE_HALF


def apart(run, other):
    """Return the largest difference of two last latents over their largest value."""
    latents = run.state.latents
    return float((other.state.latents - latents).abs().max() / latents.abs().max())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_replays_are_exact_or_close(device, dtype):
    run = start(device, dtype).finish(progress=False)
    for step in range(run.num_steps):
        replay = replay_step(moment_of(run, step), run_sites(run))
        assert replay.verdict.name == ("exact" if device == "cpu" else replay.verdict.name) != "refused"
        assert replay.readings[SITE, "cond"].q.device.type == "cpu"
    assert run.features(run.num_steps, "vae.decoder.mid_block").verdict != "refused"
    assert run.features(0, "luminance_encoder.encoder.mid_block").verdict != "refused"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("edit", [Reweight("red", 1.0), AblateHead(SITE, 1, scale=1.0), AblateSite("*", scale=1.0)])
def test_an_edit_that_changes_nothing_gives_the_parent(device, dtype, edit):
    run = start(device, dtype).finish(progress=False)
    assert apart(run, run.branch(0, edits=[edit]).finish(progress=False)) <= tolerance(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
def test_watching_changes_nothing(device):
    watched, unwatched = start(device), start(device)
    for state in watched:
        replay_step(moment_of(watched, state.step_index - 1), run_sites(watched))
    assert apart(watched, unwatched.finish(progress=False)) <= tolerance(device, torch.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_the_noise_of_a_run_is_that_of_the_cpu_and_so_is_its_file(device, tmp_path):
    run, reference = (start(place, eta=0.5).finish(progress=False) for place in (device, "cpu"))
    assert torch.equal(run.states[0].latents, reference.states[0].latents)
    assert apart(run, reference) < 1e-3
    opened = colorlab.open(run.save(tmp_path / "run.colorlab"), colorizer=tiny_colorizer())
    assert torch.equal(opened.state.latents, run.state.latents)
    assert opened.attention(2, word="red").verdict == ("exact" if device == "cpu" else "close")


@pytest.mark.parametrize("device", DEVICES)
def test_edits_and_queries_work_on_the_device(device):
    run = start(device).finish(progress=False)
    mask = np.zeros((40, 56), dtype=bool)
    mask[:20] = True
    branch = run.branch(1, edits=[Restrict("red", mask), Reweight("car", 2.0)]).finish(progress=False)
    assert apart(run, branch) > 0
    assert np.isfinite(branch.effect(2, word="red").array).all()
    maps = [run.attention(1, word=word).array for word in ("red", "blue")]
    assert all(np.isfinite(values).all() for values in maps)


@pytest.mark.gpu
def test_the_memory_of_a_reduction_stays_below_its_budget_on_cuda():
    q, k = (torch.randn(2, 4096, 40, device="cuda") for _ in range(2))
    budget = 16 * 2**20
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    attention_reduce(q, k, torch.ones(4096, 1, device="cuda"), budget, grid=(64, 64), entropy=True)
    # Matrix multiplication keeps a workspace of its own, once.
    assert torch.cuda.max_memory_allocated() - before < budget + 32 * 2**20
