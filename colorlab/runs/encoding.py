"""From a live tree to the tables of a run file (listed in `run_file`), all at once or change by change."""

import base64
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.methods.absent import ModelDescription
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.base import Method
from colorlab.networks.environment import Environment
from colorlab.picture_codec import encode_picture
from colorlab.runs.derived import derive, same_bits
from colorlab.runs.edit_values import encode_edit
from colorlab.runs.run import Run
from colorlab.runs.run_file import TABLES, Archive, tensor_name
from colorlab.runs.segments import Segment
from colorlab.runs.tree import Tree
from colorlab.sampling.records import StepRecord
from colorlab.sampling.state import State

__all__ = ["Encoder"]

_PICTURES = ("gray", "base_image", "exemplar", "sketch")


class Encoder:
    """Writes a tree as tables, and remembers what it wrote: the next call gives only what came since.

    Keys are given in the order of writing and never twice. What was written is known by identity, since states, records
    and segments are frozen; nothing is kept alive by it. Not locked; one thread uses it at a time.
    """

    def __init__(self) -> None:
        self._numbers = {table: itertools.count() for table in TABLES}
        self._keys: dict[str, WeakKeyDictionary[Any, str]] = {table: WeakKeyDictionary() for table in TABLES}
        self._environments: dict[Environment, str] = {}
        self._models: dict[ModelDescription, str] = {}
        self._pictures: dict[tuple[str, str], Any] = {}
        self._written: dict[str, dict[str, Any]] = {}
        self._tensor_names: set[str] = set()
        self._conditionings: set[str] = set()
        self._adaptations: set[str] = set()
        self._new, self._in_tree = Archive({}), frozenset[Run]()

    def copy(self) -> "Encoder":
        """Return an encoder that knows the same, to try out changes that may fail to be written."""
        other = Encoder()
        # Counters may be shared: a number that is left out does no harm.
        other._numbers = self._numbers
        other._keys = {table: known.copy() for table, known in self._keys.items()}
        for name in (
            "_environments",
            "_models",
            "_pictures",
            "_written",
            "_tensor_names",
            "_conditionings",
            "_adaptations",
        ):
            setattr(other, name, getattr(self, name).copy())
        return other

    def changes(self, tree: Tree, current: Run | None = None) -> Archive:
        """Return what of a tree was not written yet.

        Args:
            tree: the tree.
            current: the run to return when the file is opened, in the tree or pruned from it; by default the last one
                that changed.

        Returns:
            Tables with the new entries, runs that changed, the order, and the tensors that are new.

        Raises:
            RunFileError: an edit holds what a file cannot keep.
        """
        self._new = Archive({table: {} for table in TABLES})
        runs = tree.snapshot()
        self._in_tree = frozenset(runs)
        for run, (name, fork) in runs.items():
            origin = {"parent": self._run_key(fork.parent), "step_index": fork.step_index} if fork else None
            self._run(run, name, origin)
        order = [self._run_key(run) for run in runs]
        changed = [key for key in self._new.content["runs"] if key in order]
        if current is not None:
            self._new.content["current"] = self._hidden_run(current)
        elif changed:
            self._new.content["current"] = changed[-1]
        self._new.content.update(order=order, num_made=tree.num_made)
        return self._new

    # Runs and what they consist of; each returns a key.

    def _run_key(self, run: Run) -> str:
        """Return the key of a run, which it gets before it is written."""
        return self._key("runs", run)[0]

    def _hidden_run(self, run: Run) -> str:
        """Return the key of a run that may not be in the tree; it is written then without name and origin."""
        key = self._run_key(run)
        if run not in self._in_tree:
            self._run(run, None, None)
        return key

    def _run(self, run: Run, name: str | None, origin: dict[str, Any] | None) -> None:
        """Write a run, and the steps it took, unless nothing of it changed."""
        edges = run.edges
        head = before = self._initial(run.states[0])
        # An edge that is known is known with all before it: runs only cut off and add at the end.
        known = next((k for k in range(len(edges), 0, -1) if edges[k - 1][0] in self._keys["edges"]), 0)
        if known:
            head = before = self._keys["edges"][edges[known - 1][0]]
        state = edges[known - 1][1] if known else run.states[0]
        for record, after in edges[known:]:
            head = self._edge(run, record, after, before=before, state=state)
            before, state = head, after
        entry = {
            "name": name,
            "origin": origin,
            "model": self._model(run.method),
            "sample_index": run.sample_index,
            "segments": [self._segment(segment, run.method) for segment in run.segments],
            "head": head,
            "num_shared": run.num_shared,
            "spent": {phase: list(numbers) for phase, numbers in run.meter.spent.items()},
        }
        key = self._run_key(run)
        if self._written.get(key) != entry:
            self._written[key] = self._new.content["runs"][key] = entry

    def _initial(self, state: State) -> str:
        """Write the first state of a run."""
        key, is_new = self._key("initials", state)
        if is_new:
            self._new.content["initials"][key] = {"step_index": state.step_index, **self._state(state, state.history)}
        return key

    def _edge(self, run: Run, record: StepRecord, after: State, *, before: str, state: State) -> str:
        """Write one step; what follows from its predictions is left out where it can be computed again bit for bit."""
        segment = run.segment_at(state.step_index)
        noise_pred: torch.Tensor | None = record.noise_pred
        original: torch.Tensor | None = record.pred_original_sample
        history: tuple[torch.Tensor, ...] | None = after.history
        try:
            derived = derive(run.method, segment.settings, state, record.predictions, has_history=bool(after.history))
        except Exception:  # a method of one's own, or another's guidance: everything is kept
            derived = None
        if derived is not None and same_bits(derived.noise_pred, record.noise_pred):
            noise_pred = None
            if same_bits(derived.pred_original_sample, record.pred_original_sample):
                original = None
            if history and _same_history(derived.history, history):
                history = None
        key, _ = self._key("edges", record)
        self._new.content["edges"][key] = {
            "before": before,
            "segment": self._segment(segment, run.method),
            "environment": self._environment(record.environment),
            "step_index": record.step_index,
            "timestep": record.timestep,
            "predictions": {name: self._tensor(tensor) for name, tensor in record.predictions.items()},
            "network_inputs": {name: self._tensor(tensor) for name, tensor in record.network_inputs.items()},
            "noise_pred": None if noise_pred is None else self._tensor(noise_pred),
            "pred_original_sample": None if original is None else self._tensor(original),
            "after": self._state(after, history),
        }
        return key

    def _state(self, state: State, history: tuple[torch.Tensor, ...] | None) -> dict[str, Any]:
        """Write a state; without history it is computed again on reading."""
        return {
            "timestep": state.timestep,
            "latents": self._tensor(state.latents),
            "history": None if history is None else [self._tensor(tensor) for tensor in history],
        }

    def _segment(self, segment: Segment, method: Method) -> str:
        """Write what is in force for some steps."""
        key, is_new = self._key("segments", segment)
        if is_new:
            self._new.content["segments"][key] = {
                "model": self._model(method),
                "first_step": segment.first_step,
                "conditioning": self._conditioning(segment.conditioning),
                "settings": segment.settings.to_dict(),
                "latent_shape": list(segment.prepared.latent_shape),
                "edits": [
                    encode_edit(
                        edit, tensor=self._tensor, is_run=lambda value: isinstance(value, Run), run=self._hidden_run
                    )
                    for edit in segment.edits
                ],
            }
        return key

    def _model(self, method: Method) -> str:
        """Write which model a run is of."""
        description = ModelDescription.of(method)
        if description.adaptation and method.adaptation is not None:
            self._adaptation(method.adaptation)
        if description not in self._models:
            self._models[description] = f"m{next(self._numbers['models'])}"
            self._new.content["models"][self._models[description]] = description.to_dict()
        return self._models[description]

    def _adaptation(self, adaptation: Adaptation) -> None:
        """Write what was tuned on top of a model, once."""
        key = adaptation.content_hash
        if key not in self._adaptations:
            self._adaptations.add(key)
            self._new.content["adaptations"][key] = {
                "info": dict(adaptation.info),
                "tensors": {name: self._tensor(tensor.detach().cpu()) for name, tensor in adaptation.tensors.items()},
            }

    def _environment(self, environment: Environment | None) -> str | None:
        """Write a fingerprint."""
        if environment is None:
            return None
        if environment not in self._environments:
            self._environments[environment] = f"n{next(self._numbers['environments'])}"
            self._new.content["environments"][self._environments[environment]] = asdict(environment)
        return self._environments[environment]

    def _conditioning(self, conditioning: Conditioning) -> str:
        """Write what the user gave; each picture once, whatever else changes around it."""
        key = conditioning.content_hash()
        if key not in self._conditionings:
            self._conditionings.add(key)
            words = conditioning.replace(**dict.fromkeys(_PICTURES), masks={})
            values: dict[str, Any] = json.loads(words.to_json())
            for name in _PICTURES:
                if getattr(conditioning, name) is not None:
                    values[name] = self._picture(conditioning, name, getattr(conditioning, name))
            if conditioning.masks:
                values["masks"] = {
                    name: self._picture(conditioning, f"masks/{name}", mask)
                    for name, mask in conditioning.masks.items()
                }
            self._new.content["conditionings"][key] = values
        return key

    def _picture(self, conditioning: Conditioning, name: str, picture: np.ndarray) -> Mapping[str, Any]:
        """Write a picture, its bytes as a tensor; encoding a large one takes longer than a step, so it is done once."""
        known = (name, conditioning.content_hash(name.partition("/")[0]))
        if known not in self._pictures:
            encoded = encode_picture(picture)
            data = torch.frombuffer(bytearray(base64.b64decode(encoded["data"])), dtype=torch.uint8)
            self._pictures[known] = {**encoded, "data": self._tensor(data)}
        stored: Mapping[str, Any] = self._pictures[known]
        return stored

    def _tensor(self, tensor: torch.Tensor) -> str:
        """Take in a tensor, once, and return its name."""
        name = tensor_name(tensor)
        if name not in self._tensor_names:
            self._tensor_names.add(name)
            self._new.tensors[name] = tensor.detach()
        return name

    def _key(self, table: str, value: Any) -> tuple[str, bool]:
        """Return the key of an object, and whether it was given just now."""
        known = self._keys[table]
        if value in known:
            return known[value], False
        known[value] = f"{table[0]}{next(self._numbers[table])}"
        return known[value], True


def _same_history(derived: tuple[torch.Tensor, ...] | None, history: tuple[torch.Tensor, ...]) -> bool:
    """Return whether a history was computed again bit for bit."""
    return (
        derived is not None
        and len(derived) == len(history)
        and all(same_bits(mine, its) for mine, its in zip(derived, history, strict=True))
    )
