"""A tuned model in the Studio, the browser played: an eta for each token, and what the mechanism panel shows of it."""

import re

import pytest
import torch
from colorlab_widgets import MechanismPanel, TuningView, ViewModel
from pages import send
from tiny import tiny_colorizer, tiny_diffcolor, tiny_picture

from colorlab.conditioning import Conditioning
from colorlab.mechanisms.embedding_path import interpolate_embeddings
from colorlab.tuning.embedding_exhibits import measure_move

CONTEXT = "a photo of a cat"
TARGET = "a photo of a blue cat"
NUM_TOKENS = 12


@pytest.fixture
def view(whole):
    """The tuning tab of a model that was tuned elsewhere, with a target."""
    tuned = tiny_colorizer(tiny_diffcolor()).with_adaptation(whole.adaptation)
    model = ViewModel(tuned, Conditioning(gray=tiny_picture(), prompt=CONTEXT))
    view = TuningView(model)
    view.target.value = TARGET
    yield view
    view.close()
    model.close()


def labels(view):
    return [slider.description for slider in view.etas.tokens]


def in_force(view):
    values = view.model.colorizer.method.mechanism("embedding_path").in_force(view.model.settings)
    return values["eta"], values["token_etas"]


def test_every_token_of_the_target_has_a_slider_and_moves_alone(view):
    assert labels(view) == ["a 1", "photo", "of", "a 2", "blue", "cat", "the rest"]
    blue, cat, rest = view.etas.tokens[4:]
    assert {slider.value for slider in (*view.etas.tokens, view.etas.all)} == {in_force(view)[0]} == {1.05}
    assert all("0 to 1.5" in slider.tooltip for slider in (*view.etas.tokens, view.etas.all))
    assert "token 5 from 'sks' as tuned (0) to 'blue' (1)" in blue.tooltip
    blue.value = 0.5
    assert in_force(view) == (1.05, tuple(0.5 if index == 5 else 1.05 for index in range(NUM_TOKENS)))
    assert (view.etas.all.value, cat.value, rest.value) == (1.05, 1.05, 1.05)
    rest.value = 0.0
    assert [index for index, eta in enumerate(in_force(view)[1]) if eta == 0] == [0, 7, 8, 9, 10, 11]


def test_one_slider_moves_all_and_a_button_brings_them_together(view):
    view.etas.tokens[4].value = 0.5
    view.etas.all.value = 0.9
    assert in_force(view) == (0.9, ())
    assert {slider.value for slider in view.etas.tokens} == {0.9}
    assert view.etas.same.disabled
    view.etas.tokens[5].value = 0.1
    assert not view.etas.same.disabled
    view.etas.same.click()
    assert in_force(view) == (0.9, ())
    assert view.etas.tokens[5].value == 0.9


def test_the_next_run_has_them_and_nothing_is_tuned(view):
    view.etas.tokens[4].value = 0.5
    adaptation, calls = view.model.colorizer.method.adaptation, view.model.colorizer.method.network_calls["unet"]
    view.color.click()
    assert view.model.worker.join(60)
    assert (view.model.error, view.tuning.problem) == ("", "")
    run = view.model.run
    assert run.is_finished
    assert run.method.adaptation is adaptation
    # Steps of the run and of its inversion, nothing else.
    assert run.method.network_calls["unet"] - calls <= 2 * run.num_steps
    prepared = run.segments[-1].prepared
    ends = (prepared.path["optimized"], prepared.path["target"])
    assert torch.equal(prepared.text["cond"], interpolate_embeddings(*ends, in_force(view)[1]))
    assert not torch.equal(prepared.text["cond"], interpolate_embeddings(*ends, 1.2))


def test_the_mechanism_panel_shows_and_sets_the_same(view):
    panel = MechanismPanel(view.model)
    controls = panel.controls["embedding_path"]
    view.etas.tokens[4].value = 0.25
    assert controls["token_etas"].value.split(", ")[5] == "0.25"
    controls["token_etas"].value = " ".join(["1"] * 6 + ["0.5"] * 6)
    # The rest has the value of its first token, the start.
    assert [slider.value for slider in view.etas.tokens] == [1, 1, 1, 1, 1, 0.5, 1]
    controls["token_etas"].value = ""
    controls["eta"].value = 0.7
    assert {slider.value for slider in (*view.etas.tokens, view.etas.all)} == {0.7}
    # A list that does not fit is mended by moving a slider.
    controls["token_etas"].value = "1, 1"
    view.etas.tokens[4].value = 0.2
    assert in_force(view)[1] == tuple(0.2 if index == 5 else 0.7 for index in range(NUM_TOKENS))
    panel.close()


def test_looking_at_the_sliders_changes_nothing(view):
    view.model.set_mechanism("embedding_path", eta=0.333, token_etas=(0.666,) * NUM_TOKENS)
    before = view.model.settings
    # A page moves each to the nearest of its places, and tells it.
    view.etas.all.value = 0.33
    view.etas.tokens[2].value = 0.67
    assert view.model.settings is before


def test_another_target_has_its_own_sliders_and_one_that_does_not_fit_has_none(view):
    former = view.etas.tokens
    former[4].value = 0.4
    view.target.value = "a photo of a red cat"
    assert labels(view)[4] == "red"
    assert view.etas.tokens[4].value == 0.4, "the place of the color is the same"
    former[4].value = 1.0
    assert view.etas.tokens[4].value == 0.4, "who is gone moves nothing"
    for target in ("a photo of a blue dog", CONTEXT, ""):
        view.target.value = target
        assert view.etas.tokens == ()
    view.etas.all.value = 0.8
    assert in_force(view) == (0.8, ())


def test_the_table_tells_how_far_each_token_was_moved(view, whole):
    move = measure_move(whole.adaptation)
    cells = [float(cell) for cell in re.findall(r"<td>([-\d.]+)</td>", view.table.value)]
    assert cells[:6] == pytest.approx(move.distances[1:7], abs=0.006)
    assert cells[6:] == pytest.approx(move.cosines[1:7], abs=6e-4)
    assert view.moved.value == str(move)
    view.target.value = ""
    assert (view.table.value, view.moved.layout.display) == ("", "none")


def test_the_mechanism_panel_shows_what_was_tuned_and_where_identifiers_look(view):
    for eta in (1.2, 0.3):
        view.etas.all.value = eta
        view.color.click()
        assert view.model.worker.join(60)
    model, panel = view.model, MechanismPanel(view.model)
    panel.ask.click()
    assert model.worker.join(60)
    assert model.error == ""
    assert panel._found, panel.caption.value
    found = {name: exhibit for name, (exhibit, _) in panel._found.items()}
    assert found["contrastive_tuning.bench"].provenance["labels"][0] == "a colorful photo of a cat"
    size = model.colorizer.method.working_size(tiny_picture().shape)
    assert found["contrastive_tuning.gradient"].array.shape == (2, *size)
    assert found["contrastive_tuning.drift_reconstruction"].array.max() > 0
    assert "contrastive_tuning.drift_contrastive" in found
    paths = found["embedding_path.two_paths"]
    assert paths.provenance["labels"] == [f"{run.name}: {run.subject}" for run in (model.tree[1], model.tree[0])]
    assert found["embedding_path.distance"].array[0].max() > 0
    identifiers = found["embedding_path.identifiers"]
    assert identifiers.provenance["labels"] == ["sks (cat), e_opt", "blue (cat), e_tgt"]
    assert "by chance" in identifiers.caption
    for index in range(len(found)):
        send(panel.exhibits, "select", index=index)
        assert panel.caption.value == list(found.values())[index].caption
    panel.close()
