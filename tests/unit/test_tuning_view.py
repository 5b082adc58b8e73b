"""Tuning in the Studio, the browser played: budget first, then curves, stop, resume, roll back, and colors by words."""

import contextlib
import errno
import time
import warnings

import numpy as np
import pytest
from colorlab_widgets import Studio, TuningView, ViewModel
from colorlab_widgets.tuning_model import TUNING
from pages import send
from tiny import tiny_colorizer, tiny_diffcolor, tiny_lcad, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.tuning import STAGES
from colorlab.tuning.checkpoints import Checkpoints
from colorlab.tuning.embedding_exhibits import measure_move

CONTEXT = "a photo of a cat"
TARGET = "a photo of a blue cat"
pytestmark = pytest.mark.filterwarnings("ignore::colorlab.tuning.pictures.TuningWarning")


@pytest.fixture
def model():
    model = ViewModel(tiny_colorizer(tiny_diffcolor()), Conditioning(gray=tiny_picture(), prompt=CONTEXT))
    yield model
    model.close()


@pytest.fixture
def view(model):
    view = TuningView(model)
    view.preset.value = "smoke"
    yield view
    view.close()


def done(view):
    assert view.model.worker.join(60)
    assert view.model.error == ""
    return view.tuning


def prepared(view):
    view.prepare.click()
    done(view)
    return view.tuning.tuning


def watch(view, look):
    """Call a function of the number of the slice before each slice of the tuning."""
    tuning = view.tuning.tuning
    real = type(tuning).slices
    count = [0]

    def slices():
        walk = real(tuning)
        while True:
            count[0] += 1
            look(count[0])
            if next(walk, view) is view:
                return
            yield

    tuning.slices = slices


def stop_at(view, number):
    """Press Stop while the iteration with a number is under way, and wait."""
    tuning = view.tuning.tuning

    def look(_):
        if tuning.num_iterations == number - 1 and tuning.state.iteration < tuning.plan.num_steps[tuning.stage]:
            view.stop.click()

    watch(view, look)
    view.go_on.click()
    done(view)
    del tuning.slices


def losses(tuning):
    return [row["loss"] for row in tuning.state.rows]


def test_the_budget_stands_there_before_anything_is_tuned(view):
    assert view.course.layout.display == "none"
    assert view.go_on.disabled
    tuning = prepared(view)
    assert tuning.num_iterations == 0
    assert view.course.layout.display is None
    for words in ("1 colors", "2a embedding", "2b reconstruction", "in all", "Checkpoints hold at most 256 MiB"):
        assert words in view.budget.value
    assert (view.go_on.description, view.go_on.disabled, view.stop.disabled) == ("Start", False, True)
    assert "ready to start" in view.where.value
    assert view.prepare.disabled, "it is of what is given"
    view.preset.value = "notebook"
    assert not view.prepare.disabled
    assert f"It is of {CONTEXT!r}" in view.where.value


def test_started_it_goes_through_all_stages_and_colors_the_target(view, whole):
    plain = view.model.colorizer.method
    view.target.value = TARGET
    prepared(view)
    assert "colorlab-changed'>blue<" in view.table.value
    assert ("moved" in view.table.value, view.moved.layout.display) == (False, "none"), "nothing was moved yet"
    shown = []
    view.curves.observe(lambda change: shown.append(change.new), "charts")
    view.go_on.click()
    tuning = done(view).tuning
    assert tuning.is_finished
    assert losses(tuning) == losses(whole)
    assert len(shown) >= 3, "curves were live"
    assert view.progress.value == 1.0
    assert "reproduced to" in view.where.value
    assert view.moved.value == str(measure_move(whole.adaptation))
    assert "<th>moved</th>" in view.table.value
    model = view.model
    assert model.colorizer.method is not plain
    assert model.colorizer.method.adaptation.content_hash == whole.adaptation.content_hash
    assert "model tuned on 'a photo of a cat'" in view.in_force.value.replace(CONTEXT, "a photo of a cat")
    assert model.colorizer.method.adaptation.content_hash[:12] in view.in_force.tooltip
    assert view.details.selected_index is None, "what is done is folded away"
    assert model.run.is_finished
    assert (model.run.method, model.run.conditioning.prompt) == (model.colorizer.method, TARGET)
    expected = tiny_colorizer(tiny_diffcolor()).with_adaptation(whole.adaptation)
    assert np.array_equal(model.run.image, expected.start(tiny_picture(), prompt=TARGET).finish(progress=False).image)
    # Another target needs no tuning.
    calls, runs = tuning.num_iterations, len(model.tree)
    view.target.value = "a photo of a red cat"
    view.color.click()
    done(view)
    assert (tuning.num_iterations, len(model.tree)) == (calls, runs + 1)
    assert model.run.conditioning.prompt == "a photo of a red cat"
    assert model.run.method is model.tree[-2].method


def test_stop_acts_within_one_iteration_and_resume_goes_the_same_way(view, whole):
    tuning = prepared(view)
    stop_at(view, 2)
    assert tuning.num_iterations == 2
    assert "stopped" in view.where.value
    assert (view.go_on.description, view.go_on.disabled) == ("Resume", False)
    assert view.model.colorizer.method.adaptation is None, "what is not finished is not put into force by itself"
    view.go_on.click()
    done(view)
    assert losses(tuning) == losses(whole)


