"""Quick previews: near the full run where nothing changed, other where something did; run and tree stay as they are."""

import numpy as np
import pytest
import torch

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


def test_what_can_not_be_previewed_is_refused(run):
    with pytest.raises(RangeError, match="start is 1"):
        list(quick_preview(run, run.conditioning, run.settings, start=1))
    with pytest.raises(RangeError, match="num_steps"):
        list(quick_preview(run, run.conditioning, run.settings, num_steps=0))
    tall = run.conditioning.replace(gray=np.full((200, 40), 90, dtype=np.uint8))
    with pytest.raises(RangeError, match="latents of shape"):
        list(quick_preview(run, tall, run.settings))
