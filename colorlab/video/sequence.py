"""Sequence: a video as frames, their runs, and what is carried from frame to frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from colorlab.color import fit_chroma_to_gamut, gray_to_lightness, lab_to_rgb, rgb_to_lab
from colorlab.colorizer import Colorizer
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, ShapeError
from colorlab.images import finish_keep_lightness, load_gray, load_image, resize_image, to_uint8
from colorlab.mechanisms.local_edit import LocalEdit
from colorlab.methods.base import Method
from colorlab.networks.encoder_levels import encoder_levels
from colorlab.runs.run import Run
from colorlab.settings import Settings
from colorlab.strokes import Strokes
from colorlab.video.matching import FrameLook, carry_chroma, find_origin, join_levels

__all__ = ["Carried", "ColoredFrame", "Sequence", "carry", "color_anew", "color_onward", "look_at"]

# All ours, chosen on moving clips of training seeds.
_NUM_LEVELS = 3
_MAX_GRID = 64
_MIN_SHARE = 0.5
# Prompts and their negatives, and the pictures of the newest frame.
_NUM_KEPT_ENCODED = 2


@dataclass(frozen=True, eq=False)
class Carried:
    """What a colored frame hands on to the next one.

    Args:
        look: by which the next frame finds its points again.
        ab: (1, 2, h, w) float32, chroma at working size.
        size: (height, width) of the frame in pixels.
    """

    look: FrameLook
    ab: torch.Tensor
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class ColoredFrame:
    """One frame of a sequence.

    Args:
        index: from 0.
        image: (H, W, 3) uint8.
        starts_shot: whether it was colored anew: the first frame, the first one behind a cut, and every frame of a
            sequence without propagation.
        known: share of its pixels whose color comes from the frame before, [0, 1].
        run: that made it, to look into; None where every color came from the frame before, so that nothing was left
            to make.
    """

    index: int
    image: np.ndarray
    starts_shot: bool
    known: float
    run: Run | None


@dataclass(frozen=True, eq=False)
class Sequence:
    """A video that is colored while it is iterated over; nothing of a frame is kept here once it was handed out.

    The first frame of a shot is colored by the conditioning. Each later one gets, as hints, the colors of the frame
    before where its points are found again with confidence, and the network colors the rest with these in view. Where
    less than half of a frame is found again a new shot begins.

    Args:
        colorizer: the model; with propagation one that takes hints from a base image, as CtrlColor does.
        frames: pictures of one size: paths, PIL images or arrays; as many as you like, also one by one.
        conditioning: words and exemplar are for every frame; strokes and masks, which have a place, for the first one.
            Its gray picture is not used: each frame takes its place.
        settings: how to sample each frame, with one seed for all; the model's own by default.
        propagate: False colors every frame by itself.
        first_index: number of the first of `frames`, to go on in the middle of a video.
        carried: of the frame before, see `carry`; None at the beginning.

    Raises:
        RangeError: the model colors no gray pictures; with propagation: it takes no hints, or the conditioning has a
            base image. While iterating: as `Colorizer.start`.
        ShapeError: while iterating: a frame differs in size from the one before.
        ImageError: while iterating: a frame cannot be used.

    Source: CtrlColor, arXiv 2402.10855: the first frame is colored, then its colors become hints of the next ones.
    Deviation: the paper gives no algorithm; the matching is `colorlab.video.matching`, and hints are given as a base
        image of which the rest is kept (`LocalEdit`), so that carried colors stay as they are.

    Example:
        >>> for frame in colorlab.Sequence(colorizer, frames, conditioning):  # doctest: +SKIP
        ...     show(frame.image)
    """

    colorizer: Colorizer
    frames: Iterable[Any]
    conditioning: Conditioning = field(default_factory=Conditioning)
    settings: Settings | None = None
    propagate: bool = True
    first_index: int = 0
    carried: Carried | None = None

    def __post_init__(self) -> None:
        method = self.colorizer.method
        if "gray" not in method.requires:
            raise RangeError(f"{method.model_name} colors no gray pictures; take a model that does, as mini/ctrlcolor.")
        if self.conditioning.base_image is not None:
            raise RangeError("The conditioning of a video has a base image, but frames are gray; leave base_image out.")
        if self.propagate:
            _check_takes_hints(method, self.settings or self.colorizer.settings)

    def __iter__(self) -> Iterator[ColoredFrame]:
        method, carried = self.colorizer.method, self.carried
        size = None if carried is None else carried.size
        for index, source in enumerate(self.frames, start=self.first_index):
            gray = load_gray(source, f"frame {index}")
            if size not in (None, tuple(gray.shape[-2:])):
                raise ShapeError(
                    f"Frame {index} is {gray.shape[-2]} x {gray.shape[-1]} pixels, but those before it are {size[0]} x "
                    f"{size[1]}; bring all frames to one size."
                )
            size = (int(gray.shape[-2]), int(gray.shape[-1]))
            # What has a place belongs to the first picture alone.
            conditioning = self.conditioning if index == 0 else _without_places(self.conditioning)
            look = look_at(method, gray) if self.propagate else None
            frame = None
            if carried is not None and look is not None:
                frame = color_onward(
                    self.colorizer, gray, conditioning, self.settings, look=look, carried=carried, index=index
                )
            if frame is None:
                frame = color_anew(self.colorizer, gray, conditioning, self.settings, index=index)
            carried = None if look is None else carry(look, frame.image)
            method.cache.keep_newest(_NUM_KEPT_ENCODED)
            yield frame


def color_anew(
    colorizer: Colorizer, gray: torch.Tensor, conditioning: Conditioning, settings: Settings | None, *, index: int
) -> ColoredFrame:
    """Color a frame by itself.

    Args:
        colorizer: the model.
        gray: (1, 1, H, W) float32, [0, 1].
        conditioning: what is wanted; its gray picture is not used.
        settings: how to sample; the model's own if None.
        index: number of the frame.
    """
    run = colorizer.start(conditioning.replace(gray=gray[0, 0].numpy()), settings).finish(progress=False)
    return ColoredFrame(index, run.image, starts_shot=True, known=0.0, run=run)


def color_onward(
    colorizer: Colorizer,
    gray: torch.Tensor,
    conditioning: Conditioning,
    settings: Settings | None,
    *,
    look: FrameLook,
    carried: Carried,
    index: int,
) -> ColoredFrame | None:
    """Color a frame with what the one before hands on; the network makes the rest, with these colors as hints.

    Args:
        colorizer: the model.
        gray: (1, 1, H, W) float32, [0, 1].
        conditioning: what is wanted where nothing is known; its gray picture is not used.
        settings: how to sample; the model's own if None.
        look: of `gray`.
        carried: of the frame before.
        index: number of the frame.

    Returns:
        The frame; None where too little of it is found again, so that it begins another shot.
    """
    origin = find_origin(look, carried.look)
    if origin.share < _MIN_SHARE:
        return None
    ab, known = carry_chroma(carried.ab, origin, look.lightness)
    small = lab_to_rgb(torch.cat([look.lightness, fit_chroma_to_gamut(look.lightness, ab)], dim=1))
    base = to_uint8(finish_keep_lightness(small, gray))
    unknown = functional.interpolate((~known).float(), size=gray.shape[-2:], mode="nearest")[0, 0] > 0
    share = float(known.float().mean())
    if not unknown.any():
        return ColoredFrame(index, base, starts_shot=False, known=share, run=None)
    hinted = conditioning.replace(gray=gray[0, 0].numpy(), base_image=base, masks={"unknown": unknown.numpy()})
    run = colorizer.start(hinted, settings).finish(progress=False)
    return ColoredFrame(index, run.image, starts_shot=False, known=share, run=run)


def carry(look: FrameLook, image: np.ndarray) -> Carried:
    """Put together what a colored frame hands on.

    Args:
        look: of the gray frame, see `look_at`.
        image: (H, W, 3) uint8, its colored picture. Nothing else of the past is needed, so that a video goes on from
            its finished pictures with the same bits.
    """
    size = (int(look.lightness.shape[-2]), int(look.lightness.shape[-1]))
    return Carried(look, rgb_to_lab(resize_image(load_image(image), size))[:, 1:], image.shape[:2])


def look_at(method: Method, gray: torch.Tensor) -> FrameLook:
    """Return what a gray frame (1, 1, H, W), [0, 1], looks like to the matching."""
    size = method.working_size((int(gray.shape[-2]), int(gray.shape[-1])))
    small = resize_image(gray, size)
    with method.lock, torch.no_grad():
        method.network_calls["vae_encoder"] += 1
        levels = encoder_levels(method.vae, small.expand(-1, 3, -1, -1).to(method.device), _NUM_LEVELS)
    scale = min(1.0, _MAX_GRID / max(size))
    grid = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    return FrameLook(gray_to_lightness(small), join_levels(levels, grid))


def _without_places(conditioning: Conditioning) -> Conditioning:
    """Return the part of a conditioning that holds for any frame."""
    return conditioning.replace(gray=None, strokes=Strokes(), masks={})


def _check_takes_hints(method: Method, settings: Settings) -> None:
    """Refuse a model that cannot go on from given colors, or settings that keep it from doing so."""
    edits = [mechanism for mechanism in method.mechanisms if isinstance(mechanism, LocalEdit)]
    if not edits:
        raise RangeError(
            f"{method.model_name} takes no colors as hints, so that nothing can be carried from frame to frame; take "
            "a CtrlColor model, or propagate=False to color every frame by itself."
        )
    mode = edits[0].mode(settings, has_base=True)
    if mode != "keep_rest":
        raise RangeError(
            f"The settings put local_edit in the mode {mode!r}, but colors are carried in the mode 'keep_rest' alone; "
            "leave local_edit on and as_published off, or take propagate=False."
        )
