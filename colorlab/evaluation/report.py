"""A measured figure with its interval, and a table of them that prints as text, Markdown and JSON."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from colorlab.errors import RangeError
from colorlab.evaluation.metrics import bootstrap_interval, wilson_interval


@dataclass(frozen=True)
class Estimate:
    """One measured figure.

    Args:
        name: what was measured, in words.
        value: the figure.
        low: lower end of its 95 % interval.
        high: upper end of its 95 % interval.
        num: how many items it was measured on.
        unit: unit of the figure; "%" figures are stored as percentages.
        target: what it should reach, in words; empty if nothing is asked of it.
        reached: whether it does; None if nothing is asked of it.
    """

    name: str
    value: float
    low: float
    high: float
    num: int
    unit: str = ""
    target: str = ""
    reached: bool | None = None


def check_number(number: int, at_least: int = 1, *, name: str = "num_scenes", why: str = "") -> None:
    """Refuse to measure on too little.

    Args:
        number: how much of it.
        at_least: what is needed.
        name: of `number`.
        why: what it is needed for, if it is not plain.

    Raises:
        RangeError: it is less.
    """
    if number < at_least:
        raise RangeError(f"{name} is {number}; expected at least {at_least}{why and ', '}{why}.")


def proportion(name: str, successes: int, trials: int, *, at_least: float | None = None) -> Estimate:
    """Make a percentage with Wilson's interval.

    Args:
        name: what was measured.
        successes: how many trials succeeded.
        trials: how many there were.
        at_least: percentage to reach, if one is asked.

    Returns:
        The estimate; its value is nan without trials.
    """
    # Counts of NumPy would make figures that are not JSON values.
    successes, trials = int(successes), int(trials)
    low, high = wilson_interval(successes, trials)
    value = 100.0 * successes / trials if trials else math.nan
    target, reached = _within(value, at_least, None, "%")
    return Estimate(name, value, 100.0 * low, 100.0 * high, trials, "%", target, reached)


def bootstrapped(
    name: str,
    *columns: Sequence[float] | np.ndarray,
    statistic: Callable[..., float] | None = None,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
) -> Estimate:
    """Make a figure with a bootstrap interval.

    Args:
        name: what was measured.
        columns: measured values, one row per item.
        statistic: function of the columns; None takes the mean of the first.
        unit: unit of the figure.
        at_least: lower bound asked of the figure, if any.
        at_most: upper bound asked of the figure, if any.

    Returns:
        The estimate; its value is nan without rows.
    """
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    low, high = bootstrap_interval(*arrays, statistic=statistic)
    function = statistic or (lambda *drawn: float(np.mean(drawn[0])))
    value = float(function(*arrays)) if len(arrays[0]) else math.nan
    target, reached = _within(value, at_least, at_most, unit)
    return Estimate(name, value, low, high, len(arrays[0]), unit, target, reached)


def ratio_of_means(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Divide two means; nan where the denominator's is 0. Ratios of single pictures would explode on gray ones."""
    below = float(np.mean(denominator))
    return float(np.mean(numerator)) / below if below else math.nan


@dataclass(frozen=True)
class Report:
    """A titled list of figures, and how they came about.

    Args:
        title: what was evaluated.
        rows: the figures.
        details: how they were measured: model, data, settings; JSON values only.
    """

    title: str
    rows: tuple[Estimate, ...]
    details: dict[str, Any] = field(default_factory=dict)

    def to_table(self) -> str:
        """Lay the figures out as a Markdown table, aligned so that it reads well as plain text too."""
        cells = [("what", "measured", "95 % interval", "items", "asked")]
        for row in self.rows:
            mark = {None: "", True: " (reached)", False: " (missed)"}[row.reached]
            interval = f"{_number(row.low)} to {_number(row.high)}"
            measured = f"{_number(row.value)} {row.unit}".strip()
            cells.append((row.name, measured, interval, str(row.num), row.target + mark))
        widths = [max(len(line[column]) for line in cells) for column in range(5)]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
        lines = ["| " + " | ".join(line) + " |" for line in padded]
        lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
        return "\n".join([self.title, "", *lines])

    def to_json(self) -> str:
        """Serialise the report; figures that are not finite become null."""
        rows = [{key: _finite_or_none(value) for key, value in asdict(row).items()} for row in self.rows]
        return json.dumps({"title": self.title, "details": self.details, "rows": rows}, indent=2, ensure_ascii=False)


def _finite_or_none(value: Any) -> Any:
    """Replace nan and infinity, which JSON does not know."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _within(value: float, at_least: float | None, at_most: float | None, unit: str) -> tuple[str, bool | None]:
    """Say in words what is asked of a figure, and whether it holds."""
    if at_least is None and at_most is None:
        return "", None
    parts = [] if at_least is None else [f"at least {at_least:g}"]
    parts += [] if at_most is None else [f"at most {at_most:g}"]
    reached = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return f"{', '.join(parts)} {unit}".strip(), reached


def _number(value: float) -> str:
    """Write a figure with as many digits as one reads."""
    if not math.isfinite(value):
        return "-" if math.isnan(value) else "inf"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
