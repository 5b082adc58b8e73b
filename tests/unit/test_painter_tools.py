"""The painter's tools, as functions of strokes, held against the pixels that strokes paint."""

from typing import Any

import numpy as np
import pytest
from colorlab_widgets.painter import tools
from colorlab_widgets.painter.drawing import Drawing, History

from colorlab.errors import RangeError, ShapeError
from colorlab.strokes import Stroke, Strokes

SIZE = (40, 56)
RED, BLUE = (200, 40, 40), (40, 40, 200)
LINE = Stroke([(8, 20), (30, 20), (48, 20)], RED, 3.0, first_step=2)


def painted(strokes: Strokes) -> np.ndarray:
    return strokes.rasterize(*SIZE)[1][0, 0].numpy() > 0


def random_strokes(seed: int, number: int = 6) -> Strokes:
    random = np.random.default_rng(seed)
    return Strokes(
        Stroke(random.uniform(-4, 60, (random.integers(1, 7), 2)), tuple(random.integers(0, 256, 3)), radius)
        for radius in random.uniform(0.1, 5, number)
    )


@pytest.mark.parametrize("seed", range(12))
def test_nothing_stays_painted_under_the_rubber_and_nothing_new_appears(seed: int) -> None:
    random = np.random.default_rng(100 + seed)
    strokes, path = random_strokes(seed), random.uniform(0, 50, (random.integers(1, 6), 2))
    radius = random.uniform(0.5, 6)
    left = tools.erase(strokes, path, radius)
    under = painted(Strokes([Stroke(path, RED, radius)])) if radius >= 0.71 else np.zeros(SIZE, dtype=bool)
    assert not (painted(left) & under).any()
    assert not (painted(left) & ~painted(strokes)).any()
    assert {stroke.color for stroke in left} <= {stroke.color for stroke in strokes}


def test_the_rubber_cuts_a_line_where_its_round_end_leaves_the_rubber() -> None:
    first, second = tools.erase(Strokes([LINE]), [(24, 20)], 4.0)
    assert first.points[0] == LINE.points[0]
    assert first.points[-1] == pytest.approx((24 - 7, 20))
    assert second.points[0] == pytest.approx((24 + 7, 20))
    assert second.points[1:] == LINE.points[2:] or second.points[-1] == LINE.points[-1]
    assert (first.first_step, second.first_step) == (2, 2)


def test_a_cut_at_a_corner_does_not_join_what_it_has_parted() -> None:
    corner = Stroke([(5, 5), (30, 5), (30, 30)], RED, 1.0)
    pieces = tools.erase(Strokes([corner]), [(30, 5)], 2.0)
    assert len(pieces) == 2
    assert pieces[0].points == ((5.0, 5.0), pytest.approx((27, 5)))
    assert pieces[1].points == (pytest.approx((30, 8)), (30.0, 30.0))


def test_a_stroke_beside_the_rubber_stays_the_same_object() -> None:
    beside = Stroke([(5, 5), (9, 5)], BLUE, 1.0)
    left = tools.erase(Strokes([beside, LINE]), [(24, 20)], 4.0)
    assert left[0] is beside
    assert len(left) == 3
    assert tools.erase(Strokes([LINE]), [(0, 0), (56, 40)], 30.0) == Strokes()
    assert tools.erase(Strokes(), [(0, 0)], 3.0) == Strokes()


def test_rubbing_in_one_path_or_in_its_parts_is_the_same() -> None:
    strokes, path = random_strokes(3), [(5, 5), (40, 30), (10, 35)]
    whole = tools.erase(strokes, path, 3.0)
    parts = tools.erase(tools.erase(strokes, path[:2], 3.0), path[1:], 3.0)
    assert np.array_equal(painted(whole), painted(parts))


def test_moving_there_and_back_is_the_identity() -> None:
    strokes = Strokes([LINE, Stroke([(6, 6)], BLUE, 2)])
    moved = tools.move(strokes, 0, (3.0, -5.0))
    assert moved[0].points[0] == (11.0, 15.0)
    assert moved[1] is strokes[1]
    assert tools.move(moved, 0, (-3.0, 5.0)) == strokes


