"""Conditioning: everything the user gives for one picture, as a frozen value that travels as JSON."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np

from colorlab.errors import RangeError, ShapeError
from colorlab.images import load_gray, load_image
from colorlab.picture_codec import decode_picture, encode_picture
from colorlab.strokes import Strokes

__all__ = ["Conditioning", "Manipulation"]

_ALIGNED = ("gray", "base_image", "sketch")
# Where an instance remembers the hashes of its fields.
_HASHES = "_content_hashes"


PUBLISHED_THRESHOLDS = (0.5, 0.55, 0.65, 0.95)
"""Thresholds of a local edit in the released interface of ColorizeDiffusion."""
USUAL_THRESHOLDS = (0.5, 0.65, 0.75, 0.95)
"""Thresholds of a local edit unless told otherwise. Ours: an object of the anchor's color and another kind reaches 0.6
of the similarity range of the mini family's exemplars; of 50 triples of edits that nothing else was measured on, 44
kept their first two with these, 39 with the published ones."""
USUAL_TARGET_SCALE = 18.0
"""Scale of a text edit unless told otherwise. Ours: patches of the mini family's exemplars project to 14 to 20 on the
text that names them, in eight of ten."""


@dataclass(frozen=True)
class Manipulation:
    """One text edit of the exemplar's tokens; several apply in order.

    Args:
        target_text: the wanted attribute, not empty.
        target_scale: wanted projection of the tokens on it; 0 to 20 is usual.
        anchor_text: the present attribute that it replaces; empty for none.
        control_text: which region is meant; empty for everything.
        enhance: erase the anchor before the target is added. The corrected local edit erases it in any case, and with
            this twice.
        thresholds: four rising fractions of the similarity range, in [0, 1], between which the weights change; ours by
            default, see `PUBLISHED_THRESHOLDS`.

    Raises:
        RangeError: a value is out of range or of another type.

    Source: ColorizeDiffusion, arXiv 2401.01456, position weight matrix.
    """

    target_text: str
    target_scale: float
    anchor_text: str = ""
    control_text: str = ""
    enhance: bool = False
    thresholds: tuple[float, float, float, float] = USUAL_THRESHOLDS

    def __post_init__(self) -> None:
        for name in ("target_text", "anchor_text", "control_text"):
            _check_text(getattr(self, name), name)
        if not self.target_text.strip():
            raise RangeError("target_text is empty, but the wanted attribute is expected.")
        scale = self.target_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise RangeError(f"target_scale is {scale!r}, but a finite number is expected.")
        if not isinstance(self.enhance, bool):
            raise RangeError(f"enhance is {self.enhance!r}, but True or False is expected.")
        steps = _items(self.thresholds, "thresholds")
        is_rising = all(isinstance(step, int | float) for step in steps) and all(
            low < high for low, high in itertools.pairwise(steps)
        )
        if len(steps) != 4 or not is_rising or steps[0] < 0 or steps[-1] > 1:
            raise RangeError(f"thresholds are {steps}, but four numbers that rise within [0, 1] are expected.")
        object.__setattr__(self, "target_scale", float(scale))
        object.__setattr__(self, "thresholds", tuple(float(step) for step in steps))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        return {**self.__dict__, "thresholds": list(self.thresholds)}


@dataclass(frozen=True, eq=False, repr=False)
class Conditioning:
    """What the user gives. Pictures are loaded and checked when it is made; change a copy with `replace`.

    Every picture may be a path, a PIL image or an array (see `colorlab.images.load_image`), and is kept as a
    read-only float32 array in [0, 1]. Two are equal if their content is.

    Args:
        gray: picture to colorize; a color picture counts by its lightness. Kept as (H, W). Not every method needs one.
        prompt: text of any length; words beyond the text encoder's reach do not count.
        negative_prompt: text the picture should avoid.
        base_image: color picture of the size of `gray` that is edited locally. Kept as (H, W, 3).
        strokes: `Strokes`, or any number of `Stroke`; coordinates are pixels of `gray`.
        exemplar: color picture of any size whose colors are borrowed. Kept as (H, W, 3).
        sketch: line drawing, black on white, of the size of `gray`. Kept as (H, W).
        masks: name of an object to its mask: an array (H, W) of bool, or a picture whose bright part is the object.
            Kept as (H, W) bool.
        manipulations: text edits of the exemplar's tokens, in order.

    Raises:
        ImageError: a picture cannot be used; the message names it.
        ShapeError: pictures that belong together differ in size.
        RangeError: a text, mask name or manipulation is of another type, or a mask is empty.
    """

    gray: Any = None
    prompt: str = ""
    negative_prompt: str = ""
    base_image: Any = None
    strokes: Any = field(default_factory=Strokes)
    exemplar: Any = None
    sketch: Any = None
    masks: Mapping[str, Any] = field(default_factory=dict)
    manipulations: tuple[Manipulation, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "negative_prompt"):
            _check_text(getattr(self, name), name)
        for name in ("gray", "sketch", "base_image", "exemplar"):
            source = getattr(self, name)
            if source is not None:
                object.__setattr__(self, name, _load_picture(source, name, is_gray=name in ("gray", "sketch")))
        self._check_sizes()
        strokes = self.strokes if isinstance(self.strokes, Strokes) else Strokes(_items(self.strokes, "strokes"))
        object.__setattr__(self, "strokes", strokes)
        object.__setattr__(self, "masks", self._load_masks())
        manipulations = tuple(_items(self.manipulations, "manipulations"))
        for item in manipulations:
            if not isinstance(item, Manipulation):
                raise RangeError(
                    f"manipulations hold {item!r}, but objects of type colorlab.Manipulation are expected."
                )
        object.__setattr__(self, "manipulations", manipulations)
        self.__dict__[_HASHES] = {}

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of gray, base image or sketch; None where there is none of them."""
        for name in _ALIGNED:
            picture = getattr(self, name)
            if picture is not None:
                return int(picture.shape[0]), int(picture.shape[1])
        return None

    def __eq__(self, other: object) -> bool:
        return self.content_hash() == other.content_hash() if isinstance(other, Conditioning) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.content_hash())

    def __repr__(self) -> str:
        parts = []
        for name in ("gray", "base_image", "sketch", "exemplar"):
            picture = getattr(self, name)
            if picture is not None:
                parts.append(f"{name} {picture.shape[0]} x {picture.shape[1]}")
        parts += [f"{name}={getattr(self, name)!r}" for name in ("prompt", "negative_prompt") if getattr(self, name)]
        counts = {"strokes": len(self.strokes), "masks": len(self.masks), "manipulations": len(self.manipulations)}
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        return f"Conditioning({', '.join(parts)})"

    @property
    def subject(self) -> str:
        """Say at a glance what is given beside pictures, such as "'a red car', edits: the blue car, 2 strokes"."""
        parts = [repr(self.prompt)] if self.prompt else []
        parts += [self.in_words(name) for name in ("manipulations", "strokes", "masks") if getattr(self, name)]
        return ", ".join(parts) or "''"

    def in_words(self, name: str) -> str:
        """Say what one of manipulations, strokes and masks holds: texts of the edits, a number of the others."""
        value = getattr(self, name)
        if name == "manipulations" and value:
            return f"edits: {'; '.join(one.target_text for one in value)}"
        noun = {"manipulations": "edits"}.get(name, name)
        return f"no {noun}" if not value else f"{len(value)} {noun if len(value) > 1 else noun[:-1]}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Conditioning.from_json, (self.to_json(),)

    def replace(self, **changes: Any) -> "Conditioning":
        """Return a copy with some fields changed; hashes of what is not changed are kept.

        Raises:
            RangeError: a field that does not exist.
            ColorlabError: as in the constructor.
        """
        kept = {name: getattr(self, name) for name in _field_names() if name not in _check_names(changes)}
        changed = Conditioning(**kept, **changes)
        # Hashing a large picture is what a change of the prompt should not pay for again.
        hashes = self.__dict__[_HASHES]
        changed.__dict__[_HASHES].update({name: hashes[name] for name in kept if name in hashes})
        return changed

    def content_hash(self, *names: str) -> str:
        """Return a hash of the content, the same in every process; what is equal has an equal hash.

        Args:
            *names: fields to take in; none takes all.

        Returns:
            64 hexadecimal digits.

        Raises:
            RangeError: a field that does not exist.
        """
        _check_names(dict.fromkeys(names))
        hashes: dict[str, str] = self.__dict__[_HASHES]
        digest = hashlib.sha256()
        for name in sorted(names or _field_names()):
            if name not in hashes:
                hashes[name] = _hash_value(getattr(self, name))
            digest.update(f"{name}:{hashes[name]};".encode())
        return digest.hexdigest()

    def to_json(self) -> str:
        """Write the conditioning as JSON, pictures included without loss; fields that are not given are left out."""
        values: dict[str, Any] = {}
        for name in ("gray", "base_image", "exemplar", "sketch"):
            if getattr(self, name) is not None:
                values[name] = encode_picture(getattr(self, name))
        for name in ("prompt", "negative_prompt"):
            if getattr(self, name):
                values[name] = getattr(self, name)
        if self.strokes:
            values["strokes"] = self.strokes.to_list()
        if self.masks:
            values["masks"] = {name: encode_picture(mask) for name, mask in self.masks.items()}
        if self.manipulations:
            values["manipulations"] = [manipulation.to_dict() for manipulation in self.manipulations]
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str) -> "Conditioning":
        """Read what `to_json` wrote.

        Raises:
            RangeError: no JSON object, or an unknown field.
            ImageError: a picture in it is damaged.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise RangeError(f"The conditioning is no JSON ({error}); give what Conditioning.to_json wrote.") from error
        if not isinstance(values, dict):
            raise RangeError(f"The conditioning is a JSON {type(values).__name__}, but an object is expected.")
        values = _check_names(values)
        for name in ("gray", "base_image", "exemplar", "sketch"):
            if values.get(name) is not None:
                values[name] = decode_picture(values[name], name)
        if "strokes" in values:
            values["strokes"] = Strokes.from_list(values["strokes"])
        masks = values.get("masks", {})
        if not isinstance(masks, Mapping):
            raise RangeError(f"masks are a JSON {type(masks).__name__}, but an object from name to mask is expected.")
        values["masks"] = {name: decode_picture(mask, f"the mask {name!r}") for name, mask in masks.items()}
        values["manipulations"] = tuple(
            _manipulation(item) for item in _items(values.get("manipulations"), "manipulations")
        )
        return cls(**values)

    def _check_sizes(self) -> None:
        """Refuse pictures that lie on each other but differ in size."""
        given = {name: getattr(self, name).shape[:2] for name in _ALIGNED if getattr(self, name) is not None}
        for name, size in given.items():
            first = next(iter(given))
            if size != given[first]:
                raise ShapeError(
                    f"{name} is {size[0]} x {size[1]} pixels, but {first} is {given[first][0]} x {given[first][1]}; "
                    f"bring them to one size."
                )

    def _load_masks(self) -> Mapping[str, np.ndarray]:
        """Load and check the masks; return them read-only, in the order given."""
        if not isinstance(self.masks, Mapping):
            raise RangeError(f"masks are a {type(self.masks).__name__}, but a mapping from name to mask is expected.")
        loaded: dict[str, np.ndarray] = {}
        for name, source in self.masks.items():
            if not isinstance(name, str) or not name.strip():
                raise RangeError(
                    f"A mask is named {name!r}, but the words of the object are expected, such as 'red car'."
                )
            mask = _load_mask(source, f"the mask {name!r}")
            if self.size is None:
                raise ShapeError(f"There is a mask {name!r} but no picture that it lies on; give gray, too.")
            if mask.shape != self.size:
                raise ShapeError(
                    f"The mask {name!r} is {mask.shape[0]} x {mask.shape[1]} pixels, but the picture is "
                    f"{self.size[0]} x {self.size[1]}; bring them to one size."
                )
            loaded[name] = mask
        return MappingProxyType(loaded)


def _field_names() -> list[str]:
    """Return the names of the fields, in the order of the constructor."""
    return [entry.name for entry in fields(Conditioning)]


def _check_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse fields that do not exist."""
    for name in values:
        if name not in _field_names():
            raise RangeError(f"Conditioning has no field {name!r}; there are: {', '.join(_field_names())}.")
    return dict(values)


