"""Tuning: it can be stepped, paused, rolled back, killed and resumed, and nothing of that changes its curve."""

import contextlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_files import small_files
from tiny import tiny_colorizer, tiny_diffcolor, tiny_lcad, tiny_picture

import colorlab
import colorlab.tuning.tuning as module
from colorlab.errors import ColorlabError, RangeError, RunFileError, StateError, WeightsError
from colorlab.tuning.checkpoints import Checkpoints
from colorlab.tuning.optimizer import Moments
from colorlab.tuning.pictures import TuningWarning
from colorlab.tuning.plan import PRESETS, STAGES
from colorlab.tuning.state import TuningState

CONTEXT = "a photo of a cat"
pytestmark = pytest.mark.filterwarnings("ignore::colorlab.tuning.pictures.TuningWarning")


@pytest.fixture
def colorizer():
    return tiny_colorizer(tiny_diffcolor())


@pytest.fixture
def tuning(colorizer):
    return colorizer.tune(tiny_picture(), prompt=CONTEXT, preset="smoke")


def resumed_from(path):
    return tiny_colorizer(tiny_diffcolor()).resume_tuning(path)


def losses(tuning):
    return [(row["stage"], row["iteration"], row["loss"]) for row in tuning.state.rows]


def test_all_stages_are_gone_through_one_iteration_at_a_time(tuning, whole):
    seen = [(state.stage, state.number) for state in tuning]
    assert [number for _, number in seen] == list(range(1, 10))
    assert [stage for stage, _, _ in losses(tuning)] == [stage for stage in STAGES for _ in range(3)]
    assert losses(tuning) == losses(whole)
    assert tuning.is_finished
    with pytest.raises(StateError, match="All stages are done"):
        tuning.step()


def test_the_result_colors_the_picture_and_other_words_need_no_tuning(colorizer, whole):
    adaptation = whole.adaptation
    assert adaptation.stages == STAGES
    assert adaptation.tensors["picture/aligned"].shape == (*tiny_picture().shape, 3)
    assert adaptation.rewriting.text == "a photo of a sks cat"
    assert adaptation.info["curves"]["embedding"]["loss"] == pytest.approx(
        [loss for stage, _, loss in losses(whole) if stage == "embedding"], rel=1e-5
    )
    tuned = colorizer.with_adaptation(adaptation)
    before = tuned.method.network_calls["unet"]
    images = [tuned.start(tiny_picture(), prompt=f"a photo of a {color} cat").image for color in ("blue", "red")]
    assert not np.array_equal(*images)
    # Steps of the run and of its inversion, nothing else.
    assert tuned.method.network_calls["unet"] - before <= 2 * 2 * 20


def test_an_interrupt_in_every_iteration_and_at_every_end_of_every_stage_loses_nothing(colorizer, whole, monkeypatch):
    tuning = colorizer.tune(tiny_picture(), prompt=CONTEXT, preset="smoke")
    interrupted = []

    def once_in_each_iteration(place):
        real = getattr(module, place)

        def interrupting(*arguments, **keywords):
            where = (place, tuning.stage, tuning.state.iteration)
            if where not in interrupted:
                interrupted.append(where)
                raise KeyboardInterrupt
            return real(*arguments, **keywords)

        monkeypatch.setattr(module, place, interrupting)

    places = ("adam_step", "clip_gradients", "paint_prior", "check_reconstruction", "_thumbnail", "Adaptation")
    for place in places:
        once_in_each_iteration(place)
    while not tuning.is_finished:
        number = tuning.num_iterations
        with contextlib.suppress(KeyboardInterrupt):
            tuning.step()
        assert tuning.num_iterations in (number, number + 1)
    # The last one before a stage's end is at its full number of iterations.
    assert {("adam_step", stage, k) for stage in STAGES for k in range(3)} <= set(interrupted)
    assert {("Adaptation", stage, 3) for stage in STAGES} <= set(interrupted)
    assert {(place, stage) for place, stage, _ in interrupted} >= {
        ("paint_prior", "contrastive"),
        ("check_reconstruction", "reconstruction"),
    }
    monkeypatch.undo()
    assert losses(tuning) == losses(whole)
    assert tuning.adaptation.content_hash == whole.adaptation.content_hash


