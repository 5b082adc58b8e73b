"""Position weights as a user meets them: a threshold is dragged over the exemplar, and every cell is checked."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from studio_page import StudioPage

UNIT_TESTS = Path(__file__).resolve().parents[1] / "unit"
# The tiny model of the unit tests: what is tested is how weights are shown and moved, which no training decides.
SETUP = f"""
import base64, json, sys
sys.path.insert(0, {str(UNIT_TESTS)!r})
import numpy as np
import torch
import colorlab
from colorlab_widgets import TextEditsView, ViewModel
from tiny import tiny_colorizediffusion, tiny_colorizer
torch.set_num_threads(1)
sketch = np.ones((96, 128), np.float32)
sketch[20:70, 40] = sketch[20:70, 90] = sketch[20, 40:90] = sketch[69, 40:90] = 0
exemplar = np.kron(np.random.default_rng(0).random((8, 8, 3)), np.ones((8, 8, 1)))
edits = [
    colorlab.Manipulation("blue", 8.0, anchor_text="red", control_text="car"),
    colorlab.Manipulation("green", 5.0, control_text="tree"),
]
given = colorlab.Conditioning(sketch=sketch, exemplar=exemplar, manipulations=edits)
model = ViewModel(tiny_colorizer(tiny_colorizediffusion()), given)
view = TextEditsView(model)
"""
# Milliseconds from a move of the pointer until the cells have other colors; null if they keep theirs.
UNTIL_CELLS_CHANGE = """() => new Promise(resolve => {
    const began = performance.now();
    new MutationObserver((_, observer) => {
        observer.disconnect();
        resolve(performance.now() - began);
    }).observe(document.querySelector('.colorlab-cells'), {childList: true});
    setTimeout(() => resolve(null), 30_000);
})"""


@pytest.fixture
def shown(lab, open_notebook):
    """Return a notebook that shows the view of two text edits."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [new_code_cell(source) for source in (SETUP, "view")]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), lab.folder / "text_edits.ipynb")
    notebook = open_notebook("text_edits.ipynb")
    for _ in range(3):
        notebook.errors.clear()
        notebook.run_all()
        assert [output for output in notebook.outputs() if output["output_type"] == "error"] == []
        notebook.page.wait_for_selector(".colorlab-cell", timeout=120_000)
        # anywidget gives each script two seconds to load, which a page on a busy machine can miss.
        notebook.page.wait_for_timeout(4000)
        if not any("Failed to initialize model" in error for error in notebook.errors):
            break
    return StudioPage(notebook)


def cell_colors(shown):
    """Return (red, blue, opacity) of every cell in the page."""
    script = "cells => cells.map(cell => cell.getAttribute('fill'))"
    fills = shown.page.locator(".colorlab-cell").evaluate_all(script)
    parts = [fill.removeprefix("rgb(").rstrip(")").replace("/", " ").split() for fill in fills]
    return [(float(red), float(blue), float(opacity)) for red, _, blue, opacity in parts]


def check_cells(shown):
    """Compare every cell in the page with the weights that a run would have."""
    weights = shown.value(
        "model.colorizer.prepare(model.conditioning, model.settings).weights[view.index].flatten().tolist()"
    )
    largest = max(map(abs, weights)) or 1.0

    def is_shown():
        found = cell_colors(shown)
        return len(found) == len(weights) and all(
            abs(opacity - 0.85 * abs(weight) / largest) < 1e-3 and (weight == 0 or (red > blue) == (weight > 0))
            for (red, blue, opacity), weight in zip(found, weights, strict=True)
        )

    shown.wait_until(is_shown, "every cell has the color of its weight")
    return weights


def handle(shown, index):
    return shown.page.locator(".colorlab-handle").nth(index)


def drag(shown, index, to):
    """Drag a threshold to a place between 0 and 1; return milliseconds until the cells followed the first move."""
    page = shown.page
    grip = handle(shown, index).locator(".colorlab-grip")
    grip.scroll_into_view_if_needed()
    box, plot = grip.bounding_box(), page.locator(".colorlab-dots").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    across = plot["x"] + plot["width"] * (34 + to * (320 - 34 - 10)) / 320
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(f"() => {{ window.waited = ({UNTIL_CELLS_CHANGE})(); }}")
    for share in np.linspace(0.2, 1, 5):
        page.mouse.move(x + share * (across - x), y)
    waited_ms = page.evaluate("() => window.waited")
    held = shown.value("[view.matrix.weights, list(model.conditioning.manipulations[view.index].thresholds)]")
    page.mouse.up()
    return waited_ms, *held


@pytest.mark.timeout(600)
def test_a_threshold_is_dragged_over_the_exemplar(shown, tmp_path):
    page = shown.page
    before = check_cells(shown)
    assert page.locator(".colorlab-matrix").get_attribute("data-cells") == "16"
    exemplar = page.locator(".colorlab-matrix .colorlab-layer").first
    assert exemplar.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]

    # While it is held the cells follow, and nothing is given; let go, it is. The first handle stops the second.
    calls = shown.value("dict(model.colorizer.method.network_calls)")
    given = "list(model.conditioning.manipulations[0].thresholds)"
    drag(shown, 1, 0.1)
    shown.wait_until(lambda: shown.value(given)[1] == pytest.approx(0.51, abs=1e-6), "it stands beside the first")
    drag(shown, 0, 0.02)
    shown.wait_until(lambda: shown.value(given)[0] < 0.1, "the first is given")
    waited_ms, held_weights, held_given = drag(shown, 1, 0.1)
    assert held_weights != before
    assert held_given[1] == pytest.approx(0.51, abs=1e-6)
    shown.wait_until(lambda: shown.value(given)[1] < 0.2, "the second is given")
    assert shown.value(given)[1] == pytest.approx(0.1, abs=0.02)
    assert shown.value("dict(model.colorizer.method.network_calls)") == calls
    print(
        f"cells after a move of a threshold: {waited_ms:.0f} ms; in the kernel {shown.value('view.elapsed_ms'):.1f} ms"
    )
    assert check_cells(shown) != before
    page.locator(".colorlab-matrix-view").screenshot(path=tmp_path / "matrix.png")

    # The keyboard moves it by hundredths.
    handle(shown, 3).focus()
    page.keyboard.press("ArrowLeft")
    shown.wait_until(
        lambda: abs(shown.value("model.conditioning.manipulations[0].thresholds[3]") - 0.94) < 1e-6, "0.94 is given"
    )
    assert handle(shown, 3).get_attribute("aria-valuenow") == "0.94"


@pytest.mark.timeout(600)
def test_arrow_keys_on_a_threshold_that_means_nothing_stay_with_it(shown):
    page = shown.page
    before = shown.value("list(model.conditioning.manipulations[0].thresholds)")
    shown.kernel("view.texts['control_text'].value = 'everything'")
    grip = handle(shown, 3)
    shown.wait_until(lambda: grip.get_attribute("aria-disabled") == "true", "it is fixed")
    grip.focus()
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        assert grip.evaluate("handle => handle === document.activeElement"), key
    assert shown.value("list(model.conditioning.manipulations[0].thresholds)") == before
