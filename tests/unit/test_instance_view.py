"""Pairing masks with words by hand: clicks and chips change the masks, and the maps are those of the run."""

import io

import numpy as np
import pytest
from colorlab_widgets import InstanceView, StrokePainter, ViewModel
from colorlab_widgets.painter.gesture import Gesture
from colorlab_widgets.pictures import as_colors
from pages import confirm, send
from PIL import Image

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.segmentation import RegionSegmenter, Segmenter, Target

SIZE = (40, 56)
LEFT, RIGHT = (14, 20), (42, 20)


def disc(center):
    """Return a disc of radius 8 around (x, y)."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (columns - center[0]) ** 2 + (rows - center[1]) ** 2 <= 64


@pytest.fixture
def model(colorizer):
    picture = np.full(SIZE, 0.3, dtype=np.float32)
    picture[disc(LEFT)], picture[disc(RIGHT)] = 0.8, 0.6
    model = ViewModel(colorizer, Conditioning(gray=picture, prompt="cup, car"))
    yield model
    model.close()


@pytest.fixture
def view(model):
    return InstanceView(model)


def done(model):
    assert model.worker.join(60)
    assert model.error == ""
    return model


def click(view, place):
    send(view.picture, "click", x=float(place[0]), y=float(place[1]))
    done(view.model)


def share(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_click_marks_the_object_and_pairs_it_with_the_first_free_words(view, model):
    click(view, LEFT)
    assert list(model.conditioning.masks) == ["cup"]
    assert share(model.masks["cup"], disc(LEFT)) > 0.9
    assert view.chosen == "cup"
    assert np.array_equal(model.region, model.masks["cup"])
    click(view, RIGHT)
    assert share(model.masks["car"], disc(RIGHT)) > 0.9
    assert (view.chosen, view.masks.selected, view.phrases.selected) == ("car", 1, 1)
    assert view.note.value == "cup: tokens 1 to 3; car: tokens 5 to 7."
    click(view, LEFT)
    assert view.chosen == "cup"
    assert len(model.masks) == 2, "a click inside of a mask chooses it"
    confirm(view.picture)
    shown = np.asarray(Image.open(io.BytesIO(view.picture.image)))
    row, column = LEFT[1], LEFT[0]
    assert np.ptp(shown[row, column].astype(int)) > 40, "the chosen mask has a color"
    assert np.ptp(shown[0, 0]) == 0


def test_words_change_places_when_a_mask_takes_those_of_another(view, model):
    click(view, LEFT)
    click(view, RIGHT)
    left, right = model.masks["cup"], model.masks["car"]
    send(view.phrases, "select", index=0)
    assert model.conditioning.masks["cup"] is not left
    assert np.array_equal(model.masks["cup"], right)
    assert np.array_equal(model.masks["car"], left)
    assert view.chosen == "cup"
    view.masks.selected = -1
    send(view.masks, "select", index=0)
    assert view.chosen == next(iter(model.masks))
    view.remove.click()
    assert len(model.masks) == 1


def test_a_mask_of_the_lasso_is_paired_by_choosing_its_words(model):
    painter, view = StrokePainter(model), InstanceView(model)
    outline = ((5, 10), (24, 10), (24, 30), (5, 30))
    painter.use(Gesture("lasso", outline))
    assert list(model.masks) == ["object 1"]
    assert view.chosen == "object 1"
    assert "not in the prompt" in view.note.value
    send(view.phrases, "select", index=1)
    assert list(model.conditioning.masks) == ["car"]
    assert list(painter.masks) == ["car"]
    assert view.note.value.startswith("car: tokens 5 to 7.")
    painter.undo()
    assert list(model.masks) == ["object 1"], "pairing is a step of the painter's history"
    view.other.value = "cup"
    assert list(model.masks) == ["cup"]
    assert view.other.value == ""
    painter.close()


def test_other_words_that_are_not_in_the_prompt_are_said(view, model):
    view.other.value = "dog"
    assert "Choose a mask first" in view.note.value
    click(view, LEFT)
    view.other.value = "dog"
    assert "not in the prompt" in view.note.value
    model.conditioning = model.conditioning.replace(prompt="dog")
    assert view.note.value.startswith("dog: tokens 1 to 3.")


def test_objects_without_a_mask_are_found_by_their_words(model):
    class Known:
        def segment(self, conditioning, targets):
            places = {"cup": disc(LEFT), "car": disc(RIGHT)}
            return [places[target.phrase] if target.phrase != "dog" else np.zeros(SIZE, bool) for target in targets]

    assert isinstance(Known(), Segmenter)
    model.conditioning = model.conditioning.replace(prompt="cup, car, dog", masks={"cup": disc((14, 22))})
    view = InstanceView(model, by_words=Known())
    view.find.click()
    done(model)
    assert list(model.masks) == ["cup", "car"]
    assert np.array_equal(model.masks["cup"], disc((14, 22))), "what was there stays"
    assert np.array_equal(model.masks["car"], disc(RIGHT))
    assert view.note.value == "Not found: dog."


def test_maps_before_and_after_are_those_of_the_run(view, model):
    click(view, LEFT)
    view.ask.click()
    assert "Colorize first" in view.caption.value
    model.set_mechanism("instance_guidance", variant="hard")
    model.colorize()
    done(model)
    model.look_at(1)
    done(model)
    view.ask.click()
    done(model)
    expected = model.run.phrase(1, "cup")
    limits = (float(expected.array.min()), float(expected.array.max()))
    shown = [np.asarray(Image.open(io.BytesIO(png))) for png in view.maps.images]
    for picture, values in zip(shown, expected.array, strict=True):
        assert np.array_equal(picture, as_colors(values, limits))
    before, after = expected.provenance["overlaps"]
    assert [name for name, _ in view.maps.items] == [f"before guidance: {before:.2f}", f"after guidance: {after:.2f}"]
    assert expected.array[1, :, -1].max() < expected.array[0, :, -1].min(), "far from the mask nobody looks at it now"
    view.shown.value = "scores"
    model.look_at(2)
    done(model)
    assert view.maps.images == [], "maps of another step go"


def test_regions_are_found_by_clicks_alone():
    picture = np.full(SIZE, 0.3, dtype=np.float32)
    picture[disc(LEFT)] = 0.8
    given = Conditioning(gray=picture)
    (mask,) = RegionSegmenter().segment(given, [Target("cup", (14.5, 20.5))])
    assert np.array_equal(mask, disc(LEFT)) or share(mask, disc(LEFT)) > 0.9
    with pytest.raises(RangeError, match="found by clicks"):
        RegionSegmenter().segment(given, [Target("cup")])
