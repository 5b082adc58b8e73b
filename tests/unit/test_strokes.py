import copy
import math
import pickle
import time
from typing import Any

import numpy as np
import pytest
import torch

from colorlab.errors import RangeError
from colorlab.strokes import Stroke, Strokes

RED, BLUE = (200, 40, 40), (40, 40, 200)
PATH = Stroke([(2.5, 3.5), (10, 3.5), (10, 9)], RED, 1.5, first_step=2, last_step=5)
DOT = Stroke([(6.0, 6.0)], BLUE, 3)


def painted(*strokes: Stroke, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return Strokes(strokes).rasterize(*size)[1][0, 0].numpy().astype(bool)


def test_round_trips_lose_nothing() -> None:
    strokes = Strokes([PATH, DOT])
    for other in (
        Strokes.from_json(strokes.to_json()),
        Strokes.from_list(strokes.to_list()),
        pickle.loads(pickle.dumps(strokes)),
        copy.deepcopy(strokes),
        Strokes(strokes),
    ):
        assert other == strokes
        assert hash(other) == hash(strokes)


def test_strokes_behave_like_a_tuple() -> None:
    more = [DOT]
    strokes = Strokes([PATH]) + more
    assert len(strokes) == 2
    assert list(strokes) == [PATH, DOT]
    assert strokes[-1] is DOT
    assert strokes[:1] == Strokes([PATH])
    assert strokes != [PATH, DOT]
    assert not Strokes()
    with pytest.raises(AttributeError, match="frozen"):
        strokes.items = ()  # type: ignore[attr-defined]


def test_numpy_points_and_colors_are_taken() -> None:
    stroke = Stroke(np.array([[1, 2], [3, 4]]), np.array(RED, dtype=np.uint8), 2)  # type: ignore[arg-type]
    assert stroke == Stroke([(1, 2), (3, 4)], RED, 2)
    assert stroke.points == ((1.0, 2.0), (3.0, 4.0))


def test_no_strokes_give_an_empty_hint() -> None:
    hint, hint_mask = Strokes().rasterize(5, 7)
    assert hint.shape == (1, 3, 5, 7)
    assert hint_mask.shape == (1, 1, 5, 7)
    assert hint.abs().max() == 0
    assert hint_mask.max() == 0


def test_the_hint_holds_the_color_and_the_mask_is_one_there() -> None:
    hint, hint_mask = Strokes([DOT]).rasterize(12, 16)
    inside = hint_mask[0, 0].bool()
    assert torch.allclose(hint[0, :, inside], (torch.tensor(BLUE) / 255)[:, None])
    assert hint[0, :, ~inside].abs().max() == 0
    assert set(hint_mask.unique().tolist()) == {0.0, 1.0}


def test_a_dot_is_a_disc_around_its_point() -> None:
    disc = painted(DOT)
    y, x = np.mgrid[:12, :16] + 0.5
    assert np.array_equal(disc, np.hypot(x - 6, y - 6) <= 3)
    assert np.array_equal(disc, disc[::-1]), "symmetric about y = 6"


def test_points_are_x_then_y_in_pixels() -> None:
    rows, columns = np.nonzero(painted(Stroke([(9.5, 2.5)], RED, 0.1)))
    assert (rows.tolist(), columns.tolist()) == ([2], [9])


def test_a_path_is_the_union_of_its_segments_and_has_no_direction() -> None:
    first, second = Stroke(PATH.points[:2], RED, 1.5), Stroke(PATH.points[1:], RED, 1.5)
    whole = painted(PATH)
    assert np.array_equal(whole, painted(first) | painted(second))
    assert np.array_equal(whole, painted(Stroke(PATH.points[::-1], RED, 1.5)))
    assert np.array_equal(whole, painted(Stroke((*PATH.points, PATH.points[-1]), RED, 1.5)))


def test_a_thin_path_has_no_gaps() -> None:
    line = painted(Stroke([(0.2, 0.7), (15.3, 11.1)], RED, 0.01))
    assert line.any(axis=0).all()
    assert line.any(axis=1).all()


def test_a_wider_brush_covers_the_thinner_one() -> None:
    thin, wide = (painted(Stroke(PATH.points, RED, radius)) for radius in (1.0, 2.5))
    assert (thin <= wide).all()
    assert wide.sum() > thin.sum()


def test_the_later_stroke_is_on_top() -> None:
    below, above = Stroke([(6, 6)], RED, 4), Stroke([(8, 6)], BLUE, 2)
    for order, color in (((below, above), BLUE), ((above, below), RED)):
        hint, _ = Strokes(order).rasterize(12, 16)
        assert (hint[0, :, 6, 8] * 255).round().tolist() == list(color)


def test_strokes_outside_the_picture_paint_nothing() -> None:
    assert not painted(Stroke([(-50, -50), (-20, 400)], RED, 5)).any()
    assert painted(Stroke([(-50, 6), (400, 6)], RED, 1)).all(axis=1).sum() == 2


def test_resizing_there_and_back_is_the_identity() -> None:
    strokes = Strokes([PATH, DOT])
    back = strokes.resized((12, 16), (48, 32)).resized((48, 32), (12, 16))
    for one, other in zip(strokes, back, strict=True):
        assert np.allclose(one.points, other.points)
        assert one.radius_px == pytest.approx(other.radius_px)
        assert (one.color, one.first_step, one.last_step) == (other.color, other.first_step, other.last_step)


def test_a_doubled_picture_has_doubled_strokes() -> None:
    doubled = Strokes([PATH]).resized((12, 16), (24, 32)).rasterize(24, 32)[1][0, 0]
    share = doubled.view(12, 2, 16, 2).mean(dim=(1, 3)).numpy()
    assert painted(PATH)[share == 1].all()
    assert not painted(PATH)[share == 0].any()


def test_strokes_count_from_first_to_last_step() -> None:
    assert [PATH.is_active(k) for k in range(8)] == [False, False, True, True, True, True, False, False]
    assert all(DOT.is_active(k) for k in (0, 999))
    assert Strokes([PATH, DOT]).active(0) == Strokes([DOT])
    assert Strokes([PATH, DOT]).active(3) == Strokes([PATH, DOT])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": []}, "at least one pair"),
        ({"points": [(1, 2, 3)]}, "pair"),
        ({"points": [(1, math.nan)]}, "finite"),
        ({"points": 3}, "pairs"),
        ({"points": [(1, 2), (3,)]}, "pair"),
        ({"points": [("a", "b")]}, "pair"),
        ({"color": (1, 2)}, "three integers"),
        ({"color": (1, 2, 256)}, "0 to 255"),
        ({"color": (0.1, 0.2, 0.3)}, "integers"),
        ({"color": "red"}, "'red'"),
        ({"color": None}, "None"),
        ({"radius_px": 0}, "above 0"),
        ({"radius_px": math.inf}, "inf"),
        ({"radius_px": "4"}, "'4'"),
        ({"first_step": -1}, "first_step"),
        ({"last_step": 1.5}, "last_step"),
        ({"first_step": 5, "last_step": 4}, "begins at step 5"),
    ],
)
def test_bad_strokes_give_one_clear_sentence(changes: dict[str, Any], words: str) -> None:
    values: dict[str, Any] = {"points": [(1, 2)], "color": RED, "radius_px": 2, **changes}
    with pytest.raises(RangeError) as caught:
        Stroke(**values)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    with pytest.raises(RangeError):
        Strokes.from_list([values])


