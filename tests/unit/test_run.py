"""Runs: stepping, looking back, rewinding, branching, interrupting, sharing a model."""

import threading

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_picture, tiny_unet

from colorlab.errors import RangeError, StateError
from colorlab.networks.environment import environment_of
from colorlab.networks.patching import Patch
from colorlab.runs import run as runs_run
from colorlab.runs.edits import Edit
from colorlab.runs.pictures import Decoded, PictureShelf
from colorlab.runs.segments import take_step
from colorlab.runs.tree import Tree

CASES = [
    {"solver": "ddim"},
    {"solver": "ddim", "eta": 0.7},
    {"solver": "euler", "timestep_spacing": "linspace"},
    {"solver": "dpmpp_2m"},
    {"solver": "ddim", "guidance_scale": 1.0},
]


@pytest.fixture
def run(colorizer, picture):
    return colorizer.start(picture, prompt="a red car")


def equal_paths(run, other):
    """Return whether two runs are the same moments and the same predictions, bit for bit."""
    same_states = all(a.equals(b) for a, b in zip(run.states, other.states, strict=True))
    same_records = all(
        torch.equal(a.noise_pred, b.noise_pred)
        and torch.equal(a.pred_original_sample, b.pred_original_sample)
        and all(torch.equal(a.predictions[name], b.predictions[name]) for name in b.predictions)
        for a, b in zip(run.records, other.records, strict=True)
    )
    return same_states and same_records


def test_nothing_is_sampled_before_the_first_step(run):
    assert run.step_index == 0
    assert len(run.states) == 1
    assert run.records == ()
    assert run.method.network_calls["unet"] == 0
    assert run.state.timestep == 751


def test_iterating_takes_one_step_each_and_goes_on_after_a_break(run):
    for state in run:
        if state.step_index == 2:
            break
    assert run.step_index == 2
    assert [state.step_index for state in run] == [3, 4]
    assert run.is_finished
    assert list(run) == []
    with pytest.raises(StateError, match="All 4 steps are taken"):
        run.step()


@pytest.mark.parametrize("shortcuts", CASES, ids=lambda shortcuts: "-".join(map(str, shortcuts.values())))
def test_by_hand_equals_finish_equals_branch_equals_rewound(colorizer, picture, shortcuts):
    finished = colorizer.start(picture, prompt="a red car", **shortcuts).finish(progress=False)
    by_hand = colorizer.start(picture, prompt="a red car", **shortcuts)
    while not by_hand.is_finished:
        by_hand.step()
    assert equal_paths(by_hand, finished)
    for step in range(5):
        assert equal_paths(finished.branch(step=step).finish(progress=False), finished)
    before = finished.states
    finished.rewind(2)
    assert finished.step_index == 2
    finished.finish(progress=False)
    assert equal_paths(finished, by_hand)
    assert finished.state is not before[-1]


def test_another_model_object_with_the_same_weights_gives_the_same_bits(run, picture):
    other = tiny_colorizer().start(picture, prompt="a red car")
    assert equal_paths(run.finish(progress=False), other.finish(progress=False))
    assert np.array_equal(run.image, other.image)


def test_the_head_of_a_branch_is_shared_and_only_the_tail_is_computed(run):
    run.finish(progress=False)
    calls = run.method.network_calls["unet"]
    branch = run.branch(step=3, prompt="a blue car")
    assert run.method.network_calls["unet"] == calls
    assert all(mine is theirs for mine, theirs in zip(branch.states, run.states[:4], strict=True))
    assert all(mine is theirs for mine, theirs in zip(branch.records, run.records[:3], strict=True))
    branch.finish(progress=False)
    assert run.method.network_calls["unet"] == calls + 1
    assert branch.cost["predict"].network_calls == 1
    assert not branch.state.equals(run.state)
    assert branch.conditioning.prompt == "a blue car"
    assert run.conditioning.prompt == "a red car"
    assert branch.segment_at(2).conditioning.prompt == "a red car"


def test_a_branch_of_a_branch_keeps_its_changes_unless_it_makes_its_own(run):
    run.finish(progress=False)
    blue = run.branch(step=3, prompt="a blue car").finish(progress=False)
    calls = run.method.network_calls["text_encoder"]
    again = blue.branch(step=1)
    assert again.cost["prepare"].network_calls == 0
    assert equal_paths(again.finish(progress=False), blue)
    green = blue.branch(step=1, seed=0).finish(progress=False)
    assert green.conditioning.prompt == "a red car"
    assert equal_paths(green, run)
    assert run.method.network_calls["text_encoder"] == calls


def test_a_branch_at_step_zero_shares_the_start_unless_it_differs(run):
    assert run.branch(step=0, prompt="a blue car").states[0] is run.states[0]
    assert not run.branch(step=0, seed=1).states[0].equals(run.states[0])
    assert run.branch(step=0, num_inference_steps=2).num_steps == 2


def test_a_branch_at_the_end_changes_the_decoding_alone(run):
    run.finish(progress=False)
    calls = run.method.network_calls["unet"]
    settings = run.settings.with_mechanism("luminance_guidance", is_on=False)
    plain = run.branch(settings=settings)
    assert plain.step_index == 4
    assert not np.array_equal(plain.image, run.image)
    assert run.method.network_calls["unet"] == calls


