from pathlib import Path

import pytest

from colorlab import data
from colorlab.data import data_folder, model_folder, model_names
from colorlab.errors import UnknownModelError, WeightsError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLORLAB_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COLORLAB_DATA", raising=False)
    monkeypatch.setattr(data, "_PACKAGE", tmp_path / "colorlab")
    (tmp_path / "colorlab").mkdir()
    return tmp_path / "colorlab"


def add_model(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "model_index.json").write_text("{}")
    return folder / name


def test_the_variable_comes_first(folder: Path) -> None:
    assert data_folder() == folder


def test_a_variable_that_names_no_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORLAB_DATA", "/nowhere/at/all")
    with pytest.raises(WeightsError, match="COLORLAB_DATA is '/nowhere/at/all', but there is no such folder"):
        data_folder()


def test_a_variable_that_names_the_family_itself_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(folder, "mini/lcad")
    monkeypatch.setenv("COLORLAB_DATA", str(folder / "mini"))
    with pytest.raises(WeightsError, match=f"set it to the folder above, {str(folder)!r}"):
        data_folder()


def test_this_installation_has_a_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLORLAB_DATA", raising=False)
    assert data_folder().is_dir()


def test_a_checkout_comes_before_the_wheel(package: Path) -> None:
    (package.parent / "data").mkdir()
    (package / "_data").mkdir()
    assert data_folder() == package / "_data", "beside an installed package, data belongs to somebody else"
    (package.parent / "pyproject.toml").touch()
    assert data_folder() == package.parent / "data"


def test_an_installation_without_data_is_told(package: Path) -> None:
    with pytest.raises(WeightsError, match="set COLORLAB_DATA to the folder that holds mini/"):
        data_folder()


def test_models_are_found_by_name(folder: Path) -> None:
    assert model_names() == ()
    expected = add_model(folder, "mini/lcad")
    add_model(folder, "mini/prior")
    (folder / "mini" / "vae").mkdir()
    assert model_names() == ("mini/lcad", "mini/prior")
    assert model_folder("mini/lcad") == expected


@pytest.mark.parametrize("name", ["mini/lcat", "", "../secret", "/etc", "mini/vae", "mini"])
def test_unknown_models_are_told_with_those_that_exist(folder: Path, name: str) -> None:
    add_model(folder, "mini/lcad")
    with pytest.raises(UnknownModelError, match="there are: mini/lcad"):
        model_folder(name)
