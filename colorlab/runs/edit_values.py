"""Edits as plain values: the name of the dataclass and its fields, whatever edits there are.

| field value | in the file |
| --- | --- |
| None, True, number, text | itself |
| list | a list |
| tuple, range, dict | `{"tuple": [...]}`, `{"range": [start, stop, step]}`, `{"dict": [[key, value], ...]}` |
| tensor, array | `{"tensor": name}`, `{"array": name}` |
| run | `{"run": key}` |
| stroke | `{"stroke": fields}` |
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from colorlab.errors import RunFileError
from colorlab.strokes import Stroke

__all__ = ["decode_edit", "edit_types", "encode_edit"]

_EDITS = "colorlab.inspection.edits"


def edit_types() -> Mapping[str, Any]:
    """Return the classes of the edits there are, by name; they live in a layer below and are imported when needed."""
    types: Mapping[str, Any] = importlib.import_module(_EDITS).EDITS
    return types


def encode_edit(
    edit: Any, *, tensor: Callable[[torch.Tensor], str], is_run: Callable[[Any], bool], run: Callable[[Any], str]
) -> dict[str, Any]:
    """Write an edit as plain values.

    Args:
        edit: a dataclass.
        tensor: keeps a tensor and returns its name.
        is_run: tells runs from other values.
        run: returns the key of a run.

    Raises:
        RunFileError: the edit is no dataclass, or a field holds what a file cannot keep.
    """
    if not is_dataclass(edit) or isinstance(edit, type):
        raise RunFileError(f"The edit {edit!r} is no dataclass, so its fields cannot be saved; make it one.")

    def encode(value: Any, name: str) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [encode(item, name) for item in value]
        if isinstance(value, tuple):
            return {"tuple": [encode(item, name) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": [[encode(key, name), encode(item, name)] for key, item in value.items()]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, torch.Tensor):
            return {"tensor": tensor(value)}
        if isinstance(value, np.generic):
            return encode(value.item(), name)
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return {"array": tensor(torch.tensor(value))}
        if isinstance(value, Stroke):
            return {"stroke": value.to_dict()}
        if is_run(value):
            return {"run": run(value)}
        raise RunFileError(
            f"{type(edit).__name__}.{name} holds a {type(value).__name__}, which cannot be saved; a run file keeps "
            "plain values, arrays, tensors, strokes and runs."
        )

    values = {entry.name: encode(getattr(edit, entry.name), entry.name) for entry in fields(edit) if entry.init}
    return {"kind": type(edit).__name__, "fields": values}


def decode_edit(
    stored: Any, types: Mapping[str, Any], *, tensor: Callable[[str], torch.Tensor], run: Callable[[str], Any]
) -> Any:
    """Make the edit that `encode_edit` wrote.

    Args:
        stored: the values.
        types: classes by name.
        tensor: returns a tensor by name.
        run: returns a run by key.

    Raises:
        RunFileError: no class has this name.
        KeyError, TypeError, ValueError, ColorlabError: the values are damaged, or the class refuses them.
    """
    kind = stored["kind"]
    if kind not in types:
        raise RunFileError(
            f"The file holds the edit {kind!r}, but known are only: {', '.join(types) or 'none'}; pass the class of "
            "another one, edits={name: class}."
        )

    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        ((tag, held),) = value.items()
        if tag == "tuple":
            return tuple(decode(item) for item in held)
        if tag == "dict":
            return {decode(key): decode(item) for key, item in held}
        if tag == "range":
            return range(*held)
        if tag == "tensor":
            return tensor(held)
        if tag == "array":
            return tensor(held).numpy()
        if tag == "stroke":
            return Stroke(**held)
        if tag == "run":
            return run(held)
        raise RunFileError(f"A field of the edit {kind!r} is of the kind {tag!r}, which this colorlab does not know.")

    return types[kind](**{name: decode(value) for name, value in stored["fields"].items()})
