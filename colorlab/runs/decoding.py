"""From the tables of a run file to a live tree: every value is checked where it is made, and made once."""

import base64
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, ImageError, RangeError, RunFileError, ShapeError
from colorlab.methods.absent import AbsentMethod, ModelDescription
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.base import Method, Prepared
from colorlab.networks.environment import Environment, environment_of
from colorlab.runs.cost import CostMeter
from colorlab.runs.derived import derive
from colorlab.runs.edit_values import decode_edit, edit_types
from colorlab.runs.run import Run
from colorlab.runs.run_file import Archive
from colorlab.runs.segments import Segment, timesteps_of
from colorlab.runs.tree import Tree
from colorlab.sampling.records import StepRecord
from colorlab.sampling.state import State
from colorlab.settings import Settings

__all__ = ["decode_adaptations", "decode_models", "decode_tree"]

T = TypeVar("T")
Edge = tuple[StepRecord, State]

_LONGEST_MESSAGE = 500
# What damaged tables lead to, beside the errors of the values themselves.
_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def decode_models(archive: Archive) -> dict[str, ModelDescription]:
    """Return the models that the runs of a file are of, by key.

    Raises:
        RunFileError: the file is damaged.
    """

    def decode() -> dict[str, ModelDescription]:
        keys = dict.fromkeys(segment["model"] for segment in archive.content["segments"].values())
        return {key: ModelDescription.from_dict(archive.content["models"][key]) for key in keys}

    return _checked(decode)


def decode_adaptations(archive: Archive) -> dict[str, Adaptation]:
    """Return what was tuned on top of the models of a file, by content hash.

    Raises:
        RunFileError: the file is damaged.
    """

    def decode() -> dict[str, Adaptation]:
        found = {}
        for key, entry in archive.content.get("adaptations", {}).items():
            tensors = {name: archive.tensors[tensor] for name, tensor in entry["tensors"].items()}
            found[key] = Adaptation(tensors, entry["info"])
            if found[key].content_hash != key:
                raise RunFileError("The run file is damaged: an adaptation in it changed; use another copy of it.")
        return found

    return _checked(decode)


def decode_tree(archive: Archive, methods: Mapping[str, Method], types: Mapping[str, Any] | None = None) -> Run:
    """Make the tree of a run file.

    Args:
        archive: the file.
        methods: the model, or an `AbsentMethod`, for every key of `decode_models`.
        types: classes of edits by name, beside those of colorlab.

    Returns:
        The run that was saved; its `tree` holds all others.

    Raises:
        RunFileError: the file is damaged, or holds an edit that is not known.
        ColorlabError: a value in it is not possible, or the model makes other latents of the picture.
    """
    return _checked(lambda: _Decoder(archive, methods, types).decode())


def _checked(decode: Callable[[], T]) -> T:
    """Decode, and say in one sentence that the file is damaged where its values do not fit together."""
    try:
        return decode()
    except ColorlabError as error:
        message = str(error)
        if len(message) <= _LONGEST_MESSAGE and "\n" not in message:
            raise
        # Errors of values show the value, which is of any length here.
        raise RunFileError(f"The run file is damaged: {_short(message)} (...); use another copy of it.") from error
    except _DAMAGE as error:
        raise RunFileError(
            f"The run file is damaged: its tables do not fit together ({type(error).__name__}: {_short(str(error))}); "
            "use another copy of it."
        ) from error


def _short(message: str) -> str:
    """Return the beginning of the first line of a message."""
    return (message.splitlines() or [""])[0][:200]


