"""Where results go: names, checks before the work, and no half-written files."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorlab.commands import files
from colorlab.commands.files import check_writable, plan_outputs, save_picture, writable_folder
from colorlab.commands.problems import BadUsageError
from colorlab.errors import ColorlabError


def test_output_names(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jpg", tmp_path / "b.jpg"
    assert plan_outputs([a], tmp_path / "x.JPG") == [tmp_path / "x.JPG"]
    assert plan_outputs([a], tmp_path) == [tmp_path / "a.png"]
    assert plan_outputs([a, b], tmp_path / "new") == [tmp_path / "new" / "a.png", tmp_path / "new" / "b.png"]
    # Names that agree are numbered around those that are taken.
    same = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg", tmp_path / "a-1.jpg"]
    names = [path.name for path in plan_outputs(same, tmp_path / "new")]
    assert names == ["a-2.png", "a-3.png", "a-1.png"]
    for inputs, out in [([a, b], tmp_path / "x.png"), ([a], a), ([a], tmp_path / "x.gif")]:
        with pytest.raises(BadUsageError):
            plan_outputs(inputs, out)
    own = tmp_path / "c.png"
    with pytest.raises(BadUsageError, match="input and output at once"):
        plan_outputs([own], tmp_path)


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "picture.png"
    path.write_text("what was before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(ColorlabError, match="no space left"):
            save_picture(np.zeros((4, 4, 3), np.uint8), path)
    assert path.read_text() == "what was before"
    assert list(tmp_path.iterdir()) == [path]
    save_picture(np.full((4, 4, 3), 7, np.uint8), path)
    assert np.asarray(Image.open(path)).max() == 7
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_every_format_can_be_written(tmp_path: Path) -> None:
    picture = np.full((16, 16, 3), (200, 40, 40), np.uint8)
    for suffix in files.SUFFIXES:
        save_picture(picture, tmp_path / f"x{suffix}")
        assert np.abs(np.asarray(Image.open(tmp_path / f"x{suffix}")).astype(int) - picture).max() <= 2


def test_folders_that_stay_empty_go_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), writable_folder(tmp_path / "a" / "b"):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
    with writable_folder(tmp_path / "c" / "d"):
        (tmp_path / "c" / "x").touch()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["x"]
    (tmp_path / "e").mkdir()
    with writable_folder(tmp_path / "e"):
        pass
    assert (tmp_path / "e").is_dir()


def test_check_writable_makes_folders(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
