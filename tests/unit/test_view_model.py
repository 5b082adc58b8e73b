"""The view-model: what is given, runs made of it, moments looked at; without a page, and with the worker's thread."""

import threading
from functools import partial

import numpy as np
import pytest
from colorlab_widgets.frame_pace import FramePace
from colorlab_widgets.view_model import ViewModel

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.runs.run import Run
from colorlab.strokes import Stroke, Strokes

STROKE = Stroke([(5, 5), (20, 12)], (200, 40, 40), 3)


@pytest.fixture
def model(colorizer, picture):
    model = ViewModel(colorizer, picture)
    yield model
    model.close()


def done(model):
    """Wait until the worker has nothing to do, and check that nothing went wrong."""
    assert model.worker.join(60)
    assert model.error == ""
    return model


def test_it_begins_with_the_picture_and_no_run(model, picture):
    assert model.run is None
    assert model.image_size == picture.shape
    assert np.abs(model.picture[..., 0].astype(int) - picture).max() <= 1
    assert model.is_changed


def test_strokes_masks_and_conditioning_are_one_truth(model):
    seen = []
    model.observe(lambda change: seen.append(change.new), "conditioning")
    model.strokes = Strokes([STROKE])
    assert model.conditioning.strokes == Strokes([STROKE])
    mask = np.zeros(model.image_size, dtype=bool)
    mask[4:9, 4:9] = True
    model.masks = {"disc": mask}
    assert list(model.conditioning.masks) == ["disc"]
    assert model.conditioning.strokes == Strokes([STROKE])
    assert len(seen) == 2
    model.conditioning = model.conditioning.replace(strokes=Strokes(), masks={}, prompt="a red disc")
    assert (len(model.strokes), model.masks) == (0, {})


def test_a_new_picture_has_another_size(model):
    model.conditioning = Conditioning(gray=np.full((24, 32), 120, dtype=np.uint8))
    assert model.image_size == (24, 32)


def test_colorize_takes_all_steps_and_shows_the_finished_picture(model):
    model.colorize()
    done(model)
    assert (model.steps_taken, model.num_steps, model.step, model.progress) == (4, 4, 4, 1.0)
    assert np.array_equal(model.picture, model.run.image)
    assert not model.is_changed
    assert (model.is_busy, model.is_running, model.activity) == (False, False, "")
    assert "strokes" not in model.notice


def test_what_does_not_reach_the_model_is_a_notice_and_no_warning(model, recwarn):
    model.strokes = Strokes([STROKE])
    model.colorize()
    done(model)
    assert "does not read strokes" in model.notice
    assert [str(warning.message) for warning in recwarn if "strokes" in str(warning.message)] == []


def test_steps_are_taken_one_by_one_rewound_and_taken_again_with_equal_bits(model):
    for taken in (1, 2, 3):
        model.take_step()
        done(model)
        assert (model.steps_taken, model.step) == (taken, taken - 1)
        assert np.array_equal(model.picture, model.run.preview(taken - 1))
    latents = model.run.states[3].latents
    model.rewind(1)
    done(model)
    assert (model.steps_taken, model.step) == (1, 0)
    model.play()
    done(model)
    assert model.run.is_finished
    assert (model.run.states[3].latents == latents).all()
    assert len(model.tree) == 1


def test_quick_clicks_on_step_add_up_and_a_pause_forgets_them(model):
    model.settings = model.settings.replace(num_inference_steps=100)
    for _ in range(3):
        model.take_step()
    done(model)
    assert model.steps_taken == 3
    for _ in range(50):
        model.take_step()
    model.pause()
    done(model)
    taken = model.run.step_index
    model.take_step()
    done(model)
    assert model.run.step_index == taken + 1


def test_a_run_that_is_broken_off_shows_how_far_it_came(model, monkeypatch):
    monkeypatch.setattr("colorlab_widgets.view_model.FramePace", partial(FramePace, interval_s=60))
    model.settings = model.settings.replace(num_inference_steps=100)
    has_begun = threading.Event()
    step = Run.step
    monkeypatch.setattr(Run, "step", lambda run: (step(run), run.step_index == 3 and has_begun.set()))
    model.colorize()
    assert has_begun.wait(60)
    assert model.steps_taken == 0, "no frame was due"
    model.pause()
    done(model)
    assert 3 <= model.run.step_index < 100
    assert (model.steps_taken, model.step) == (model.run.step_index, model.run.step_index - 1)
    assert np.array_equal(model.picture, model.run.preview())


