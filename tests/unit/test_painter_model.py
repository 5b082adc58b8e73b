"""The painter and a view-model: what is painted is what the model is given, and the other way round."""

from collections.abc import Iterator

import numpy as np
import pytest
from colorlab_widgets import StrokePainter
from colorlab_widgets.painter.gesture import Gesture
from colorlab_widgets.view_model import ViewModel
from ipywidgets.widgets.widget import _instances
from tiny import tiny_colorizer, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes

PATH = ((8.0, 8.0), (30.0, 12.0))
STROKES = Strokes([Stroke(PATH, (200, 40, 40), 3.0)])
SQUARE = ((10.0, 10.0), (20.0, 10.0), (20.0, 20.0), (10.0, 20.0))


@pytest.fixture
def model() -> Iterator[ViewModel]:
    model = ViewModel(tiny_colorizer(), tiny_picture())
    yield model
    model.close()


@pytest.fixture
def painter(model: ViewModel) -> Iterator[StrokePainter]:
    painter = StrokePainter(model)
    yield painter
    painter.close()


def brush(phase: str = "done") -> Gesture:
    return Gesture("brush", PATH, phase, "#c82828", 3.0)


def test_strokes_go_both_ways_and_each_is_one_change(model: ViewModel, painter: StrokePainter) -> None:
    changes: list[Conditioning] = []
    model.observe(lambda change: changes.append(change["new"]), "conditioning")
    painter._used(brush())
    assert model.conditioning.strokes == model.strokes == STROKES
    assert len(changes) == 1
    model.strokes = Strokes()
    assert painter.strokes == Strokes()
    assert len(changes) == 2
    painter.undo()
    assert model.strokes == STROKES


def test_a_lasso_names_a_mask_of_the_conditioning_and_selects_it(model: ViewModel, painter: StrokePainter) -> None:
    painter._controls.mask_name.value = "red car"
    painter.use(Gesture("lasso", SQUARE))
    assert list(model.conditioning.masks) == ["red car"]
    assert model.conditioning.masks["red car"].sum() == 100
    assert model.region.sum() == 100
    changes: list[Conditioning] = []
    model.observe(lambda change: changes.append(change["new"]), "conditioning")
    painter._used(brush())
    assert len(changes) == 1, "equal masks are no change"
    painter.use(Gesture("move", PATH[:1]))
    assert model.region == painter.strokes[0]
    painter.command("unchoose")
    assert model.region is None


def test_live_mode_tells_the_draft_and_holds_the_full_run_back(model: ViewModel, painter: StrokePainter) -> None:
    painter._used(brush("going"))
    assert (model.strokes, model.is_held) == (Strokes(), True)
    painter._used(brush("cancelled"))
    assert not model.is_held
    model.is_live = True
    painter._used(brush("going"))
    assert (model.strokes, model.is_held) == (STROKES, True)
    assert painter.strokes == Strokes()
    painter._used(brush("cancelled"))
    assert (model.strokes, model.is_held) == (Strokes(), False)
    painter._used(brush("going"))
    painter._used(brush())
    assert (model.strokes, model.is_held, painter.strokes) == (STROKES, False, STROKES)


def test_another_picture_brings_its_own_strokes_masks_and_exemplar(model: ViewModel, painter: StrokePainter) -> None:
    painter._used(brush())
    exemplar = np.zeros((8, 9, 3), dtype=np.uint8)
    mask = np.ones((20, 30), dtype=bool)
    gray = np.full((20, 30), 0.5)
    model.conditioning = Conditioning(gray=gray, strokes=STROKES, masks={"sky": mask}, exemplar=exemplar)
    assert painter.size == (20, 30)
    assert painter.strokes == STROKES
    assert list(painter.masks) == ["sky"]
    assert painter._controls.exemplar_colors.colors == ((0, 0, 0),)
    assert model.conditioning.strokes == STROKES


def test_results_pixels_and_steps_are_shown(model: ViewModel, painter: StrokePainter) -> None:
    assert painter.result is None
    model.num_steps, model.step = 4, 2
    model.picture = picture = np.zeros((20, 30, 3), dtype=np.uint8)
    assert painter.result is picture
    assert painter.result_label == "step 2"
    model.is_preview = True
    assert painter.result_label == "preview"
    model.is_preview, model.step = False, 4
    assert painter.result_label == ""
    model.pixel = (3, 4)
    assert painter.pixel == (3, 4)
    painter.use(Gesture("look", ((5.5, 6.5),)))
    assert model.pixel == (5, 6)
    model.settings = Settings(num_inference_steps=7)
    assert painter.num_steps == 7
    assert painter._controls.steps.max == 6


def test_closing_leaves_nothing_behind_and_the_model_alone(model: ViewModel) -> None:
    before = len(_instances)
    painter = StrokePainter(model)
    painter.close()
    painter.close()
    assert len(_instances) == before
    model.strokes = STROKES
    assert painter.strokes == Strokes()
