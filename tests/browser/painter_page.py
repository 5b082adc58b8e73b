"""A painter in a real notebook: a hand that draws on it, and eyes that compare the page with the kernel."""

import base64
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from kernel_page import KernelPage, write_cells
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from colorlab.strokes import Strokes

SIZE = (96, 128)
SETUP = f"""
import json, threading, time
import numpy as np
from colorlab.strokes import Stroke, Strokes
from colorlab_widgets import StrokePainter
rows, columns = np.mgrid[:{SIZE[0]}, :{SIZE[1]}]
picture = np.repeat((60 + columns + rows // 2).astype(np.uint8)[..., None], 3, axis=2)
painter = StrokePainter(picture)
"""

Points = Iterable[tuple[float, float]]


@dataclass
class PainterPage(KernelPage):
    """A notebook that shows `painter`."""

    view: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def strokes(self) -> Strokes:
        """Return the strokes in the kernel, when it has handled what the page has sent."""
        # Its messages may go through another thread of the kernel than our code, which then comes first.
        busy = self.page.locator(".colorlab-pointer[aria-busy=true]")
        self.wait_until(lambda: busy.count() == 0, "the kernel has confirmed everything")
        return Strokes.from_list(self.kernel("print(painter.strokes.to_json())"))

    def arrive(self) -> None:
        """Wait for the painter, and bring it into view."""
        self.layer.wait_for(state="visible", timeout=60_000)
        self.layer.scroll_into_view_if_needed()
        self.wait_until(lambda: self.page.locator(".colorlab-pointer").count() == 2, "picture and wheel are there")

    def wait_for_view(self, zoom: float) -> tuple[float, float, float]:
        """Wait until the kernel has painted the picture in a magnified view; return zoom, left and top."""
        self.wait_until(lambda: abs(self.value("painter._layer.painted_view[0]") - zoom) < 0.1, f"zoom {zoom}")
        self.view = tuple(self.value("painter._layer.painted_view"))
        return self.view

    # The hand.

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where on the page a point of the picture lies."""
        zoom, left, top = self.view
        box = self.layer.bounding_box()
        scale = box["width"] / SIZE[1] * zoom
        return box["x"] + (point[0] - left) * scale, box["y"] + (point[1] - top) * scale

    def drag(self, points: Points, *, steps: int = 4) -> None:
        """Press at the first point, move along the others, release at the last."""
        places = [self.place(point) for point in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=steps)
        self.page.mouse.up()

    def click(self, point: tuple[float, float]) -> None:
        """Press and release at one point."""
        self.page.mouse.click(*self.place(point))

    def press(self, keys: str) -> None:
        """Press keys while the picture has the focus."""
        self.layer.focus()
        self.page.keyboard.press(keys)

    def button(self, name: str) -> None:
        """Click a button of the painter."""
        self.page.locator(".jp-OutputArea button").get_by_text(name, exact=True).first.click()

    # The eyes.

    @property
    def layer(self) -> Any:
        """Return the pointer layer over the picture."""
        return self.page.locator(".colorlab-pointer").first

    def seen(self) -> np.ndarray:
        """Return what the canvas below the pointer layer shows, (height, width, 3) uint8 in device pixels."""
        data = self.page.evaluate(
            "() => document.querySelector('.colorlab-pointer').parentElement"
            ".querySelector(':scope > canvas').toDataURL('image/png')"
        )
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB"))

    def own_pixels(self) -> int:
        """Return how many pixels the page still shows of gestures of its own, the cursor among them."""
        script = """() => {
            const canvas = document.querySelector('.colorlab-pointer canvas');
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return data.filter((value, index) => index % 4 === 3 && value > 0).length;
        }"""
        return int(self.page.evaluate(script))

    def check(self, what: str = "") -> Strokes:
        """Wait until each pixel that the page shows is what the strokes in the kernel say, and return these strokes."""
        strokes = self.strokes()
        picture = np.array(self.value("painter.picture[..., 0].tolist()"), dtype=np.uint8)
        self.wait_until(lambda: self.worst(strokes, picture) == 0, f"page and kernel agree {what}")
        return strokes

    def worst(self, strokes: Strokes, picture: np.ndarray) -> int:
        """Count the pixels of the picture that look other than strokes on the picture do, soft edges left out."""
        seen = self.seen().astype(int)
        height, width = picture.shape
        rows = ((np.arange(height) + 0.5) * seen.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * seen.shape[1] / width).astype(int)
        hint, mask = (part[0].numpy() for part in strokes.rasterize(height, width))
        wanted = np.repeat(picture[..., None], 3, axis=2).astype(int)
        painted = mask[0] > 0
        wanted[painted] = np.round(hint.transpose(1, 2, 0)[painted] * 255).astype(int)
        differs = np.abs(seen[rows][:, columns] - wanted).max(axis=2) > 6
        # Where a stroke ends the screen is smooth and the hint is not.
        flat = (maximum_filter(wanted, (3, 3, 1)) - minimum_filter(wanted, (3, 3, 1))).max(axis=2) <= 6
        return int((differs & flat).sum())


def open_painter(lab: Any, open_notebook: Callable[[str], Any], name: str, code: str = "") -> PainterPage:
    """Open a notebook of this name that shows a painter on a gray ramp; `code` runs before it is displayed."""
    write_cells(lab.folder, name, (SETUP, code or "pass", "painter"))
    opened = open_notebook(name)
    opened.run_all()
    outputs = opened.outputs()
    assert [output for output in outputs if output["output_type"] == "error"] == []
    painter = PainterPage(opened)
    painter.arrive()
    return painter
