"""colorlab: a notebook laboratory for diffusion colorization.

    import colorlab
    colorizer = colorlab.load("mini/lcad")
    run = colorizer.start("photo.jpg", prompt="a red car")
    run.finish().image

Importing this package does nothing else: each name below is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorlab.colorizer import Colorizer, load, open
    from colorlab.conditioning import Conditioning, Manipulation
    from colorlab.errors import (
        ColorlabError,
        ImageError,
        MissingExtraError,
        RangeError,
        RunFileError,
        ShapeError,
        StateError,
        UnknownModelError,
        WeightsError,
    )
    from colorlab.exhibits import Exhibit
    from colorlab.inspection.recording import Recording, record
    from colorlab.methods.adaptation import Adaptation
    from colorlab.methods.base import ConditioningWarning
    from colorlab.registry import models
    from colorlab.runs.run import Run
    from colorlab.runs.run_file import RunFileWarning
    from colorlab.runs.tree import Tree, compare
    from colorlab.settings import Settings
    from colorlab.strokes import Stroke, Strokes
    from colorlab.video.colorize import ColoredVideo, colorize_video
    from colorlab.video.sequence import ColoredFrame, Sequence

__all__ = [
    "Adaptation",
    "ColoredFrame",
    "ColoredVideo",
    "Colorizer",
    "ColorlabError",
    "Conditioning",
    "ConditioningWarning",
    "Exhibit",
    "ImageError",
    "Manipulation",
    "MissingExtraError",
    "RangeError",
    "Recording",
    "Run",
    "RunFileError",
    "RunFileWarning",
    "Sequence",
    "Settings",
    "ShapeError",
    "StateError",
    "Stroke",
    "Strokes",
    "Tree",
    "UnknownModelError",
    "WeightsError",
    "__version__",
    "colorize_video",
    "compare",
    "load",
    "models",
    "open",
    "record",
]

__version__ = "0.1.0"

# Where each name lives; modules of the package itself (`colorlab.plotting`) are found without being listed.
_HOMES = {
    "Adaptation": "methods.adaptation",
    "ColoredFrame": "video.sequence",
    "ColoredVideo": "video.colorize",
    "Colorizer": "colorizer",
    "Conditioning": "conditioning",
    "ConditioningWarning": "methods.base",
    "Exhibit": "exhibits",
    "Manipulation": "conditioning",
    "Recording": "inspection.recording",
    "Run": "runs.run",
    "RunFileWarning": "runs.run_file",
    "Sequence": "video.sequence",
    "Settings": "settings",
    "Stroke": "strokes",
    "Strokes": "strokes",
    "Tree": "runs.tree",
    "colorize_video": "video.colorize",
    "compare": "runs.tree",
    "load": "colorizer",
    "models": "registry",
    "open": "colorizer",
    "record": "inspection.recording",
}
_MODULES = (
    "color",
    "data",
    "edits",
    "evaluation",
    "images",
    "inspection",
    "mechanisms",
    "methods",
    "networks",
    "plotting",
    "sampling",
    "segmentation",
    "training",
    "video",
)
_MODULE_HOMES = {"edits": "inspection.edits"}


def __getattr__(name: str) -> Any:
    """Fetch a public name, or a module of the package, on its first use."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULE_HOMES.get(name, name)}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names and modules."""
    return sorted([*__all__, *_MODULES])