@pytest.mark.parametrize("text", ["", "{}", "[3]", '[{"points": [[1, 2]]}]', '[{"size": 3}]', None])
def test_bad_json_is_told(text: Any) -> None:
    with pytest.raises(RangeError, match=r"stroke"):
        Strokes.from_json(text)


def test_other_things_than_strokes_are_told() -> None:
    with pytest.raises(RangeError, match=r"colorlab\.Stroke"):
        Strokes([((1, 2), RED)])  # type: ignore[list-item]
    with pytest.raises(RangeError, match="height and width"):
        Strokes([DOT]).rasterize(0, 5)


def test_a_picture_cut_out_of_a_larger_one_shows_the_same_strokes() -> None:
    draw = np.random.default_rng(0)
    strokes = Strokes(
        Stroke(draw.uniform(-20, 80, (int(draw.integers(1, 5)), 2)).tolist(), (10 * k, 9, 9), draw.uniform(0.2, 9))
        for k in range(20)
    )
    moved = Strokes(Stroke([(x + 40, y + 30) for x, y in one.points], one.color, one.radius_px) for one in strokes)
    for small, large in zip(strokes.rasterize(37, 53), moved.rasterize(120, 150), strict=True):
        assert torch.equal(small, large[..., 30:67, 40:93])


def test_thousands_of_strokes_on_a_large_picture_cost_their_own_pixels_only() -> None:
    """Twelve megapixels: one array of that size for each stroke would be 36 GB of writing."""
    draw = np.random.default_rng(1)
    strokes = Strokes(
        Stroke((draw.uniform(0, 3000, 2) + draw.uniform(0, 20, (2, 2))).tolist(), (9, 9, 9), 2) for _ in range(3000)
    )
    began = time.process_time()
    mask = strokes.rasterize(3000, 4000)[1]
    assert time.process_time() - began < 15
    assert 3000 * 12 < float(mask.sum()) < 3000 * 200
