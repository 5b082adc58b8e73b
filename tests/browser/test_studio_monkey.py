"""Random clicking, painting and typing: no error in page or kernel, and bounded memory."""

import os
import random
import time

import pytest
from studio_page import StudioPage, write_notebook

# What opens windows of the system or writes files is no business of a monkey.
ALLOWED = (
    ".colorlab-whole button:visible:enabled, .colorlab-whole [role=tab], .colorlab-whole input[type=checkbox]:visible"
)
FORBIDDEN = ("Save", "Export", "Picture", "Exemplar", "Open", "PNG", "JSON", "Upload")
# The kernel's own log of the run: what was printed to stderr, and its memory.
WATCH = """
import io, logging, os, sys, threading
problems = io.StringIO()
sys.excepthook = threading.excepthook = lambda *args: problems.write(repr(args))
# What a callback raises goes to the log of the kernel.
handler = logging.StreamHandler(problems)
handler.setLevel(logging.ERROR)
logging.getLogger().addHandler(handler)
get_ipython().log.addHandler(handler)
get_ipython().showtraceback = lambda *args, **kwargs: problems.write(repr(sys.exc_info()))
def disagreements():
    # What painter, view-model, views and run do not agree about, at rest.
    run, painter = model.run, studio.painter
    agreed = {
        "strokes": painter.strokes == model.strokes == model.conditioning.strokes,
        "masks": list(painter.masks) == list(model.masks) == list(model.conditioning.masks),
        "draft": painter.draft == painter.strokes and not painter.is_drawing and not model.is_held,
        "tree": any(run is other for other in model.tree.runs) if run is not None else len(model.tree) == 0,
        "steps": run is None or (model.steps_taken, model.num_steps) == (run.step_index, run.num_steps),
        "moment": model.step < model.steps_taken or (run is not None and run.is_finished),
        "controls": all(
            control.value == getattr(model.settings, name) for name, control in studio.given.settings.items()
        ) and studio.given.prompt.value == model.conditioning.prompt,
        "player": (studio.player.page.step, studio.player.page.steps_taken) == (model.step, model.steps_taken),
        "history": {row["name"] for row in studio.history.page.rows} == {other.name for other in model.tree.runs},
    }
    return [name for name, is_so in agreed.items() if not is_so]
def resident_mb():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
def kept_mb():
    # What is kept on purpose, within budgets.
    from colorlab.inspection.shelf import shelf_of
    runs = model.tree.runs
    steps = sum(part.num_bytes for run in runs for name, part in run.cost.items() if name != "prepare")
    sizes = {"encoded": colorizer.method.cache.num_bytes, "replays": shelf_of(colorizer.method).num_bytes}
    return {name: size / 2**20 for name, size in {**sizes, f"{len(runs)} runs": steps}.items()}
"""


@pytest.mark.timeout(600)
def test_a_minute_of_random_use(lab, open_notebook):
    play(lab, open_notebook, float(os.environ.get("COLORLAB_MONKEY_S", "60")), max_growth_mb=300)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_minutes_of_random_use(lab, open_notebook):
    play(lab, open_notebook, 600, max_growth_mb=100)


def play(lab, open_notebook, seconds, *, max_growth_mb):
    """Use the Studio at random for a while, and check that it is well afterwards.

    The first run brings arenas and caches of the libraries into memory; growth counts from after it.
    """
    notebook = open_notebook(write_notebook(lab.folder, "monkey.ipynb"))
    consoles = []
    notebook.page.on("console", lambda message: consoles.append(message.text) if message.type == "error" else None)
    notebook.run_all()
    studio = StudioPage(notebook)
    studio.arrive()
    studio.kernel(WATCH)
    studio.kernel("model.settings = model.settings.replace(num_inference_steps=6); model.apply()")
    studio.wait_until(lambda: studio.value("model.run is not None and model.run.is_finished"), "the first run")
    studio.wait_idle()
    before_mb = studio.value("resident_mb()")
    dice = random.Random(0)
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        act(studio, dice)
        number += 1
    page = notebook.page
    page.mouse.up()
    studio.kernel("model.is_live = False; model.stop()")
    studio.wait_until(lambda: not studio.value("model.is_busy"), "the worker is idle")
    heap_mb = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
    grown_mb = studio.value("resident_mb()") - before_mb
    kept = ", ".join(f"{name} {size_mb:.0f} MB" for name, size_mb in studio.value("kept_mb()").items())
    print(f"{number} actions in {seconds:g} s, kernel grew by {grown_mb:.0f} MB, the page's heap is {heap_mb:.0f} MB")
    print(f"kept on purpose: {kept}")
    assert notebook.errors == []
    assert [text for text in consoles if "favicon" not in text] == []
    assert studio.value("problems.getvalue()") == ""
    assert studio.value("disagreements()") == []
    assert number > seconds / 20
    assert grown_mb < max_growth_mb
    # It still does its work; a mask that was drawn for words that are gone would be refused, as it should be.
    studio.kernel("model.conditioning = model.conditioning.replace(prompt='a red ball', masks={})")
    studio.kernel("model.settings = model.settings.replace(num_inference_steps=3, seed=123); model.apply()")
    is_there = "model.run is not None and model.run.is_finished and model.run.settings.seed == 123"
    studio.wait_until(lambda: studio.value(f"({is_there}) or model.error != ''"), "a run")
    assert studio.value("model.error") == ""
    studio.open_tab("Attention")
    studio.wait_idle()
    studio.check_picture()


def act(studio, dice):
    """Do one thing at random, if it can be done within half a second."""
    page = studio.page
    kind = dice.random()
    if kind < 0.5:
        controls = page.locator(ALLOWED)
        count = controls.count()
        if count:
            control = controls.nth(dice.randrange(count))
            attempt(lambda: click_if_allowed(control))
    elif kind < 0.8:
        stages = page.locator(".colorlab-whole .colorlab-picture:visible, .colorlab-whole .colorlab-pointer:visible")
        count = stages.count()
        if count:
            stage = stages.nth(dice.randrange(count))
            # Else the hand would reach what lies over it: dragged through the menus of the page it restarts the kernel.
            attempt(lambda: stage.scroll_into_view_if_needed(timeout=500))
            box = attempt(lambda: stage.bounding_box(timeout=500))
            if box is not None:
                points = [
                    (box["x"] + dice.random() * box["width"], box["y"] + dice.random() * box["height"]) for _ in "ab"
                ]
                page.mouse.move(*points[0])
                page.mouse.down()
                page.mouse.move(*points[1], steps=4)
                page.mouse.up()
    elif kind < 0.9:
        words = dice.choice(["a red ball", "a blue ball and a green wall", "", "ball"])
        field = page.get_by_placeholder("a red car and a blue house")
        attempt(lambda: (field.fill(words, timeout=500), field.press("Enter", timeout=500)))
    else:
        slider = page.locator(".colorlab-player input[type=range]")
        attempt(lambda: slider.press(dice.choice(["ArrowLeft", "ArrowRight", "Home", "End"]), timeout=500))


def click_if_allowed(control):
    """Click a control, unless it opens windows of the system or writes files."""
    name = f"{control.get_attribute('title', timeout=500) or ''} {control.text_content(timeout=500) or ''}"
    if not any(word in name for word in FORBIDDEN):
        control.click(timeout=500)


def attempt(action):
    """Do what may have become impossible in between: a control that went away, or is covered. None if it has."""
    from playwright.sync_api import Error

    try:
        return action()
    except Error as problem:
        if not any(word in str(problem) for word in ("Timeout", "detached", "disabled")):
            raise
        return None
