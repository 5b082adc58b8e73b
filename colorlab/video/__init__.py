"""Videos: colored frame by frame, with the colors of each frame carried to the next."""

from colorlab.video.colorize import ColoredVideo, colorize_video
from colorlab.video.sequence import ColoredFrame, Sequence

__all__ = ["ColoredFrame", "ColoredVideo", "Sequence", "colorize_video"]
