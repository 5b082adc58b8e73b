"""What the user has drawn so far, as one frozen value, and the history of these values."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from colorlab.errors import RangeError, ShapeError
from colorlab.strokes import Strokes

__all__ = ["Drawing", "History"]

_MAX_VALUES = 200


@dataclass(frozen=True, eq=False)
class Drawing:
    """Strokes and named masks on one picture. Values are never changed, only replaced.

    Args:
        strokes: in the order of painting.
        masks: name of an object to its mask, (H, W) bool, in the order of the instances. They are kept read-only.
    """

    strokes: Strokes = field(default_factory=Strokes)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frozen = {}
        for name, mask in self.masks.items():
            frozen[name] = mask if not mask.flags.writeable else mask.copy()
            frozen[name].setflags(write=False)
        object.__setattr__(self, "masks", MappingProxyType(frozen))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Drawing):
            return NotImplemented
        return (
            self.strokes == other.strokes
            and list(self.masks) == list(other.masks)
            and all(np.array_equal(mask, other.masks[name]) for name, mask in self.masks.items())
        )

    def with_strokes(self, strokes: Strokes) -> "Drawing":
        """Return the drawing with other strokes."""
        return replace(self, strokes=strokes)

    def with_mask(self, name: str, mask: np.ndarray) -> "Drawing":
        """Return the drawing with one more mask; a mask of a name that is there already grows by it.

        Args:
            name: the words of the object, such as "red car".
            mask: (H, W) bool.

        Raises:
            RangeError: the name is empty.
            ShapeError: the mask has another size than the one of this name.
        """
        name = name.strip()
        if not name:
            raise RangeError("The mask has no name; write the words of the object, such as 'red car'.")
        present = self.masks.get(name)
        if present is not None and present.shape != mask.shape:
            raise ShapeError(f"The mask {name!r} has shape {mask.shape}, but {present.shape} is there already.")
        return replace(self, masks={**self.masks, name: mask if present is None else present | mask})

    def without_mask(self, name: str) -> "Drawing":
        """Return the drawing without one mask.

        Raises:
            RangeError: there is no such mask.
        """
        if name not in self.masks:
            raise RangeError(f"There is no mask {name!r}; there are: {', '.join(self.masks) or 'none'}.")
        return replace(self, masks={other: mask for other, mask in self.masks.items() if other != name})


@dataclass(frozen=True)
class History:
    """A drawing with what came before it and what was taken back.

    Args:
        present: what is shown.
        past: earlier values, the latest last; at most 200 are kept.
        future: values taken back, the latest first.
    """

    present: Drawing
    past: tuple[Drawing, ...] = ()
    future: tuple[Drawing, ...] = ()

    def then(self, drawing: Drawing) -> "History":
        """Go on to another value; what was taken back is forgotten. An equal value changes nothing."""
        if drawing == self.present:
            return self
        return History(drawing, (*self.past, self.present)[-_MAX_VALUES:])

    def undo(self) -> "History":
        """Go back by one value; stay where nothing came before."""
        if not self.past:
            return self
        return History(self.past[-1], self.past[:-1], (self.present, *self.future))

    def redo(self) -> "History":
        """Go forward again; stay where nothing was taken back."""
        if not self.future:
            return self
        return History(self.future[0], (*self.past, self.present), self.future[1:])
