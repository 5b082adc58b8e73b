"""Exhibits: one named thing shown, as plain data, and the registry of functions that draw it.

This module knows no plotting library. `colorlab.plotting` registers its drawings here when it is imported; an exhibit
that is asked for a figure imports it then, and not before.
"""

import csv
import importlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from colorlab.errors import ColorlabError, MissingExtraError, RangeError, ShapeError, StateError

__all__ = ["VERDICTS", "Exhibit", "drawing_names", "register_drawing"]

VERDICTS = ("exact", "close", "refused")
"""What a replay can be: bit-equal, within the stated tolerance, or too far off to be shown."""

Drawing = Callable[["Exhibit"], Any]

_DRAWINGS: dict[str, Drawing] = {}
_DRAWING_MODULE = "colorlab.plotting"
_DRAWN = (".png", ".svg", ".pdf")
_TEXT_FIELDS = ("axes", "unit", "caption", "provenance", "verdict", "kind")


def register_drawing(kind: str) -> Callable[[Drawing], Drawing]:
    """Register a function that draws the exhibits of one kind; use it as a decorator.

    Args:
        kind: what `Exhibit.kind` says. A later registration of the same kind replaces the earlier one.

    Returns:
        A decorator for a function that takes the exhibit and returns a figure (something with `savefig`).

    Raises:
        RangeError: `kind` is not a name.
    """
    if not isinstance(kind, str) or not kind:
        raise RangeError(f"The kind of a drawing is {kind!r}, but a name is expected.")

    def decorate(function: Drawing) -> Drawing:
        _DRAWINGS[kind] = function
        return function

    return decorate


def drawing_names() -> tuple[str, ...]:
    """Return the kinds that can be drawn at the moment, in alphabetical order."""
    return tuple(sorted(_DRAWINGS))


