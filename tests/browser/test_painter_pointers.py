"""Painting by touch and pen, and on screens of any resolution; events come from the browser's own input pipeline."""

import numpy as np
import pytest
from painter_page import SIZE, PainterPage, open_painter

from colorlab.strokes import Strokes

pytestmark = pytest.mark.timeout(600)

# Nothing in the page hears of a changed window.
DEAF_TO_RESIZE = "window.addEventListener('resize', event => event.stopImmediatePropagation(), {capture: true})"
# A pen that is turned round: its other end is button 5, which no test driver can press.
RUB_WITH_PEN = """([from, to]) => {
    const sheet = document.querySelector('.colorlab-pointer');
    const common = {pointerId: window.penId, pointerType: 'pen', bubbles: true, cancelable: true};
    const at = ([clientX, clientY]) => ({clientX, clientY});
    const send = (name, extra) => sheet.dispatchEvent(new PointerEvent(name, {...common, ...extra}));
    send('pointerdown', {...at(from), button: 5, buttons: 32});
    send('pointermove', {...at(to), button: -1, buttons: 32});
    send('pointerup', {...at(to), button: 5, buttons: 0});
}"""


class Hand:
    """Fingers and a pen, through the browser's debugging protocol."""

    def __init__(self, painter: PainterPage) -> None:
        self.painter = painter
        self.devtools = painter.page.context.new_cdp_session(painter.page)

    def touch(self, kind: str, *fingers: tuple[float, float]) -> None:
        """Put fingers down, move them, or lift them all (none given), at points of the picture."""
        places = [self.painter.place(finger) for finger in fingers]
        points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(places)]
        self.devtools.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})

    def pen(self, kind: str, point: tuple[float, float], *, is_down: bool = True) -> None:
        """Press, move or release a pen at a point of the picture."""
        x, y = self.painter.place(point)
        is_pressed = {"button": "left", "buttons": 1, "force": 0.6, "clickCount": 1} if is_down else {}
        event = {"type": f"mouse{kind}", "x": x, "y": y, "pointerType": "pen", **is_pressed}
        self.devtools.send("Input.dispatchMouseEvent", event)

    def use_screen(self, device_scale_factor: float) -> None:
        """Move the window to a screen with so many device pixels for each CSS pixel."""
        # A change of the ratio alone is not even laid out anew under emulation; windows that move change in size, too.
        width = 1280 + round(4 * device_scale_factor)
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": device_scale_factor, "mobile": False}
        self.devtools.send("Emulation.setDeviceMetricsOverride", metrics)


def test_touch_and_pen_paint_zoom_and_rub(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "pointers.ipynb")
    hand = Hand(painter)

    hand.touch("Start", (10, 20))
    for x in (20, 30, 40):
        hand.touch("Move", (x, 20))
    hand.touch("End")
    strokes = painter.check("after a finger has painted")
    assert len(strokes) == 1
    assert np.allclose([strokes[0].points[0], strokes[0].points[-1]], [(10, 20), (40, 20)], atol=0.6)

    # Two fingers zoom; what the first had begun is no stroke.
    hand.touch("Start", (44, 48))
    hand.touch("Start", (44, 48), (84, 48))
    hand.touch("Move", (34, 48), (94, 48))
    hand.touch("Move", (24, 48), (104, 48))
    hand.touch("End")
    painter.wait_for_view(2.0)
    assert painter.strokes() == strokes
    painter.press("0")
    painter.wait_for_view(1.0)

    painter.page.evaluate(
        "document.querySelector('.colorlab-pointer').addEventListener('pointermove',"
        " event => event.pointerType === 'pen' && (window.penId = event.pointerId))"
    )
    hand.pen("Moved", (10, 60), is_down=False)
    hand.pen("Pressed", (10, 60))
    hand.pen("Moved", (40, 60))
    # The palm comes down beside the pen, and the system takes it for what it is: both mean nothing.
    hand.touch("Start", (80, 80))
    hand.touch("Start", (80, 80), (90, 84))
    hand.touch("Cancel")
    hand.pen("Moved", (70, 60))
    hand.pen("Released", (70, 60))
    strokes = painter.check("after a pen has painted while a palm lay on the picture")
    assert len(strokes) == 2
    assert np.allclose([strokes[1].points[0], strokes[1].points[-1]], [(10, 60), (70, 60)], atol=0.6)

    # The other end of the pen rubs out, while the brush stays in hand.
    hand.pen("Moved", (40, 50), is_down=False)
    painter.page.evaluate(RUB_WITH_PEN, [painter.place((40, 50)), painter.place((40, 70))])
    painter.wait_until(lambda: len(painter.strokes()) == 3, "the pen's stroke is cut in two")
    painter.check("after the pen has rubbed")
    assert painter.value("painter._layer.tool") == "brush"
    assert painter.notebook.errors == []


def test_a_picture_is_sharp_on_every_screen_it_is_moved_to(lab, open_notebook):
    painter = open_painter(lab, open_notebook, "screens.ipynb")
    painter.page.evaluate(DEAF_TO_RESIZE)
    hand = Hand(painter)
    painter.drag([(20, 20), (100, 20)])
    before = painter.check("on a plain screen")
    for ratio in (2.0, 1.5, 1.0):
        hand.use_screen(ratio)
        painter.wait_until(lambda ratio=ratio: painter.value("painter._layer.pixel_ratio") == ratio, f"ratio {ratio}")
        css = painter.layer.bounding_box()
        wanted = (round(css["height"] * ratio), round(css["width"] * ratio))
        painter.wait_until(lambda wanted=wanted: painter.seen().shape[:2] == wanted, f"the canvas has ratio {ratio}")
        assert painter.check(f"at ratio {ratio}") == before
        assert blurred_rows(painter) <= 4, "two edges, each smooth over at most two device pixels"
        # What the page itself draws is as fine.
        own = painter.layer.locator("canvas")
        painter.wait_until(
            lambda own=own, wanted=wanted: tuple(own.evaluate("it => [it.height, it.width]")) == wanted, "the own sheet"
        )
    hand.use_screen(2.0)
    painter.wait_until(lambda: painter.value("painter._layer.pixel_ratio") == 2.0, "back on the fine screen")
    painter.drag([(20, 60), (100, 60)])
    strokes = painter.check("painted on a fine screen")
    assert strokes[:1] == Strokes(before)
    assert np.allclose([strokes[1].points[0], strokes[1].points[-1]], [(20, 60), (100, 60)], atol=0.6)
    wheel = painter.page.locator(".colorlab-pointer").nth(1)
    assert wheel.evaluate("it => it.parentElement.querySelector(':scope > canvas').width") == round(
        2 * wheel.bounding_box()["width"]
    )
    assert painter.notebook.errors == []


def blurred_rows(painter: PainterPage) -> int:
    """Count the device pixels between stroke and picture, up and down across the middle of the first stroke."""
    seen = painter.seen().astype(int)
    column = seen[: seen.shape[0] * 40 // SIZE[0], seen.shape[1] * 60 // SIZE[1]]
    # Red in the stroke, gray in the picture; in between is neither.
    redness = column[:, 0] - column[:, 1]
    return int(((redness > 8) & (redness < 150)).sum())
