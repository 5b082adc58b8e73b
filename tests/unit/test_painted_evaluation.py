"""The protocols of strokes, exemplars and local edits, with colorizers whose answers are known."""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import pytest
from tiny import tiny_colorizer, tiny_ctrlcolor

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.evaluation import exemplars, local_edits, strokes
from colorlab.evaluation.chroma import NEAR, chroma_difference, color_ab, hue_distance, hue_histogram
from colorlab.evaluation.costs import evaluate_costs
from colorlab.evaluation.report import Estimate, Report
from colorlab.evaluation.scenes import scene_gray
from colorlab.mechanisms.deformable_decoding import DeformableDecoding
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance
from colorlab.settings import Settings
from colorlab.training.scenes import TRAIN_SEEDS

SIZE_PX = 64
NUM_SCENES = 6

Colorize = Callable[[Sequence[Conditioning], Settings, str], list[np.ndarray]]


def row(report: Report, name: str) -> Estimate:
    """The figure of this name."""
    return next(one for one in report.rows if one.name.strip() == name)


def known(pairs: dict[str, np.ndarray]) -> Colorize:
    """A colorizer that looks a picture up by its gray."""
    return lambda conditionings, settings, label: [pairs[one.content_hash("gray")] for one in conditionings]


def gray_of(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
    """Leave every picture gray."""
    return [np.repeat((one.gray * 255).round().astype(np.uint8)[..., None], 3, axis=2) for one in conditionings]


@pytest.fixture(scope="module")
def stroked() -> list[strokes.StrokedScene]:
    return list(islice(strokes.stroked_scenes(SIZE_PX), NUM_SCENES))


@pytest.fixture(scope="module")
def truth(stroked: list[strokes.StrokedScene]) -> Colorize:
    return known({one.conditioning.content_hash("gray"): one.scene.image for one in stroked})


def flooding(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
    """Fill the whole picture with the color of the first stroke."""
    return [np.full((*one.gray.shape, 3), one.strokes[0].color, dtype=np.uint8) for one in conditionings]


# --- chroma -----------------------------------------------------------------------------------------------------------


def test_chroma_differs_as_it_should() -> None:
    red, blue, gray = (color_ab(color) for color in ((200, 40, 40), (40, 40, 200), (90, 90, 90)))
    assert chroma_difference(np.stack([red, blue]), red) == pytest.approx([0.0, 50.0], abs=15.0)
    assert chroma_difference(red[None], red)[0] == 0.0
    assert chroma_difference(gray[None], color_ab((200, 200, 200)))[0] == pytest.approx(0.0, abs=0.05)
    assert chroma_difference(red[None], blue[None])[0] == chroma_difference(blue[None], red)[0]


def test_hues_are_counted_on_a_circle() -> None:
    def at(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        return hue_histogram(np.tile([30 * np.cos(angle), 30 * np.sin(angle)], (5, 1)))

    assert hue_distance(at(5), at(5)) == 0.0
    for turn in (10, 90, 180):
        assert hue_distance(at(5), at(5 + turn)) == pytest.approx(turn)
        assert hue_distance(at(355), at(355 + turn)) == pytest.approx(turn)
    gray = hue_histogram(np.zeros((7, 2)))
    assert gray == pytest.approx(np.full(36, 1 / 36))
    assert hue_distance(gray, at(5)) == pytest.approx(90.0)
    assert hue_histogram(np.zeros((0, 2))).sum() == 0.0


# --- strokes ----------------------------------------------------------------------------------------------------------


def test_scenes_are_held_out_and_asked_for_in_both_kinds_of_color(stroked: list[strokes.StrokedScene]) -> None:
    assert [one.is_recolored for one in stroked] == [False, True] * (NUM_SCENES // 2)
    for one in stroked:
        assert one.scene.seed not in TRAIN_SEEDS
        assert 1 <= len(one.strokes) <= 5
        assert one.conditioning.prompt == ""
        drawn = tuple(thing.color for thing in one.scene.plan.things)
        own = tuple(thing.color for thing in strokes.make_scene(one.scene.seed, size_px=SIZE_PX).plan.things)
        assert all((new != old) == one.is_recolored for new, old in zip(drawn, own, strict=True))
    again = list(islice(strokes.stroked_scenes(SIZE_PX), NUM_SCENES))
    assert [one.conditioning for one in again] == [one.conditioning for one in stroked]


def test_a_perfect_colorizer_obeys_spreads_and_stays_inside(truth: Colorize) -> None:
    report = strokes.evaluate_strokes(truth, Settings(), NUM_SCENES, size_px=SIZE_PX)
    obeyed = row(report, "strokes obeyed: median ΔE 2000 of chroma")
    assert obeyed.reached
    assert obeyed.value == row(report, "of the scenes themselves").value < 2.0
    assert row(report, "strokes spread: share of the object").value > 85.0
    assert row(report, "overflow: share of the surroundings").value == 0.0
    assert row(report, "of the gray pictures").value > 10.0
    changes = [one for one in report.rows if one.name.startswith("overflow") and " - " in one.name]
    assert len(changes) == 1 + len(strokes.GUIDANCE_SITES) * len(strokes.GUIDANCE_SCALES)
    assert all((one.value, one.low, one.high) == (0.0, 0.0, 0.0) for one in changes)


def test_gray_pictures_obey_nothing() -> None:
    report = strokes.evaluate_strokes(gray_of, Settings(), NUM_SCENES, size_px=SIZE_PX)
    obeyed = row(report, "strokes obeyed: median ΔE 2000 of chroma")
    assert obeyed.reached is False
    # A gray picture in 8 bits has a trace of chroma.
    assert obeyed.value == pytest.approx(row(report, "of the gray pictures").value, abs=0.05)
    assert row(report, "strokes spread: share of the object").value < 30.0
    assert row(report, "overflow: share of the surroundings").value < 5.0


def test_a_flooded_picture_overflows_everywhere() -> None:
    many = islice(strokes.stroked_scenes(SIZE_PX), 4 * NUM_SCENES)
    single = [one for one in many if len({stroke.color for stroke in one.strokes}) == 1]
    found = [strokes.score(one, *flooding([one.conditioning], Settings(), "")) for one in single]
    assert len(found) > 2
    assert all(one.spread == 1.0 for one in found)
    assert {one.overflow for one in found if np.isfinite(one.overflow)} == {1.0}
    report = strokes.evaluate_strokes(flooding, Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert row(report, "overflow: share of the surroundings").value > 30.0


def test_overflow_is_compared_pair_by_pair(truth: Colorize) -> None:
    """Guidance of this colorizer floods, and so does its plain decoder; without guidance it is perfect."""

    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        guidance = SelfAttentionGuidance().in_force(settings)
        is_guided = SelfAttentionGuidance().is_on(settings) and guidance["sag_scale"] == 1.0
        is_plain = not DeformableDecoding().is_on(settings)
        return (flooding if is_guided or is_plain else truth)(conditionings, settings, label)

    report = strokes.evaluate_strokes(colorize, Settings(), NUM_SCENES, size_px=SIZE_PX)
    decoder = row(report, "overflow without guidance: deformable - plain decoder")
    assert decoder.high < 0.0
    for site in strokes.GUIDANCE_SITES:
        assert row(report, f"overflow: guidance 0.05 at {site} - off").value == 0.0
        assert row(report, f"overflow: guidance 1 at {site} - off").value == pytest.approx(-decoder.value)


def test_pixels_that_have_the_color_anyway_are_no_overflow(stroked: list[strokes.StrokedScene]) -> None:
    for one in stroked:
        assert strokes.score(one, one.scene.image).overflow in (0.0, pytest.approx(np.nan, nan_ok=True))
    assert NEAR == 15.0


# --- exemplars --------------------------------------------------------------------------------------------------------


def test_a_colorizer_that_borrows_is_nearer_to_the_exemplar_than_to_a_random_one() -> None:
    pairs = list(islice(exemplars.exemplar_pairs(SIZE_PX), NUM_SCENES))
    images = {exemplar.image.tobytes(): scene.image for scene, exemplar in pairs}

    def borrowing(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> list[np.ndarray]:
        given = [(one.exemplar * 255).round().astype(np.uint8) for one in conditionings]
        return [images[picture.tobytes()] for picture in given]

    report = exemplars.evaluate_exemplars(borrowing, Settings(), NUM_SCENES, size_px=SIZE_PX)
    near = row(report, "hues: distance to the exemplar's object of the same kind")
    assert near.value == row(report, "of the scenes themselves").value < 10.0
    gain = row(report, "nearer than with a random one by")
    assert gain.low > 10.0
    assert gain.reached


def test_a_colorizer_without_eyes_for_exemplars_gains_nothing() -> None:
    report = exemplars.evaluate_exemplars(gray_of, Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert row(report, "hues: distance to the exemplar's object of the same kind").value > 60.0
    gain = row(report, "nearer than with a random one by")
    assert (gain.value, gain.reached) == (0.0, False)
    with pytest.raises(RangeError, match="at least 2"):
        exemplars.evaluate_exemplars(gray_of, Settings(), 1)


# --- local edits ------------------------------------------------------------------------------------------------------


def test_edits_of_known_quality() -> None:
    cases = list(islice(local_edits.edited_scenes(SIZE_PX), NUM_SCENES))
    for case in cases:
        assert case.before.seed not in TRAIN_SEEDS
        assert case.before.instances[case.index].color != case.after.instances[case.index].color
        assert np.array_equal(scene_gray(case.before), scene_gray(case.after))
    after = known({case.conditioning(has_mask=True).content_hash("gray"): case.after.image for case in cases})
    perfect = local_edits.evaluate_edits(after, Settings(), NUM_SCENES, size_px=SIZE_PX)
    outside = row(perfect, "keep_rest: mean ΔE outside the edited region")
    assert outside.reached
    assert outside.value < 0.5
    reached = row(perfect, "share of the object in the new color")
    assert reached.value == row(perfect, "in the recolored scenes themselves").value > 70.0

    untouched = known({case.conditioning(has_mask=True).content_hash("gray"): case.before.image for case in cases})
    lazy = local_edits.evaluate_edits(untouched, Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert row(lazy, "share of the object in the new color").value < 20.0
    for mode in ("keep_rest", "rim", "area"):
        assert row(lazy, f"{mode}: mean ΔE outside the edited region").value == 0.0

    spoiled = local_edits.evaluate_edits(gray_of, Settings(), NUM_SCENES, size_px=SIZE_PX)
    assert row(spoiled, "keep_rest: mean ΔE outside the edited region").reached is False


# --- costs ------------------------------------------------------------------------------------------------------------


def test_a_guided_step_asks_each_network_once_more_and_decodes_nothing() -> None:
    report = evaluate_costs(tiny_colorizer(tiny_ctrlcolor()), Settings(num_inference_steps=4), size_px=SIZE_PX)
    extra = row(report, "extra network calls of a guided step")
    # Timesteps 751, 501, 251, 1: guidance acts above 600.
    assert (extra.value, extra.low, extra.high, extra.num) == (2.0, 2.0, 2.0, 1)
    assert row(report, "decoder calls in it").value == 0.0
    seconds = report.rows[0]
    assert (seconds.num, seconds.unit) == (5, "s")
    assert 0.0 < seconds.low <= seconds.value <= seconds.high


@pytest.mark.parametrize("evaluate", [strokes.evaluate_strokes, local_edits.evaluate_edits])
def test_no_scenes_are_refused(evaluate: Callable[..., Report]) -> None:
    with pytest.raises(RangeError, match="at least 1"):
        evaluate(gray_of, Settings(), 0)