def test_a_change_of_solver_forgets_what_the_other_one_remembered(colorizer, picture, monkeypatch):
    run = colorizer.start(picture, solver="dpmpp_2m", timestep_spacing="trailing").finish(progress=False)
    lengths = []

    def watched(method, segment, state, **options):
        lengths.append(len(state.history))
        return take_step(method, segment, state, **options)

    monkeypatch.setattr(runs_run, "take_step", watched)
    run.branch(step=2).finish(progress=False)
    run.branch(step=2, solver="ddim").finish(progress=False)
    assert lengths == [1, 1, 0, 0]


def test_solvers_that_agree_may_take_over_from_each_other(colorizer, picture):
    run = colorizer.start(picture, solver="euler", timestep_spacing="trailing").finish(progress=False)
    branch = run.branch(step=2, solver="ddim")
    branch.finish(progress=False)
    assert branch.states[2] is run.states[2]
    # DDIM and Euler agree without noise, but for the last step's target.
    assert torch.allclose(branch.states[3].latents, run.states[3].latents, atol=1e-4)


def test_rewinding_a_branch_before_its_fork_follows_the_parent_again(run):
    run.finish(progress=False)
    branch = run.branch(step=3, prompt="a blue car").finish(progress=False)
    end = branch.state
    branch.rewind(1).finish(progress=False)
    assert branch.states[3].equals(run.states[3])
    assert branch.state.equals(end)
    assert run.is_finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 5}, "other timesteps"),
        ({"solver": "dpmpp_2m"}, "other timesteps"),
        ({"seed": 9}, "The seed decides"),
        ({"gray": tiny_picture(20, 80)}, "latents of shape"),
        ({"promt": "a"}, "'promt' is a field of neither"),
    ],
)
def test_what_cannot_change_in_the_middle_is_refused(run, change, message):
    run.step()
    with pytest.raises(RangeError, match=message):
        run.branch(step=1, **change)
    assert len(run.tree) == 1


def test_the_seed_may_change_in_the_middle_where_steps_draw_noise(colorizer, picture):
    run = colorizer.start(picture, eta=1.0).finish(progress=False)
    branch = run.branch(step=2, seed=5).finish(progress=False)
    assert branch.states[2] is run.states[2]
    assert not branch.states[3].equals(run.states[3])


@pytest.mark.parametrize("step", [-1, 3, 1.0, True, "1"])
def test_states_that_do_not_exist_are_refused(run, step):
    run.step()
    for call in (run.rewind, run.branch):
        with pytest.raises(RangeError, match="states 0 to 1 of 4"):
            call(step)
    with pytest.raises(StateError, match=r"steps 0 to 0 of 4|no step"):
        run.preview(step)


def test_image_runs_to_the_end_and_has_the_size_of_the_input(run):
    image = run.image
    assert run.is_finished
    assert image.shape == (40, 56, 3)
    assert image.dtype == np.uint8
    assert run.image is image
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0] = 0


def test_preview_is_the_decoded_prediction_of_its_step(run):
    with pytest.raises(StateError, match="has taken no step"):
        run.preview()
    run.step()
    calls = run.method.network_calls["vae"]
    preview = run.preview()
    assert preview.shape == (40, 56, 3)
    assert run.preview(0) is preview
    assert run.method.network_calls["vae"] == calls + 1
    with pytest.raises(StateError, match="steps 0 to 0 of 4"):
        run.preview(1)
    run.finish(progress=False)
    assert run.preview() is run.image
    assert run.preview(4) is run.image
    assert not np.array_equal(run.preview(0), run.image)
    run.rewind(0).branch(seed=3)
    with pytest.raises(StateError, match="no step"):
        run.preview(0)


def test_the_last_euler_prediction_is_the_picture(colorizer, picture):
    run = colorizer.start(picture, solver="euler").finish(progress=False)
    assert torch.allclose(run.records[-1].pred_original_sample, run.state.latents, atol=1e-5)
    assert np.abs(run.preview(3).astype(int) - run.image).max() <= 1