def test_stop_acts_within_the_picture_at_a_stages_end(view):
    view.model.settings = view.model.settings.replace(num_inference_steps=20)
    tuning = prepared(view)
    stop_at(view, 3)
    assert (tuning.num_iterations, tuning.stage) == (3, STAGES[0])
    asked = []
    watch(view, lambda slice_number: asked.append(slice_number) or (slice_number == 2 and view.stop.click()))
    view.go_on.click()
    done(view)
    del tuning.slices
    assert asked == [1, 2], "of a picture of eight steps"
    assert (tuning.num_iterations, tuning.stage) == (3, STAGES[0])
    view.go_on.click()
    done(view)
    settings = view.model.settings
    expected = tiny_colorizer(tiny_diffcolor()).tune(tiny_picture(), settings, prompt=CONTEXT, preset="smoke")
    assert losses(tuning) == losses(expected.finish(progress=False))
    assert tuning.adaptation.content_hash == expected.adaptation.content_hash


def test_a_checkpoint_is_chosen_and_rolled_back_to(view, whole):
    tuning = prepared(view)
    view.go_on.click()
    done(view)
    assert [name for name, _ in view.checkpoints.items] == ["0", "2", "3", "5", "6", "8", "9"]
    assert len({bytes(png) for png in view.checkpoints.images}) >= 3, "pictures, not placeholders"
    assert view.roll_back.disabled
    send(view.checkpoints, "select", index=1)
    assert not view.roll_back.disabled
    assert view.details.selected_index is None
    view.roll_back.click()
    done(view)
    assert view.details.selected_index == 0
    assert (tuning.num_iterations, tuning.stage) == (2, "contrastive")
    assert [name for name, _ in view.checkpoints.items] == ["0", "2", "3", "5", "6", "8", "9"]
    assert view.curves.charts[0]["last"] == 2
    view.go_on.click()
    done(view)
    assert losses(tuning) == losses(whole)


def test_a_warning_stays_until_what_it_is_about_is_taken_back(view):
    prepared(view)
    view.go_on.click()
    done(view)
    view.tuning.notice, view.tuning._noticed_at = "Stage 1's picture does not follow the gray one.", 3
    for number in (5, 3):
        view.tuning.roll_back(number)
        done(view)
        assert view.notice.value != "", number
    view.tuning.roll_back(2)
    done(view)
    assert view.notice.value == ""


def test_curves_are_those_of_the_rows_and_every_stage_can_be_looked_at(view):
    tuning = prepared(view)
    assert view.curves.charts == []
    view.go_on.click()
    done(view)
    assert view.stages.selected == 2
    send(view.stages, "select", index=0)
    charts = {chart["title"]: chart for chart in view.curves.charts}
    assert list(charts) == ["loss", "similarity", "margin", "chroma"]
    margins = [row["margin"] for row in tuning.state.rows if row["stage"] == "contrastive"]
    assert charts["margin"]["lines"][0]["values"] == pytest.approx(margins, rel=1e-4)
    assert [line["name"] for line in charts["similarity"]["lines"]] == [*tuning.texts[1:], "context"]
    send(view.stages, "select", index=1)
    assert [chart["title"] for chart in view.curves.charts] == ["loss", "moved"]
    mean = view.curves.charts[0]["lines"][1]["values"]
    assert mean[-1] == pytest.approx(np.mean([row["loss"] for row in tuning.state.rows[3:6]]), rel=1e-4)


@pytest.mark.parametrize(
    ("context", "words"),
    [("a photo of a blue cat", "already names the color 'blue'"), ("cat", "No object was found")],
)
def test_a_context_that_cannot_be_used_is_said_beside_it(view, context, words):
    view.context.value = context
    view.prepare.click()
    done(view)
    assert words in view.problem.value
    assert view.problem.layout.display is None
    assert view.tuning.tuning is None
    view.context.value = CONTEXT
    prepared(view)
    assert view.problem.value == ""


def test_a_target_that_does_not_fit_is_said_before_it_is_colored(view):
    prepared(view)
    view.target.value = "a photo of a blue dog"
    assert "is not the context" in view.misfit.value
    assert view.table.value == ""
    view.go_on.click()
    done(view)
    assert "is not the context" in view.problem.value
    assert view.tuning.tuning.is_finished
    assert view.tuning.is_in_force, "the tuning is done all the same"
    assert view.model.run is None


def test_warnings_of_the_tuning_are_told_in_the_panel(view):
    prepared(view)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view.go_on.click()
        done(view)
    assert "does not follow the gray one" in view.notice.value or "The reconstruction reaches" in view.notice.value


def test_other_work_is_served_while_it_tunes(view):
    tuning = prepared(view)
    numbers = []

    def look(slice_number):
        if slice_number == 1:
            view.model.colorize()
            view.model.observe(lambda change: numbers.append(tuning.num_iterations), "run")

    watch(view, look)
    view.go_on.click()
    done(view)
    assert numbers[0] == 1, "the run came after the first iteration"
    assert tuning.is_finished


