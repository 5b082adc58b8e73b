"""The views: what the page sends changes the view-model, and what the view-model says is what the page is given."""

import io
from dataclasses import replace

import numpy as np
import pytest
from colorlab_widgets import (
    AttentionExplorer,
    BranchTree,
    CompareView,
    InstanceView,
    MechanismPanel,
    ProvenanceView,
    StepPlayer,
    TrajectoryView,
    ViewModel,
)
from colorlab_widgets.mechanism_panel import Shown, register_exhibit_view, show_arrows
from colorlab_widgets.pictures import as_colors
from pages import confirm, number_of_widgets, send
from PIL import Image
from tiny import tiny_colorizer, tiny_ctrlcolor, tiny_diffcolor, tiny_picture

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.exhibits import Exhibit
from colorlab.strokes import Stroke, Strokes


@pytest.fixture
def model(colorizer, picture):
    model = ViewModel(colorizer, Conditioning(gray=picture, prompt="a red disc"))
    yield model
    model.close()


@pytest.fixture
def ran(model):
    """A model whose first run is finished."""
    model.colorize()
    return done(model)


def done(model):
    assert model.worker.join(60)
    assert model.error == ""
    return model


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


class TestStepPlayer:
    def test_a_run_that_begins_at_a_picture_says_why_it_has_fewer_steps(self, model):
        player = StepPlayer(model)
        model.colorize()
        done(model)
        assert (player.page.num_steps_set, player.page.shortened) == (4, "")
        model.close()
        started = ViewModel(tiny_colorizer(tiny_diffcolor()), Conditioning(gray=tiny_picture(), prompt="a ball"))
        page = StepPlayer(started).page
        started.settings = started.settings.replace(num_inference_steps=5, strength=0.6)
        started.colorize()
        done(started)
        assert (page.num_steps, page.num_steps_set) == (3, 5)
        assert page.shortened == "3 of 5, as strength 0.6 leaves the first ones out"
        started.close()

    def test_the_buttons_of_the_page_step_rewind_and_play(self, model):
        page = StepPlayer(model).page
        send(page, "take_step")
        send(page, "take_step")
        done(model)
        assert (page.steps_taken, page.step, page.num_steps) == (2, 1, 4)
        send(page, "look", step=0)
        done(model)
        assert (model.step, page.step) == (0, 0)
        send(page, "rewind")
        done(model)
        assert page.steps_taken == 1
        send(page, "play")
        done(model)
        assert (page.steps_taken, page.step, page.is_running) == (4, 4, False)

    def test_every_step_has_the_frame_of_its_prediction(self, ran):
        page = StepPlayer(ran).page
        done(ran)
        run = ran.run
        assert len(page.frames) == 5
        for step, frame in enumerate(page.frames):
            assert np.array_equal(decoded(frame), run.preview(step))

    def test_branching_where_the_page_looks_makes_another_run(self, ran):
        page = StepPlayer(ran).page
        first = ran.run
        send(page, "look", step=2)
        done(ran)
        ran.conditioning = ran.conditioning.replace(prompt="a blue disc")
        assert page.is_changed
        send(page, "branch")
        done(ran)
        assert ran.tree.parent(ran.run) is first
        assert ran.tree.fork(ran.run).step_index == 2
        assert np.array_equal(decoded(page.frames[-1]), ran.run.image)

    def test_frames_of_one_run_do_not_stay_for_another(self, ran):
        page = StepPlayer(ran).page
        done(ran)
        before = list(page.frames)
        ran.settings = ran.settings.replace(seed=5)
        ran.colorize()
        done(ran)
        assert len(page.frames) == 5
        assert page.frames != before
        ran.rewind(2)
        done(ran)
        assert len(page.frames) == 2