def test_a_pause_ends_a_loop_and_resume_goes_on(tuning, whole):
    for state in tuning:
        if state.number == 4:
            tuning.pause()
    assert tuning.num_iterations == 4
    assert tuning.finish(progress=False).num_iterations == 4
    tuning.resume().finish(progress=False)
    assert losses(tuning) == losses(whole)


def test_rolled_back_it_takes_the_same_way_again_and_nothing_is_lost(colorizer, tuning, whole, tmp_path):
    tuning.finish(progress=False)
    assert tuning.checkpoints.numbers == (0, 2, 3, 5, 6, 8, 9)
    tuning.roll_back(2)
    assert tuning.stage == "contrastive"
    assert tuning.checkpoints.numbers == (0, 2, 3, 5, 6, 8, 9)
    assert repr(tuning.state).startswith("TuningState after 2 iterations: contrastive 2, loss ")
    assert "\n" not in repr(tuning.state)
    kept = tuning.save(tmp_path / "back.tuning")
    with pytest.raises(RunFileError, match=r"holds a tuning, but no runs; .*resume_tuning"):
        colorlab.open(kept)
    with pytest.raises(WeightsError, match=r"ends in \.safetensors; .*resume_tuning"):
        colorizer.with_adaptation(kept)
    tuning.roll_back(9)
    assert tuning.is_finished
    assert tuning.adaptation.content_hash == whole.adaptation.content_hash
    tuning = colorizer.resume_tuning(kept)
    assert (tuning.num_iterations, tuning.checkpoints.numbers) == (2, (0, 2, 3, 5, 6, 8, 9))
    tuning.finish(progress=False)
    assert losses(tuning) == losses(whole)
    assert tuning.adaptation.content_hash == whole.adaptation.content_hash
    with pytest.raises(RangeError, match="no checkpoint after 4 iterations; there are: 0, 2, 3"):
        tuning.roll_back(4)


def test_checkpoints_stay_within_their_bytes_and_keep_the_first_and_the_newest():
    checkpoints = Checkpoints(5000)
    for number in range(1, 40):
        rows = tuple({"stage": "contrastive", "iteration": k} for k in range(number))
        checkpoints.keep(TuningState("contrastive", number, {"a": torch.zeros(100)}, Moments(), rows=rows))
        assert checkpoints.num_bytes <= 5000
        assert checkpoints.numbers[0] == 1
        assert checkpoints.numbers[-1] == number
    assert len(checkpoints) > 5
    assert "of 0 MiB" in repr(checkpoints)


def test_the_budget_gives_up_neither_the_present_nor_the_last():
    def state(number):
        rows = tuple({"iteration": k} for k in range(number))
        return TuningState("contrastive", number, {"a": torch.zeros(100)}, Moments(), rows=rows)

    for budget in (4 * 400, 0):
        checkpoints = Checkpoints(budget)
        for number in (0, 30, 40, 45):
            checkpoints.keep(state(number))
        target = checkpoints.numbers[1]
        checkpoints.keep(state(38), also=target)
        assert {0, target, 38, 45} <= set(checkpoints.numbers)
        for number in (5, 10, 15, 20):
            checkpoints.keep(state(number))
            assert {0, number, 45} <= set(checkpoints.numbers)


def test_rolled_back_the_present_becomes_a_checkpoint_also_in_the_file(colorizer, tuning, tmp_path):
    tuning.autosave(tmp_path / "cat.tuning")
    while tuning.num_iterations < 7:
        tuning.step()
    tuning.roll_back(2)
    assert 7 in tuning.checkpoints.numbers
    assert colorizer.resume_tuning(tmp_path / "cat.tuning").num_iterations == 2
    tuning.roll_back(7)
    assert (tuning.num_iterations, tuning.stage) == (7, "reconstruction")


def test_states_that_came_by_other_iterations_are_forgotten(colorizer, tuning, tmp_path, monkeypatch):
    tuning.finish(progress=False)
    tuning.roll_back(2)
    real = tuning._iterated

    def otherwise(state):
        made = real(state)
        return replace(made, rows=(*made.rows[:-1], {**made.rows[-1], "loss": made.rows[-1]["loss"] + 1}))

    monkeypatch.setattr(tuning, "_iterated", otherwise)
    with pytest.warns(TuningWarning, match="the checkpoints after 3, 5, 6, 8, 9 iterations are of another way"):
        tuning.step()
    assert tuning.checkpoints.numbers == (0, 2, 3)
    resumed = colorizer.resume_tuning(tuning.save(tmp_path / "other.tuning"))
    assert losses(resumed) == losses(tuning)


