"""The tour as a newcomer meets it: opened in JupyterLab, every cell run, the pictures looked at."""

import base64
import io

import numpy as np
import pytest
from PIL import Image


@pytest.mark.timeout(600)
def test_the_tour_colors_a_photograph_in_the_browser(open_notebook, tmp_path):
    notebook = open_notebook("00_tour.ipynb")
    notebook.run_all()
    outputs = notebook.outputs()
    assert [output for output in outputs if output["output_type"] == "error"] == []
    stderr = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert [text for text in stderr if "step/s" not in text and "s/step" not in text] == []
    pictures = [decoded(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 8
    assert sum(colorfulness(picture) > 5 for picture in pictures) >= len(pictures) - 1, "all but the gray one"
    # They are not only in the file but on the page, at a size that can be looked at.
    shown = notebook.page.locator(".jp-RenderedImage img")
    assert shown.count() >= len(pictures)
    shown.first.scroll_into_view_if_needed()
    box = shown.first.bounding_box()
    assert box["width"] > 200
    assert box["height"] > 100
    assert notebook.errors == []
    notebook.page.screenshot(path=tmp_path / "tour.png")


def decoded(png: str) -> np.ndarray:
    """Decode a notebook's PNG output to (H, W, 3) float."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), dtype=np.float64)


def colorfulness(image: np.ndarray) -> float:
    """Mean distance of the three channels from their mean, over pixels that are not white."""
    inked = image[image.min(-1) < 250]
    return float(np.abs(inked - inked.mean(-1, keepdims=True)).mean()) if len(inked) else 0.0