@dataclass(frozen=True, eq=False, repr=False)
class Exhibit:
    """One named thing shown: numbers, what their axes mean, and where they come from.

    Args:
        array: numbers of any shape; tensors are detached and moved to the CPU. Kept as a read-only copy.
        axes: one name for each axis of `array`, for instance `("h", "w")` or `("step",)`.
        unit: of the values; "" for none.
        caption: one sentence that can stand below the figure.
        provenance: where it comes from (run, step, site, guidance pass ...); plain values.
        verdict: "exact", "close" or "refused" of the replay that gave it; None where nothing was replayed.
        baseline: the null baseline, of the shape of `array`; None where there is none.
        kind: which registered function draws it: "heatmap", "curves", "image" ...
        pictures: pictures that belong to it, by title, (H, W, 3) each: those that a map was computed from. They go into
            `.npz` files, not into `.csv`.

    Raises:
        ShapeError: `axes` or `baseline` do not fit `array`, or a picture is none.
        RangeError: `verdict` is none of `VERDICTS`.
    """

    array: np.ndarray
    axes: tuple[str, ...]
    unit: str
    caption: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    verdict: str | None = None
    baseline: np.ndarray | None = None
    kind: str = "heatmap"
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __post_init__(self) -> None:
        array = _read_only(self.array)
        axes = (self.axes,) if isinstance(self.axes, str) else tuple(str(axis) for axis in self.axes)
        if len(axes) != array.ndim:
            raise ShapeError(f"axes are {axes}, but array has shape {array.shape}: give one name for each axis.")
        baseline = None if self.baseline is None else _read_only(self.baseline)
        if baseline is not None and baseline.shape != array.shape:
            raise ShapeError(f"baseline has shape {baseline.shape}, but that of array, {array.shape}, is expected.")
        if self.verdict is not None and self.verdict not in VERDICTS:
            raise RangeError(f"verdict is {self.verdict!r}, but one of {', '.join(VERDICTS)} or None is expected.")
        pictures = {str(title): _read_only(picture) for title, picture in self.pictures.items()}
        for title, picture in pictures.items():
            if picture.ndim != 3 or picture.shape[-1] != 3:
                raise ShapeError(f"The picture {title!r} has shape {picture.shape}, but (H, W, 3) is expected.")
        for name, value in (("array", array), ("axes", axes), ("baseline", baseline)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))
        object.__setattr__(self, "pictures", MappingProxyType(pictures))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exhibit):
            return NotImplemented
        same_text = all(getattr(self, name) == getattr(other, name) for name in _TEXT_FIELDS)
        same_pictures = list(self.pictures) == list(other.pictures) and all(
            _equal(picture, other.pictures[title]) for title, picture in self.pictures.items()
        )
        return same_text and same_pictures and _equal(self.array, other.array) and _equal(self.baseline, other.baseline)

    def __repr__(self) -> str:
        shape = " x ".join(f"{axis} {size}" for axis, size in zip(self.axes, self.array.shape, strict=True))
        values = ""
        if self.array.size and np.issubdtype(self.array.dtype, np.number):
            known = self.array[~np.isnan(self.array)]
            values = f", {known.min():.4g} to {known.max():.4g}" if known.size else ", all NaN"
            values += f" {self.unit}" if self.unit else ""
        notes = f", verdict {self.verdict}" if self.verdict else ""
        notes += ", with baseline" if self.baseline is not None else ""
        notes += f", {len(self.pictures)} pictures" if self.pictures else ""
        return f"<Exhibit {self.kind} ({shape or 'one value'}){values}{notes}: {self.caption}>"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle provenance and pictures as plain dictionaries."""
        return {**self.__dict__, "provenance": dict(self.provenance), "pictures": dict(self.pictures)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the read-only views that pickling drops."""
        self.__dict__.update(state)
        self.__post_init__()

    def _repr_png_(self) -> bytes | None:
        """Show the drawing in a notebook; None where nothing can draw it, so that the text is shown."""
        try:
            figure = self.plot()
        except (StateError, MissingExtraError):
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def to_numpy(self) -> np.ndarray:
        """Return a copy of the array that may be written to."""
        return self.array.copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Let NumPy take the exhibit for its numbers."""
        if copy is False and dtype is not None and np.dtype(dtype) != self.array.dtype:
            raise ValueError(f"The array is {self.array.dtype}; {np.dtype(dtype)} needs a copy.")
        return self.array if not copy and dtype is None else np.array(self.array, dtype=dtype)

    def plot(self) -> Any:
        """Draw the exhibit with the function registered for its kind.

        Returns:
            What that function returns; for the drawings of colorlab a matplotlib `Figure`.

        Raises:
            StateError: no function is registered for this kind.
            MissingExtraError: the plotting library is not installed.
        """
        if self.kind not in _DRAWINGS:
            _load_drawings()
        if self.kind not in _DRAWINGS:
            known = ", ".join(drawing_names()) or "none"
            raise StateError(
                f"No drawing is registered for exhibits of kind {self.kind!r} (there are: {known}); "
                f"register one with colorlab.exhibits.register_drawing."
            )
        return _DRAWINGS[self.kind](self)

    def save(self, path: str | Path) -> Path:
        """Write the exhibit to a file, provenance included.

        Args:
            path: `.npz` (lossless, read back by `Exhibit.load`), `.csv` (one row for each value, the provenance in
                lines that begin with `#`), `.png`, `.svg` or `.pdf` (the drawing). Its folder is made if it is missing.

        Returns:
            The path.

        Raises:
            RangeError: another ending.
            StateError: a drawing was asked for, and no function is registered for this kind.
            ColorlabError: the file cannot be written.
        """
        path = Path(path)
        writers = {".npz": self._write_npz, ".csv": self._write_csv} | dict.fromkeys(_DRAWN, self._draw_to)
        if path.suffix not in writers:
            raise RangeError(f"An exhibit is saved as {', '.join(writers)}, but {path.name!r} was asked for.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            writers[path.suffix](path)
        except OSError as error:
            reason = error.strerror or error
            raise ColorlabError(
                f"{str(path)!r} cannot be written ({reason}); choose a folder you may write to."
            ) from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Exhibit":
        """Read an exhibit that `save` wrote as `.npz`.

        Raises:
            ColorlabError: there is no such file, or it is no exhibit.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as stored:
                texts = json.loads(str(stored["exhibit"]))
                titles = texts.pop("pictures", [])
                pictures = {title: stored[f"picture_{index}"] for index, title in enumerate(titles)}
                texts["axes"] = tuple(texts["axes"])
                return cls(array=stored["array"], baseline=stored.get("baseline"), pictures=pictures, **texts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ColorlabError(
                f"{str(path)!r} is no exhibit that can be read ({error}); give a .npz that save wrote."
            ) from error

    def _text(self) -> dict[str, Any]:
        """Return everything but the arrays, as JSON can hold it; of the pictures their titles."""
        texts = {name: getattr(self, name) for name in _TEXT_FIELDS}
        if self.pictures:
            texts["pictures"] = list(self.pictures)
        texts["provenance"] = json.loads(json.dumps(dict(self.provenance), default=_to_plain))
        return texts

    def _draw_to(self, path: Path) -> None:
        """Write the drawing; what it shows stands in it as text."""
        self.plot().savefig(path)

    def _write_npz(self, path: Path) -> None:
        """Write arrays and text into one compressed archive."""
        arrays = {"array": self.array} | ({} if self.baseline is None else {"baseline": self.baseline})
        arrays |= {f"picture_{index}": picture for index, picture in enumerate(self.pictures.values())}
        np.savez_compressed(path, exhibit=np.array(json.dumps(self._text())), **arrays)  # type: ignore[arg-type]

    def _write_csv(self, path: Path) -> None:
        """Write one row for each value: its indices, the value, and the baseline if there is one."""
        columns = [*self.axes, "value", *(["baseline"] if self.baseline is not None else [])]
        with path.open("w", newline="", encoding="utf-8") as file:
            for name, value in self._text().items():
                file.write(f"# {name}: {json.dumps(value)}\n")
            writer = csv.writer(file)
            writer.writerow(columns)
            for index in np.ndindex(self.array.shape):
                values = [self.array[index].item()]
                if self.baseline is not None:
                    values.append(self.baseline[index].item())
                writer.writerow([*index, *values])


def _load_drawings() -> None:
    """Import the module that registers colorlab's drawings."""
    try:
        importlib.import_module(_DRAWING_MODULE)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Drawing needs the package {error.name!r}, which is missing; install it with pip install {error.name}."
        ) from error


def _read_only(values: Any) -> np.ndarray:
    """Copy a tensor or array into a read-only array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy()
    array = np.array(values)
    array.setflags(write=False)
    return array


def _equal(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    """Compare two arrays by type and content, NaN equal to NaN."""
    if first is None or second is None:
        return first is second
    is_float = np.issubdtype(first.dtype, np.inexact) and np.issubdtype(second.dtype, np.inexact)
    return first.dtype == second.dtype and bool(np.array_equal(first, second, equal_nan=is_float))


def _to_plain(value: Any) -> Any:
    """Turn what JSON does not know into plain values: numbers where there are some, else text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
