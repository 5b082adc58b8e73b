"""Quick previews: near the full run where nothing changed, other where something did; run and tree stay as they are."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from tiny import tiny_colorizer, tiny_ctrlcolor

import colorlab
from colorlab.errors import RangeError
from colorlab.runs.quick import quick_preview


@pytest.fixture
def run(colorizer, picture):
    return colorizer.start(picture, prompt="a red disc", num_inference_steps=10).finish(progress=False)


def last(previews):
    return list(previews)[-1]


def test_all_steps_by_the_same_solver_from_the_start_give_the_picture_of_the_run(colorizer, picture):
    run = colorizer.start(picture, prompt="a red disc", num_inference_steps=6, solver="dpmpp_2m")
    run.finish(progress=False)
    preview = last(quick_preview(run, run.conditioning, run.settings, num_steps=6, start=0))
    assert np.array_equal(preview, run.image)


def test_the_more_of_the_run_is_taken_over_the_nearer_is_the_preview(run):
    apart = [
        np.abs(last(quick_preview(run, run.conditioning, run.settings, start=start)).astype(float) - run.image).mean()
        for start in (0.0, 0.9)
    ]
    assert apart[1] < apart[0]


def test_another_prompt_or_mechanism_changes_it_and_leaves_the_run_alone(run):
    image, latents = run.image.copy(), run.state.latents.clone()
    same = last(quick_preview(run, run.conditioning, run.settings))
    words = last(quick_preview(run, run.conditioning.replace(prompt="a blue disc"), run.settings))
    plain = last(quick_preview(run, run.conditioning, run.settings.with_mechanism("luminance_guidance", is_on=False)))
    assert not np.array_equal(same, words)
    assert not np.array_equal(same, plain)
    assert np.array_equal(run.image, image)
    assert torch.equal(run.state.latents, latents)
    assert len(run.tree) == 1


def test_it_gives_way_after_every_step_and_costs_that_many_calls(run):
    calls = run.method.network_calls["unet"]
    found = list(quick_preview(run, run.conditioning, run.settings, num_steps=5))
    assert [part is None for part in found] == [True] * 4 + [False]
    assert run.method.network_calls["unet"] == calls + 5


def test_a_run_of_few_steps_is_previewed_in_as_many(colorizer, picture):
    run = colorizer.start(picture, num_inference_steps=2)
    run.step()
    assert last(quick_preview(run, run.conditioning, run.settings, num_steps=4)).shape == (*picture.shape, 3)


def test_what_refines_at_the_cost_of_calls_is_left_out_unless_it_was_changed(picture):
    colorizer = tiny_colorizer(tiny_ctrlcolor())
    run = colorizer.start(picture, prompt="a red disc").finish(progress=False)
    calls = run.method.network_calls

    def unet_calls(settings):
        before = calls["unet"]
        last(quick_preview(run, run.conditioning.replace(prompt="a blue disc"), settings, num_steps=2))
        return calls["unet"] - before

    changed = run.settings.with_mechanism("self_attention_guidance", sag_scale=0.5)
    assert (unet_calls(run.settings), unet_calls(changed)) == (2, 3), "it acts above timestep 600, in one step of two"


def test_of_the_shipped_model_a_preview_of_what_is_given_already_is_near_its_picture():
    rows, columns = np.mgrid[:128, :128]
    gray = np.where((rows - 60) ** 2 + (columns - 64) ** 2 < 1000, 150, 90 + rows // 2).astype(np.uint8)
    run = colorlab.load("mini/lcad").start(gray, prompt="a red ball and a blue wall").finish(progress=False)
    apart = []
    for num_steps in (2, 4):
        preview = last(quick_preview(run, run.conditioning, run.settings, num_steps=num_steps))
        colors = [rgb2lab(each)[..., 1:] for each in (preview, run.image)]
        apart.append(np.linalg.norm(colors[0] - colors[1], axis=-1).mean())
    # A preview whose last step begins at the last timestep of the run overshoots: 8.9 and 7.5 units of a and b.
    assert apart[0] < 6
    assert apart[1] < 3


def test_what_cannot_be_previewed_is_refused(run):
    with pytest.raises(RangeError, match="start is 1"):
        list(quick_preview(run, run.conditioning, run.settings, start=1))
    with pytest.raises(RangeError, match="num_steps"):
        list(quick_preview(run, run.conditioning, run.settings, num_steps=0))
    tall = run.conditioning.replace(gray=np.full((200, 40), 90, dtype=np.uint8))
    with pytest.raises(RangeError, match="latents of shape"):
        list(quick_preview(run, tall, run.settings))
