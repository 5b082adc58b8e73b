"""Text edits in the Studio: where they act is shown at once, and what is let go becomes part of what is given."""

import io
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from colorlab_widgets import MechanismPanel, Studio, TextEditsView, ViewModel
from colorlab_widgets.sketched_exhibits import show_matrix
from colorlab_widgets.text_edits_view import _Encoded
from pages import confirm, number_of_widgets, send
from PIL import Image
from tiny import tiny_colorizediffusion, tiny_colorizer

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.exhibits import Exhibit
from colorlab.mechanisms.global_manipulation import TextEdit
from colorlab.methods.base import ConditioningWarning
from colorlab.sketches import is_inverted

EDITS = (
    Manipulation("blue", 8.0, anchor_text="red", control_text="car"),
    Manipulation("green", 5.0, control_text="tree"),
)


@pytest.fixture(scope="module")
def given():
    sketch = np.ones((40, 56), np.float32)
    sketch[10:30, 20] = sketch[10:30, 40] = 0
    exemplar = np.kron(np.random.default_rng(0).random((4, 6, 3)), np.ones((8, 8, 1)))
    return Conditioning(sketch=sketch, exemplar=exemplar, manipulations=EDITS)


@pytest.fixture
def model(given):
    model = ViewModel(tiny_colorizer(tiny_colorizediffusion()), given)
    yield model
    model.close()


def done(model):
    assert model.worker.join(60)
    assert model.error == ""
    return model


def weights_of(model, index, **fields):
    """The weights of an edit as the method finds them for a run."""
    edits = list(model.conditioning.manipulations)
    edits[index] = replace(edits[index], **fields)
    prepared = model.colorizer.prepare(model.conditioning.replace(manipulations=edits), model.settings)
    return prepared.weights[index].flatten().tolist()


def test_the_matrix_shows_the_weights_of_the_edit_that_is_chosen(model):
    view = TextEditsView(model)
    done(model)
    assert view.edits.words == ["1. blue", "2. green"]
    assert (view.matrix.rows, view.matrix.columns) == (4, 4)
    assert view.matrix.weights == pytest.approx(weights_of(model, 0), abs=1e-5)
    send(view.edits, "select", index=1)
    assert view.texts["target_text"].value == "green"
    assert view.matrix.weights == pytest.approx(weights_of(model, 1), abs=1e-5)
    assert (min(view.matrix.relative), max(view.matrix.relative)) == (0, 1)
    shown = np.asarray(Image.open(io.BytesIO(view.matrix.image)))
    assert shown.shape == (32, 32, 3)
    assert f"{sum(weight > 0 for weight in view.matrix.weights)} of 16 patches" in view.caption.value


def test_a_held_threshold_shows_weights_without_a_network_and_is_given_when_let_go(model):
    view = TextEditsView(model)
    calls = dict(done(model).colorizer.method.network_calls)
    before, weights = model.conditioning, view.matrix.weights
    moved = [0.1, 0.2, 0.3, 0.4]
    send(view.matrix, "move", values=moved)
    assert view.matrix.weights != weights
    assert model.conditioning is before
    send(view.matrix, "drop", values=moved)
    assert model.conditioning.manipulations[0].thresholds == tuple(moved)
    assert model.conditioning.manipulations[1] == EDITS[1]
    assert model.is_changed
    done(model)
    assert model.colorizer.method.network_calls == calls
    assert view.matrix.weights == pytest.approx(weights_of(model, 0), abs=1e-5)
    assert view.matrix.thresholds == moved


def test_thresholds_out_of_order_are_told_and_what_was_given_stays(model):
    view = TextEditsView(model)
    done(model)
    send(view.matrix, "move", values=[0.5, 0.4, 0.6, 0.9])
    assert "four numbers that rise within [0, 1]" in view.matrix.problem
    send(view.matrix, "drop", values=[0.5, 0.4, 0.6, 0.9])
    assert "four numbers that rise within [0, 1]" in model.error
    assert model.conditioning.manipulations == EDITS