class TestAttentionExplorer:
    def test_a_click_shows_where_the_pixel_looks(self, ran):
        view = AttentionExplorer(ran)
        send(view.picture, "click", x=20.0, y=11.0)
        done(ran)
        expected = ran.run.attention(3, pixel=(20.0, 11.0)).array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))
        assert view.picture.marks == [[20.0, 11.0]]
        assert "pixel (20, 11)" in view.caption.value
        assert "exact" in view.caption.value
        assert [name for name, _ in view.heads.items] == ["mean", "head 0", "head 1", "by chance"]
        shown = {bar["name"] for bar in view.looked_at.bars}
        assert not any(name.startswith("<|") for name in shown)

    def test_a_word_is_chosen_and_let_go(self, ran):
        view = AttentionExplorer(ran)
        assert view.words.words == ["a", "red", "disc"]
        send(view.words, "select", index=1)
        done(ran)
        assert (ran.word, view.words.selected) == ("red", 1)
        expected = ran.run.attention(3, word="red").array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))
        send(view.words, "select", index=-1)
        done(ran)
        assert (ran.word, view.picture.overlay, view.heads.items) == ("", b"", [])

    def test_the_same_word_twice_is_told_apart(self, ran):
        view = AttentionExplorer(ran)
        ran.conditioning = ran.conditioning.replace(prompt="a disc a")
        ran.colorize()
        send(view.words, "select", index=2)
        done(ran)
        assert (ran.word, ran.occurrence, view.words.selected) == ("a", 1, 2)
        expected = ran.run.attention(3, word="a", occurrence=1).array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))

    def test_direction_layer_head_and_step_are_followed(self, ran):
        view = AttentionExplorer(ran)
        ran.pixel = (20, 11)
        view.direction.value = "to"
        site = next(path for _, path in view.site.options if path and path.endswith("attn1"))
        view.site.value = site
        send(view.heads, "select", index=0)
        done(ran)
        send(view.heads, "select", index=2)
        ran.look_at(1)
        done(ran)
        expected = ran.run.attention(1, pixel=(20, 11), direction="to", site=site, head=1).array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))

    def test_a_stroke_can_be_asked_about(self, ran):
        view = AttentionExplorer(ran)
        stroke = Stroke([(10, 10), (30, 20)], (200, 0, 0), 4)
        ran.region = stroke
        done(ran)
        expected = ran.run.attention(3, region=stroke).array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))

    def test_the_newest_question_is_answered_last(self, ran):
        view = AttentionExplorer(ran)
        view.hover.value = True
        for x in range(5, 40):
            send(view.picture, "hover", x=float(x), y=9.0)
        done(ran)
        expected = ran.run.attention(3, pixel=(39.0, 9.0)).array
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected))

    def test_a_hidden_view_asks_nothing_until_it_is_shown(self, ran):
        view = AttentionExplorer(ran)
        view.set_shown(False)
        ran.pixel = (20, 11)
        done(ran)
        assert view.picture.overlay == b""
        view.set_shown(True)
        done(ran)
        assert view.picture.overlay != b""

    def test_what_cannot_be_asked_is_said_in_place(self, ran):
        view = AttentionExplorer(ran)
        ran.pixel = (1000, 11)
        assert ran.worker.join(60)
        assert view.picture.overlay == b""
        assert view.caption.value != ""


