"""Says at the end of a run which recorded cases were compared and which were not, with the reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recorded import VARIABLE

torch.set_num_threads(1)


@pytest.fixture
def compared(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Note that a case was compared: its name and the number of tensors."""
    return lambda name, num_tensors: record_property("parity_compared", (name, num_tensors))


@pytest.fixture
def not_run(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Note that a recorded case, or a part of one, was not run, and why."""
    return lambda name, reason: record_property("parity_not_run", (name, reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the count, and one line for each reason that kept something from being run."""
    notes = [
        note
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for note in report.user_properties
    ]
    num_compared: dict[str, int] = {}
    for _, (name, num_tensors) in (note for note in notes if note[0] == "parity_compared"):
        num_compared[name] = num_compared.get(name, 0) + num_tensors
    reasons: dict[str, list[str]] = {}
    for _, (name, reason) in (note for note in notes if note[0] == "parity_not_run"):
        reasons.setdefault(reason, []).append(name)
    skipped = [str(report.longrepr[2]) for report in terminalreporter.getreports("skipped") if report.longrepr]
    num_unset = sum(f"{VARIABLE} is not set: the recorded case" in reason for reason in skipped)
    if not num_compared and not reasons and not num_unset:
        return
    terminalreporter.section("recorded reference cases")
    total = sum(num_compared.values())
    terminalreporter.line(f"ran {len(num_compared)} cases ({total} tensors compared): {', '.join(num_compared)}")
    if num_unset:
        terminalreporter.line(f"not run: {num_unset} tests of recorded cases ({VARIABLE} is not set)")
    for reason, names in reasons.items():
        terminalreporter.line(f"not run: {', '.join(names)} ({reason})")