def test_edits_are_added_changed_reordered_and_taken_out(model):
    view = TextEditsView(model)
    add, earlier, later, remove = view.order
    add.click()
    assert [one.target_text for one in model.conditioning.manipulations] == ["blue", "green", "blue"]
    assert view.index == 2
    view.texts["target_text"].value = "a yellow house"
    view.scale.value = 3.0
    view.enhance.value = True
    assert model.conditioning.manipulations[2] == Manipulation("a yellow house", 3.0, enhance=True)
    earlier.click()
    earlier.click()
    earlier.click()
    assert [one.target_text for one in model.conditioning.manipulations] == ["a yellow house", "blue", "green"]
    assert view.index == 0
    later.click()
    assert [one.target_text for one in model.conditioning.manipulations] == ["blue", "a yellow house", "green"]
    remove.click()
    assert model.conditioning.manipulations == EDITS
    view.texts["target_text"].value = " "
    assert "target_text is empty" in model.error
    assert model.conditioning.manipulations == EDITS
    model.error = ""
    done(model)
    # What says that it cannot act is said here, too.
    view.enhance.value = True
    view.texts["anchor_text"].value = ""
    done(model)
    assert "is to erase its anchor (enhance), but has none" in view.caption.value


def test_an_edit_acts_where_its_anchor_is_unless_another_place_or_everything_is_written(model):
    view = TextEditsView(model)
    view.order[0].click()
    where = view.texts["control_text"]

    def control():
        done(model)
        return model.conditioning.manipulations[2].control_text

    assert (control(), where.value) == ("", "")
    assert view.matrix.unread == [0, 1, 2, 3], "thresholds mean nothing without a place"
    view.texts["anchor_text"].value = "the red car"
    assert (control(), where.value) == ("the red car", "")
    assert view.matrix.unread == [0]
    view.texts["anchor_text"].value = "the car"
    assert (control(), where.value) == ("the car", "")
    where.value = "the tree"
    assert (control(), where.value) == ("the tree", "the tree")
    where.value = "everything"
    assert (control(), where.value) == ("everything", "everything")
    assert view.matrix.unread == [0, 1, 2, 3]
    where.value = ""
    assert (control(), where.value) == ("the car", "")
    view.texts["anchor_text"].value = "none"
    assert (control(), where.value) == ("", ""), "without an anchor there is no place"
    view.texts["anchor_text"].value = "the car"
    view.mode.value = "published"
    done(model)
    assert view.matrix.unread == []


def test_everything_stays_everything_when_an_anchor_is_written_later(model):
    view = TextEditsView(model)
    view.order[0].click()
    where = view.texts["control_text"]
    where.value = "everything"
    view.scale.value = 3.0
    view.texts["anchor_text"].value = "the red car"
    done(model)
    edit = model.conditioning.manipulations[2]
    assert (edit.anchor_text, edit.control_text, where.value) == ("the red car", "everything", "everything")
    assert view.matrix.unread == [0, 1, 2, 3], "it acts without a place"
    view.texts["anchor_text"].value = ""
    done(model)
    assert where.value == "everything"


def test_the_published_weights_are_one_choice_away(model):
    view = TextEditsView(model)
    done(model)
    assert all(weight >= 0 for weight in view.matrix.weights)
    view.mode.value = "published"
    done(model)
    assert model.settings.mechanisms["position_weights"]["mode"] == "published"
    assert view.matrix.weights == pytest.approx(weights_of(model, 0), abs=1e-5)
    assert any(weight < 0 for weight in view.matrix.weights)


def test_a_moved_threshold_takes_at_most_50_ms_at_the_published_size(model):
    """256 patches of 1024 features, three edits one after the other; time of the CPU, as the machine may be busy."""
    view = TextEditsView(model)
    done(model)
    draw = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(3, 3, 1024, generator=draw), dim=-1)
    edits = [TextEdit(EDITS[0], *vectors) for vectors in texts]
    model.conditioning = model.conditioning.replace(manipulations=[EDITS[0], EDITS[1], EDITS[0]])
    done(model)
    view._encoded = _Encoded(torch.randn(1, 257, 1024, generator=draw), tuple(edits), view._encoded.view)
    send(view.edits, "select", index=2)
    times_ms = []
    for place in np.linspace(0.1, 0.5, 9):
        began_s = time.thread_time()
        send(view.matrix, "move", values=[place, 0.55, 0.65, 0.95])
        times_ms.append(1000 * (time.thread_time() - began_s))
    assert view.elapsed_ms > 0
    assert (view.matrix.rows, len(view.matrix.weights)) == (16, 256)
    assert np.median(times_ms) <= 50


