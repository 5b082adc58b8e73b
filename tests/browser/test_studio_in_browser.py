"""The Studio as a user meets it: every action is checked in the page against the Python model."""

import numpy as np
import pytest
from kernel_page import CURRENT, SLOW_KERNEL
from studio_page import StudioPage, open_studio, write_notebook


@pytest.fixture
def opened(lab, open_notebook):
    """Return a Studio that is shown in a fresh notebook."""

    return lambda name="studio.ipynb": open_studio(lab, open_notebook, name)


def button(studio, name):
    return studio.page.locator(".colorlab-player").get_by_role("button", name=name)


@pytest.mark.timeout(900)
def test_a_picture_is_colored_stepped_branched_and_explained(opened, tmp_path):
    studio = opened()
    page = studio.page

    # Step by step, then to the end.
    for taken in (1, 2):
        button(studio, "Take one step").click()
        studio.wait_until(lambda taken=taken: studio.value("model.steps_taken") == taken, f"step {taken} is taken")
        studio.wait_idle()
        studio.check_picture()
    button(studio, "Play").click()
    studio.wait_until(lambda: studio.value("model.run.is_finished"), "the run is finished")
    studio.wait_idle()
    studio.check_picture()
    page.wait_for_function("document.querySelectorAll('.colorlab-thumbnail').length === 21", timeout=60_000)
    page.screenshot(path=tmp_path / "light.png")

    # Scrub by keyboard: the page shows the step at once, and the kernel follows.
    slider = page.locator(".colorlab-player input[type=range]")
    slider.focus()
    for _ in range(15):
        slider.press("ArrowLeft")
    assert page.locator(".colorlab-player").get_attribute("data-step") == "5"
    studio.wait_until(lambda: studio.value("model.step") == 5, "the kernel looks at step 5")
    studio.wait_idle()
    studio.check_picture()

    # Branch there with other words.
    prompt = page.get_by_placeholder("a red car and a blue house")
    prompt.fill("a green ball and a blue wall")
    prompt.press("Enter")
    studio.wait_until(lambda: "green" in studio.value("model.conditioning.prompt"), "the words are given")
    button(studio, "Branch here").click()
    studio.wait_until(lambda: studio.value("len(model.tree)") == 2, "there is a branch")
    studio.wait_until(lambda: studio.value("model.run.is_finished"), "the branch is finished")
    studio.wait_idle()
    assert studio.value("model.tree.fork(model.run).step_index") == 5
    studio.check_picture()
    assert page.locator(".colorlab-run").count() == 2

    # A pixel, then a word.
    studio.click_picture(50, 48)
    studio.wait_until(lambda: studio.value("model.pixel is not None"), "a pixel is selected")
    x, y = studio.value("model.pixel")
    assert abs(x - 50.5) < 1.5
    assert abs(y - 48.5) < 1.5
    studio.check_map("19, pixel=model.pixel")
    page.locator(".colorlab-chip", has_text="green").click()
    studio.check_map("19, word='green'")
    studio.wait_idle()

    # A mechanism of the decoder, switched: the picture follows without a step.
    before = studio.array("model.picture")
    studio.open_tab("Mechanisms")
    page.get_by_text("luminance guidance").first.scroll_into_view_if_needed()
    studio.kernel("switch = studio.views['Mechanisms'].controls['luminance_guidance']['is_on']")
    page.locator(".colorlab-panel", has_text="luminance guidance").locator("input[type=checkbox]").click()
    studio.wait_until(lambda: not studio.value("switch.value"), "the switch is off")
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("len(model.tree)") == 3, "there is a third run")
    studio.wait_idle()
    studio.open_tab("Attention")
    studio.check_picture()
    assert not np.array_equal(studio.array("model.picture"), before)

    # The history leads back.
    page.locator('.colorlab-run[data-name="run-0"]').click()
    studio.wait_until(lambda: studio.value("model.run.name") == "run-0", "the first run is looked at")
    studio.wait_idle()
    studio.check_picture()
    assert prompt.input_value() == "a red ball and a blue wall"

    # A dark page, looked at.
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    shade = "getComputedStyle(document.querySelector('.colorlab-button')).backgroundColor"
    studio.wait_until(lambda: max(_channels(page.evaluate(shade))) < 90, "buttons are dark")
    page.screenshot(path=tmp_path / "dark.png")
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")

    assert studio.notebook.errors == []

    # Everything is there again after a reload.
    studio.reload()
    page.wait_for_function("document.querySelectorAll('.colorlab-thumbnail').length === 21", timeout=60_000)
    studio.check_picture()
    assert page.locator(".colorlab-run").count() == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_slow_kernel_and_a_busy_sampler_lose_nothing(opened):
    studio = opened("slow.ipynb")
    page = studio.page
    studio.kernel(SLOW_KERNEL)
    studio.kernel("model.settings = model.settings.replace(num_inference_steps=400)")
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("model.steps_taken") >= 3, "the run is under way")

    # A question is answered while it samples; the words are not taken out of order.
    page.locator(".colorlab-chip", has_text="red").click()
    studio.wait_until(lambda: studio.value("model.word") == "red", "the word is chosen")
    studio.wait_until(lambda: studio.value("len(studio.views['Attention'].picture.overlay)") > 0, "its map is there")
    assert studio.value("model.is_running")

    # It stops within one step, and goes on by as many steps as are asked for.
    page.locator(".colorlab-status").get_by_role("button").click()
    studio.wait_until(lambda: not studio.value("model.is_busy"), "it has stopped")
    taken = studio.value("model.run.step_index")
    assert taken < 400
    for _ in range(4):
        button(studio, "Take one step").click()
    studio.wait_until(lambda: studio.value("model.run.step_index") == taken + 4, "four more steps are taken")
    studio.wait_idle()
    assert studio.value("model.run.step_index") == taken + 4
    studio.check_picture()
    assert studio.notebook.errors == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_notebooks_on_one_kernel_show_one_studio(opened, open_notebook, lab):
    studio = opened("first.ipynb")
    kernel = studio.page.evaluate(f"{CURRENT}.sessionContext.session.kernel.id")
    other = open_notebook(write_notebook(lab.folder, "second.ipynb"))
    other.page.evaluate(f"(id) => {CURRENT}.sessionContext.changeKernel({{id}})", kernel)
    other.page.wait_for_function(
        f"(id) => {CURRENT}.sessionContext.session.kernel.id === id", arg=kernel, timeout=60_000
    )
    other.page.evaluate(f"{CURRENT}.content.activeCellIndex = 1")
    other.page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    second = StudioPage(other)
    second.arrive()
    second.page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("model.run is not None and model.run.is_finished"), "the run is finished")
    for shown in (studio, second):
        shown.wait_idle()
        shown.check_picture()
        assert shown.notebook.errors == []


def _channels(color):
    """Return red, green and blue of a color as a browser writes it."""
    return [float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]]
