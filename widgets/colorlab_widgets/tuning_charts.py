"""What a tuning shows of itself, as plain values: curves, the tables of budget and tokens, small pictures."""

import html
from typing import Any

import numpy as np

from colorlab.methods.adaptation import CONTRASTIVE
from colorlab.methods.identifiers import AlignedTarget
from colorlab.tuning import Tuning
from colorlab.tuning.budget import Budget
from colorlab.tuning.embedding_exhibits import EmbeddingMove
from colorlab.tuning.state import TuningState
from colorlab_widgets.pictures import small

__all__ = ["STAGE_WORDS", "aligned_table", "budget_table", "charts_of", "checkpoint_pictures", "duration"]

STAGE_WORDS = {
    "contrastive": "1 colors",
    "embedding": "2a embedding",
    "reconstruction": "2b reconstruction",
}
"""Names of the stages for readers."""

_MAX_POINTS = 200
_MAX_CHECKPOINTS = 24
_THUMBNAIL_PX = 96
_NUM_AVERAGED = 10


def charts_of(tuning: Tuning, stage: str) -> list[dict[str, Any]]:
    """Return the curves of a stage for `Curves`, at most 200 points each."""
    rows = [row for row in tuning.state.rows if row["stage"] == stage]
    if not rows:
        return []
    places = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MAX_POINTS)).round().astype(int))

    def line(name: str, kind: str, label: str = "", values: Any = None) -> dict[str, Any]:
        numbers = [row[name] for row in rows] if values is None else values
        return {"name": label or name, "kind": kind, "values": [float(f"{numbers[k]:.5g}") for k in places]}

    def chart(title: str, unit: str, tooltip: str, *lines: dict[str, Any]) -> dict[str, Any]:
        ends = {"first": rows[0]["iteration"] + 1, "last": rows[-1]["iteration"] + 1}
        return {"title": title, "unit": unit, "tooltip": tooltip, **ends, "lines": list(lines)}

    if stage != CONTRASTIVE:
        losses = [row["loss"] for row in rows]
        mean = line("loss", "first", f"mean of {_NUM_AVERAGED}", _running_mean(losses))
        charts = [chart("loss", "", "Squared error of the predicted noise; each at another noise level", mean)]
        charts[0]["lines"].insert(0, line("loss", "weak", "each iteration"))
        if "moved" in rows[0]:
            tooltip = "How far the tokens went from the words of the context, mean length"
            charts.append(chart("moved", "", tooltip, line("moved", "first")))
        return charts
    anti = [line(f"anti {k}", "weak", text) for k, text in enumerate(tuning.texts[1:])]
    return [
        chart(
            "loss",
            "",
            "The contrastive loss, and what keeps the structure",
            *(line(name, kind) for name, kind in _LOSSES.items()),
        ),
        chart(
            "similarity",
            "cosine",
            "CLIP: the picture with the context (strong), and with each anti-color prompt (thin)",
            *anti,
            line("context", "first"),
        ),
        chart(
            "margin",
            "cosine",
            "Similarity with the context less that with the nearest anti-color prompt; above 0 is colored",
            line("margin", "first"),
        ),
        chart("chroma", "CIELAB", "Mean chroma of the picture; gray is 0", line("chroma", "first")),
    ]


_LOSSES = {"contrastive": "second", "guidance": "third", "loss": "first"}


def checkpoint_pictures(tuning: Tuning) -> list[tuple[int, str, str, np.ndarray]]:
    """Return (number, name, tooltip, picture) of checkpoints, at most 24: the first, the newest, and evenly between."""
    states = list(tuning.checkpoints)
    places = np.unique(np.linspace(0, len(states) - 1, min(len(states), _MAX_CHECKPOINTS)).round().astype(int))
    return [(states[k].number, *_words(tuning, states[k]), _picture(tuning, states[k])) for k in places]


def _words(tuning: Tuning, state: TuningState) -> tuple[str, str]:
    """Return name and tooltip of a checkpoint."""
    stage = "finished" if state.stage is None else f"{STAGE_WORDS[state.stage]}, {state.iteration}"
    return f"{state.number}", f"After {state.number} iterations: {stage}. Choose it, then Roll back goes there"


def _picture(tuning: Tuning, state: TuningState) -> np.ndarray:
    """Return the newest picture that a state knows; before the first, the gray one."""
    if state.thumbnails:
        return state.thumbnails[-1][1]
    gray = np.asarray(tuning.conditioning.gray)
    picture = np.round((gray if gray.ndim == 3 else np.stack([gray] * 3, -1)) * 255).astype(np.uint8)
    return small(picture, _THUMBNAIL_PX)


def budget_table(budget: Budget) -> str:
    """Write what a tuning takes as a table."""
    rows = [
        (STAGE_WORDS[name], f"{one.num_steps}", f"{one.seconds:.2f} s", duration(one.num_steps * one.seconds),
         f"{one.num_bytes / 2**20:.0f} MiB")
        for name, one in budget.items()
    ]  # fmt: skip
    total = ("in all", f"{sum(one.num_steps for one in budget.values())}", "", duration(60 * budget.minutes), "")
    head = ("stage", "iterations", "each", "time", "memory")
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in (*rows, total))
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    kept = f"Checkpoints hold at most {budget.checkpoint_bytes / 2**20:.0f} MiB. One iteration of each was measured."
    return f"<table class='colorlab-table'><tr>{heads}</tr>{cells}</table><div class='colorlab-quiet'>{kept}</div>"


_IDENTIFIER = (
    " title='Where it differs from the target: an identifier, a word without a meaning of its own, that keeps the "
    "place of the color in the tuned context'"
)


def aligned_table(aligned: AlignedTarget, move: EmbeddingMove | None = None) -> str:
    """Write which token of the target lies on which one of the context, and how far stage 2 moved each of these."""
    context = "".join(
        f"<td{_IDENTIFIER if token != other else ''}>{html.escape(token)}</td>" for _, token, other in aligned.rows
    )
    target = "".join(
        f"<td class='{'colorlab-changed' if token != other else ''}'>{html.escape(other)}</td>"
        for _, token, other in aligned.rows
    )
    rows = [f"<tr><th>context</th>{context}</tr><tr><th>target</th>{target}</tr>"]
    if move is not None:
        numbers = (
            ("moved", "Length of e_opt - T(c&#39;), by token", move.distances, "{:.2f}"),
            ("cosine", "Of e_opt with T(c&#39;), by token", move.cosines, "{:.3f}"),
        )
        for name, tooltip, values, form in numbers:
            cells = "".join(f"<td>{form.format(values[index])}</td>" for index, _, _ in aligned.rows)
            rows.append(f"<tr title='{tooltip}'><th>{name}</th>{cells}</tr>")
    return f"<table class='colorlab-table colorlab-words'>{''.join(rows)}</table>"


def duration(seconds: float) -> str:
    """Write a duration: seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _running_mean(values: list[float]) -> list[float]:
    """Return the mean of each value and those before it, ten at most."""
    sums = np.cumsum([0.0, *values])
    return [
        float((sums[k + 1] - sums[max(0, k + 1 - _NUM_AVERAGED)]) / min(k + 1, _NUM_AVERAGED))
        for k in range(len(values))
    ]
