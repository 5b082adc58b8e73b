"""A gesture: what a pointer did from its press to now."""

from dataclasses import dataclass

__all__ = ["Gesture"]


@dataclass(frozen=True)
class Gesture:
    """One movement with a pressed pointer, from its beginning to now.

    Args:
        tool: name of the tool it was made with.
        points: (x, y) in image pixels, at least one.
        phase: "going", "done" or "cancelled".
        color: of the brush, as the page wrote it.
        radius_px: of the brush, in image pixels.
    """

    tool: str
    points: tuple[tuple[float, float], ...]
    phase: str = "done"
    color: str = "#000000"
    radius_px: float = 1.0

    @property
    def is_done(self) -> bool:
        """Tell whether the pointer was lifted."""
        return self.phase == "done"
