"""From strokes, masks and a base image to the colors that are given, in pixels of the working size."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from colorlab.color import rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.images import resize_image, to_uint8
from colorlab.mechanisms.local_edit import LocalEdit
from colorlab.mechanisms.published_uploads import Upload, read_upload
from colorlab.mechanisms.stroke_encoding import StrokeEncoding
from colorlab.methods.base import gray_image
from colorlab.settings import Settings
from colorlab.strokes import Stroke, Strokes

__all__ = [
    "Hint",
    "base_picture",
    "edit_region",
    "exemplar_notes",
    "exemplar_picture",
    "paint_hint",
    "read_painted",
    "stretches",
    "stroke_notes",
    "tensor_hash",
    "upload_pictures",
]

# Chroma below which nobody sees a color, at the size of a glance. Ours.
_GRAY_CHROMA = 3.0
_GLANCE_SIZE = (64, 64)


@dataclass(frozen=True, eq=False)
class Hint:
    """The colors that are given.

    Args:
        picture: (1, 3, H, W) float32, sRGB, [0, 1].
        known: (1, 1, H, W) float32, 1 where the color of `picture` is given.
        painted: (1, 1, H, W) float32, 1 where the user painted.
    """

    picture: torch.Tensor
    known: torch.Tensor
    painted: torch.Tensor


def stretches(strokes: Strokes, num_steps: int) -> tuple[tuple[Strokes, ...], tuple[int, ...]]:
    """Split a run into stretches of steps with equal strokes.

    Returns:
        The different sets of strokes, and for each step the index of its set.
    """
    by_step = [strokes.active(step) for step in range(num_steps)]
    sets = tuple(dict.fromkeys(by_step))
    places = {part: index for index, part in enumerate(sets)}
    return sets, tuple(places[part] for part in by_step)


def paint_hint(
    conditioning: Conditioning,
    strokes: Strokes,
    size: tuple[int, int],
    settings: Settings,
    *,
    encoding: StrokeEncoding,
    edit: LocalEdit,
    working_px: int,
    cell_px: int,
) -> Hint:
    """Paint strokes at working size, over the base image where a local edit asks for it.

    Args:
        conditioning: what the user gave.
        strokes: those that count, in pixels of the picture.
        size: (height, width) the networks work at.
        settings: what is in force; `as_published` takes the way of the released demo, through 8-bit pictures.
        encoding: the mechanism; off, no stroke is painted.
        edit: the mechanism.
        working_px: side of a square picture at working size.
        cell_px: side of a latent cell.
    """
    if not encoding.is_on(settings):
        strokes = Strokes()
    mode = edit.mode(settings, has_base=conditioning.base_image is not None)
    full_size = _size(conditioning)
    if settings.as_published:
        upload = read_painted(conditioning, strokes, working_px, mode=mode)
        _, mask = strokes.rasterize(*full_size)
        return Hint(upload.given, upload.known, functional.interpolate(mask, size=size, mode="nearest"))
    drawn = strokes.resized(full_size, size)
    picture, mask = drawn.rasterize(*size)
    if mode == "off":
        return Hint(picture, mask, mask)
    everything = conditioning.strokes.resized(full_size, size)
    region = edit.region(everything, _masks(conditioning, size), size, settings)
    base = resize_image(base_picture(conditioning), size)
    picture, known = edit.given((picture, mask), base, region, mode=mode, cell_px=cell_px)
    return Hint(picture, known, mask)


def edit_region(edit: LocalEdit, conditioning: Conditioning, settings: Settings) -> torch.Tensor | None:
    """Return where a finished picture may differ from the base image, (1, 1, H, W); None for everywhere."""
    if edit.mode(settings, has_base=conditioning.base_image is not None) != "keep_rest":
        return None
    size = _size(conditioning)
    return edit.region(conditioning.strokes, _masks(conditioning, size), size, settings)


def base_picture(conditioning: Conditioning) -> torch.Tensor:
    """Return the base image as (1, 3, H, W) float32."""
    # A copy: the array is read-only, which tensors do not know.
    return torch.tensor(conditioning.base_image).permute(2, 0, 1)[None]


def exemplar_picture(conditioning: Conditioning) -> torch.Tensor:
    """Return the exemplar as (1, 3, H, W) float32."""
    return torch.tensor(conditioning.exemplar).permute(2, 0, 1)[None]


def exemplar_notes(picture: torch.Tensor) -> tuple[str, ...]:
    """Return a sentence for the user about an exemplar (1, 3, H, W) without colors."""
    chroma = torch.linalg.vector_norm(rgb_to_lab(resize_image(picture, _GLANCE_SIZE))[:, 1:], dim=1)
    if float(chroma.max()) >= _GRAY_CHROMA:
        return ()
    return (f"The exemplar has no colors (chroma at most {float(chroma.max()):.1f}); it asks for a gray picture.",)


def upload_pictures(conditioning: Conditioning, strokes: Strokes) -> tuple[np.ndarray, np.ndarray]:
    """Return what a user of the released demo would upload, and the same painted over, (H, W, 3) uint8 each.

    A base image is a color upload; without one the gray picture is a gray upload.
    """
    has_base = conditioning.base_image is not None
    picture = to_uint8(base_picture(conditioning) if has_base else gray_image(conditioning).repeat(1, 3, 1, 1))
    colors, mask = strokes.rasterize(*picture.shape[:2])
    is_painted = mask[0, 0].numpy().astype(bool)[:, :, None]
    return picture, np.where(is_painted, to_uint8(colors), picture)


def read_painted(conditioning: Conditioning, strokes: Strokes, working_px: int, *, mode: str = "off") -> Upload:
    """Read an upload and its strokes as the released demo does; see `read_upload`."""
    return read_upload(*upload_pictures(conditioning, strokes), working_px, edit=mode)


def stroke_notes(edit: LocalEdit, conditioning: Conditioning, settings: Settings) -> tuple[str, ...]:
    """Return sentences for the user about strokes and edits that do nothing."""
    notes = []
    height, width = _size(conditioning)
    num_outside = sum(_is_outside(stroke, height, width) for stroke in conditioning.strokes)
    if num_outside:
        notes.append(
            f"{num_outside} of {len(conditioning.strokes)} strokes lie outside of the picture of {height} x {width} "
            "pixels and do nothing; were they drawn on another one?"
        )
    has_base = conditioning.base_image is not None
    if has_base and edit.mode(settings, has_base=True) == "keep_rest":
        if not conditioning.strokes and not conditioning.masks:
            notes.append("There is neither a stroke nor a mask, so that nothing of the base image is changed.")
    elif has_base and settings.as_published and edit.in_force(settings)["mode"] == "keep_rest":
        notes.append(
            "The released code cannot keep the rest of a base image: as published all but the strokes is made anew; "
            "choose the mode 'rim' or 'area' of local_edit for its local edits."
        )
    return tuple(notes)


def tensor_hash(*tensors: torch.Tensor) -> str:
    """Return a hash of the content of tensors on the CPU."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _size(conditioning: Conditioning) -> tuple[int, int]:
    """Return the (height, width) of the gray picture."""
    height, width = gray_image(conditioning).shape[-2:]
    return int(height), int(width)


def _masks(conditioning: Conditioning, size: tuple[int, int]) -> torch.Tensor | None:
    """Return the masks at a size, (K, H, W) bool: a pixel belongs to one if any of its part of the mask does."""
    if not conditioning.masks:
        return None
    masks = torch.from_numpy(np.stack(list(conditioning.masks.values()))).float()
    return functional.adaptive_max_pool2d(masks, size) > 0


def _is_outside(stroke: Stroke, height: int, width: int) -> bool:
    """Return whether a stroke comes nowhere near the picture."""
    points, reach = np.array(stroke.points), max(stroke.radius_px, 1.0)
    low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
    return bool(high[0] < 0 or high[1] < 0 or low[0] > width or low[1] > height)
