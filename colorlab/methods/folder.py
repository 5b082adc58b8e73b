"""Model folders: one subfolder for each component, in the formats of diffusers and transformers, and an index.

`model_index.json` names the method, the folder of each component (which may lie beside the model and be shared, as
"../vae"), the SHA-256 of every weight file, the working size, and optionally the model's own settings and its card.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from colorlab.checkpoints.reading import check_sha256, file_sha256
from colorlab.errors import ColorlabError, RangeError, WeightsError
from colorlab.methods.base import Method
from colorlab.methods.components import load_component, save_component, weight_files
from colorlab.settings import Settings

__all__ = [
    "INDEX_NAME",
    "METHODS",
    "ModelIndex",
    "find_method",
    "load_method",
    "read_index",
    "rewired_index",
    "save_method",
    "write_index",
]

INDEX_NAME = "model_index.json"
CLASS_NAME = "Colorizer"

# Methods by name; imported when one is loaded, so that a method's own needs are not everybody's.
METHODS: dict[str, str] = {
    "colorizediffusion": "colorlab.methods.colorizediffusion:ColorizeDiffusion",
    "ctrlcolor": "colorlab.methods.ctrlcolor:CtrlColor",
    "diffcolor": "colorlab.methods.diffcolor:DiffColor",
    "lcad": "colorlab.methods.lcad:Lcad",
    "text_to_image": "colorlab.methods.text_to_image:TextToImage",
}


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says.

    Args:
        method: name in `METHODS`.
        components: folder of each component, relative to the model's.
        sha256: hash of every weight file, by path relative to the model's folder.
        working_px: side of a square picture at working size.
        settings: fields of Settings in which the model differs from its method's defaults.
        card: licence, data, figures and whatever else the model card says.
    """

    method: str
    components: dict[str, str]
    sha256: dict[str, str]
    working_px: int
    settings: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def weights_hash(self) -> str:
        """One hash for all weights, wherever their files lie."""
        return hashlib.sha256(" ".join(sorted(set(self.sha256.values()))).encode()).hexdigest()


def find_method(name: str) -> type[Method]:
    """Return the class of a method by name.

    Raises:
        RangeError: there is no such method.
    """
    if name not in METHODS:
        raise RangeError(f"There is no method {name!r}; there are: {', '.join(METHODS)}.")
    module, _, class_name = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), class_name)
    return found


def read_index(folder: Path) -> ModelIndex:
    """Read the index of a model folder.

    Raises:
        WeightsError: there is none, or it is not one of colorlab's.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise WeightsError(f"There is no {INDEX_NAME} in {str(folder)!r}; give the folder of a model.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        class_name = content.get("_class_name")
        if class_name != CLASS_NAME:
            raise WeightsError(f"{str(path)!r} describes a {class_name}, but a {CLASS_NAME} is expected.")
        return ModelIndex(
            method=str(content["method"]),
            components={str(name): str(where) for name, where in content["components"].items()},
            sha256={str(name): str(digest) for name, digest in content["sha256"].items()},
            working_px=int(content["working_px"]),
            settings=dict(content.get("settings", {})),
            card=dict(content.get("card", {})),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(f"{str(path)!r} is damaged ({reason}); fetch or make the model again.") from error


def rewired_index(index: ModelIndex, method: str) -> ModelIndex:
    """Return an index that has the networks of a folder wired by another method.

    A whole CLIP in the place of the text encoder serves as both towers with their projections, too.

    Raises:
        RangeError: there is no such method.
    """
    found = find_method(method)
    components = dict(index.components)
    for name in found.optional_component_names:
        if name.startswith("projected_") and name not in components:
            components[name] = components["text_encoder"]
    return replace(index, method=method, components=components, settings={})


def write_index(folder: Path, index: ModelIndex) -> ModelIndex:
    """Hash every weight file of the components and write the index; the hashes in `index` are not used.

    Returns:
        The index as it was written.

    Raises:
        WeightsError: a component has no weights where its kind has some.
        ColorlabError: the file cannot be written.
    """
    sha256 = {
        f"{where}/{file.name}": file_sha256(file)
        for name, where in index.components.items()
        for file in weight_files(name, folder / where)
    }
    content = {
        "_class_name": CLASS_NAME,
        "method": index.method,
        "components": index.components,
        "sha256": sha256,
        "working_px": index.working_px,
        "settings": index.settings,
        "card": index.card,
    }
    try:
        (folder / INDEX_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ColorlabError(
            f"{str(folder / INDEX_NAME)!r} cannot be written ({error.strerror}); choose a folder you may write to."
        ) from error
    return ModelIndex(index.method, index.components, sha256, index.working_px, index.settings, index.card)


def load_method(folder: Path, index: ModelIndex, *, device: torch.device, dtype: torch.dtype, name: str = "") -> Method:
    """Check the hash of every weight file, load the components and wire them up.

    Args:
        folder: of the model.
        index: what its `model_index.json` says.
        device: where the networks go.
        dtype: their number format.
        name: what the model is called; the folder's name by default.

    Raises:
        WeightsError: a file is missing, damaged, of no known hash, or does not fit the architecture.
    """
    try:
        method_class = find_method(index.method)
    except RangeError as error:
        raise WeightsError(f"{str(folder / INDEX_NAME)!r} cannot be used: {error}") from None
    missing = [part for part in method_class.component_names if part not in index.components]
    if missing:
        raise WeightsError(
            f"{str(folder / INDEX_NAME)!r} names no folder for {', '.join(missing)}, which {index.method} needs; "
            "fetch or make the model again."
        )
    components = {}
    optional = [part for part in method_class.optional_component_names if part in index.components]
    for part in (*method_class.component_names, *optional):
        where = index.components[part]
        for file in weight_files(part, folder / where):
            entry = f"{where}/{file.name}"
            if entry not in index.sha256:
                raise WeightsError(f"{INDEX_NAME} of {str(folder)!r} has no SHA-256 for {entry}; make the model again.")
            check_sha256(file, index.sha256[entry])
        components[part] = load_component(part, folder / where, device=device, dtype=dtype)
    return method_class(components, index.working_px, model_name=name or folder.name, weights_hash=index.weights_hash)


def save_method(method: Method, folder: Path, *, settings: Settings, card: Mapping[str, Any]) -> ModelIndex:
    """Write every component into a subfolder of its own, and the index.

    Raises:
        ColorlabError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, component in method.components.items():
            save_component(name, component, folder / name)
    except OSError as error:
        raise ColorlabError(
            f"{str(folder)!r} cannot be written ({error.strerror or error}); choose a folder you may write to."
        ) from error
    standard = method.default_settings.to_dict()
    own = {name: value for name, value in settings.to_dict().items() if value != standard[name]}
    components = {name: name for name in method.components}
    return write_index(folder, ModelIndex(method.name, components, {}, method.working_px, own, dict(card)))
