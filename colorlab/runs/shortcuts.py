"""Conditioning and Settings by keyword, checked by the type checker: `start(gray=..., prompt=..., seed=3)`."""

from dataclasses import fields
from typing import Any, TypedDict, Unpack

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.settings import Settings

__all__ = ["Shortcuts", "apply_shortcuts"]


class Shortcuts(TypedDict, total=False):
    """Every field of Conditioning and of Settings; those that are given replace the field."""

    gray: Any
    prompt: str
    negative_prompt: str
    base_image: Any
    strokes: Any
    exemplar: Any
    sketch: Any
    masks: Any
    manipulations: Any
    num_inference_steps: int
    guidance_scale: float
    solver: str
    timestep_spacing: str
    eta: float
    strength: float
    seed: int
    mechanisms: Any
    as_published: bool


def apply_shortcuts(
    conditioning: Conditioning, settings: Settings, **shortcuts: Unpack[Shortcuts]
) -> tuple[Conditioning, Settings]:
    """Return both values with the named fields replaced; without any, the very same objects.

    Raises:
        RangeError: a name is a field of neither.
    """
    given: dict[str, Any] = dict(shortcuts)
    of_conditioning = {field.name for field in fields(Conditioning)}
    of_settings = {field.name for field in fields(Settings)}
    for name in given:
        if name not in of_conditioning | of_settings:
            names = ", ".join(sorted(of_conditioning | of_settings))
            raise RangeError(f"{name!r} is a field of neither Conditioning nor Settings; these exist: {names}.")
    for_conditioning = {name: value for name, value in given.items() if name in of_conditioning}
    for_settings = {name: value for name, value in given.items() if name in of_settings}
    if for_conditioning:
        conditioning = conditioning.replace(**for_conditioning)
    if for_settings:
        settings = settings.replace(**for_settings)
    return conditioning, settings