def test_frames_come_at_an_interval_and_leave_most_of_the_time_to_sampling(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("colorlab_widgets.frame_pace.time.monotonic", lambda: clock[0])
    pace, shown = FramePace(interval_s=0.2, share=0.1), []
    for _ in range(100):
        clock[0] += 0.05
        if pace.is_due:
            shown.append(clock[0])
            with pace.frame():
                clock[0] += 0.01 if len(shown) < 5 else 0.1
    assert np.diff(shown)[:4] == pytest.approx(0.21, abs=0.051)
    assert np.diff(shown)[4:].min() >= 0.99, "one tenth of the time"


def test_a_job_that_ends_while_its_beginning_is_told_is_not_told_as_under_way(model, monkeypatch):
    # The thread that enqueues reads what is busy; before it has said so the worker has ended the job.
    answers = iter([("run",), (), ()])
    monkeypatch.setattr(type(model.worker), "busy_kinds", property(lambda worker: next(answers, ())))
    model._note_work()
    assert (model.is_running, model.activity, model.is_busy) == (False, "", False)


def test_looking_at_another_moment_leaves_the_tree_as_it_is(model):
    model.colorize()
    version = done(model).tree_version
    model.look_at(1)
    assert done(model).step == 1
    assert model.tree_version == version


def test_going_on_after_a_change_branches(model):
    model.take_step()
    model.take_step()
    done(model)
    first = model.run
    model.conditioning = model.conditioning.replace(prompt="a blue disc")
    model.play()
    done(model)
    assert model.run is not first
    assert model.tree.fork(model.run).step_index == 2
    assert model.run.conditioning.prompt == "a blue disc"
    assert (first.step_index, model.run.step_index) == (2, 4)


def test_branching_at_the_moment_looked_at(model):
    model.colorize()
    done(model)
    model.look_at(1)
    done(model)
    assert model.step == 1
    model.conditioning = model.conditioning.replace(prompt="a green disc")
    model.branch()
    done(model)
    assert model.tree.fork(model.run).step_index == 1
    parent = model.tree.parent(model.run)
    model.go_to(parent)
    done(model)
    assert model.run is parent
    assert model.conditioning.prompt == ""
    assert np.array_equal(model.picture, parent.image)


def test_a_stop_ends_within_one_step_and_the_run_can_go_on(model):
    model.settings = model.settings.replace(num_inference_steps=200)
    begun = threading.Event()
    model.observe(lambda change: begun.set() if change.new >= 2 else None, "steps_taken")
    model.colorize()
    assert begun.wait(60)
    taken = model.run.step_index
    model.stop()
    done(model)
    assert model.run.step_index <= taken + 2
    assert not model.run.is_finished
    model.take_step()
    done(model)
    assert len(model.run.states) == len(model.run.records) + 1


def test_pictures_looked_at_are_answered_while_a_run_is_under_way(model):
    model.settings = model.settings.replace(num_inference_steps=200)
    begun, answered = threading.Event(), threading.Event()
    model.observe(lambda change: begun.set() if change.new >= 2 else None, "steps_taken")
    model.colorize()
    assert begun.wait(60)
    model.ask("question", lambda: model.run.step_index, lambda step: answered.set())
    assert answered.wait(30)
    assert model.is_running
    model.stop()
    done(model)


def test_what_cannot_be_is_said_in_words(model):
    model.settings = model.settings.replace(eta=1.0, solver="euler")
    model.colorize()
    assert model.worker.join(60)
    assert "euler adds no noise" in model.error
    model.settings = model.settings.replace(eta=0.0)
    model.colorize()
    done(model)
    model.rename(model.run, "")
    assert "at least one character" in model.error
    failed = []
    model.ask("odd", lambda: 1 / 0, failed.append, failed=failed.append)
    assert model.worker.join(60)
    assert failed == ["ZeroDivisionError: division by zero"]


def test_a_mechanism_is_set_for_the_next_run(model):
    model.set_mechanism("luminance_guidance", is_on=False)
    model.colorize()
    done(model)
    assert not model.run.mechanisms["luminance_guidance"].is_on
    with pytest.raises(RangeError, match="no parameter"):
        model.set_mechanism("luminance_guidance", loudness=3)


def test_runs_are_named_and_pruned_and_the_last_one_leaves_the_bare_picture(model):
    model.colorize()
    done(model)
    model.rename(model.run, "red")
    assert model.run.name == "red"
    model.colorize()
    done(model)
    model.prune(model.run)
    done(model)
    assert model.run.name == "red"
    model.prune(model.run)
    done(model)
    assert model.run is None
    assert model.picture.std(axis=-1).max() == 0


def test_the_oldest_runs_go_but_named_and_branched_ones_stay(model, monkeypatch):
    monkeypatch.setattr("colorlab_widgets.old_runs._MAX_RUNS", 4)
    model.settings = model.settings.replace(num_inference_steps=1)
    for number in range(7):
        model.colorize()
        done(model)
        if number == 0:
            model.rename(model.run, "kept")
        if number == 1:
            model.branch(0)
            done(model)
            model.rename(model.run, "branch")
    assert [run.name for run in model.tree.runs] == ["kept", "run-1", "branch", "run-7"]


def test_closing_ends_the_thread_and_leaves_the_runs(model):
    model.colorize()
    done(model)
    run = model.run
    model.close()
    assert run.image.shape == (*model.image_size, 3)
