"""The painter in a real JupyterLab: after each action the page is compared with what Python knows."""

import numpy as np
import pytest
from painter_page import PainterPage, open_painter

from colorlab.strokes import Strokes

pytestmark = pytest.mark.timeout(900)

# A slow and busy kernel: each message of the page waits for 200 ms, and a thread computes all the time.
SLOW = """
import torch
painter._layer.on_msg(lambda *_: time.sleep(0.2))
is_sampling = threading.Event()
is_sampling.set()

def sample():
    while is_sampling.is_set():
        torch.randn(128, 128) @ torch.randn(128, 128)
        painter.result_label = f"{time.monotonic():.1f}"

threading.Thread(target=sample, daemon=True).start()
"""


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


def test_nothing_is_lost_or_wrong_while_the_kernel_is_slow_and_busy(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "slow.ipynb", SLOW)
    paint_twenty(painter)
    assert painter.own_pixels() > 5000, "the page shows the strokes before the kernel has answered"
    assert len(painter.check("after 20 quick strokes")) == 20
    painter.press("e")
    painter.drag([(2, 10), (120, 10)], steps=3)
    painter.press("b")
    painter.drag([(5, 90), (60, 92)], steps=3)
    strokes = painter.check("after the eraser and one more stroke, the tools changed by keys")
    assert len(strokes) == 21, "a row of four is rubbed out but for its ends, and a stroke came"
    for _ in range(4):
        painter.press("Control+z")
    painter.press("Control+y")
    assert len(painter.check("after undo and redo in one go")) == 19
    painter.wait_until(lambda: painter.own_pixels() < 3000, "the page forgets what Python has painted")
    painter.kernel("is_sampling.clear()")
    assert painter.notebook.errors == []


def test_a_reloaded_page_shows_everything_again(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "reload.ipynb")
    paint_twenty(painter)
    painter.press("l")
    painter.drag([(30, 20), (90, 20), (90, 70), (30, 70)])
    painter.press("m")
    before = painter.check("before the reload")
    painter.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    painter.page.wait_for_function(f"() => !{painter.current}.context.model.dirty", timeout=60_000)
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


def test_touch_pen_and_a_fine_screen(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "touch.ipynb")
    session = painter.page.context.new_cdp_session(painter.page)
    session.send(
        "Emulation.setDeviceMetricsOverride", {"width": 1280, "height": 1000, "deviceScaleFactor": 2, "mobile": False}
    )
    painter.wait_until(lambda: painter.seen().shape == (768, 1024, 3), "two pixels for each CSS pixel")
    painter.check("on a fine screen")

    def touch(kind, *points):
        places = [painter.place(point) for point in points]
        fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    touch("touchStart", (20, 20))
    for column in range(24, 64, 4):
        touch("touchMove", (column, 30))
    touch("touchEnd")
    strokes = painter.check("after a stroke with a finger")
    assert len(strokes) == 1
    assert len(strokes[0].points) > 5
    touch("touchStart", (40, 40))
    touch("touchStart", (40, 40), (80, 60))
    touch("touchMove", (30, 35), (90, 65))
    touch("touchEnd")
    assert len(painter.strokes()) == 1, "two fingers zoom and paint nothing"
    assert painter.value("painter._layer.view[0]") > 1.2
    painter.press("0")
    painter.wait_for_view(1.0)

    x, y = painter.place((30, 70))
    pen = {"pointerType": "pen", "force": 0.7, "button": "left", "clickCount": 1}
    session.send("Input.dispatchMouseEvent", {"type": "mousePressed", "x": x, "y": y, **pen})
    session.send("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + 90, "y": y, **pen, "buttons": 1})
    session.send("Input.dispatchMouseEvent", {"type": "mouseReleased", "x": x + 90, "y": y, **pen})
    assert len(painter.check("after a stroke with a pen")) == 2
    assert painter.notebook.errors == []
