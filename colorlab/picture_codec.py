"""Pictures as JSON, without loss: PNG where 8 bits hold them, compressed float32 where they do not."""

import base64
import io
import math
import zlib
from typing import Any

import numpy as np
from PIL import Image

from colorlab.errors import ImageError
from colorlab.images import MAX_PIXELS

__all__ = ["decode_picture", "encode_picture"]


def encode_picture(picture: np.ndarray) -> dict[str, Any]:
    """Write a picture as values that JSON can hold, without loss.

    Args:
        picture: (H, W) or (H, W, 3) float32 in [0, 1], or (H, W) bool.

    Returns:
        "encoding" and "data" in base64: a PNG where 8 bits hold the picture exactly, else compressed float32 with
        its "shape".
    """
    if picture.dtype == bool:
        return {"encoding": "png-1bit", "data": _encode_png(Image.fromarray(picture))}
    levels = np.round(picture * 255.0).astype(np.uint8)
    if np.array_equal(levels.astype(np.float32) / np.float32(255), picture):
        return {"encoding": "png", "data": _encode_png(Image.fromarray(levels))}
    data = zlib.compress(picture.astype("<f4").tobytes(), level=6)
    return {"encoding": "float32-zlib", "shape": list(picture.shape), "data": base64.b64encode(data).decode()}


def _encode_png(image: Image.Image) -> str:
    """Encode a PIL image as base64 of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def decode_picture(stored: Any, name: str) -> np.ndarray:
    """Read what `encode_picture` wrote.

    Args:
        stored: the values, as read from JSON.
        name: how the picture is called in the message.

    Returns:
        The picture as an array that `colorlab.images.load_image` and `load_gray` take without loss.

    Raises:
        ImageError: the values are damaged, or claim an absurd size.
    """
    try:
        data = base64.b64decode(stored["data"], validate=True)
        encoding = stored["encoding"]
        if encoding in ("png", "png-1bit"):
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            # The file is opened, not read: a few bytes may claim a picture that fills the memory.
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(f"{name} claims {image.size} pixels, but at most {MAX_PIXELS:,} are taken.")
            return np.asarray(image)
        if encoding != "float32-zlib":
            raise ImageError(f"{name} is stored as {encoding!r}, which this version of colorlab does not know.")
        shape = tuple(int(size) for size in stored["shape"])
        # The stored size bounds what is unpacked: a few bytes may otherwise claim the whole memory.
        num_bytes = 4 * math.prod(shape)
        if not 0 < num_bytes <= 4 * 3 * MAX_PIXELS:
            raise ImageError(f"{name} claims the shape {shape}, but at most {MAX_PIXELS:,} pixels are taken.")
        # One byte more than there should be, so that a picture that is too long does not fit, either.
        return np.frombuffer(zlib.decompressobj().decompress(data, num_bytes + 1), dtype="<f4").reshape(shape)
    except ImageError:
        raise
    except (KeyError, TypeError, ValueError, OSError, SyntaxError, zlib.error, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{name} in the JSON is damaged ({error}); write it again with Conditioning.to_json."
        ) from error
