"""How long a stroke takes from the pointer to the screen: drawn by the page, and drawn by the kernel."""

import json

import numpy as np
import pytest
from painter_page import open_painter

# Bounds for a busy machine; on a quiet one the page takes a few milliseconds.
PAGE_P95_MS = 100

# Each drawing of the page's own sheet, with the time since the newest pointer event.
WATCH_PAGE = """() => {
    window.latencies = [];
    let moved = null;
    addEventListener('pointermove', event => { if (event.buttons) moved ??= event.timeStamp; }, true);
    const stroke = CanvasRenderingContext2D.prototype.stroke;
    CanvasRenderingContext2D.prototype.stroke = function (...parts) {
        stroke.apply(this, parts);
        if (moved !== null && this.canvas.closest('.colorlab-pointer')) {
            latencies.push(performance.now() - moved);
            moved = null;
        }
    };
}"""

# The same movement drawn by ipycanvas alone: each move goes to the kernel, and its answer is drawn.
KERNEL = """
from IPython.display import display
from ipycanvas import Canvas
from colorlab_widgets.held_canvas import held_canvas
plain = Canvas(width=512, height=384)
last = []

def follow(x, y):
    with held_canvas():
        if last:
            plain.stroke_line(*last[-1], x, y)
    last.append((x, y))

plain.on_mouse_move(follow)
display(plain)
"""
WATCH_KERNEL = """() => {
    window.latencies = [];
    const moves = [];
    const canvas = document.querySelector('.jp-OutputArea canvas[width="512"]');
    canvas.addEventListener('mousemove', event => moves.push(event.timeStamp), true);
    const draw = CanvasRenderingContext2D.prototype.drawImage;
    CanvasRenderingContext2D.prototype.drawImage = function (...parts) {
        draw.apply(this, parts);
        if (this.canvas === canvas && moves.length) latencies.push(performance.now() - moves.shift());
    };
}"""


def percentiles(latencies: list[float]) -> dict[str, float]:
    """Return the 50th, 95th and 99th percentile in milliseconds."""
    return {f"p{share}_ms": round(float(np.percentile(latencies, share)), 1) for share in (50, 95, 99)}


def wave(left: float, top: float, width: float, number: int) -> list[tuple[float, float]]:
    """Return points of a wave, as a hand would draw it."""
    across = np.linspace(0, 1, number)
    return [(left + width * x, top + 40 * np.sin(9 * x)) for x in across]


@pytest.mark.timeout(900)
def test_a_stroke_is_on_the_screen_before_the_kernel_hears_of_it(lab, open_notebook, record_property, capsys):
    painter = open_painter(lab, open_notebook, "latency.ipynb", KERNEL)
    page = painter.page
    plain = page.locator('.jp-OutputArea canvas[width="512"]').first
    plain.scroll_into_view_if_needed()
    page.evaluate(WATCH_KERNEL)
    box = plain.bounding_box()
    for x, y in wave(box["x"] + 20, box["y"] + 100, 400, 60):
        page.mouse.move(x, y)
        page.wait_for_timeout(16)
    painter.wait_until(lambda: page.evaluate("latencies.length") >= 50, "the kernel has drawn the moves")
    by_kernel = page.evaluate("latencies")

    painter.layer.scroll_into_view_if_needed()
    page.evaluate(WATCH_PAGE)
    corner = painter.layer.bounding_box()
    points = wave(corner["x"] + 20, corner["y"] + 100, 400, 60)
    page.mouse.move(*points[0])
    page.mouse.down()
    for x, y in points:
        page.mouse.move(x, y)
        page.wait_for_timeout(16)
    page.mouse.up()
    by_page = page.evaluate("latencies")
    assert len(painter.check("after the stroke")) == 1

    found = {"page": percentiles(by_page), "kernel": percentiles(by_kernel), "moves": [len(by_page), len(by_kernel)]}
    record_property("latency", json.dumps(found))
    with capsys.disabled():
        print(f"\npointer to drawn stroke: {json.dumps(found)}")
    assert len(by_page) >= 30
    assert found["page"]["p95_ms"] <= PAGE_P95_MS
