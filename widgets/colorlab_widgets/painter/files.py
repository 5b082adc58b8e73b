"""Drawings as files: JSON without loss, and PNG pictures of the hint as other programs paint them."""

import io
import json
from itertools import pairwise

import numpy as np
from PIL import Image, UnidentifiedImageError

from colorlab.errors import ImageError, RangeError, ShapeError
from colorlab.picture_codec import decode_picture, encode_picture
from colorlab.strokes import Stroke, Strokes
from colorlab_widgets.painter.drawing import Drawing

__all__ = ["drawing_to_json", "hint_to_strokes", "json_to_drawing", "png_to_strokes", "strokes_to_png"]

# A picture with soft edges has a color for nearly every pixel; it is no hint of flat strokes.
_MAX_STROKES = 2000
# Thin enough to paint the pixels under a path and no others.
_PIXEL_RADIUS_PX = 0.5


def drawing_to_json(drawing: Drawing, size: tuple[int, int]) -> str:
    """Write a drawing as JSON.

    Args:
        drawing: strokes and masks.
        size: (height, width) of its picture in pixels.
    """
    masks = {name: encode_picture(mask) for name, mask in drawing.masks.items()}
    return json.dumps({"size": list(size), "strokes": drawing.strokes.to_list(), "masks": masks})


def json_to_drawing(text: str, size: tuple[int, int]) -> Drawing:
    """Read what `drawing_to_json` or `Strokes.to_json` wrote.

    Args:
        text: the JSON.
        size: (height, width) of the picture it is drawn on now; strokes of another size are scaled to it.

    Raises:
        RangeError: no JSON of a drawing.
        ShapeError: masks of a picture of another size.
        ImageError: a damaged mask.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise RangeError(f"The file is no JSON ({error}); give a drawing that was saved here.") from error
    if isinstance(values, list):
        return Drawing(Strokes.from_list(values))
    if not isinstance(values, dict) or not {"size", "strokes"} <= set(values):
        raise RangeError("The JSON is no drawing: size and strokes are expected; give one that was saved here.")
    height, width = _check_size(values["size"])
    strokes = Strokes.from_list(values["strokes"])
    masks = {name: decode_picture(mask, f"the mask {name!r}") for name, mask in values.get("masks", {}).items()}
    if (height, width) == size:
        return Drawing(strokes, masks)
    if masks:
        raise ShapeError(
            f"The masks belong to a picture of {height} x {width} pixels, but this one has {size[0]} x {size[1]}."
        )
    return Drawing(strokes.resized((height, width), size))


def strokes_to_png(strokes: Strokes, size: tuple[int, int]) -> bytes:
    """Write the pixels of the strokes as a PNG file, transparent where nothing is painted.

    Args:
        strokes: in image pixels.
        size: (height, width) of the picture in pixels.
    """
    hint, hint_mask = strokes.rasterize(*size)
    levels = np.concatenate([hint[0].numpy(), hint_mask[0].numpy()]) * 255.0
    buffer = io.BytesIO()
    Image.fromarray(np.round(levels).astype(np.uint8).transpose(1, 2, 0)).save(buffer, format="png")
    return buffer.getvalue()


def png_to_strokes(data: bytes, size: tuple[int, int]) -> Strokes:
    """Read strokes from a picture that is transparent, or half so, where nothing is painted.

    Args:
        data: bytes of a PNG file with alpha.
        size: (height, width) of the picture it is drawn on; a hint of another size is scaled to it.

    Raises:
        ImageError: no picture with alpha.
        RangeError: so many colors that it is no hint of flat strokes.
    """
    try:
        image = Image.open(io.BytesIO(data))
        has_alpha = image.has_transparency_data
        pixels = np.asarray(image.convert("RGBA"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"The hint cannot be read as a picture ({error}); give a PNG file.") from error
    if not has_alpha:
        raise ImageError("The hint has no alpha, so that everything in it would be painted; give a PNG with alpha.")
    strokes = hint_to_strokes(pixels[..., :3], pixels[..., 3] >= 128)
    return strokes if pixels.shape[:2] == size else strokes.resized(pixels.shape[:2], size)


def hint_to_strokes(hint: np.ndarray, mask: np.ndarray) -> Strokes:
    """Turn pixels into strokes that paint the same pixels again.

    Each stroke goes through the rows of one color from left to right, and down where a row meets the next one of its
    color; where there are two such rows a new stroke begins.

    Args:
        hint: (H, W, 3) uint8, sRGB.
        mask: (H, W) bool, where something is painted.

    Returns:
        Thin strokes; painted with `Strokes.rasterize` they give `hint` where `mask` is set, and nothing elsewhere.

    Raises:
        RangeError: more than 2,000 strokes would be needed.
    """
    paths: list[tuple[tuple[int, int, int], list[tuple[float, float]]]] = []
    above: list[tuple[int, int, int]] = []  # of the row above: first column, last column, which path
    for row in range(len(mask)):
        here, taken = [], set()
        for first, last in _runs(hint[row], mask[row]):
            color = (int(hint[row, first, 0]), int(hint[row, first, 1]), int(hint[row, first, 2]))
            meeting = (
                (max(first, left), path)
                for left, right, path in above
                if path not in taken and left <= last and first <= right and paths[path][0] == color
            )
            column, path = next(meeting, (first, len(paths)))
            if path == len(paths):
                paths.append((color, []))
            else:
                paths[path][1].append((column + 0.5, row - 0.5))
            taken.add(path)
            paths[path][1].extend((x + 0.5, row + 0.5) for x in dict.fromkeys((column, first, last)))
            here.append((first, last, path))
        above = here
        if len(paths) > _MAX_STROKES:
            raise RangeError(f"The hint holds over {_MAX_STROKES} patches of color; paint it in flat colors.")
    return Strokes(Stroke(tuple(points), color, _PIXEL_RADIUS_PX) for color, points in paths)


def _runs(colors: np.ndarray, mask: np.ndarray) -> list[tuple[int, int]]:
    """Return first and last column of each run of one color in a row: `colors` (W, 3), `mask` (W,)."""
    is_edge = np.ones(len(mask) + 1, dtype=bool)
    is_edge[1:-1] = (colors[1:] != colors[:-1]).any(axis=1) | (mask[1:] != mask[:-1])
    edges = np.flatnonzero(is_edge)
    return [(int(a), int(b) - 1) for a, b in pairwise(edges) if mask[a]]


def _check_size(value: object) -> tuple[int, int]:
    """Return (height, width), or say that it is none."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value):
        return value[0], value[1]
    raise RangeError(f"The size of the drawing is {value!r}, but [height, width] in pixels is expected.")
