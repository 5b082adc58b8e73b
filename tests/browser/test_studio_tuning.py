"""Tuning in a real notebook: budget, start, stop, resume, roll back, and the target colored by the tuned model."""

import pytest
from studio_page import open_studio

pytestmark = pytest.mark.timeout(900)

TUNED = """
import warnings
rows, columns = np.mgrid[:128, :128]
picture = (90 + rows // 2).astype(np.uint8)
picture[(rows - 60) ** 2 + (columns - 64) ** 2 < 1000] = 150
colorizer = colorlab.load("mini/diffcolor")
settings = colorizer.settings.replace(num_inference_steps=4)
studio = Studio(colorizer, colorlab.Conditioning(gray=picture), settings)
"""
DARK = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})"


def fill(page, name, words):
    field = page.locator(".colorlab-tuning .widget-text", has_text=name).locator("input").first
    field.fill(words)
    field.press("Enter")


def test_a_tuning_is_prepared_stopped_resumed_and_rolled_back(lab, open_notebook, tmp_path):
    studio = open_studio(lab, open_notebook, "tuning.ipynb", TUNED)
    page, panel = studio.page, studio.page.locator(".colorlab-tuning")
    view, tuning = "studio.views['Tuning']", "studio.views['Tuning'].tuning"

    def press(name):
        panel.locator("button.jupyter-button", has_text=name).click()

    def number():
        return studio.value(f"{tuning}.tuning.num_iterations")

    # A context with a color is refused in words, in the panel.
    panel.locator("select").first.select_option(label="smoke: 3 iterations each, to see it work")
    fill(page, "context", "a photo of a red ball")
    press("Prepare")
    page.get_by_text("already names the color 'red'").first.wait_for()
    fill(page, "context", "a photo of a ball")
    fill(page, "target", "a photo of a red ball")
    press("Prepare")
    page.get_by_text("Checkpoints hold at most").wait_for()
    assert number() == 0, "the budget stands there before anything is tuned"
    assert panel.locator(".colorlab-words .colorlab-changed").inner_text() == "red"

    press("Start")
    studio.wait_until(lambda: number() >= 1, "it tunes")
    press("Stop")
    # The iteration under way ends, and no other begins.
    before = number()
    assert studio.value("model.worker.join(60)")
    assert before <= number() <= before + 1
    assert number() < 9
    page.get_by_text("stopped, about").wait_for()
    press("Resume")
    studio.wait_until(
        lambda: studio.value("model.run is not None and model.run.is_finished and not model.is_busy"), "all of it"
    )
    studio.wait_idle()
    assert number() == 9
    page.get_by_text("All stages are done.").first.wait_for()
    assert studio.value("model.run.method.adaptation.stages") == ["contrastive", "embedding", "reconstruction"]
    assert studio.value("model.run.conditioning.prompt") == "a photo of a red ball"

    # A slider for each token of the target; drawing them changed nothing, and none of them needs tuning.
    etas = panel.locator(".widget-slider")
    words = ["eta", "a 1", "photo", "of", "a 2", "red", "ball", "the rest"]
    assert etas.locator(".widget-label").all_inner_texts() == words
    assert "embedding_path" not in studio.value("dict(model.settings.mechanisms)")
    handle = etas.nth(5).locator(".noUi-handle")
    handle.focus()
    for _ in range(10):
        handle.press("ArrowLeft")
    path = "dict(model.settings.mechanisms['embedding_path'])"
    number_of_tokens = studio.value("model.run.segments[-1].prepared.text['cond'].shape[1]")
    expected = [0.95 if index == 5 else 1.05 for index in range(number_of_tokens)]
    studio.wait_until(
        lambda: [round(eta, 3) for eta in studio.value(path).get("token_etas", [])] == expected, "one token moved"
    )
    runs = studio.value("len(model.tree)")
    press("Color the target")
    studio.wait_until(
        lambda: studio.value("len(model.tree) > runs and model.run.is_finished".replace("runs", str(runs))), "a run"
    )
    assert number() == 9
    assert [
        round(eta, 3) for eta in studio.value("model.run.settings.mechanisms['embedding_path']['token_etas']")
    ] == expected
    handle = etas.first.locator(".noUi-handle")
    handle.focus()
    handle.press("ArrowLeft")
    studio.wait_until(lambda: studio.value(path)["token_etas"] == [], "all tokens follow the common eta again")
    assert len(set(etas.locator(".widget-readout").all_inner_texts())) == 1
    assert panel.locator(".colorlab-words th").all_inner_texts() == ["context", "target", "moved", "cosine"]

    # Curves and checkpoints are drawn in the page.
    assert not panel.locator(".colorlab-chart").first.is_visible(), "what is done is folded away"
    panel.get_by_text("Budget, curves and checkpoints").click()
    charts = panel.locator(".colorlab-chart")
    panel.locator(".colorlab-chip", has_text="1 colors").click()
    studio.wait_until(lambda: charts.count() == 4, "four charts of stage 1")
    points = charts.nth(2).locator("polyline").get_attribute("points").split()
    assert len(points) == 3
    cards = panel.locator(".colorlab-gallery .colorlab-card")
    names = [str(each) for each in studio.value(f"{tuning}.tuning.checkpoints.numbers")]
    assert cards.locator("span").all_inner_texts() == names
    # The whole panel in one picture.
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.evaluate("document.querySelector('.colorlab-whole').scrollIntoView()")
    page.locator(".colorlab-whole").screenshot(path=tmp_path / "light.png")
    page.evaluate(DARK)
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    page.wait_for_timeout(500)
    page.locator(".colorlab-whole").screenshot(path=tmp_path / "dark.png")
    page.set_viewport_size({"width": 1280, "height": 1000})

    losses = studio.value(f"[row['loss'] for row in {tuning}.tuning.state.rows]")
    cards.nth(1).click()
    studio.wait_until(lambda: studio.value(f"{view}.checkpoints.selected") == 1, "a checkpoint is chosen")
    press("Roll back")
    studio.wait_until(lambda: number() == int(names[1]), "it is back")
    assert cards.locator("span").all_inner_texts() == names, "later checkpoints stay"
    studio.wait_idle()
    assert studio.value(f"[row['loss'] for row in {tuning}.tuning.state.rows]") == losses[: int(names[1])]
    press("Resume")
    studio.wait_until(lambda: number() > int(names[1]), "it goes on")
    press("Stop")
    assert studio.value("model.worker.join(60)")
    assert studio.value(f"[row['loss'] for row in {tuning}.tuning.state.rows]") == losses[: number()]
    assert studio.notebook.errors == []
