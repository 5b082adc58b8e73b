"""Which training strategies cure the distribution problem? Equal budgets, several seeds, leakage with its interval.

    python benchmarks/strategies.py --data PHOTOS --out DIR [--steps 2000] [--seeds 3] [--scenes 100] [--json FILE]
        [--batch-size 16] [--only same deformed ...]

Every strategy trains `colorizediffusion` from the same beginning (`colorizediffusion-sketch` has to be trained in DIR);
what is in DIR already is neither trained nor measured again, so that the command resumes. Seed after seed goes through
all strategies, so that a comparison that is stopped has fewer seeds of each. The word *cures* is used where the whole
95 % interval of the difference in leakage to training on exemplars that fit the sketch (`same`), seed by seed, lies
below zero, and edges are *better* where that of the edge F1 lies above. The interval is Student's: a bootstrap of three
seeds would end at the smallest and the largest of them, and call one strategy in eight a cure that does nothing.
"""

import argparse
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student_t

from colorlab.colorizer import Colorizer
from colorlab.errors import StateError
from colorlab.evaluation.batches import colorize_all
from colorlab.evaluation.report import Report
from colorlab.evaluation.sketches import evaluate_sketches
from colorlab.methods.folder import read_index, write_index
from colorlab.training.colorizediffusion import LINE_ENCODER, Strategies
from colorlab.training.loop import train
from colorlab.training.members import find_member
from colorlab.training.recipes import DEFAULT_STRATEGIES, PLANS, colorizediffusion_recipe

BASE = "same"
PLAIN = Strategies(exemplar="same", drop_rate=0.1, grounding_weight=0.0, edit_share=0.0)
"""Training on exemplars that fit the sketch, with nothing done about it."""
STRATEGIES = {
    BASE: PLAIN,
    "deformed": replace(PLAIN, exemplar="deformed"),
    "arranged": replace(PLAIN, exemplar="arranged"),
    "same, shuffled": replace(PLAIN, shuffles_tokens=True),
    "same, drop rate 0.8": replace(PLAIN, drop_rate=0.8),
    "same, noisy tokens (first)": replace(PLAIN, token_noise="first"),
    "same, noisy tokens (later)": replace(PLAIN, token_noise="later"),
    "same, dual-conditioned": replace(PLAIN, dual_weight=1.0),
    "same, grounded": replace(PLAIN, grounding_weight=1.0),
    "as shipped, without edits": replace(DEFAULT_STRATEGIES, edit_share=0.0),
}
ROWS = {
    "leakage": "leakage of the exemplar's colors",
    "edges": "edge F1 against the sketch, exemplar disagrees",
    "hue": "hue of the exemplar's like, or both gray",
}
"""What is compared, by its row in the report of `evaluate_sketches`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=PLANS["colorizediffusion"].batch_size)
    parser.add_argument("--only", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES), metavar="STRATEGY")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(given.seeds):
        for name in dict.fromkeys([BASE, *given.only]):
            folder = train_one(given, name, STRATEGIES[name], seed)
            found.setdefault(name, []).append(measure(folder, given.scenes, given.device))
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def train_one(given: argparse.Namespace, name: str, strategies: Strategies, seed: int) -> Path:
    """Train one strategy with one seed, unless it was trained before; return the model's folder.

    Raises:
        StateError: a model of that name was trained otherwise.
    """
    known = PLANS["colorizediffusion"]
    warmup = min(known.warmup, given.steps // 10)
    plan = replace(known, steps=given.steps, batch_size=given.batch_size, seed=seed, warmup=warmup)
    label = f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    member = given.out / "family" / f"strategy-{label}"
    if (member / "model_index.json").is_file():
        card = read_index(member).card
        if (card["plan"], card["strategies"]) != (asdict(plan), asdict(strategies)):
            raise StateError(f"{member} was trained by another plan or strategy; give another --out, or remove it.")
    else:
        recipe = colorizediffusion_recipe(given.data, given.out, torch.device(given.device), strategies=strategies)
        train(recipe, plan, given.out / "strategies" / label, member, device=given.device, resume=True)
        lines = find_member(given.out, f"colorizediffusion/{LINE_ENCODER}")
        index = read_index(member)
        told = {LINE_ENCODER: os.path.relpath(lines, member)}
        # Decoded by the sketch's lines, as the shipped model is.
        write_index(member, replace(index, components=index.components | told))
    return member


def measure(folder: Path, num_scenes: int, device: str) -> dict[str, float]:
    """Measure leakage, edges and hues of a model, unless they stand beside it."""
    known = folder / f"figures_{num_scenes}.json"
    if known.is_file():
        return json.loads(known.read_text())
    colorizer = Colorizer.from_pretrained(folder, device=device)

    def colorize(conditionings, settings, label):
        return colorize_all(colorizer.method, conditionings, settings, label=label)

    found = figures(evaluate_sketches(colorize, colorizer.settings, num_scenes, reads="local"))
    known.write_text(json.dumps(found))
    return found


def figures(report: Report) -> dict[str, float]:
    """Take what is compared out of a report."""
    values = {row.name: row.value for row in report.rows}
    return {name: values[row] for name, row in ROWS.items()}


def seed_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of the mean of (seeds,) differences; without bounds where there is one seed."""
    if len(differences) < 2:
        return -np.inf, np.inf
    reach = student_t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() - reach), float(differences.mean() + reach)


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Lay out means over seeds, and the intervals of the differences in leakage and edges to the base."""
    lines = [
        "| strategy | leakage, % | against `same` | edge F1 | against `same` | hue right, % | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in found.items():
        columns = {key: np.array([one[key] for one in runs]) for key in runs[0]}
        apart = {key: columns[key] - np.array([one[key] for one in found[BASE]]) for key in ("leakage", "edges")}
        bounds = {key: seed_interval(differences) for key, differences in apart.items()}
        leaks, edges = (
            f"{apart[key].mean():+.{digits}f} [{bounds[key][0]:.{digits}f}, {bounds[key][1]:.{digits}f}]"
            for key, digits in (("leakage", 2), ("edges", 3))
        )
        verdict = "" if name == BASE else _verdict(bounds["leakage"], bounds["edges"])
        lines.append(
            f"| {name} | {columns['leakage'].mean():.2f} | {leaks} | {columns['edges'].mean():.3f} | {edges} | "
            f"{columns['hue'].mean():.1f} | {verdict} |"
        )
    return "\n".join(lines)


def _verdict(leaks: tuple[float, float], edges: tuple[float, float]) -> str:
    """Say what the intervals of the differences show."""
    shown = []
    if leaks[1] < 0 or leaks[0] > 0:
        shown.append("cures" if leaks[1] < 0 else "harms")
    if edges[0] > 0 or edges[1] < 0:
        shown.append("edges better" if edges[0] > 0 else "edges worse")
    return ", ".join(shown) or "no effect shown"


if __name__ == "__main__":
    main()
