"""The Studio without JupyterLab: voila makes a page of a notebook, and the Studio does its work there."""

import numpy as np
import pytest
from kernel_page import write_cells
from studio_page import IMPORTS, StudioPage

import colorlab

pytestmark = pytest.mark.timeout(600)

PROMPT, NUM_STEPS = "a red ball and a blue wall", 6


def test_voila_shows_a_studio_that_colorizes(open_app, tmp_path):
    rows, columns = np.mgrid[:96, :128]
    gray = (60 + columns + rows // 3).astype(np.uint8)
    gray[(rows - 48) ** 2 + (columns - 50) ** 2 < 700] = 190
    np.save(tmp_path / "gray.npy", gray)
    given = f"colorlab.Conditioning(gray=np.load('gray.npy'), prompt={PROMPT!r})"
    settings = f"colorlab.Settings(num_inference_steps={NUM_STEPS})"
    write_cells(tmp_path, "studio.ipynb", (IMPORTS, f"Studio(colorlab.load('mini/lcad'), {given}, {settings})"))
    studio = StudioPage(open_app(tmp_path / "studio.ipynb"))
    studio.arrive()
    studio.page.get_by_role("button", name="Colorize").click()
    studio.page.wait_for_function(f"document.querySelectorAll('.colorlab-thumbnail').length === {NUM_STEPS + 1}")
    studio.page.wait_for_selector('.colorlab-status[data-busy="false"]')

    colorizer = colorlab.load("mini/lcad")
    run = colorizer.start(gray, colorlab.Settings(num_inference_steps=NUM_STEPS), prompt=PROMPT).finish(progress=False)
    # Another number of threads sums in another order.
    assert np.abs(studio.pixels().astype(int) - run.image).max() <= 1
    assert studio.notebook.errors == []
