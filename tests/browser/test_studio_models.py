"""What a model brings into the Studio: masks paired with words for L-CAD, strokes and exemplar for CtrlColor."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab
from studio_page import open_studio

pytestmark = pytest.mark.timeout(900)

# Three objects of one kind, whose exact masks are known.
SAME_KIND = """
from itertools import islice
from colorlab.evaluation.instances import masked_conditioning, same_kind_scenes
_, scene = islice(same_kind_scenes(128), 2)
exact = masked_conditioning(scene)
names = list(exact.masks)
colorizer = colorlab.load("mini/lcad")
studio = Studio(colorizer, exact.replace(masks={}))
"""
PAINTED = """
rows, columns = np.mgrid[:128, :128]
picture = (90 + rows // 2).astype(np.uint8)
picture[(rows - 60) ** 2 + (columns - 64) ** 2 < 1000] = 150
colorizer = colorlab.load("mini/ctrlcolor")
studio = Studio(colorizer, colorlab.Conditioning(gray=picture, prompt="a ball"))
"""


def colors(picture):
    """Return (H, W, 2) float, CIELAB a and b of (H, W, 3) uint8."""
    return rgb2lab(picture)[..., 1:]


def test_masks_are_paired_with_words_and_guide_the_colors(lab, open_notebook, tmp_path):
    studio = open_studio(lab, open_notebook, "instances.ipynb", SAME_KIND)
    page = studio.page
    studio.open_tab("Instances")
    view = "studio.views['Instances']"
    masks = {name: studio.array(f"exact.masks[{name!r}]").astype(bool) for name in studio.value("names")}
    first, second, *_ = masks

    # The first object by a click, the second with the lasso.
    x, y = innermost(masks[first])
    studio.click_picture(x, y)
    studio.wait_until(lambda: studio.value("len(model.masks)") == 1, "a click makes a mask")
    (name,) = studio.value("list(model.masks)")
    assert studio.array(f"model.masks[{name!r}]")[y, x]
    rows, columns = np.nonzero(masks[second])
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    page.get_by_role("button", name="Lasso").click()
    studio.drag([(left, top), (right, top), (right, bottom), (left, bottom), (left, top + 1)])
    studio.wait_until(lambda: studio.value("list(model.masks)")[-1] == "object 1", "the lasso makes a mask")
    studio.wait_until(lambda: "not in the prompt" in studio.value(f"{view}.note.value"), "it has no words yet")
    assert page.get_by_text("not in the prompt").first.is_visible()

    # Words are chosen for both. Where the other mask has them already, the two exchange their names.
    panel = page.locator(".widget-tab")
    for words in (second, first):
        if studio.value("'object 1' in model.masks"):
            panel.locator(".colorlab-card", has_text="object 1").click()
            studio.wait_until(lambda: studio.value(f"{view}.chosen") == "object 1", "the mask without words is chosen")
            panel.locator(".colorlab-chip", has_text=words).first.click()
            studio.wait_until(lambda words=words: studio.value(f"{view}.chosen") == words, "it has its words")
    assert set(studio.value("list(model.masks)")) == {first, second}
    assert studio.array(f"model.masks[{first!r}]")[y, x]
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("model.run is not None and model.run.is_finished"), "it is colored")
    studio.wait_idle()
    one = studio.array("model.picture")

    # The maps of the run, in the page.
    page.locator(".colorlab-thumbnail").nth(2).click()
    studio.wait_until(lambda: studio.value("model.step") == 2, "step 2 is looked at")
    panel.get_by_role("button", name="Before and after").click()
    studio.wait_until(lambda: studio.value(f"len({view}.maps.items)") == 2, "the maps are there")
    chosen = studio.value(f"{view}.chosen")
    before, after = studio.value(f"model.run.phrase(2, {chosen!r}).provenance['overlaps']")
    assert after > before, "guidance brings the attention into the mask"
    for label, share in (("before", before), ("after", after)):
        card = panel.locator(".colorlab-card", has_text=f"{label} guidance: {share:.2f}")
        assert card.locator("img").evaluate("it => it.complete && it.naturalWidth") > 1
    page.screenshot(path=tmp_path / "instances.png")

    # The other way round the colors change places, and hardly anything outside.
    panel.locator(".colorlab-chip", has_text=second if chosen == first else first).first.click()
    studio.wait_until(lambda: studio.value("model.is_changed"), "the words have changed places")
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("len(model.tree)") == 2 and studio.value("model.run.is_finished"), "again")
    studio.wait_idle()
    other = studio.array("model.picture")
    moved = np.linalg.norm(colors(one) - colors(other), axis=-1)
    outside = ~np.any(list(masks.values()), axis=0)
    assert moved[masks[second]].mean() > 3 * moved[outside].mean()
    assert studio.notebook.errors == []


def test_strokes_and_exemplar_color_and_the_decoder_shows_its_offsets(lab, open_notebook, tmp_path):
    studio = open_studio(lab, open_notebook, "ctrlcolor.ipynb", PAINTED)
    page = studio.page
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("model.run is not None and model.run.is_finished"), "words alone")
    studio.wait_idle()
    plain = colors(studio.array("model.picture"))

    # One object is painted green, and turns green.
    field = page.locator(".widget-colorpicker input[type=text]").first
    field.fill("#28a03c")
    field.press("Enter")
    studio.drag([(48, 52), (80, 56), (50, 66), (80, 70)], steps=6)
    studio.wait_until(lambda: studio.value("len(model.conditioning.strokes)") == 1, "the stroke is given")
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(lambda: studio.value("len(model.tree)") == 2 and studio.value("model.run.is_finished"), "painted")
    studio.wait_idle()
    painted = colors(studio.array("model.picture"))
    rows, columns = np.mgrid[:128, :128]
    ball = (rows - 60) ** 2 + (columns - 64) ** 2 < 800
    assert painted[ball, 0].mean() < plain[ball, 0].mean() - 8, "a falls towards green"

    # An exemplar is loaded as a user does it.
    studio.open_tab("Files")
    png = io.BytesIO()
    Image.fromarray(np.tile(np.uint8([[[200, 60, 40]]]), (64, 64, 1))).save(png, format="png")
    upload = {"name": "red.png", "mimeType": "image/png", "buffer": png.getvalue()}
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Exemplar (0)").click()
    chooser.value.set_files(upload)
    studio.wait_until(lambda: studio.value("model.conditioning.exemplar is not None"), "the exemplar is given")

    # Guidance is switched, and every mechanism shows what it did; offsets are arrows.
    studio.open_tab("Mechanisms")
    panel = page.locator(".colorlab-panel", has_text="self attention guidance")
    is_on = "model.colorizer.method.mechanism('self_attention_guidance').is_on(model.settings)"
    was_on = studio.value(is_on)
    panel.locator("input[type=checkbox]").first.click()
    studio.wait_until(lambda: studio.value(is_on) != was_on, "guidance is switched")
    page.get_by_role("button", name="Colorize").click()
    studio.wait_until(
        lambda: studio.value("len(model.tree)") == 3 and studio.value("model.run.is_finished"), "all of it"
    )
    studio.wait_idle()
    assert not np.array_equal(colors(studio.array("model.picture")), painted)
    page.get_by_role("button", name="Show what they did").click()
    chip = page.locator(".widget-tab .colorlab-chip", has_text="offsets").first
    chip.click(timeout=120_000)
    arrows = "studio.views['Mechanisms'].picture.arrows"
    studio.wait_until(lambda: studio.value(f"len({arrows})") > 0, "arrows are given")
    studio.wait_until(
        lambda: page.locator(".widget-tab .colorlab-arrow").count() == studio.value(f"len({arrows})"), "and drawn"
    )
    page.screenshot(path=tmp_path / "offsets.png")
    assert studio.value("model.error") == ""
    assert studio.notebook.errors == []


def innermost(mask):
    """Return (x, y) of the pixel that is farthest from the border of a mask."""
    from scipy.ndimage import distance_transform_edt

    y, x = np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)
    return int(x), int(y)