class _Decoder:
    """Makes the values of one file, each once, so that branches share what they shared."""

    def __init__(self, archive: Archive, methods: Mapping[str, Method], types: Mapping[str, Any] | None) -> None:
        self._content, self._tensors = archive.content, archive.tensors
        self._methods, self._types = methods, types or {}
        self._made: dict[tuple[str, str], Any] = {}
        self._tree = Tree()

    def decode(self) -> Run:
        """Return the current run."""
        order = self._content["order"]
        for key in order:
            entry, run = self._content["runs"][key], self._run(key)
            origin = entry["origin"]
            parent = self._run(origin["parent"]) if origin else None
            step_index = _at_least(origin["step_index"], 0, "step_index") if origin else 0
            self._tree.add(run, parent=parent, step_index=step_index, name=entry["name"])
        self._tree.num_made = _at_least(self._content["num_made"], len(order), "num_made")
        return self._run(self._content["current"])

    def _once(self, table: str, key: str, make: Callable[[dict[str, Any]], T]) -> T:
        """Make an entry of a table, or return the one that was made."""
        if (table, key) not in self._made:
            self._made[table, key] = make(self._content[table][key])
        made: T = self._made[table, key]
        return made

    def _run(self, key: str) -> Run:
        """Make a run."""
        return self._once("runs", key, self._make_run)

    def _make_run(self, entry: dict[str, Any]) -> Run:
        """Make a run with the steps it took."""
        method = self._methods[entry["model"]]
        segments = [self._segment(key) for key in entry["segments"]]
        firsts = [segment.first_step for segment in segments]
        if firsts[0] != 0 or firsts != sorted(set(firsts)):
            raise RunFileError(f"The run file is damaged: the segments of a run begin at the steps {firsts}.")
        keys = self._path(entry["head"])
        initial = self._once("initials", keys[0], self._initial)
        if initial.latents.shape[1:] != segments[0].prepared.latent_shape:
            raise ShapeError(f"Latents are {tuple(initial.latents.shape)}, which is not what the settings make.")
        edges, state = [], initial
        for edge_key in keys[1:]:
            edges.append(self._once("edges", edge_key, partial(self._edge, before=state)))
            state = edges[-1][1]
        phases = {"prepare", "predict", "decode"} & set(entry["spent"])
        spent: Any = {
            phase: (int(calls), float(seconds), int(times))
            for phase in phases
            for calls, seconds, times in [entry["spent"][phase]]
        }
        run = Run(
            method,
            segments,
            initial,
            edges=edges,
            tree=self._tree,
            sample_index=_at_least(entry["sample_index"], 0, "sample_index"),
            meter=CostMeter(method, spent),
            num_shared=_at_least(entry["num_shared"], 0, "num_shared"),
        )
        moments = [timestep.item() for timestep in run.timesteps] + [None]
        if [state.timestep for state in run.states] != moments[: len(edges) + 1]:
            raise RunFileError(
                f"The run file is damaged: the states of {entry['name']!r} are not at the timesteps of its settings."
            )
        return run

    def _path(self, head: str) -> list[str]:
        """Return the keys from the initial to the last edge of a run."""
        edges, path = self._content["edges"], [head]
        while path[-1] in edges:
            path.append(edges[path[-1]]["before"])
            if len(path) > len(edges) + 1:
                raise RunFileError("The run file is damaged: the steps of a run go round in a circle.")
        return path[::-1]

    def _initial(self, entry: dict[str, Any]) -> State:
        """Make the first state of a run."""
        return self._state(entry, _at_least(entry["step_index"], 0, "step_index"), ())

    def _edge(self, entry: dict[str, Any], before: State) -> Edge:
        """Make one step from what entered the guidance and the solver."""
        segment = self._segment(entry["segment"])
        method = self._methods[self._content["segments"][entry["segment"]]["model"]]
        predictions = {name: self._tensor(tensor) for name, tensor in entry["predictions"].items()}
        for name, tensor in predictions.items():
            if tensor.shape != before.latents.shape or not tensor.is_floating_point():
                raise ShapeError(
                    f"The prediction {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, but that of the "
                    f"latents, {tuple(before.latents.shape)}, is expected; the run file is damaged."
                )
        noise_pred, original, history = entry["noise_pred"], entry["pred_original_sample"], entry["after"]["history"]
        if None in (noise_pred, original, history):
            derived = derive(method, segment.settings, before, predictions, has_history=history is None)
        record = StepRecord(
            step_index=entry["step_index"],
            timestep=entry["timestep"],
            predictions=predictions,
            noise_pred=derived.noise_pred if noise_pred is None else self._tensor(noise_pred),
            pred_original_sample=derived.pred_original_sample if original is None else self._tensor(original),
            network_inputs={name: self._tensor(tensor) for name, tensor in entry["network_inputs"].items()},
            environment=self._environment(entry["environment"]),
        )
        if (record.step_index, record.timestep) != (before.step_index, before.timestep):
            raise RunFileError(f"The run file is damaged: step {record.step_index} follows state {before.step_index}.")
        after = self._state(entry["after"], before.step_index + 1, derived.history if history is None else None)
        if after.latents.shape != before.latents.shape:
            raise ShapeError(f"The latents change their shape at step {record.step_index}; the run file is damaged.")
        return record, after

    def _state(self, entry: dict[str, Any], step_index: int, history: tuple[torch.Tensor, ...] | None) -> State:
        """Make a state, with a history that was computed or the stored one."""
        if history is None:
            history = tuple(self._tensor(name) for name in entry["history"])
        timestep = entry["timestep"]
        if timestep is not None and (isinstance(timestep, bool) or not isinstance(timestep, int | float)):
            raise RangeError(f"timestep is {timestep!r}, but a number or nothing is expected; the run file is damaged.")
        return State(step_index, timestep, self._tensor(entry["latents"]), history)

    def _segment(self, key: str) -> Segment:
        """Make a segment."""
        return self._once("segments", key, self._make_segment)

    def _make_segment(self, entry: dict[str, Any]) -> Segment:
        """Make a segment and encode its conditioning."""
        conditioning = self._once("conditionings", entry["conditioning"], self._conditioning)
        settings = Settings.from_dict(entry["settings"])
        types = {**edit_types(), **self._types} if entry["edits"] else {}
        edits = tuple(decode_edit(edit, types, tensor=self._tensor, run=self._run) for edit in entry["edits"])
        channels, height, width = (int(size) for size in entry["latent_shape"])
        method = self._methods[entry["model"]]
        prepared = _prepare(method, conditioning, settings, (channels, height, width))
        # Asked for here, so that settings the schedule cannot follow are refused before any step is read.
        timesteps_of(method, settings)
        environment = None if isinstance(method, AbsentMethod) else environment_of(method.vae)
        first_step = _at_least(entry["first_step"], 0, "first_step")
        return Segment(first_step, conditioning, settings, prepared, edits, environment)

    def _conditioning(self, values: dict[str, Any]) -> Conditioning:
        """Make a conditioning; its own reader checks it."""

        def restored(value: dict[str, Any]) -> dict[str, Any]:
            data = self._tensor(value["data"])
            if data.dtype != torch.uint8 or data.ndim != 1:
                raise ImageError(f"A picture is {data.dtype} of shape {tuple(data.shape)}, but bytes are expected.")
            return {**value, "data": base64.b64encode(data.numpy().tobytes()).decode()}

        plain = {}
        for name, value in values.items():
            if name == "masks":
                value = {mask_name: restored(mask) for mask_name, mask in value.items()}
            elif isinstance(value, dict):  # a picture: words are text, strokes are lists
                value = restored(value)
            plain[name] = value
        return Conditioning.from_json(json.dumps(plain))

    def _environment(self, key: str | None) -> Environment | None:
        """Make a fingerprint."""
        return None if key is None else self._once("environments", key, lambda entry: Environment(**entry))

    def _tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the file."""
        return self._tensors[name]


def _prepare(
    method: Method, conditioning: Conditioning, settings: Settings, latent_shape: tuple[int, int, int]
) -> Prepared:
    """Encode a conditioning as it was encoded when the run was made."""
    if isinstance(method, AbsentMethod):
        return method.prepared(latent_shape)
    with method.lock, torch.no_grad():
        prepared = method.prepare(conditioning, settings)
    if prepared.latent_shape != latent_shape:
        raise RangeError(
            f"{method.model_name} makes latents of shape {prepared.latent_shape} of the picture, the file holds "
            f"{latent_shape}; open it with the model that it was made with."
        )
    return prepared


def _at_least(value: Any, low: int, name: str) -> int:
    """Return an integer that is not below a bound."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RunFileError(
            f"The run file is damaged: {name} is {value!r}, but an integer of at least {low} is expected."
        )
    return value
