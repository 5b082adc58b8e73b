"""Recorded cases of a reference folder: finding the files, their weights, and their tolerances."""

import fnmatch
import json
import os
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

VARIABLE = "COLORLAB_REFERENCE"
# What a description may say about the set it belongs to; several sets may lie in one folder.
_SET_FIELDS = ("weights_seed", "variant")


@dataclass(frozen=True)
class RecordedCase:
    """One recorded case: a json with its description, and the tensors beside it."""

    path: Path
    kind: str
    meta: dict[str, Any] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def input(self, name: str) -> torch.Tensor:
        """Return an input; one that is not stored here is taken from the case that `inputs_from` names."""
        key = f"inputs.{name}"
        if key not in self.tensors and "inputs_from" in self.meta:
            stem = self.meta["inputs_from"].partition(":")[0].strip()
            for path in sorted(self.path.parent.glob(f"*{stem}*.safetensors")):
                if _same_set(_read_meta(path), self.meta) and key in (tensors := load_file(path)):
                    return tensors[key]
        return self.tensors[key]

    def outputs(self, prefix: str = "") -> dict[str, torch.Tensor]:
        start = f"outputs.{prefix}"
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}

    def constructor(self, name: str) -> dict[str, Any]:
        return self.meta["diffusers_constructor"][name]

    def weights(self) -> dict[str, torch.Tensor]:
        """Return all recorded weights that belong to this case, by checkpoint name, in float32."""
        return _read_weights(self.path.parent, *(self.meta.get(field) for field in _SET_FIELDS))

    def named_weights(self, *, without_prefix: bool = False) -> dict[str, torch.Tensor]:
        """Return the weights of the files that the description names, and those in the case itself, in float32.

        Several networks may share names: those of a file whose checkpoint has no prefixes come with `without_prefix`
        alone, and all others without it.
        """
        weights: dict[str, torch.Tensor] = {}
        for path in [
            *(self.path.parent / name for name in self.meta["weights"]),
            self.path.with_suffix(".safetensors"),
        ]:
            found = {
                name.removeprefix("weights."): value for name, value in load_file(path).items() if "weights." in name
            }
            is_without = any(name.startswith(("encoder.", "decoder.")) for name in found)
            if is_without == without_prefix:
                weights |= {name: value.float() for name, value in found.items()}
        return weights

    def check(self, name: str, got: torch.Tensor, want: torch.Tensor) -> None:
        """Compare a result with a recorded tensor within the tolerance that was recorded for it."""
        assert got.shape == want.shape, f"{self.name} {name}: shape {tuple(got.shape)}, recorded {tuple(want.shape)}"
        tolerance = self.meta["tolerance"]
        rule: Any = next((rule for names, rule in tolerance["special"].items() if _is_named(name, names)), tolerance)
        if isinstance(rule, str):
            rule = _parse_rule(rule)
        if "levels" in rule:
            difference = (got.int() - want.int()).abs()
            share = float((difference > 0).float().mean())
            assert int(difference.max()) <= rule["levels"], f"{self.name} {name}: {int(difference.max())} levels apart"
            assert share <= rule["share"], f"{self.name} {name}: {share:.2%} of the values differ"
        else:
            torch.testing.assert_close(
                got, want, rtol=rule["rtol"], atol=rule["atol"], msg=lambda text: f"{self.name} {name}: {text}"
            )


def reference_folder(method: str) -> Path | None:
    """Return the folder of a method's recorded files; None if the environment variable is unset."""
    root = os.environ.get(VARIABLE)
    return Path(root) / method if root else None


def find_cases(method: str, kinds: tuple[str, ...]) -> list[RecordedCase]:
    """Find all case files; the kind of each is the longest of `kinds` that its name holds, or empty."""
    folder = reference_folder(method)
    if folder is None:
        return []
    cases = []
    for path in sorted(folder.glob("*case*.json")):
        kind = max((kind for kind in kinds if kind in path.stem), key=len, default="")
        cases.append(RecordedCase(path, kind, json.loads(path.read_text())))
    return cases


def case_params(method: str, kind: str, kinds: tuple[str, ...]) -> list[Any]:
    """Return the parameters of a test: its cases, or one that skips and says why."""
    folder = reference_folder(method)
    if folder is None:
        reason = f"{VARIABLE} is not set: the recorded case {kind} of {method} was not run"
        return [pytest.param(None, id=kind, marks=pytest.mark.skip(reason=reason))]
    found = [pytest.param(case, id=case.name) for case in find_cases(method, kinds) if case.kind == kind]
    reason = f"no file of the kind {kind} in {folder}"
    return found or [pytest.param(None, id=kind, marks=pytest.mark.skip(reason=reason))]


@lru_cache(maxsize=4)
def _read_weights(folder: Path, seed: int | None, variant: str | None) -> dict[str, torch.Tensor]:
    """Merge the `weights.` tensors of all files of one set, however they are split."""
    wanted = dict(zip(_SET_FIELDS, (seed, variant), strict=True))
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not _same_set(_read_meta(path), wanted):
            continue
        for name, value in load_file(path).items():
            if name.startswith("weights."):
                weights[name.removeprefix("weights.")] = value.float()
    return weights


def _read_meta(path: Path) -> dict[str, Any]:
    """Read the description beside a file of tensors; empty if there is none."""
    path = path.with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else {}


def _same_set(meta: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two descriptions belong to one set; one that does not say belongs to all."""
    pairs = [(meta.get(field), other.get(field)) for field in _SET_FIELDS]
    return all(left == right or left is None or right is None for left, right in pairs)


def _is_named(name: str, names: str) -> bool:
    """Tell whether a tensor is meant by a comma-separated list of names or patterns."""
    last = name.rpartition(".")[2]
    return any(fnmatch.fnmatch(part, pattern.strip()) for pattern in names.split(",") for part in (name, last))


def _parse_rule(text: str) -> dict[str, float]:
    """Read a tolerance in words: `exact`, `exact up to float32 rounding`, `rtol .. atol ..`, `at most .. level ..`."""
    if text.strip() == "exact":
        return {"levels": 0, "share": 0.0}
    if text.strip() == "exact up to float32 rounding":
        return {"rtol": 1e-6, "atol": 1e-6}
    if match := re.search(r"at most (\d+) levels?(?:.*fewer than ([\d.]+) %)?", text):
        return {"levels": int(match[1]), "share": float(match[2] or 100) / 100}
    numbers = dict(re.findall(r"(rtol|atol) ([\d.e+-]+)", text))
    if set(numbers) != {"rtol", "atol"}:
        raise ValueError(f"the recorded tolerance {text!r} is written in an unknown way")
    return {name: float(number) for name, number in numbers.items()}
