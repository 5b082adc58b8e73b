"""A Studio in a real notebook: eyes that compare the page with the kernel after each action."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernel_page import CURRENT, KernelPage, write_cells

IMPORTS = """
import base64, json
import numpy as np
import torch
import colorlab
from colorlab_widgets import Studio
torch.set_num_threads(1)
"""
SETUP = """
rows, columns = np.mgrid[:96, :128]
picture = (60 + columns + rows // 3).astype(np.uint8)
picture[(rows - 48) ** 2 + (columns - 50) ** 2 < 700] = 190
colorizer = colorlab.load("mini/lcad")
studio = Studio(colorizer, colorlab.Conditioning(gray=picture, prompt="a red ball and a blue wall"))
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


def write_notebook(folder: Path, name: str, setup: str = SETUP) -> str:
    """Write a notebook that shows the `studio` of the setup, and return its name."""
    return write_cells(folder, name, (f"{IMPORTS}{setup}\nmodel = studio.model", "studio"))


def open_studio(lab: Any, open_notebook: Callable[[str], Any], name: str, setup: str = SETUP) -> "StudioPage":
    """Open a notebook that shows a Studio."""
    notebook = open_notebook(write_notebook(lab.folder, name, setup))
    notebook.page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    notebook.run_all()
    assert [output for output in notebook.outputs() if output["output_type"] == "error"] == []
    studio = StudioPage(notebook)
    studio.arrive()
    for _ in range(3):
        # anywidget gives each script two seconds to load, which a page on a busy machine can miss.
        notebook.page.wait_for_timeout(2500)
        if not any("Failed to initialize model" in error for error in notebook.errors):
            break
        studio.reload()
    assert [error for error in notebook.errors if "Failed to initialize model" not in error] == []
    notebook.errors.clear()
    return studio


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

    def reload(self) -> None:
        """Save the notebook, and open the page anew on the same kernel."""
        page = self.page
        self.notebook.errors.clear()
        page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        self.wait_until(lambda: not page.evaluate(f"{CURRENT}.context.model.dirty"), "the notebook is saved")
        page.reload()
        page.wait_for_function(f"() => {CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'", timeout=120_000)
        self.arrive()

    def wait_idle(self) -> None:
        """Wait until the worker has nothing to do, and the page says so."""
        self.wait_until(lambda: not self.value("model.is_busy"), "the worker is idle")
        self.page.wait_for_selector('.colorlab-status[data-busy="false"]', timeout=60_000)
        assert self.value("model.error") == ""

    def open_tab(self, name: str) -> None:
        """Open one of the views."""
        self.page.locator(".colorlab-whole").get_by_role("tab", name=name).click()

    def stage_place(self, x: float, y: float) -> tuple[float, float]:
        """Return where on the page a point of the painter's picture lies, in pixels of the picture."""
        stage = self.page.locator(".colorlab-pointer").first
        stage.scroll_into_view_if_needed()
        box = stage.bounding_box()
        height, width = self.value("model.image_size")
        return box["x"] + x / width * box["width"], box["y"] + y / height * box["height"]

    def drag(self, points: Sequence[tuple[float, float]], *, steps: int = 4) -> None:
        """Press at the first point of the painter's picture, move along the others, release at the last."""
        places = [self.stage_place(*point) for point in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=steps)
        self.page.mouse.up()

    @property
    def picture(self) -> Any:
        """Return the picture of the view that is seen, attention at first."""
        return self.page.locator(".widget-tab .colorlab-picture.colorlab-clickable:visible").first

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