def test_the_topmost_stroke_is_found_exactly_where_it_is_painted() -> None:
    strokes = Strokes([LINE, Stroke([(24, 16), (24, 24)], BLUE, 2)])
    assert tools.stroke_at(strokes, (24, 20)) == 1
    assert tools.stroke_at(strokes, (40, 22.9)) == 0
    assert tools.stroke_at(strokes, (40, 23.1)) is None
    assert tools.stroke_at(strokes, (40, 23.1), reach_px=0.2) == 0
    for seed in range(4):
        one = random_strokes(seed, 1)
        found = np.array([[tools.stroke_at(one, (x + 0.5, y + 0.5)) is not None for x in range(56)] for y in range(40)])
        assert np.array_equal(found, painted(one))


def test_deleting_and_changing_touch_one_stroke() -> None:
    strokes = random_strokes(5)
    assert tools.delete(strokes, 2) == Strokes([*strokes[:2], *strokes[3:]])
    changed = tools.change(strokes, 2, color=BLUE, first_step=1, last_step=4)
    assert (changed[2].color, changed[2].first_step, changed[2].points) == (BLUE, 1, strokes[2].points)
    assert [one is other for one, other in zip(strokes, changed, strict=True)] == [True, True, False, True, True, True]


@pytest.mark.parametrize("act", [tools.delete, lambda s, k: tools.move(s, k, (1, 1)), lambda s, k: tools.change(s, k)])
@pytest.mark.parametrize("index", [-1, 1])
def test_a_stroke_that_is_not_there_is_told(act: Any, index: int) -> None:
    with pytest.raises(RangeError, match=r"There is no stroke .*; there are 1"):
        act(Strokes([LINE]), index)


def test_a_lasso_takes_the_pixels_whose_center_it_encloses() -> None:
    mask = tools.lasso([(10, 5), (20, 5), (20, 12), (10, 12)], SIZE)
    wanted = np.zeros(SIZE, dtype=bool)
    wanted[5:12, 10:20] = True
    assert np.array_equal(mask, wanted)
    assert tools.lasso([(-9, -9), (99, -9), (99, 99), (-9, 99)], SIZE).all()
    for path in ([(3, 3)], [(3, 3), (9, 9)], [(3.6, 3.6), (3.9, 3.6), (3.9, 3.9)]):
        with pytest.raises(RangeError, match="encloses no pixel"):
            tools.lasso(path, SIZE)


def test_history_goes_back_and_forth_and_forgets_the_future_on_a_change() -> None:
    empty, one, two = Drawing(), Drawing(Strokes([LINE])), Drawing(Strokes([LINE, LINE]))
    history = History(empty).then(one).then(two)
    assert history.undo().undo().present == empty
    assert history.undo().undo().undo() == history.undo().undo()
    assert history.undo().redo() == history
    assert history.redo() is history
    assert history.then(Drawing(Strokes([LINE, LINE]))) is history
    assert history.undo().then(empty).future == ()
    assert history.undo().then(empty).past == (empty, one)


def test_masks_have_names_grow_and_cannot_be_written_to() -> None:
    left, right = np.zeros(SIZE, dtype=bool), np.zeros(SIZE, dtype=bool)
    left[:, :9], right[:, 9:] = True, True
    drawing = Drawing().with_mask("red car", left).with_mask("house", right).with_mask(" red car ", right)
    assert list(drawing.masks) == ["red car", "house"]
    assert drawing.masks["red car"].all()
    assert drawing != Drawing().with_mask("house", right)
    assert drawing.without_mask("red car") == Drawing().with_mask("house", right)
    left[:] = False
    assert Drawing(masks={"a": right}).masks["a"].flags.writeable is False
    with pytest.raises(RangeError, match="no name"):
        drawing.with_mask("  ", left)
    with pytest.raises(RangeError, match="there are: red car, house"):
        drawing.without_mask("tree")
    with pytest.raises(ShapeError, match="red car"):
        drawing.with_mask("red car", np.ones((3, 3), dtype=bool))
