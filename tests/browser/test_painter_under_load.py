"""Painting while the kernel is slow, and while it samples: the user sees every stroke at once, and none is lost."""

import io

import numpy as np
import pytest
from kernel_page import QUICK_KERNEL, SLOW_KERNEL
from painter_page import PainterPage, open_painter
from PIL import Image

pytestmark = pytest.mark.timeout(600)

RED, BLUE = (200, 40, 40), (40, 80, 200)
# Under the painter there is a model whose run takes far longer than the test. With 1000 steps the leading list would
# leave the range of timesteps, and the run would be refused.
NUM_STEPS = 900
WITH_MODEL = f"""
import torch
import colorlab
from colorlab_widgets import ViewModel
torch.set_num_threads(1)
model = ViewModel(colorlab.load("mini/ctrlcolor"), colorlab.Conditioning(gray=picture, prompt="a red wall"))
model.settings = model.settings.replace(num_inference_steps={NUM_STEPS})
painter = StrokePainter(model)
"""

# In the first frame after a pointer is lifted: does the page show the stroke's middle on its own sheet?
WATCH = """() => {
    window.shownAtOnce = [];
    const sheet = document.querySelector('.colorlab-pointer');
    const canvas = sheet.querySelector('canvas');
    let pressed;
    sheet.addEventListener('pointerdown', event => pressed = event);
    window.addEventListener('pointerup', event => requestAnimationFrame(() => {
        const box = canvas.getBoundingClientRect();
        const x = ((pressed.clientX + event.clientX) / 2 - box.left) * canvas.width / box.width;
        const y = ((pressed.clientY + event.clientY) / 2 - box.top) * canvas.height / box.height;
        const pixel = canvas.getContext('2d').getImageData(Math.round(x), Math.round(y), 1, 1).data;
        window.shownAtOnce.push([...pixel]);
    }));
}"""


def starts():
    """Return where 20 short strokes begin."""
    return [(8 + 30 * (index % 4), 8 + 18 * (index // 4)) for index in range(20)]


def paint(painter: PainterPage) -> None:
    """Paint them as quickly as the browser takes them."""
    for x, y in starts():
        painter.drag([(x, y), (x + 16, y + 4)], steps=2)


def on_screen(painter: PainterPage, points) -> np.ndarray:
    """Return the colors that the user sees at points of the picture, (n, 3), all layers of the page together."""
    box = painter.layer.bounding_box()
    screen = np.asarray(Image.open(io.BytesIO(painter.page.screenshot(clip=box))).convert("RGB")).astype(int)
    places = [painter.place(point) for point in points]
    return np.array([screen[round(y - box["y"]), round(x - box["x"])] for x, y in places])


@pytest.mark.slow
def test_with_a_kernel_that_lags_strokes_are_seen_at_once_and_come_in_order(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "lag.ipynb")
    painter.kernel(SLOW_KERNEL)
    painter.page.evaluate(WATCH)
    paint(painter)
    middles = [(x + 8, y + 2) for x, y in starts()]
    assert np.abs(on_screen(painter, middles) - RED).max() < 12, "every stroke is on the screen"
    painter.wait_until(lambda: painter.page.evaluate("window.shownAtOnce.length") == 20, "20 frames are watched")
    at_once = np.array(painter.page.evaluate("window.shownAtOnce"))
    assert np.abs(at_once - [*RED, 255]).max() < 12, "the page showed each in the first frame, before the kernel could"
    strokes = painter.check("when the kernel has come after")
    assert [stroke.points[0] for stroke in strokes] == [pytest.approx(start, abs=0.6) for start in starts()]

    # Undo before the kernel knows of the stroke takes back that stroke, not the one before.
    painter.drag([(60, 90), (100, 90)])
    painter.press("Control+z")
    assert painter.check("after a stroke was taken back at once") == strokes
    painter.press("Control+z")
    painter.press("Control+Shift+z")
    painter.press("e")
    painter.drag([(16, 2), (16, 90)], steps=8)
    assert len(painter.check("after the eraser")) == 25, "it crosses the five strokes of the first column"
    painter.kernel(QUICK_KERNEL)
    assert painter.notebook.errors == []


@pytest.mark.slow
def test_while_it_samples_strokes_are_seen_at_once_and_none_is_lost(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "busy.ipynb", WITH_MODEL)
    painter.kernel("model.colorize()")
    painter.wait_until(
        lambda: painter.value("model.steps_taken") >= 2 or painter.value("model.error"), "the run is under way"
    )
    assert painter.value("model.error") == ""
    painter.wait_until(lambda: painter.value("painter.result is not None"), "its picture is shown")
    painter.press("r")
    field = painter.page.locator(".widget-colorpicker input[type=text]").first
    field.fill("#2850c8")
    field.press("Enter")
    paint(painter)
    assert np.abs(on_screen(painter, [(x + 8, y + 2) for x, y in starts()]) - BLUE).max() < 12
    assert painter.value("model.is_running")
    strokes = painter.check("painted while it samples")
    assert len(strokes) == 20
    assert {stroke.color for stroke in strokes} == {BLUE}
    assert painter.value("len(model.conditioning.strokes)") == 20
    assert painter.value("len(model.run.conditioning.strokes)") == 0, "the run goes on with what it was given"

    painter.press("Control+z")
    assert len(painter.check("taken back while it samples")) == 19
    assert painter.value("model.is_running")
    painter.kernel("model.pause()")
    painter.wait_until(lambda: not painter.value("model.is_busy"), "it stops")
    assert painter.value("model.run.step_index") < NUM_STEPS
    assert painter.value("model.error") == ""
    assert painter.notebook.errors == []