def test_the_model_before_tuning_comes_back(view):
    plain = view.model.colorizer.method
    prepared(view)
    stop_at(view, 4)
    assert view.plain.disabled
    view.color.click()
    done(view)
    tuned = view.model.run
    assert tuned.method.adaptation.stages == ("contrastive", "embedding")
    assert not view.plain.disabled
    view.plain.click()
    done(view)
    assert view.model.colorizer.method is plain
    assert view.model.is_changed
    assert "plain model" in view.in_force.value
    view.model.colorize()
    done(view)
    assert view.model.run.method is plain
    view.model.go_to(tuned)
    done(view)
    assert view.model.colorizer.method is tuned.method, "a run brings its model back"


def test_a_tuning_is_kept_in_a_file_and_opened_by_another_studio(view, tmp_path, whole):
    path = tmp_path / "cat.tuning"
    view.path.value = str(path)
    prepared(view)
    stop_at(view, 5)
    other = ViewModel(tiny_colorizer(tiny_diffcolor()), np.full((32, 32), 0.5))
    second = TuningView(other)
    second.preset.value = "smoke"
    second.path.value = str(tmp_path / "none.tuning")
    second.open.click()
    done(second)
    assert "There is no tuning" in second.problem.value
    second.path.value = str(path)
    second.open.click()
    done(second)
    tuning = second.tuning.tuning
    assert tuning.num_iterations == 5
    assert second.context.value == CONTEXT
    assert np.array_equal(other.conditioning.gray, view.model.conditioning.gray)
    second.go_on.click()
    done(second)
    assert losses(tuning) == pytest.approx(losses(whole), abs=1e-6)
    second.close()
    other.close()


def test_the_eta_sheet_is_made_step_by_step_and_can_be_stopped(view):
    view.target.value = TARGET
    prepared(view)
    view.go_on.click()
    done(view)
    view.make_sheet.click()
    while view.model.colorizer.method.network_calls["unet"] == 0:
        time.sleep(0.01)
    view.stop.click()
    done(view)
    assert view.tuning.sheet is None
    view.make_sheet.click()
    done(view)
    assert list(view.tuning.sheet.pictures) == ["eta 0", "eta 0.3", "eta 0.6", "eta 0.9", "eta 1.2", "eta 1.5"]
    assert view.sheet.layout.display is None
    margins = view.tuning.sheet.array
    assert view.sheet.items[2][0] == f"eta 0.6, {margins[2]:.2f}"
    assert len(view.sheet.images) == 6
    assert view.sheet_caption.value == f"eta, CLIP margin. {view.tuning.sheet.caption}"
    send(view.sheet, "select", index=2)
    assert view.model.settings.mechanisms["embedding_path"]["eta"] == 0.6
    view.etas.all.value = 0.35
    assert view.model.settings.mechanisms["embedding_path"]["eta"] == 0.35


def test_a_long_tuning_shows_as_many_checkpoints_as_can_be_seen(view):
    tuning = prepared(view)
    state = tuning.state
    tuning.checkpoints = Checkpoints(2**30)
    for number in range(90):
        rows = tuple({"stage": "contrastive", "iteration": k} for k in range(number))
        tuning.checkpoints.keep(type(state)("contrastive", number, rows=rows))
    view._show_course()
    assert len(view.checkpoints.items) == 24
    assert view.checkpoints.items[0][0] == "0"
    assert view.checkpoints.items[-1][0] == "89"


def test_only_models_that_tune_have_the_tab_and_a_closed_studio_stops_tuning():
    studio = Studio(tiny_colorizer(tiny_lcad()), Conditioning(gray=tiny_picture()))
    assert "Tuning" not in studio.views
    studio.close()
    studio = Studio(tiny_colorizer(tiny_diffcolor()), Conditioning(gray=tiny_picture(), prompt=CONTEXT))
    assert next(iter(studio.views)) == "Tuning"
    view = studio.views["Tuning"]
    view.preset.value = "smoke"
    view.prepare.click()
    assert studio.model.worker.join(60)
    tuning = view.tuning.tuning
    view.go_on.click()
    while not tuning.num_iterations:
        time.sleep(0.01)
    assert TUNING in studio.status.activity
    studio.close()
    number = tuning.num_iterations
    assert not tuning.is_finished
    time.sleep(0.2)
    assert tuning.num_iterations == number


def test_a_full_disk_is_told_in_the_panel_and_nothing_is_lost(view, tmp_path, whole, monkeypatch):
    @contextlib.contextmanager
    def full(path, *, is_durable=False):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    path = tmp_path / "cat.tuning"
    view.path.value = str(path)
    tuning = prepared(view)
    first = path.read_bytes()
    monkeypatch.setattr("colorlab.runs.run_file.atomic_file", full)
    stop_at(view, 2)
    assert "no space left on device" in view.notice.value
    assert path.read_bytes() == first
    monkeypatch.undo()
    view.go_on.click()
    done(view)
    assert losses(tuning) == losses(whole)
    assert view.model.colorizer.without_adaptation().resume_tuning(path).is_finished