class TestBranchTree:
    def test_rows_say_what_was_changed_and_lead_to_their_run(self, ran):
        view = BranchTree(ran)
        first = ran.run
        ran.conditioning = ran.conditioning.replace(prompt="a blue disc")
        ran.branch(2)
        done(ran)
        rows = view.page.rows
        assert [(row["name"], row["depth"], row["parent"], row["is_current"]) for row in rows] == [
            ("run-0", 0, -1, False),
            ("run-1", 1, 0, True),
        ]
        assert rows[1]["change"] == "from step 2: prompt 'a blue disc'"
        send(view.page, "go_to", name="run-0")
        done(ran)
        assert ran.run is first
        assert [row["is_current"] for row in view.page.rows] == [True, False]
        assert decoded(view.page.thumbnails[0]).shape == first.image.shape

    def test_fresh_runs_say_which_edits_and_strokes_they_have_and_what_is_set_otherwise(self, ran):
        view = BranchTree(ran)
        subject = ran.run.subject
        stroke = Stroke([(2, 2), (9, 9)], (200, 40, 40), 2.0)
        edits = (Manipulation("the blue flower", 8.0, anchor_text="the red flower"),)
        ran.conditioning = ran.conditioning.replace(strokes=Strokes([stroke, stroke]), manipulations=edits)
        ran.settings = ran.settings.replace(guidance_scale=3.0)
        ran.colorize()
        done(ran)
        changes = [row["change"] for row in view.page.rows]
        words, _, seed = subject.rpartition(", ")
        assert changes == [subject, f"{words}, edits: the blue flower, 2 strokes, {seed}, guidance scale 3.0"]
        moved = replace(edits[0], thresholds=(0.1, 0.2, 0.3, 0.4))
        ran.conditioning = ran.conditioning.replace(manipulations=(moved,))
        ran.colorize()
        done(ran)
        assert view.page.rows[-1]["change"].endswith(f"2 strokes, {seed}, thresholds (0.1, 0.2, 0.3, 0.4)")
        ran.conditioning = ran.conditioning.replace(strokes=Strokes([stroke]), manipulations=())
        ran.branch(1)
        done(ran)
        assert view.page.rows[-1]["change"] == "from step 1: 1 stroke, no edits"

    def test_runs_are_renamed_and_pruned_from_the_page(self, ran):
        view = BranchTree(ran)
        ran.set_mechanism("luminance_guidance", is_on=False)
        ran.branch(1)
        done(ran)
        assert view.page.rows[1]["change"] == "from step 1: luminance guidance: off"
        send(view.page, "rename", name="run-1", new_name="plain")
        assert view.page.rows[1]["name"] == "plain"
        send(view.page, "rename", name="plain", new_name="run-0")
        assert "is the name of another run" in ran.error
        ran.error = ""
        send(view.page, "prune", name="run-0")
        done(ran)
        assert (view.page.rows, ran.run) == ([], None)
        send(view.page, "go_to", name="run-0")
        assert "No run is called 'run-0'" in view.page.problem


class TestCompareView:
    def test_two_runs_and_their_difference(self, ran):
        view = CompareView(ran)
        assert view.page.first == b""
        first = ran.run
        ran.conditioning = ran.conditioning.replace(prompt="a blue disc")
        ran.colorize()
        done(ran)
        assert (view.first.value, view.second.value) == ("run-0", "run-1")
        assert np.array_equal(decoded(view.page.first), first.image)
        assert np.array_equal(decoded(view.page.second), ran.run.image)
        assert "Color difference between run-0 and run-1" in view.caption.value
        view.is_map_shown.value = True
        done(ran)
        assert decoded(view.page.overlay).shape == first.image.shape


class TestTrajectoryView:
    def test_the_path_and_the_settle_map(self, ran):
        view = TrajectoryView(ran)
        done(ran)
        assert np.allclose(view.path.points, ran.run.trajectory().array.T, atol=1e-6)
        assert len(view.path.baseline) == 5
        expected = ran.run.settled().array
        assert np.array_equal(decoded(view.settled.overlay), as_colors(expected, (0, 4)))
        send(view.path, "select", index=2)
        done(ran)
        assert (ran.step, view.path.selected) == (1, 2)
        send(view.path, "select", index=4)
        done(ran)
        assert ran.step == 4


class TestProvenanceView:
    def test_the_cost_is_told_before_and_the_shares_after(self, ran):
        view = ProvenanceView(ran)
        assert view.ask.disabled
        send(view.picture, "click", x=20.0, y=11.0)
        done(ran)
        assert "calls" in view.cost.value
        assert not view.ask.disabled
        assert view.cancel.disabled, "nothing runs"
        offered = []
        view.cancel.observe(lambda change: offered.append(not change.new), "disabled")
        view.ask.click()
        done(ran)
        assert offered[0]
        assert view.cancel.disabled
        expected = ran.run.study.provenance(pixel=(20.0, 11.0), fast=True, baseline=True, progress=False)
        assert [bar["name"] for bar in view.bars.bars] == list(expected.provenance["labels"])
        assert np.allclose([bar["value"] for bar in view.bars.bars], expected.array)
        assert np.allclose([bar["baseline"] for bar in view.bars.bars], expected.baseline)

    def test_a_study_that_is_cancelled_says_how_far_it_came(self, ran):
        view = ProvenanceView(ran)
        ran.pixel = (20, 11)
        done(ran)
        view.is_fast.value = False
        done(ran)
        view.progress.observe(lambda change: view.cancel.click() if change.new else None, "value")
        view.ask.click()
        assert ran.worker.join(60)
        assert "stopped" in view.cost.value or "stopped" in view.caption.value or view.bars.bars == []
        assert not ran.is_busy


