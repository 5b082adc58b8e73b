"""The errors colorlab raises. Each message is one sentence: what came, what was expected, what to do."""

__all__ = [
    "ColorlabError",
    "ImageError",
    "MissingExtraError",
    "RangeError",
    "RunFileError",
    "ShapeError",
    "StateError",
    "UnknownModelError",
    "WeightsError",
]


class ColorlabError(Exception):
    """Base of every error that colorlab raises on purpose; catch it to catch them all."""


class ShapeError(ColorlabError, ValueError):
    """A tensor or array has another shape, or is of another type, than the function asks for."""


class RangeError(ColorlabError, ValueError):
    """A value lies outside its range, is not finite, or is none of the values that exist."""


class StateError(ColorlabError, RuntimeError):
    """A call came in the wrong order, or at a moment when it has no meaning."""


class MissingExtraError(ColorlabError, ImportError):
    """An optional package is needed here and is not installed."""


class ImageError(ColorlabError, ValueError):
    """A picture cannot be read, or cannot be used as it is."""


class WeightsError(ColorlabError, RuntimeError):
    """Model weights are missing, corrupt, or do not fit the architecture."""


class UnknownModelError(ColorlabError, LookupError):
    """No model of this name is known."""


class RunFileError(ColorlabError, ValueError):
    """A run file or a journal cannot be read or written."""
