"""The painter as a whole, where the test plays the browser: it sends what the page would send."""

import json
import threading
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from colorlab_widgets import StrokePainter
from colorlab_widgets.held_canvas import held_canvas
from colorlab_widgets.painter.canvas import LAYERS
from colorlab_widgets.painter.controls import KEYS, TOOLS
from colorlab_widgets.painter.files import drawing_to_json, strokes_to_png
from ipycanvas.canvas import _CANVAS_MANAGER, COMMANDS

from colorlab.errors import ImageError, ShapeError
from colorlab.strokes import Stroke, Strokes

SIZE = (48, 64)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
SWITCH, LINES, RECT = (COMMANDS[name] for name in ("switchCanvas", "strokeLines", "fillRect"))
RED, BLUE = (200, 40, 40), (40, 40, 200)


class Page:
    """What a browser does with a painter: messages to it, and a look at what it was told to draw."""

    def __init__(self, painter: StrokePainter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.painter, self.layer = painter, painter._layer
        self.confirmed: list[dict[str, Any]] = []
        self.drawn: list[list[Any]] = []
        monkeypatch.setattr(self.layer, "send", lambda content, buffers=None: self.confirmed.append(content))
        monkeypatch.setattr(_CANVAS_MANAGER, "_send_custom", self._draw)

    def _draw(self, commands: list[Any], buffers: Any = ()) -> None:
        self.drawn.append(commands)

    def send(self, kind: str, **content: Any) -> None:
        self.layer._handle_custom_msg({"kind": kind, "id": "page-1", **content}, [])

    def drag(self, tool: str, *points: tuple[float, float], phase: str = "done", color: str = "#c82828") -> None:
        self.send("gesture", tool=tool, points=[list(p) for p in points], phase=phase, color=color, radius_px=2.0)

    def command(self, name: str) -> None:
        self.send("command", name=name)


@pytest.fixture
def painter() -> StrokePainter:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return StrokePainter(np.repeat((40 + columns + rows).astype(np.uint8)[..., None], 3, axis=2))


@pytest.fixture
def page(painter: StrokePainter, monkeypatch: pytest.MonkeyPatch) -> Page:
    return Page(painter, monkeypatch)


def test_a_stroke_of_the_page_is_a_stroke_in_python_and_is_confirmed_after_it_is_painted(page: Page) -> None:
    page.drag("brush", (5, 5), (20, 9))
    assert page.painter.strokes == Strokes([Stroke([(5, 5), (20, 9)], RED, 2.0)])
    assert page.painter.draft is page.painter.strokes
    assert page.confirmed == [{"kind": "confirmed", "what": "done", "id": "page-1"}]
    assert len(page.drawn) >= 1
    assert page.painter.recent_colors == (RED,)
    assert page.painter._controls.recent_colors.colors == (RED,)


def test_undo_and_redo_walk_through_everything(page: Page) -> None:
    seen = [page.painter.strokes]
    for act in (
        lambda: page.drag("brush", (5, 5), (40, 5)),
        lambda: page.drag("brush", (5, 20), (40, 20), color="blue"),
        lambda: page.drag("eraser", (20, 0), (20, 40)),
        lambda: page.drag("move", (8, 5), (8, 12)),
        lambda: page.command("delete"),
        lambda: page.command("clear"),
    ):
        act()
        assert page.painter.strokes != seen[-1]
        seen.append(page.painter.strokes)
    for strokes in reversed(seen[:-1]):
        page.command("undo")
        assert page.painter.strokes == strokes
    assert page.painter._controls.undo.disabled
    for strokes in seen[1:]:
        page.command("redo")
        assert page.painter.strokes == strokes
    assert page.painter._controls.redo.disabled


def test_what_code_sets_is_one_step_of_the_history(page: Page) -> None:
    strokes, mask = Strokes([Stroke([(3, 3)], BLUE, 2)]), np.ones(SIZE, dtype=bool)
    page.painter.strokes = strokes
    page.painter.masks = {"sky": mask}
    page.painter.undo()
    assert page.painter.strokes is strokes
    assert dict(page.painter.masks) == {}
    page.painter.undo()
    assert page.painter.strokes == Strokes()
    page.painter.redo()
    page.painter.redo()
    assert page.painter.masks["sky"].all()


def test_moving_shows_a_draft_and_takes_it_over_at_the_end(page: Page) -> None:
    page.painter.strokes = before = Strokes([Stroke([(10, 10), (30, 10)], RED, 2), Stroke([(10, 30)], BLUE, 2)])
    page.drag("move", (20, 10), (20, 14), phase="going")
    assert page.painter.strokes is before
    assert page.painter.draft[0].points == ((10.0, 14.0), (30.0, 14.0))
    assert page.painter._canvas.shown.strokes is page.painter.draft
    page.drag("move", (20, 10), (20, 20), phase="going")
    page.drag("move", (20, 10), (22, 20))
    assert page.painter.strokes[0].points == ((12.0, 20.0), (32.0, 20.0))
    assert page.painter.strokes[1] is before[1]
    page.painter.undo()
    assert page.painter.strokes == before
    page.drag("move", (10, 30), (40, 30), phase="going")
    page.drag("move", (10, 30), phase="cancelled")
    assert page.painter.draft == page.painter.strokes == before
    assert page.painter._canvas.shown.strokes == before


def test_the_chosen_stroke_takes_color_radius_and_steps_of_the_brush(page: Page) -> None:
    painter, controls = page.painter, page.painter._controls
    painter.strokes = Strokes([Stroke([(10, 10)], BLUE, 3, first_step=2, last_step=30), Stroke([(40, 30)], RED, 1)])
    page.drag("move", (10, 10))
    assert (painter.chosen, painter.color, painter.radius_px, painter.steps) == (0, BLUE, 3.0, (2, 30))
    assert painter.strokes[0].last_step == 30, "choosing changes nothing, though the slider ends at 19"
    assert controls.steps.value == (2, 19)
    page.layer.color = "#00ff00"
    page.layer.radius_px = 5.0
    controls.steps.value = (4, 8)
    assert painter.strokes[0] == Stroke([(10, 10)], (0, 255, 0), 5.0, first_step=4, last_step=8)
    controls.steps.value = (0, 19)
    assert (painter.strokes[0].first_step, painter.strokes[0].last_step) == (None, None)
    page.command("right")
    assert painter.strokes[0].points == ((11.0, 10.0),)
    page.command("unchoose")
    page.layer.color = "#0000ff"
    assert painter.strokes[0].color == (0, 255, 0)
    page.command("delete")
    assert "No stroke is chosen" in painter.message
    assert "No stroke is chosen" in controls.message.value


def test_strokes_are_painted_with_the_step_range_of_the_slider(page: Page) -> None:
    page.painter._controls.steps.value = (3, 9)
    page.drag("brush", (5, 5))
    assert (page.painter.strokes[0].first_step, page.painter.strokes[0].last_step) == (3, 9)
    page.painter.num_steps = 6
    page.painter._controls.steps.value = (0, 5)
    page.drag("brush", (9, 5))
    assert (page.painter.strokes[1].first_step, page.painter.strokes[1].last_step) == (None, None)


def test_a_lasso_makes_named_masks_that_are_chosen_grow_and_go(page: Page) -> None:
    painter, controls = page.painter, page.painter._controls
    square = ((10, 10), (20, 10), (20, 20), (10, 20))
    page.drag("lasso", *square, phase="going")
    assert dict(painter.masks) == {}
    page.drag("lasso", *square)
    controls.mask_name.value = "red car"
    page.drag("lasso", *square)
    page.drag("lasso", *[(x + 10, y) for x, y in square])
    assert {name: int(mask.sum()) for name, mask in painter.masks.items()} == {"object 1": 100, "red car": 200}
    assert (painter.chosen_mask, controls.masks.value) == ("red car", "red car")
    page.command("undo")
    assert painter.masks["red car"].sum() == 100
    controls.masks.value = "object 1"
    controls.remove_mask.click()
    assert list(painter.masks) == ["red car"]
    assert painter.chosen_mask is None
    page.drag("lasso", (3, 3), (4, 4))
    assert "encloses no pixel" in painter.message


def test_the_eyedropper_takes_what_is_seen(page: Page) -> None:
    painter = page.painter
    page.drag("eyedropper", (10.5, 4.2))
    assert painter.color == (54, 54, 54)
    painter.result = np.full((24, 32, 3), (1, 2, 3), dtype=np.uint8)
    painter.result[2, 5] = (9, 8, 7)
    page.drag("eyedropper", (10.5, 4.2))
    assert painter.color == (9, 8, 7)
    painter.strokes = Strokes([Stroke([(10, 4)], BLUE, 2)])
    page.drag("eyedropper", (10.5, 4.2), phase="going")
    assert painter.color == BLUE
    assert page.layer.color == "#2828c8"
    page.command("strokes")
    page.command("result")
    page.drag("eyedropper", (999, -3))
    assert painter.color == (103, 103, 103)


def test_the_wheel_follows_the_pointer_and_gives_colors_of_its_lightness(page: Page) -> None:
    painter, wheel = page.painter, page.painter._wheel
    page.send("hover", point=[60, 40])
    bright = wheel.lightness
    page.send("hover", point=[0, 0])
    assert wheel.lightness < bright - 20
    assert page.confirmed[-1]["what"] == "hover"
    taken = {"tool": "point", "points": [[136 + 10, 136 - 5]], "phase": "done", "color": "", "radius_px": 1}
    wheel.layer._handle_custom_msg({"kind": "gesture", **taken}, [])
    lightness = wheel.lightness
    assert painter.color[0] > painter.color[2]
    assert page.layer.color == "#{:02x}{:02x}{:02x}".format(*painter.color)
    assert f"Lightness {lightness:.0f}" in wheel._caption.value


def test_swatches_come_from_the_exemplar_and_are_clicked(page: Page) -> None:
    exemplar = np.zeros((20, 30, 3), dtype=np.uint8)
    exemplar[:, 20:] = BLUE
    page.painter.exemplar = exemplar
    swatches = page.painter._controls.exemplar_colors
    assert swatches.colors == ((0, 0, 0), BLUE)
    swatches.buttons[1].click()
    assert page.painter.color == BLUE
    page.painter.exemplar = None
    assert swatches.colors == ()


def test_the_look_tool_marks_a_pixel(page: Page) -> None:
    page.drag("look", (10.9, 4.2))
    assert page.painter.pixel == (10, 4)
    assert page.painter._canvas.shown.pixel == (10, 4)
    page.command("unchoose")
    assert page.painter.pixel is None


def test_live_painting_tells_the_draft_and_leaves_it_to_the_page_to_show_it(page: Page) -> None:
    assert "brush" not in page.layer.streamed_tools
    page.painter.is_live = True
    assert {"brush", "eraser", "move"} <= set(page.layer.streamed_tools)
    page.drag("brush", (5, 5), (9, 9), phase="going")
    assert len(page.painter.draft) == 1
    assert page.painter.strokes == Strokes()
    assert page.painter._canvas.shown.strokes == Strokes()
    page.drag("brush", (5, 5), (20, 9))
    assert page.painter._canvas.shown.strokes == page.painter.strokes == page.painter.draft
    assert len(page.painter.history.past) == 1


def test_a_stroke_that_was_painted_live_stays_when_the_pointer_is_lifted(page: Page) -> None:
    page.painter.is_live = True
    page.drag("brush", (5, 5), (10, 5), phase="going")
    page.drag("brush", (5, 5), (10, 5))
    assert page.painter._canvas.shown.strokes == page.painter.strokes
    assert any(command[0] == LINES for message in page.drawn for command in message)


def test_an_error_is_told_in_place_and_the_page_is_confirmed_all_the_same(page: Page) -> None:
    page.drag("brush", (5, 5), color="no color")
    assert "'no color' is no color" in page.painter.message
    assert page.confirmed[-1]["what"] == "done"
    page.layer.color = "reddish"
    assert "'reddish' is no color" in page.painter.message
    page.drag("no tool", (5, 5))
    assert "This should not happen" in page.painter.message
    assert len(page.confirmed) == 2
    page.drag("brush", (5, 5))
    assert page.painter.message == ""


def test_files_come_in_and_go_out(page: Page) -> None:
    page.painter.strokes = Strokes([Stroke([(3, 3), (30, 30)], BLUE, 2)])
    page.painter.masks = {"sky": np.ones(SIZE, dtype=bool)}
    drawing = page.painter.history.present
    page.painter._controls.save_json.click()
    page.painter._controls.save_png.click()
    assert [sent["name"] for sent in page.confirmed] == ["drawing.json", "strokes.png"]
    fresh = StrokePainter(page.painter.picture)
    fresh._controls.upload.value = (_file("drawing.json", drawing_to_json(drawing, SIZE).encode()),)
    assert fresh.history.present == drawing
    assert fresh._controls.upload.value == ()
    fresh._controls.upload.value = (_file("a.PNG", strokes_to_png(drawing.strokes, SIZE)),)
    assert strokes_to_png(fresh.strokes, SIZE) == strokes_to_png(drawing.strokes, SIZE)
    assert list(fresh.masks) == ["sky"]
    fresh._controls.upload.value = (_file("a.json", b"\xff\xfe"),)
    assert "no JSON" in fresh.message


def test_a_reloaded_page_is_drawn_completely_and_each_message_names_its_canvas(page: Page) -> None:
    page.drag("brush", (5, 5), (20, 9))
    page.painter.result = np.zeros((*SIZE, 3), dtype=np.uint8)
    page.drawn.clear()
    page.send("ready")
    commands = [command for message in page.drawn for command in message]
    switched = json.dumps([command for command in commands if command[0] == SWITCH])
    for index in range(len(LAYERS)):
        assert page.painter._canvas.widget[index].model_id in switched
    assert all(message[0][0] == SWITCH for message in page.drawn), "a page that just came knows of no canvas"


def test_appending_a_stroke_draws_that_stroke_alone(page: Page) -> None:
    for row in range(12):
        page.drag("brush", (5, 3 * row), (60, 3 * row))
    page.drawn.clear()
    page.drag("brush", (5, 40), (60, 44))
    lines = [command for message in page.drawn for command in message if command[0] == LINES]
    assert len(lines) == 1
    page.drawn.clear()
    page.command("undo")
    lines = [command for message in page.drawn for command in message if command[0] == LINES]
    assert len(lines) == 12


def test_the_screen_decides_the_resolution_and_the_view_what_is_seen(page: Page) -> None:
    canvas = page.painter._canvas
    assert (canvas.widget.width, canvas.widget.height) == (512, 384)
    page.layer.pixel_ratio = 2.0
    assert (canvas.widget.width, canvas.widget.height) == (1024, 768)
    assert page.painter._stage.layout.max_width == "512px"
    assert canvas.shown.scale == 16.0
    page.layer.view = [4.0, 16.0, 12.0]
    assert page.layer.painted_view == [4.0, 16.0, 12.0]
    assert canvas.shown.scale == 64.0
    page.painter._controls.whole.click()
    assert canvas.shown.view.zoom == 1.0


def test_a_picture_of_another_size_starts_an_empty_drawing(page: Page) -> None:
    page.drag("brush", (5, 5), (20, 9))
    page.painter.picture = page.painter.picture[::-1].copy()
    assert len(page.painter.strokes) == 1
    page.painter.picture = np.zeros((100, 50, 3), dtype=np.uint8)
    assert page.painter.strokes == Strokes()
    assert page.painter._canvas.shown.stage_size == (512, 256)
    assert (page.layer.stage_size, page.painter._stage.layout.max_width) == ([512, 256], "256px")


def test_bad_input_is_told() -> None:
    with pytest.raises(ImageError, match="no file"):
        StrokePainter("missing.png")
    with pytest.raises(ShapeError, match="mask 'sky'"):
        StrokePainter(np.zeros((4, 5, 3), dtype=np.uint8), masks={"sky": np.ones((5, 4), dtype=bool)})


def test_every_tool_has_a_key_and_a_use(page: Page) -> None:
    assert {action for action in KEYS.values() if action.startswith("tool:")} == {f"tool:{name}" for name in TOOLS}
    for name in TOOLS:
        if name != "pan":
            page.drag(name, (5, 5), (20, 9), (9, 20))
            assert "should not happen" not in page.painter.message
    for action in KEYS.values():
        if action.startswith("command:"):
            page.command(action.removeprefix("command:"))
            assert "should not happen" not in page.painter.message


def test_painting_makes_no_widgets_that_stay(page: Page) -> None:
    from ipywidgets.widgets.widget import _instances

    page.drag("brush", (5, 5), (20, 9))
    page.send("ready")
    before = len(_instances)
    for row in range(30):
        page.drag("brush", (5, row), (20, row), color=f"#{row:02x}0000")
        page.drag("lasso", (5, 5), (20, 5), (20, 20))
        page.command("remove_mask")
        page.painter.result = np.full((*SIZE, 3), row, dtype=np.uint8)
    page.send("ready")
    assert len(_instances) == before


def test_held_drawing_goes_on_after_an_error_and_keeps_threads_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[Any]] = []
    monkeypatch.setattr(_CANVAS_MANAGER, "_send_custom", lambda commands, buffers=(): sent.append(commands))
    one, other = (StrokePainter(np.zeros((8, 8, 3), dtype=np.uint8))._canvas.widget[0] for _ in range(2))
    sent.clear()

    def draw_and_fail() -> None:
        with held_canvas():
            one.fill_rect(0, 0, 1, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        draw_and_fail()
    assert sent == []

    def draw(canvas: Any) -> None:
        for _ in range(50):
            with held_canvas():
                canvas.fill_rect(0, 0, 1, 1)
                canvas.fill_rect(0, 0, 2, 2)

    threads = [threading.Thread(target=draw, args=(canvas,)) for canvas in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 100
    assert all([command[0] for command in message] == [SWITCH, RECT, RECT] for message in sent)


def _file(name: str, content: bytes) -> dict[str, Any]:
    """Return what the page uploads."""
    import datetime

    return {
        "name": name, "type": "", "size": len(content), "content": memoryview(content),
        "last_modified": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    }  # fmt: skip