def _check_text(value: Any, name: str) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        raise RangeError(f"{name} is {value!r} of type {type(value).__name__}, but text is expected.")


def _items(values: Any, name: str) -> tuple[Any, ...]:
    """Return the elements of a list or tuple; None has none."""
    if values is None:
        return ()
    if isinstance(values, str | Mapping) or not hasattr(values, "__iter__"):
        raise RangeError(f"{name} is a {type(values).__name__}, but a list is expected.")
    return tuple(values)


def _manipulation(values: Any) -> Manipulation:
    """Make one manipulation from plain values."""
    known = [entry.name for entry in fields(Manipulation)]
    if (
        not isinstance(values, Mapping)
        or set(values) - set(known)
        or not {"target_text", "target_scale"} <= set(values)
    ):
        raise RangeError(f"A manipulation in JSON is {values!r}, but an object with {', '.join(known)} is expected.")
    return Manipulation(**values)


def _frozen(array: np.ndarray) -> np.ndarray:
    """Return a read-only contiguous array that nobody else can write to."""
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _load_picture(source: Any, name: str, *, is_gray: bool) -> np.ndarray:
    """Load one picture as a read-only float32 array (H, W) or (H, W, 3)."""
    if is_gray:
        return _frozen(load_gray(source, name)[0, 0].numpy())
    return _frozen(load_image(source, name)[0].permute(1, 2, 0).numpy())


def _load_mask(source: Any, name: str) -> np.ndarray:
    """Load one mask as a read-only bool array (H, W) that is not empty."""
    if isinstance(source, np.ndarray) and source.dtype == bool and source.ndim == 2:
        # Pillow gives bool arrays that hold the byte 255: equal to True, but not in a hash.
        mask = source.view(np.uint8) != 0
    else:
        mask = load_gray(source, name)[0, 0].numpy() > 0.5
    if not mask.any():
        raise RangeError(f"{name} is empty: no pixel belongs to the object; mark at least one, or leave the mask out.")
    return _frozen(mask)


def _hash_value(value: Any) -> str:
    """Hash the content of one field."""
    digest = hashlib.sha256()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    elif isinstance(value, Mapping):
        # The order of masks is the order of the instances: it counts.
        for name, mask in value.items():
            digest.update(f"{name!r}:{_hash_value(mask)};".encode())
    elif isinstance(value, Strokes):
        digest.update(value.to_json().encode())
    else:
        digest.update(repr(value).encode())
    return digest.hexdigest()
