"""Progress of a measurement: lines where stderr is no terminal, not too many, and none of nothing."""

import pytest

from colorlab.evaluation import progress as module
from colorlab.evaluation.progress import progress


def test_lines_tell_a_part_and_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((0.0, 5.0, 25.0, 30.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("complete captions", 6, "picture") as update:
        for _ in range(3):
            update(2)
    captured = capsys.readouterr()
    assert captured.err == "complete captions: 6 pictures\ncomplete captions: 4 of 6 pictures\n"
    assert captured.out == ""


def test_nothing_to_do_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("nothing", 0, "picture"):
        pass
    assert capsys.readouterr().err == ""
