"""The Studio joins the views around one view-model; live mode follows with previews and settles on full runs."""

import io
import re
import threading
import time

import ipywidgets
import numpy as np
import pytest
from colorlab_widgets import Studio
from colorlab_widgets.live import LiveMode
from pages import number_of_widgets, send
from PIL import Image
from tiny import (
    tiny_colorizediffusion,
    tiny_colorizer,
    tiny_ctrlcolor,
    tiny_diffcolor,
    tiny_lcad,
    tiny_text_to_image,
)

import colorlab
from colorlab.conditioning import Conditioning
from colorlab.runs.quick import quick_preview
from colorlab.strokes import Stroke, Strokes


@pytest.fixture
def studio(colorizer, picture):
    studio = Studio(colorizer, Conditioning(gray=picture, prompt="a red disc"))
    yield studio
    studio.close()


def done(studio):
    assert studio.model.worker.join(60)
    assert studio.model.error == ""
    return studio.model


def settled(studio, seconds=30):
    """Wait until the full run that live mode owes is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        model = studio.model
        if not model.is_busy and not model.is_changed and model.run is not None and model.run.is_finished:
            return model
        time.sleep(0.02)
    raise AssertionError("no full run came")


def test_words_and_settings_are_given_and_the_button_colorizes(studio):
    given = studio.given
    given.prompt.value = "a blue disc"
    given.settings["num_inference_steps"].value = 3
    given.settings["seed"].value = 7
    given.settings["solver"].value = "euler"
    assert given.colorize.button_style == "primary"
    given.colorize.click()
    run = done(studio).run
    assert (run.conditioning.prompt, run.settings.seed, run.settings.solver, run.num_steps) == (
        "a blue disc",
        7,
        "euler",
        3,
    )
    assert given.colorize.button_style == ""
    assert (studio.status.is_busy, studio.status.progress, studio.status.error) == (False, 1.0, "")


def test_what_a_model_does_not_read_is_not_asked_for(studio):
    sketched = Studio(tiny_colorizer(tiny_colorizediffusion()), Conditioning(sketch=np.ones((32, 32), np.float32)))
    painted = Studio(tiny_colorizer(tiny_ctrlcolor()), Conditioning(gray=np.full((32, 32), 0.5)))
    for each, words, tool in ((sketched, "none", "look"), (studio, None, "look"), (painted, None, "brush")):
        assert [getattr(each.given, name).layout.display for name in ("prompt", "negative_prompt")] == [words, words]
        assert each.painter._layer.tool == tool
        assert each.painter._controls.tool.index == each.painter._layer.tool_index
    sketched.close()
    painted.close()


def test_going_to_another_run_brings_back_what_it_was_given(studio):
    studio.given.colorize.click()
    done(studio)
    studio.given.prompt.value = "a green disc"
    studio.given.colorize.click()
    done(studio)
    send(studio.history.page, "go_to", name="run-0")
    done(studio)
    assert studio.given.prompt.value == "a red disc"
    assert not studio.model.is_changed


def test_an_error_is_a_sentence_in_the_status(studio):
    studio.given.settings["solver"].value = "euler"
    studio.model.settings = studio.model.settings.replace(eta=0.5)
    studio.given.colorize.click()
    assert studio.model.worker.join(60)
    assert "euler adds no noise" in studio.status.error
    send(studio.status, "stop")


def test_only_the_tab_that_is_seen_works(studio):
    studio.given.colorize.click()
    done(studio)
    assert studio.views.made == ("Attention",)
    studio.bring("Trajectory")
    assert studio.views.made == ("Attention", "Trajectory")
    assert not studio.views["Attention"].is_shown
    done(studio)
    assert len(studio.views["Trajectory"].path.points) == 5


CONTROLS = (
    ipywidgets.Button,
    ipywidgets.Checkbox,
    ipywidgets.ColorPicker,
    ipywidgets.Dropdown,
    ipywidgets.FileUpload,
    ipywidgets.Text,
    ipywidgets.ToggleButton,
    ipywidgets.ToggleButtons,
)
NUMBERS = (
    ipywidgets.BoundedIntText,
    ipywidgets.FloatLogSlider,
    ipywidgets.FloatSlider,
    ipywidgets.IntRangeSlider,
    ipywidgets.IntSlider,
)
UNIT = re.compile(r"\d to \d|no unit|pixels|Steps|noise a run starts from")


def below(widget):
    return [widget, *(part for child in getattr(widget, "children", ()) for part in below(child))]


@pytest.mark.parametrize("method", [tiny_lcad, tiny_ctrlcolor, tiny_colorizediffusion, tiny_diffcolor])
def test_every_control_says_what_it_does_and_numbers_their_unit(method, picture):
    given = {"gray": picture, "sketch": picture, "exemplar": np.stack([picture] * 3, -1)}
    colorizer = tiny_colorizer(method())
    reads = colorizer.method.fields_read()
    studio = Studio(colorizer, Conditioning(**{name: value for name, value in given.items() if name in reads}))
    for name in studio.views:
        studio.bring(name)
    controls = [widget for widget in below(studio) if isinstance(widget, (*CONTROLS, *NUMBERS))]
    assert len(controls) > 40
    silent = [
        (type(control).__name__, getattr(control, "description", ""))
        for control in controls
        if not (all(control.tooltips) if isinstance(control, ipywidgets.ToggleButtons) else control.tooltip)
        and control.layout.display != "none"
    ]
    assert silent == []
    without_unit = [
        control.tooltip for control in controls if isinstance(control, NUMBERS) and not UNIT.search(control.tooltip)
    ]
    assert without_unit == []
    assert studio.model.worker.join(60)
    studio.close()


@pytest.mark.parametrize(
    "method",
    [
        tiny_lcad,
        tiny_ctrlcolor,
        tiny_text_to_image,
        tiny_diffcolor,
        tiny_colorizediffusion,
        lambda: tiny_colorizediffusion(reads="global"),
    ],
)
def test_every_model_opens_with_every_tab_and_colorizes(method, picture):
    colorizer = tiny_colorizer(method())
    given = {"gray": picture, "sketch": picture, "exemplar": np.stack([picture] * 3, -1), "prompt": "a red disc"}
    reads = colorizer.method.fields_read()
    studio = Studio(colorizer, Conditioning(**{name: value for name, value in given.items() if name in reads}))
    studio.given.colorize.click()
    model = done(studio)
    assert model.run.is_finished
    for name in studio.views:
        studio.bring(name)
        assert model.worker.join(60)
        assert model.error == ""
    assert ("Instances" in studio.views) == (method is tiny_lcad)
    studio.views["Mechanisms"].ask.click()
    done(studio)
    assert studio.views.made == tuple(dict.fromkeys([studio.views.made[0], *studio.views]))
    studio.close()


def test_an_upload_is_the_next_picture_and_strokes_of_another_size_go(studio):
    studio.model.strokes = Strokes([Stroke([(5, 5)], (200, 0, 0), 3)])
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 32, 3), 90, dtype=np.uint8)).save(buffer, format="png")
    upload = {"name": "a.png", "type": "image/png", "size": 1, "content": buffer.getvalue(), "last_modified": 0}
    studio.views["Files"].upload.set_state({"value": [upload]})
    assert studio.model.image_size == (24, 32)
    assert len(studio.model.strokes) == 0
    studio.views["Files"].upload.set_state({"value": [{**upload, "content": b"no picture"}]})
    assert "no picture that can be read" in studio.views["Files"].caption.value


def test_an_exemplar_is_offered_to_models_that_read_one(studio, picture):
    assert studio.views["Files"]._exemplar_part.layout.display == "none"
    other = Studio(tiny_colorizer(tiny_ctrlcolor()), picture)
    assert other.views["Files"]._exemplar_part.layout.display is None
    other.close()


def test_runs_are_saved_and_opened_again(studio, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    studio.given.colorize.click()
    done(studio)
    studio.views["Files"].save.click()
    done(studio)
    assert "picture.colorlab" in studio.views["Files"].caption.value
    opened = colorlab.open(tmp_path / "picture.colorlab", studio.model.colorizer)
    assert np.array_equal(opened.image, studio.model.run.image)


@pytest.mark.parametrize("tiny", [tiny_lcad, tiny_ctrlcolor, tiny_colorizediffusion])
def test_every_slider_of_a_mechanism_has_a_place_at_its_default(tiny, picture):
    """The page moves a slider to the nearest place, and would so change what is only looked at."""
    studio = Studio(tiny_colorizer(tiny()), Conditioning(gray=picture, sketch=picture))
    controls = studio.views["Mechanisms"].controls
    sliders = [each for parts in controls.values() for each in parts.values() if hasattr(each, "step")]
    assert len(sliders) >= 2
    for slider in sliders:
        place = (slider.value - slider.min) / slider.step
        assert place == pytest.approx(round(place), abs=1e-6), slider.description
        assert slider.step <= (slider.max - slider.min) / 99
    before = studio.model.settings
    for slider in sliders:
        slider.value = np.nextafter(slider.value, slider.min)
    assert studio.model.settings is before, "what the page sends back differs in the last digit"
    sliders[0].value = slider.min if (slider := sliders[0]).value > slider.min else slider.max
    assert studio.model.settings != before
    studio.close()


def test_live_mode_shows_a_preview_and_then_the_full_run(studio):
    studio.given.colorize.click()
    first = done(studio).run
    previews = []
    studio.model.observe(lambda change: previews.append(studio.model.picture) if change.new else None, "is_preview")
    studio.given.is_live.value = True
    studio.given.prompt.value = "a blue disc"
    model = settled(studio)
    assert model.run is not first
    assert model.run.conditioning.prompt == "a blue disc"
    assert len(previews) == 1
    assert not model.is_preview
    assert np.array_equal(model.picture, model.run.image)
    assert len(model.tree) == 2


def test_while_a_pointer_is_down_there_are_previews_and_no_run(studio):
    studio.given.colorize.click()
    first = done(studio).run
    studio.model.is_live = True
    studio.model.is_held = True
    shown = threading.Event()
    studio.model.observe(lambda change: shown.set() if change.new else None, "is_preview")
    for gain in (0.5, 1.5, 2.0):
        studio.model.settings = studio.model.settings.replace(guidance_scale=1 + gain)
    assert shown.wait(30)
    time.sleep(3 * studio.live.settle_s)
    assert studio.model.worker.join(60)
    assert studio.model.run is first
    studio.model.is_held = False
    assert settled(studio).run.settings.guidance_scale == 3.0


def test_while_a_pointer_is_down_previews_are_hasty_and_one_of_all_steps_follows_when_it_is_up(studio, monkeypatch):
    asked = []

    def preview(run, conditioning, settings, *, num_steps):
        asked.append(num_steps)
        return quick_preview(run, conditioning, settings, num_steps=num_steps)

    monkeypatch.setattr("colorlab_widgets.live.quick_preview", preview)
    studio.given.colorize.click()
    model = done(studio)
    model.is_held = model.is_live = True
    model.settings = model.settings.replace(guidance_scale=2.0)
    done(studio)
    assert asked == [2]
    model.is_held = False
    model.settings = model.settings.replace(guidance_scale=3.0)
    settled(studio)
    assert asked == [2, 4]


def test_a_preview_stays_until_the_full_run_knows_better(studio):
    studio.given.colorize.click()
    model = done(studio)
    model.settings = model.settings.replace(num_inference_steps=30)
    model.is_held = model.is_live = True
    model.conditioning = model.conditioning.replace(prompt="a blue disc")
    done(studio)
    preview = model.picture
    begun, frames = [], []
    model.observe(lambda change: begun.append((model.is_preview, model.picture is preview)), "steps_taken")
    model.observe(lambda change: frames.append((model.is_preview, model.steps_taken)), "picture")
    model.is_held = False
    settled(studio)
    assert begun[0] == (True, True)
    assert frames
    assert all(not is_preview and taken >= 15 for is_preview, taken in frames), "nothing before half of the steps"
    assert not model.is_preview


def test_of_many_changes_the_newest_is_previewed_last(colorizer, picture):
    studio = Studio(colorizer, Conditioning(gray=picture, prompt="a red disc"))
    studio.given.colorize.click()
    first = done(studio).run
    studio.model.is_held = True
    studio.model.is_live = True
    for seed in range(1, 30):
        studio.model.settings = studio.model.settings.replace(guidance_scale=1 + seed / 10)
    assert studio.model.worker.join(60)
    # A pointer is down: previews are hasty.
    expected = list(quick_preview(first, studio.model.conditioning, studio.model.settings, num_steps=2))[-1]
    assert np.array_equal(studio.model.picture, expected)
    studio.close()


def test_closed_live_mode_does_nothing(studio):
    live = LiveMode(studio.model)
    live.close()
    live.close()


def test_a_closed_studio_leaves_no_widget_and_no_thread(colorizer, picture):
    before = number_of_widgets()
    studio = Studio(colorizer, Conditioning(gray=picture, prompt="a red disc"), is_live=True)
    studio.given.colorize.click()
    done(studio)
    run = studio.model.run
    studio.close()
    assert number_of_widgets() <= before + 3
    assert run.image.shape[:2] == picture.shape
    assert not any(thread.name == "colorlab worker" for thread in threading.enumerate() if thread.is_alive())
