"""Segmenters: from words or clicks to masks, whichever network finds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.methods.phrases import object_phrases

__all__ = ["Segmenter", "Target", "propose_masks"]


@dataclass(frozen=True)
class Target:
    """One object that is looked for.

    Args:
        name: of the mask: words of the prompt that describe the object, see `colorlab.methods.phrases`.
        pixel: (x, y) of the picture where it was clicked; None where it was not.
    """

    name: str
    pixel: tuple[float, float] | None = None

    @property
    def phrase(self) -> str:
        """The words alone, without the number of a repeated phrase."""
        return self.name.partition("#")[0].strip()


@runtime_checkable
class Segmenter(Protocol):
    """Finds objects in a picture.

    Some read words, some read clicks; one that is asked without what it reads raises `RangeError`.
    """

    def segment(self, conditioning: Conditioning, targets: Sequence[Target]) -> list[np.ndarray]:
        """Find objects.

        Args:
            conditioning: with the gray picture, and the prompt for those who read it.
            targets: what is looked for.

        Returns:
            One mask (H, W) bool of the size of the picture for each target, in order; empty where nothing was found.
        """
        ...


def propose_masks(
    conditioning: Conditioning,
    segmenter: Segmenter,
    *,
    names: Sequence[str] | None = None,
    pixels: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, np.ndarray]:
    """Propose masks for the objects of a prompt, as `Conditioning.masks` takes them.

    Args:
        conditioning: with a gray picture and a prompt.
        segmenter: who finds the objects.
        names: of the masks, words of the prompt; None for all its objects, or those of `pixels` where it is given.
        pixels: (x, y) of a click on an object, by the name of its mask.

    Returns:
        Masks (H, W) bool by name; those of objects that were not found are left out.

    Raises:
        RangeError: there is no picture, no object to look for, or a pixel outside of the picture.
    """
    if conditioning.gray is None:
        raise RangeError("The conditioning has no gray picture to find objects in; pass gray=...")
    clicks = dict(pixels or {})
    wanted = list(names) if names is not None else list(clicks) or list(object_phrases(conditioning.prompt))
    if not wanted:
        raise RangeError(f"The prompt {conditioning.prompt!r} names no object to look for; pass names=[...].")
    height, width = conditioning.gray.shape
    for name, (x, y) in clicks.items():
        if not (0 <= x < width and 0 <= y < height):
            raise RangeError(f"The click on {name!r} is at {(x, y)}, but (x, y) within {width}x{height} is expected.")
    targets = [Target(name, clicks.get(name)) for name in wanted]
    masks = segmenter.segment(conditioning, targets)
    return {target.name: mask for target, mask in zip(targets, masks, strict=True) if mask.any()}
