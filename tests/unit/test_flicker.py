"""The flicker protocol: steady colors are steady, and own noise for each frame is not."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from test_sequence import FAST, moving_frames
from tiny import tiny_ctrlcolor

from colorlab import cli
from colorlab.colorizer import Colorizer
from colorlab.errors import RangeError
from colorlab.evaluation import flicker
from colorlab.evaluation.flicker import WAYS, color_clip, evaluate_flicker
from colorlab.evaluation.report import Report
from colorlab.training.scenes import caption

TINTS = np.array([[1.0, 0.8, 0.6], [0.6, 1.0, 0.8], [0.8, 0.6, 1.0]])


def value(report: Report, name: str) -> float:
    """The figure of this name."""
    return next(row.value for row in report.rows if row.name.strip() == name)


def tinted(grays: Sequence[np.ndarray], prompt: str, way: str) -> list[np.ndarray]:
    """Tint every frame alike when propagated, else in turn."""
    turns = [0] * len(grays) if way == "propagated" else range(len(grays))
    return [(gray[..., None] * TINTS[turn % 3]).astype(np.uint8) for gray, turn in zip(grays, turns, strict=True)]


def test_one_tint_is_steady_and_tints_in_turn_flicker() -> None:
    report = evaluate_flicker(tinted, 2, num_frames=4, size_px=64)
    assert value(report, "flicker, propagated") < 3.0
    assert value(report, "flicker, one seed") > 15.0
    assert value(report, "flicker, propagated / one seed") < 0.2
    assert value(report, "of the backdrop, propagated") < 0.5
    assert value(report, "chroma, propagated / own seeds") == pytest.approx(1.0, abs=0.3)
    # The first and the fourth frame have one tint.
    assert value(report, "one seed") < 5.0
    assert next(row for row in report.rows if row.name == "flicker, propagated / one seed").reached


def test_the_truth_hardly_flickers() -> None:
    known = {}
    for clip in islice(flicker._held_out_clips(4, 64), 2):
        known[caption(clip[0], "complete", seed=0)] = [frame.image for frame in clip]
    report = evaluate_flicker(lambda grays, prompt, way: known[prompt], 2, num_frames=4, size_px=64)
    assert value(report, "flicker, one seed") == value(report, "in the clips themselves") < 2.0
    assert value(report, "flicker, propagated / one seed") == 1.0


def test_the_ways_of_coloring_a_clip() -> None:
    colorizer = Colorizer(tiny_ctrlcolor(), settings=FAST)
    grays = moving_frames(2)
    colored = {way: color_clip(colorizer, FAST.replace(seed=5), grays, "a car", way) for way in WAYS}
    for way in WAYS:
        alone = colorizer.start(grays[0], prompt="a car", seed=5).finish(progress=False).image
        assert np.abs(colored[way][0].astype(int) - alone).max() <= (way != "propagated")
    for way, seed in (("one seed", 5), ("own seeds", 6)):
        alone = colorizer.start(grays[1], prompt="a car", seed=seed).finish(progress=False).image
        assert np.abs(colored[way][1].astype(int) - alone).max() <= 1


def test_no_clips_are_refused() -> None:
    for number, frames in ((0, 8), (1, 1)):
        with pytest.raises(RangeError, match="at least"):
            evaluate_flicker(tinted, number, num_frames=frames)


def test_the_command_measures_clips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colorlab.commands.evaluate.color_clip", lambda colorizer, settings, *rest: tinted(*rest))
    Colorizer(tiny_ctrlcolor(), settings=FAST).save_pretrained(tmp_path / "model")
    assert cli.main(["evaluate", str(tmp_path / "model"), "--clips", "1"]) == 0
    assert "Flicker on 1 held-out clips of 8 frames" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "model")]) == 2
    assert "--clips N" in capsys.readouterr().err