def test_an_inverted_sketch_can_be_turned_around(given):
    turned = given.replace(sketch=1 - given.sketch)
    model = ViewModel(tiny_colorizer(tiny_colorizediffusion()), turned)
    view = TextEditsView(model)
    assert view.turn.layout.display is None
    view.turn.click()
    assert not is_inverted(model.conditioning.sketch)
    np.testing.assert_allclose(model.conditioning.sketch, given.sketch, atol=1 / 255)
    assert view.turn.layout.display == "none"
    model.close()


def test_without_an_exemplar_or_an_edit_it_says_what_is_missing(given):
    model = ViewModel(tiny_colorizer(tiny_colorizediffusion()), given.replace(exemplar=None))
    view = TextEditsView(model)
    assert view.caption.value == "Give an exemplar."
    assert view.matrix.layout.display == "none"
    model.conditioning = given.replace(manipulations=())
    assert view.caption.value == "Add an edit."
    assert view.fields.layout.display == "none"
    model.conditioning = given
    done(model)
    assert view.matrix.layout.display is None
    model.close()


def test_a_model_of_the_class_token_shows_projections(given):
    model = ViewModel(tiny_colorizer(tiny_colorizediffusion(reads="global")), given)
    view = TextEditsView(model)
    done(model)
    assert view.matrix.layout.display == "none"
    bars = {bar["name"]: bar["value"] for bar in view.projections.bars}
    with pytest.warns(ConditioningWarning, match="reads the class token alone"):
        expected = model.colorizer.prepare(model.conditioning, model.settings).projections[0]
    assert bars["target, before"] == pytest.approx(float(expected[0, 0]), abs=1e-5)
    assert bars["anchor, after"] == pytest.approx(float(expected[1, 1]), abs=1e-5)
    model.close()


def test_the_mechanism_panel_lays_each_map_over_its_own_picture(model):
    model.settings = model.settings.with_mechanism("dual_guidance", sketch_guidance_scale=2.0)
    panel = MechanismPanel(model)
    model.colorize()
    done(model)
    panel.ask.click()
    done(model)
    words = panel.exhibits.words
    for name in ("weights 0", "similarities 1", "tokens 0", "moved", "over picture 1"):
        assert f"position weights: {name}" in words
    for name in ("exemplar field", "angle", "lengths by step", "angle by step"):
        assert f"dual guidance: {name}" in words
    pictures = {}
    for name in ("position weights: weights 0", "position weights: over picture 0", "dual guidance: angle by step"):
        send(panel.exhibits, "select", index=words.index(name))
        confirm(panel.picture)
        pictures[name] = np.asarray(Image.open(io.BytesIO(panel.picture.image)))
        assert panel.caption.value
    exemplar = model.run.explain()["position_weights.weights_0"].pictures["exemplar"]
    assert np.array_equal(pictures["position weights: weights 0"], exemplar)
    assert pictures["position weights: over picture 0"].shape[:2] == model.image_size
    panel.close()


def test_signed_cells_are_white_at_zero():
    values = np.array([[-2.0, 0.0], [1.0, 2.0]])
    exemplar = np.full((4, 4, 3), 9, np.uint8)
    exhibit = Exhibit(values, ("row", "column"), "", "Cells.", {"is_signed": True}, pictures={"exemplar": exemplar})
    shown = show_matrix(exhibit, np.zeros((2, 2, 3), np.uint8))
    assert np.array_equal(shown.picture, exemplar)
    assert shown.overlay[0, 1].min() > 240
    assert shown.overlay[0, 0, 2] > shown.overlay[0, 0, 0]
    assert shown.overlay[1, 1, 0] > shown.overlay[1, 1, 2]


def test_the_studio_has_the_tab_for_models_that_read_edits_and_closes_it(given, colorizer, picture):
    before = number_of_widgets()
    studio = Studio(tiny_colorizer(tiny_colorizediffusion()), given)
    assert "Text edits" in studio.views
    studio.bring("Text edits")
    done(studio.model)
    assert len(studio.views["Text edits"].matrix.weights) == 16
    studio.close()
    assert number_of_widgets() <= before + 2
    other = Studio(colorizer, picture)
    assert "Text edits" not in other.views
    other.close()