@pytest.mark.parametrize("number", [1, 3, 5, 7])
def test_saved_and_resumed_it_takes_the_same_way(colorizer, whole, tmp_path, number):
    tuning = colorizer.tune(tiny_picture(), prompt=CONTEXT, preset="smoke")
    while tuning.num_iterations < number:
        tuning.step()
    tuning.save(tmp_path / "cat.tuning")
    resumed = tiny_colorizer(tiny_diffcolor()).resume_tuning(tmp_path / "cat.tuning")
    assert resumed.num_iterations == number
    assert resumed.checkpoints.numbers == tuning.checkpoints.numbers
    resumed.finish(progress=False)
    assert [loss for *_, loss in losses(resumed)] == pytest.approx([loss for *_, loss in losses(whole)], abs=1e-6)
    assert resumed.adaptation.content_hash == whole.adaptation.content_hash


# One process imports everything; its children tune, and are killed in the middle of each stage.
KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture
for number in {numbers!r}:
    child = os.fork()
    if not child:
        tuning = tiny_colorizer(tiny_diffcolor()).tune(tiny_picture(), prompt={context!r}, preset="smoke")
        for state in tuning.autosave({path!r} + "/" + str(number) + ".tuning"):
            if state.number == number:
                os.kill(os.getpid(), signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
"""


def test_killed_in_any_stage_and_resumed_it_takes_the_same_way(colorizer, whole, tmp_path):
    # After how many iterations it is killed, and what of them the newest checkpoint holds.
    kept = {2: 2, 4: 3, 7: 6}
    code = KILLED.format(folder=str(Path(__file__).parent), context=CONTEXT, path=str(tmp_path), numbers=list(kept))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    for number, expected in kept.items():
        resumed = resumed_from(tmp_path / f"{number}.tuning")
        assert resumed.num_iterations == expected
        resumed.finish(progress=False)
        assert [loss for *_, loss in losses(resumed)] == pytest.approx([loss for *_, loss in losses(whole)], abs=1e-6)


def test_a_disk_that_fills_in_the_middle_of_a_file_warns_and_the_tuning_goes_on(tuning, whole, tmp_path):
    path = tmp_path / "cat.tuning"
    tuning.autosave(path)
    first = path.read_bytes()
    tuning.step()
    with small_files(len(first) // 2):
        with pytest.warns(TuningWarning, match="cannot be written .* and is as it was"):
            tuning.step()
        assert path.read_bytes() == first
        # Every stage comes to its end, and to its attempt to be kept.
        tuning.finish(progress=False)
        with pytest.raises(RunFileError, match="cannot be written"):
            tuning.save(tmp_path / "other.tuning")
        with pytest.raises(ColorlabError, match="cannot be written"):
            tuning.adaptation.save(tmp_path / "cat.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing half written is left"
    assert losses(tuning) == losses(whole)
    assert resumed_from(path).num_iterations == 0
    tuning.write()
    assert resumed_from(path).is_finished


def test_files_that_are_no_tuning_or_of_other_weights_are_refused(tuning, colorizer, tmp_path):
    path = tuning.save(tmp_path / "cat.tuning")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    (tmp_path / "bad.tuning").write_bytes(content)
    with pytest.raises(RunFileError, match="damaged"):
        colorizer.resume_tuning(tmp_path / "bad.tuning")
    with pytest.raises(RunFileError, match=r"There is no tuning .*dog\.tuning"):
        colorizer.resume_tuning(tmp_path / "dog.tuning")
    (tmp_path / "dog.safetensors").write_bytes(b"")
    for name in ("dog.tuning", "dog.safetensors"):
        with pytest.raises(RunFileError, match=r"dog\.safetensors' is what it made, so it is finished"):
            colorizer.resume_tuning(tmp_path / name)
    with pytest.raises(RunFileError, match=r"ends in \.tuning"):
        tuning.save(tmp_path / "cat.pt")
    with pytest.raises(RunFileError, match="There is no folder"):
        tuning.save(tmp_path / "nowhere" / "cat.tuning")
    colorizer.start(tiny_picture(), prompt=CONTEXT).save(tmp_path / "run.colorlab")
    with pytest.raises(RunFileError, match="holds runs, but no tuning"):
        colorizer.resume_tuning(tmp_path / "run.colorlab")
    colorizer.method.base_hash = "ab"
    with pytest.raises(RangeError, match="other weights"):
        colorizer.resume_tuning(path)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "is empty"), ("a photo of a blue cat", "already names the color 'blue'"), ("cat", "No object was found")],
)
def test_contexts_that_cannot_be_used_are_refused_before_anything_is_computed(colorizer, prompt, message):
    with pytest.raises(RangeError, match=message):
        colorizer.tune(tiny_picture(), prompt=prompt, preset="smoke")
    assert colorizer.method.network_calls["unet"] == 0


def test_other_methods_and_adapted_models_are_not_tuned(colorizer, whole):
    with pytest.raises(RangeError, match="not tuned on single pictures"):
        tiny_colorizer(tiny_lcad()).tune(tiny_picture(), prompt=CONTEXT)
    with pytest.raises(RangeError, match="carries an adaptation already"):
        colorizer.with_adaptation(whole.adaptation).tune(tiny_picture(), prompt=CONTEXT, preset="smoke")


def test_stage_1_stops_when_the_margin_no_longer_rises(colorizer):
    plan = PRESETS["smoke"].replace(num_steps={"contrastive": 50, "embedding": 0, "reconstruction": 0})
    settings = colorizer.settings.with_mechanism("contrastive_tuning", patience=2.0, learning_rate=1e-8)
    tuning = colorizer.tune(tiny_picture(), settings, prompt=CONTEXT, preset=plan).finish(progress=False)
    assert tuning.is_finished
    assert 3 <= tuning.num_iterations < 50
    assert tuning.adaptation.stages == ("contrastive",)


def test_the_budget_names_every_stage_and_changes_nothing(tuning, whole):
    budget = tuning.budget
    assert list(budget) == list(STAGES)
    assert all(stage.seconds > 0 and stage.num_bytes > 0 for stage in budget.values())
    assert budget.minutes == pytest.approx(sum(stage.minutes for stage in budget.values()))
    assert "checkpoints: at most 256 MiB" in repr(budget)
    assert tuning.num_iterations == 0
    tuning.step()
    assert losses(tuning) == losses(whole)[:1]


def test_curves_and_thumbnails_can_be_shown_at_any_moment(tuning):
    with pytest.raises(StateError, match="has no iteration yet"):
        tuning.curves()
    tuning.step()
    exhibit = tuning.curves()
    assert {"loss", "contrastive", "guidance", "margin", "chroma"} <= set(exhibit.provenance["labels"])
    assert exhibit.array.shape == (len(exhibit.provenance["labels"]), 1)
    assert json.dumps(exhibit.provenance["labels"])
    chosen = tuning.curves(names=("margin", "chroma"))
    assert chosen.array.shape == (2, 1)
    assert chosen.array[0, 0] == tuning.state.rows[0]["margin"]
    with pytest.raises(RangeError, match="has no number 'colors'; it has loss"):
        tuning.curves(names=("colors",))
    assert exhibit.plot() is not None
    assert list(tuning.thumbnails) == [1]
    assert tuning.thumbnails[1].dtype == np.uint8


def test_there_are_small_pictures_of_every_stage(whole):
    assert list(whole.thumbnails) == [1, 3], "of stage 1"
    assert [number for number, _ in whole.state.thumbnails] == [1, 3, 4, 6, 7, 9]
    assert len({picture.shape for _, picture in whole.state.thumbnails}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"thumbnail_every": 0},
        {"checkpoint_every": 0},
        {"embedding_learning_rate": 0.0},
        {"reconstruction_learning_rate": float("nan")},
        {"max_grad_norm": -1.0},
    ],
)
def test_plans_that_cannot_be_are_refused(change):
    with pytest.raises(RangeError, match=next(iter(change))):
        PRESETS["smoke"].replace(**change)


def test_a_picture_that_does_not_follow_the_gray_one_is_warned_of(colorizer):
    plan = PRESETS["smoke"].replace(num_steps={"contrastive": 1, "embedding": 0, "reconstruction": 0})
    with pytest.warns(TuningWarning, match="does not follow the gray one"):
        colorizer.tune(tiny_picture(), prompt=CONTEXT, preset=plan).finish(progress=False)
