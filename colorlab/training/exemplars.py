"""Sketches and exemplars of the corpus, encoded once: what ColorizeDiffusion trains on beside the latents.

| exemplar | of a scene | of a photograph |
| --- | --- | --- |
| `arranged` | the same objects in another arrangement | as `deformed` |
| `deformed` | the picture itself, bent by thin plates | the same |
| `same` | the picture itself | the same |

`arranged` is what deformation stands for: the same colors on the same things, in other places and shapes. A scene of
several objects of one kind is left out, because nothing in its sketch says whose color is whose.

Source: ColorizeDiffusion, arXiv 2401.01456; the rearranged exemplars are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from colorlab.color import image_to_gray
from colorlab.errors import RangeError
from colorlab.networks.image_tokens import projected_tokens
from colorlab.sketches import sketch_of
from colorlab.training.corpus import corpus_scene
from colorlab.training.deformation import deform
from colorlab.training.latents import is_mirrored, picture_at
from colorlab.training.pixels import Pictures
from colorlab.training.scenes import exemplar_scene, sketch

__all__ = ["ExemplarKind", "SketchedPictures", "sketch_pictures"]

ExemplarKind = Literal["arranged", "deformed", "same"]

_BATCH = 16


@dataclass(frozen=True)
class SketchedPictures:
    """Sketches and exemplar tokens of a part of the corpus; photographs first, then scenes.

    Args:
        indices: (N,) int64, of the pictures in `EncodedPictures`.
        num_photographs: how many of them are photographs.
        sketches: (N, 128, 128) uint8, black lines on white.
        tokens: (N, 257, D) float16, of the exemplars, index 0 the class token.
    """

    indices: npt.NDArray[np.int64]
    num_photographs: int
    sketches: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.float16]


def sketch_pictures(
    pictures: Pictures,
    encoder: torch.nn.Module,
    cache: Path,
    *,
    key: str,
    exemplar: ExemplarKind = "arranged",
    num_photographs: int,
    num_scenes: int,
) -> SketchedPictures:
    """Draw and encode once, or read the arrays from the cache; a half-written one is never taken for whole.

    Args:
        pictures: the corpus.
        encoder: frozen CLIP vision tower with its projection.
        cache: folder for the arrays.
        key: names the encoder's weights, see `weights_key`.
        exemplar: which pictures serve as exemplars.
        num_photographs: use the first ones.
        num_scenes: use the first ones of distinct kinds.

    Raises:
        RangeError: there is no such kind of exemplar.
    """
    if exemplar not in get_args(ExemplarKind):
        raise RangeError(f"exemplar is {exemplar!r}, but one of {', '.join(get_args(ExemplarKind))} is expected.")
    total = len(pictures.photographs)
    first = np.arange(min(num_photographs, total))
    indices = np.concatenate([first, total + _distinct_scenes(pictures, num_scenes)]).astype(np.int64)
    size = f"{len(first)}_{len(indices) - len(first)}"
    sketches, tokens = cache / f"sketches_{size}.npy", cache / f"exemplars_{exemplar}_{key}_{size}.npy"
    if not (sketches.is_file() and tokens.is_file()):
        _draw_all(pictures, encoder, indices, exemplar, sketches, tokens)
    return SketchedPictures(indices, len(first), np.load(sketches, mmap_mode="r"), np.load(tokens, mmap_mode="r"))


def _distinct_scenes(pictures: Pictures, count: int) -> npt.NDArray[np.int64]:
    """Return the first scenes whose objects are all of different kinds."""
    kinds = [[kind for _, kind in things] for things in pictures.scenes.things]
    return np.array([index for index, names in enumerate(kinds) if len(set(names)) == len(names)][:count])


def _draw_all(
    pictures: Pictures,
    encoder: torch.nn.Module,
    indices: npt.NDArray[np.int64],
    exemplar: ExemplarKind,
    sketches: Path,
    tokens: Path,
) -> None:
    """Write both arrays."""
    config: Any = encoder.config
    num_tokens = 1 + (config.image_size // config.patch_size) ** 2
    shapes = {sketches: (len(indices), 128, 128), tokens: (len(indices), num_tokens, config.projection_dim)}
    arrays = [
        np.lib.format.open_memmap(path.with_suffix(".partial.npy"), mode="w+", dtype=dtype, shape=shapes[path])
        for path, dtype in ((sketches, np.uint8), (tokens, np.float16))
    ]
    device = next(encoder.parameters()).device
    starts = tqdm(range(0, len(indices), _BATCH), desc=tokens.stem, mininterval=10)
    for start in starts:
        drawn = list(_draw(pictures, indices[start : start + _BATCH].tolist(), exemplar))
        with torch.no_grad():
            encoded = projected_tokens(encoder, torch.stack([picture for _, picture in drawn]).to(device))
        arrays[0][start : start + len(drawn)] = np.stack([lines for lines, _ in drawn])
        arrays[1][start : start + len(drawn)] = encoded.to(torch.float16).cpu().numpy()
    for path, array in zip((sketches, tokens), arrays, strict=True):
        array.flush()
        path.with_suffix(".partial.npy").replace(path)


def _draw(
    pictures: Pictures, indices: list[int], exemplar: ExemplarKind
) -> Iterator[tuple[npt.NDArray[np.uint8], torch.Tensor]]:
    """Yield the sketch (H, W) uint8 and the exemplar (3, H, W) in [0, 1] of each picture."""
    for index in indices:
        image = picture_at(pictures, index)[None]
        number = index - len(pictures.photographs)
        if number < 0:
            lines = sketch_of(image_to_gray(image))[0, 0].numpy()
        else:
            scene = corpus_scene(number)
            lines = sketch(scene)[:, ::-1] if is_mirrored(number) else sketch(scene)
        if exemplar == "arranged" and number >= 0:
            arranged = exemplar_scene(scene, seed=number).image
            image = torch.from_numpy(arranged).permute(2, 0, 1)[None].float() / 255
        elif exemplar != "same":
            image = deform(image, torch.Generator().manual_seed(index))
        yield np.rint(lines * 255).astype(np.uint8), image[0]
