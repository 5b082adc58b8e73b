"""A Studio in a real notebook: eyes that compare the page with the kernel after each action."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernel_page import KernelPage, write_cells

SETUP = """
import base64, json
import numpy as np
import torch
import colorlab
from colorlab_widgets import Studio
torch.set_num_threads(1)
rows, columns = np.mgrid[:96, :128]
picture = (60 + columns + rows // 3).astype(np.uint8)
picture[(rows - 48) ** 2 + (columns - 50) ** 2 < 700] = 190
colorizer = colorlab.load("mini/lcad")
studio = Studio(colorizer, colorlab.Conditioning(gray=picture, prompt="a red ball and a blue wall"))
model = studio.model
"""
_READ_PIXELS = """(image) => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
    let text = '';
    for (let at = 0; at < data.length; at += 4) text += String.fromCharCode(data[at], data[at + 1], data[at + 2]);
    return [canvas.height, canvas.width, btoa(text)];
}"""


def write_notebook(folder: Path, name: str) -> str:
    """Write a notebook that shows a Studio, and return its name."""
    return write_cells(folder, name, (SETUP, "studio"))


@dataclass
class StudioPage(KernelPage):
    """A notebook that shows `studio`."""

    def arrive(self) -> None:
        """Wait for the Studio, and bring it into view."""
        self.page.wait_for_selector(".colorlab-whole .colorlab-player", timeout=120_000)
        self.page.evaluate("document.querySelector('.colorlab-whole').scrollIntoView()")

    def array(self, expression: str) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 of the kernel."""
        shape, text = self.kernel(
            f"found = np.ascontiguousarray({expression})\n"
            "print(json.dumps([found.shape, base64.b64encode(found).decode()]))"
        )
        return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(shape)

    def wait_idle(self) -> None:
        """Wait until the worker has nothing to do, and the page says so."""
        self.wait_until(lambda: not self.value("model.is_busy"), "the worker is idle")
        self.page.wait_for_selector('.colorlab-status[data-busy="false"]', timeout=60_000)
        assert self.value("model.error") == ""

    def open_tab(self, name: str) -> None:
        """Open one of the views."""
        self.page.get_by_role("tab", name=name).click()

    @property
    def picture(self) -> Any:
        """Return the picture of the attention view."""
        return self.page.locator(".widget-tab .colorlab-picture.colorlab-clickable").first

    def click_picture(self, x: float, y: float) -> None:
        """Click a place, in pixels of the picture."""
        self.picture.scroll_into_view_if_needed()
        box = self.picture.bounding_box()
        height, width = self.value("model.image_size")
        self.picture.click(position={"x": (x + 0.5) / width * box["width"], "y": (y + 0.5) / height * box["height"]})

    def pixels(self, layer: str = ".colorlab-layer:first-child") -> np.ndarray:
        """Read the pixels of a layer of the attention view, (H, W, 3) uint8."""
        height, width, text = self.picture.locator(layer).evaluate(_READ_PIXELS)
        return np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(height, width, 3)

    def check_picture(self) -> None:
        """Compare the picture in the page with that of the model, pixel by pixel."""
        view = "studio.views['Attention'].picture"
        self.wait_until(
            lambda: self.picture.get_attribute("data-shown") == str(self.value(f"{view}.frame")),
            "the newest frame is drawn",
        )
        assert np.array_equal(self.pixels(), self.array("model.picture"))

    def check_map(self, question: str) -> None:
        """Compare the map in the page with the answer to a question that is asked in the kernel anew."""
        self.kernel("from colorlab_widgets.pictures import as_colors")
        expected = self.array(f"as_colors(model.run.attention({question}).array)")
        overlay = ".colorlab-overlay"
        self.wait_until(lambda: np.array_equal(self.pixels(overlay), expected), f"the map of {question} is shown")
