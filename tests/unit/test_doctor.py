"""The doctor: finds what is missing, says how to get it, and never fails itself."""

import importlib.metadata
from pathlib import Path

import pytest

from colorlab import cli, doctor
from colorlab.doctor import Check, diagnose, format_checks


def checks_named(name: str) -> Check:
    """The finding about one thing."""
    return next(check for check in diagnose() if check.name == name)


def test_every_topic_is_looked_at() -> None:
    checks = diagnose()
    assert [topic for topic in dict.fromkeys(check.topic for check in checks)] == [
        "system", "packages", "devices", "extras", "data", "models",
    ]  # fmt: skip
    assert {"torch", "diffusers", "kornia", "[widgets]", "[eval]", "[lab]", "[train]"} <= {
        check.name for check in checks
    }
    assert checks_named("torch").detail == importlib.metadata.version("torch")


def test_what_is_missing_comes_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def version(name: str) -> str:
        if name in ("kornia", "ipycanvas"):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    for name in ("kornia", "torch"):
        check = checks_named(name)
        assert check.status == "missing"
        assert name in check.remedy
    assert "1.0, but >=" in checks_named("torch").detail
    extra = checks_named("[widgets]")
    assert extra.status == "optional"
    assert extra.detail == "lacks ipycanvas, for the Studio"
    assert "widgets" in extra.remedy


def test_a_data_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLORLAB_DATA", str(tmp_path / "none"))
    check = checks_named("data folder")
    assert check.status == "missing"
    assert "COLORLAB_DATA" in check.remedy
    assert checks_named("any model").status == "missing"


def test_a_failing_probe_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[Check]:
        raise ValueError("no idea")

    monkeypatch.setattr(doctor, "_devices", fail)
    check = checks_named("devices")
    assert check.status == "missing"
    assert "ValueError: no idea" in check.detail
    assert checks_named("torch").status == "ok"


def test_report_ends_with_what_is_missing() -> None:
    fine, absent = Check("data", "a", "ok", "there"), Check("models", "b", "missing", "not there", "fetch it")
    assert format_checks((fine,)).endswith("Everything needed is there.")
    text = format_checks((fine, absent))
    assert text.endswith("Missing: b.")
    assert "-> fetch it" in text


def test_report_does_not_call_everything_there_where_an_extra_is_absent() -> None:
    fine, absent = Check("data", "a", "ok", "there"), Check("extras", "[tune]", "optional", "lacks peft", "install it")
    summary = format_checks((fine, absent)).splitlines()[-1]
    assert "Everything needed is there." not in summary
    assert "[tune]" in summary


def test_every_extra_has_a_purpose() -> None:
    extras = importlib.metadata.metadata("colorlab").get_all("Provides-Extra")
    assert set(extras or ()) == set(doctor._PURPOSES)


def test_command_ends_with_1_when_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: (Check("data", "a", "ok", "there"),))
    assert cli.main(["doctor"]) == 0
    monkeypatch.setattr(doctor, "diagnose", lambda: (Check("data", "a", "missing", "gone", "fetch it"),))
    assert cli.main(["doctor"]) == 1
    assert "fetch it" in capsys.readouterr().out