def test_an_interrupt_leaves_a_run_that_can_be_looked_at_and_finished(run, monkeypatch):
    reference = run.branch(step=0).finish(progress=False)
    predict, calls = run.method.predict, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict(*args)

    monkeypatch.setattr(run.method, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    assert run.step_index == 2 == len(run.records)
    assert run.preview().shape == (40, 56, 3)
    assert equal_paths(run.finish(progress=False), reference)


def test_an_error_in_a_step_leaves_the_run_where_it_was(run, monkeypatch):
    run.step()
    with monkeypatch.context() as patch:
        patch.setattr(run.method, "predict", lambda *args: {"cond": torch.full((1, 4, 4, 4), torch.nan)})
        patch.setattr(run.method, "guide", lambda predictions, settings: predictions["cond"])
        with pytest.raises(RangeError, match="NaN"):
            run.step()
    assert run.step_index == 1
    assert run.finish(progress=False).is_finished


def test_two_threads_with_one_model_take_turns_and_get_the_same_bits(colorizer, picture, monkeypatch):
    prompts = ["a red car", "a blue car"]
    alone = [tiny_colorizer().start(picture, prompt=prompt).finish(progress=False) for prompt in prompts]
    runs = [colorizer.start(picture, prompt=prompt) for prompt in prompts]
    inside, overlaps, order = threading.Lock(), [], []
    forward = colorizer.method.unet.forward

    def watched(*args, **kwargs):
        if not inside.acquire(blocking=False):
            overlaps.append(threading.get_ident())
            return forward(*args, **kwargs)
        try:
            order.append(threading.get_ident())
            return forward(*args, **kwargs)
        finally:
            inside.release()

    monkeypatch.setattr(colorizer.method.unet, "forward", watched)
    threads = [threading.Thread(target=run.finish, kwargs={"progress": False}) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert overlaps == []
    assert len(order) == 8
    assert all(equal_paths(run, other) for run, other in zip(runs, alone, strict=True))


def test_two_threads_on_one_run_do_not_take_a_step_twice(run):
    threads = [threading.Thread(target=lambda: list(run)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [state.step_index for state in run.states] == [0, 1, 2, 3, 4]
    assert run.method.network_calls["unet"] == 4


class ScaleConvIn:
    """An edit for the tests: scale what the first convolution gives from one step on."""

    def __init__(self, factor, first_step=0):
        self.factor, self.first_step = factor, first_step

    def check(self, call, tree):
        assert isinstance(tree, Tree)

    def enter(self, latents, call):
        return latents

    def patches(self, call):
        steps = range(self.first_step, call.settings.num_inference_steps)
        return [Patch("conv_in", "output", lambda features, where: features * self.factor, steps=steps)]


def test_an_edit_acts_within_its_branch_alone_and_is_inherited(run):
    run.finish(progress=False)
    assert isinstance(ScaleConvIn(1.0), Edit)
    edited = run.branch(step=1, edits=[ScaleConvIn(0.5, first_step=2)]).finish(progress=False)
    assert edited.states[2].equals(run.states[2])
    assert not edited.states[3].equals(run.states[3])
    assert equal_paths(edited.branch(step=2).finish(progress=False), edited)
    assert equal_paths(edited.branch(step=1, edits=()).finish(progress=False), run)
    assert equal_paths(run.branch(step=0, edits=[ScaleConvIn(1.0)]).finish(progress=False), run)


def test_explain_shows_every_mechanism_and_changes_nothing(run):
    with pytest.raises(StateError, match="no step"):
        run.explain(0)
    run.step()
    state, calls = run.state, run.method.network_calls["unet"]
    assert set(run.explain(0)) == {"channel_extension.seen_luminance", "classifier_free_guidance.guidance_field"}
    decoding = run.explain()
    assert {"luminance_guidance.tap_5", "luminance_guidance.effect"} <= set(decoding)
    assert float(decoding["luminance_guidance.effect"].array.max()) > 0
    assert decoding["luminance_guidance.effect"].provenance["run"] == "run-0"
    assert run.state is state
    assert run.method.network_calls["unet"] == calls


def test_mechanisms_show_what_is_in_force(colorizer, picture):
    run = colorizer.start(picture, mechanisms={"luminance_guidance": {"gain": 0.5}}, guidance_scale=3.0)
    assert run.mechanisms["luminance_guidance"].parameters["gain"] == 0.5
    assert run.mechanisms["classifier_free_guidance"].parameters == {"is_on": True, "guidance_scale": 3.0}
    assert run.mechanisms["channel_extension"].phase == "predict"


def test_the_cost_counts_calls_seconds_and_bytes_by_phase(run):
    assert run.cost["prepare"].network_calls == 3
    assert run.cost["predict"].network_calls == 0
    assert run.image.nbytes == run.cost["decode"].num_bytes
    cost = run.cost
    assert cost["predict"].network_calls == 4
    assert cost["decode"].network_calls == 1
    assert all(phase.seconds > 0 for phase in cost.values())
    latent_bytes = 4 * 4 * 4 * 4
    assert cost["predict"].num_bytes == 4 * (1 + 4) * latent_bytes
    assert repr(cost).splitlines()[2].split()[:2] == ["predict", "4"]


def test_pictures_are_kept_within_a_budget():
    def decode(size):
        return lambda: Decoded(np.zeros(size, np.uint8), environment_of(tiny_unet(4)))

    shelf = PictureShelf(max_bytes=20)
    first = shelf.get(0, decode(10))
    shelf.get(1, decode(10))
    assert shelf.get(0, decode(1)) is first
    shelf.get(2, decode(15))
    assert shelf.num_bytes == 15
    shelf.forget_from(0)
    assert shelf.num_bytes == 0


def test_the_global_random_generator_is_left_alone(colorizer, picture):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    colorizer.start(picture, eta=1.0).finish(progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_sampling_leaves_no_hooks_and_no_gradients(run):
    run.finish(progress=False)
    for network in run.method.networks.values():
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    assert not run.state.latents.requires_grad
