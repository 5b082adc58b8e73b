"""The painter in a real JupyterLab: after each action the page is compared with what Python knows."""

import numpy as np
import pytest
from kernel_page import CURRENT
from painter_page import PainterPage, open_painter

from colorlab.strokes import Strokes

pytestmark = pytest.mark.timeout(900)


def paint_twenty(painter: PainterPage) -> None:
    """Paint 20 short strokes as quickly as the browser takes them."""
    for index in range(20):
        column, row = 8 + 30 * (index % 4), 8 + 18 * (index // 4)
        painter.drag([(column, row), (column + 16, row + 4)], steps=2)


def test_every_tool_leaves_page_and_kernel_the_same(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "tools.ipynb")
    painter.check("at the start")
    paint_twenty(painter)
    assert len(painter.check("after 20 quick strokes")) == 20
    for _ in range(3):
        painter.press("Control+z")
    assert len(painter.check("after three times undo")) == 17
    painter.press("Control+Shift+z")
    strokes = painter.check("after redo")
    assert len(strokes) == 18

    painter.press("e")
    painter.drag([(16, 2), (16, 90)], steps=12)
    erased = painter.check("after the eraser")
    assert len(erased) == 23, "it crosses five strokes of the first column"
    assert erased.rasterize(96, 128)[1][0, 0, 5:88, 15:17].sum() == 0

    painter.press("v")
    painter.drag([(46, 10), (60, 17)])
    painter.press("Escape")
    moved = painter.check("after a stroke was moved")
    assert sum(one != other for one, other in zip(erased, moved, strict=True)) == 1
    painter.click((60, 17))
    painter.press("Delete")
    assert len(painter.check("after it was deleted")) == 22
    painter.button("Undo")
    painter.wait_until(lambda: len(painter.strokes()) == 23, "the button takes the deletion back")
    painter.check("after the undo button")

    painter.press("l")
    painter.drag([(30, 20), (90, 20), (90, 70), (30, 70), (30, 22)])
    painter.strokes()
    mask = np.array(painter.value("{name: int(mask.sum()) for name, mask in painter.masks.items()}")["object 1"])
    assert abs(int(mask) - 60 * 50) < 60
    painter.press("m")
    painter.check("with the mask hidden")

    painter.press("b")
    painter.press("+")
    painter.press("+")
    painter.wait_for_view(1.56)
    painter.drag([(40, 40), (70, 44)])
    zoomed = painter.strokes()[-1]
    assert np.allclose(zoomed.points[0], (40, 40), atol=0.4)
    assert np.allclose(zoomed.points[-1], (70, 44), atol=0.4)
    painter.press("0")
    painter.wait_for_view(1.0)
    painter.check("after painting in a magnified view")
    assert painter.notebook.errors == []


def test_a_narrow_column_shows_the_whole_picture_and_takes_strokes_where_they_are_drawn(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "narrow.ipynb", "painter.layout.width = '300px'")
    box = painter.layer.bounding_box()
    assert (box["width"], box["height"]) == (pytest.approx(296, abs=1), pytest.approx(222, abs=1))
    canvas = painter.page.evaluate(
        "() => { const {width, height} = document.querySelector('.colorlab-pointer').parentElement"
        ".querySelector(':scope > canvas').getBoundingClientRect(); return [width, height]; }"
    )
    assert canvas == [pytest.approx(box["width"]), pytest.approx(box["height"])]
    painter.drag([(8, 8), (120, 88)])
    assert np.allclose(painter.check("painted from corner to corner")[0].points[-1], (120, 88), atol=0.5)
    painter.press("+")
    painter.press("+")
    painter.wait_for_view(1.56)
    painter.drag([(50, 40), (80, 44)])
    assert np.allclose(painter.strokes()[-1].points[0], (50, 40), atol=0.4)
    assert painter.notebook.errors == []


def test_colors_come_from_wheel_eyedropper_and_field(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "colors.ipynb")
    painter.page.mouse.move(*painter.place((100, 60)))
    painter.wait_until(lambda: painter.value("painter._wheel.lightness") > 75, "the wheel follows the pointer")
    wheel = painter.page.locator(".colorlab-pointer").nth(1)
    wheel.scroll_into_view_if_needed()
    box = wheel.bounding_box()
    painter.page.mouse.click(box["x"] + box["width"] / 2 - 12, box["y"] + box["height"] / 2 - 20)
    painter.wait_until(lambda: painter.value("painter.color")[1] > 180, "green was taken from the wheel")
    green = painter.value("painter.color")
    painter.drag([(20, 20), (60, 30)])
    assert list(painter.check("painted in a color of the wheel")[0].color) == green

    field = painter.page.locator(".widget-colorpicker input[type=text]").first
    field.fill("#2850c8")
    field.press("Enter")
    painter.drag([(20, 60), (60, 66)])
    assert painter.check("painted at once in a color that was written")[1].color == (0x28, 0x50, 0xC8)

    painter.press("i")
    painter.click((40, 25))
    painter.wait_until(lambda: painter.value("painter.color") == green, "the eyedropper takes the color of a stroke")
    painter.press("b")
    painter.press("]")
    painter.drag([(90, 20), (110, 24)])
    last = painter.check("painted with a wider brush")[-1]
    assert list(last.color) == green
    assert last.radius_px == pytest.approx(3.75)
    assert painter.notebook.errors == []


def test_a_reloaded_page_shows_everything_again(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "reload.ipynb")
    paint_twenty(painter)
    painter.press("l")
    painter.drag([(30, 20), (90, 20), (90, 70), (30, 70)])
    painter.press("m")
    before = painter.check("before the reload")
    painter.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    painter.page.wait_for_function(f"() => !{CURRENT}.context.model.dirty", timeout=60_000)
    painter.page.reload()
    painter.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
    painter.arrive()
    after = painter.check("after the reload")
    assert after == before
    assert painter.value("list(painter.masks)") == ["object 1"]
    painter.press("b")
    painter.drag([(100, 90), (120, 90)])
    painter.press("Control+z")
    painter.press("Control+z")
    assert painter.check("and it goes on") == Strokes(before)
    assert painter.value("list(painter.masks)") == []