class TestMechanismPanel:
    def test_switches_and_parameters_become_settings_and_follow_them(self, model):
        view = MechanismPanel(model)
        controls = view.controls["luminance_guidance"]
        controls["is_on"].value = False
        controls["gain"].value = 2.0
        assert model.settings.mechanisms["luminance_guidance"] == {"is_on": False, "gain": 2.0}
        model.settings = model.settings.with_mechanism("luminance_guidance", is_on=True)
        assert controls["is_on"].value is True
        controls["tap_gains"].value = "1, x"
        assert "a list of numbers" in view.problem.value
        assert controls["tap_gains"].value == ""

    def test_switching_how_it_is_decoded_takes_no_step(self, ran):
        view = MechanismPanel(ran)
        first = ran.run
        view.controls["luminance_guidance"]["is_on"].value = False
        assert ran.changes_decoding_only
        ran.apply()
        done(ran)
        assert ran.tree.parent(ran.run) is first
        assert ran.run.cost["predict"].network_calls == 0
        assert not np.array_equal(ran.run.image, first.image)

    def test_exhibits_of_every_mechanism_are_shown(self, ran):
        view = MechanismPanel(ran)
        view.ask.click()
        done(ran)
        assert "luminance guidance: tap 0" in view.exhibits.words
        index = view.exhibits.words.index("luminance guidance: tap 0")
        send(view.exhibits, "select", index=index)
        confirm(view.picture)
        expected = ran.run.explain()["luminance_guidance.tap_0"]
        assert np.array_equal(decoded(view.picture.overlay), as_colors(expected.array))
        assert view.caption.value == expected.caption

    def test_offsets_of_the_deformable_decoder_are_arrows_from_their_cells(self, picture):
        model = ViewModel(tiny_colorizer(tiny_ctrlcolor()), Conditioning(gray=picture, prompt="a red disc"))
        view = MechanismPanel(model)
        model.colorize()
        done(model)
        view.ask.click()
        done(model)
        index = next(place for place, name in enumerate(view.exhibits.words) if name.endswith("offsets"))
        send(view.exhibits, "select", index=index)
        assert len(view.picture.arrows) > 0
        height, width = model.image_size
        assert all(0 <= x <= width and 0 <= y <= height for x, y, _, _ in view.picture.arrows)
        model.close()

    def test_an_arrow_of_one_cell_is_as_long_as_a_cell(self):
        offsets = np.zeros((9, 4, 4, 2), dtype=np.float32)
        offsets[:, 1, 2] = (1, 0)
        exhibit = Exhibit(offsets, ("tap", "h", "w", "xy"), "cells", "Offsets.", kind="arrows")
        shown = show_arrows(exhibit, tiny_picture(40, 80)[..., None].repeat(3, -1))
        assert [50.0, 15.0, 70.0, 15.0] in shown.arrows

    def test_a_kind_of_exhibit_can_have_a_view_of_its_own(self, ran):
        seen = []

        @register_exhibit_view("image")
        def show(exhibit, picture):
            seen.append(exhibit)
            return Shown(picture)

        view = MechanismPanel(ran)
        view._take({"a.b": (Exhibit(np.zeros((2, 2, 3)), ("H", "W", "c"), "", "Black.", kind="image"), ran.picture)})
        assert len(seen) == 1


@pytest.mark.parametrize(
    "kind",
    [
        AttentionExplorer,
        BranchTree,
        CompareView,
        InstanceView,
        MechanismPanel,
        ProvenanceView,
        StepPlayer,
        TrajectoryView,
    ],
)
def test_a_closed_view_leaves_no_widget_and_follows_nothing(ran, kind):
    before = number_of_widgets()
    view = kind(ran)
    done(ran)
    view.close()
    view.close()
    assert number_of_widgets() <= before + 2
    ran.colorize()
    done(ran)


def test_runs_leave_no_widgets_behind(ran):
    views = [AttentionExplorer(ran), BranchTree(ran), CompareView(ran), StepPlayer(ran), TrajectoryView(ran)]
    done(ran)
    before = number_of_widgets()
    for seed in range(3):
        ran.settings = ran.settings.replace(seed=seed + 1)
        ran.colorize()
        done(ran)
    assert number_of_widgets() == before
    for view in views:
        view.close()
