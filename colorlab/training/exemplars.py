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
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from colorlab.atomic import part_path
from colorlab.color import image_to_gray
from colorlab.errors import RangeError
from colorlab.images import load_image
from colorlab.networks.image_tokens import projected_tokens
from colorlab.sketches import sketch_of
from colorlab.training.corpus import NO_THING, PATCH_PX, corpus_scene
from colorlab.training.deformation import deform
from colorlab.training.latents import is_mirrored, picture_at
from colorlab.training.pixels import Pictures
from colorlab.training.scenes import Scene, exemplar_scene, sketch

__all__ = ["ExemplarKind", "SketchedPictures", "own_masks", "patch_owners", "sketch_pictures"]

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
        owners: (N, 256) int8, the instance of the scene whose like covers most of each patch of the exemplar, an index
            into its things; `NO_THING` elsewhere and in photographs.
    """

    indices: npt.NDArray[np.int64]
    num_photographs: int
    sketches: npt.NDArray[np.uint8]
    tokens: npt.NDArray[np.float16]
    owners: npt.NDArray[np.int8]


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
    files = _Files(
        cache / f"sketches_{size}.npy",
        cache / f"exemplars_{exemplar}_{key}_{size}.npy",
        cache / f"owners_{exemplar}_{size}.npy",
    )
    if not all(path.is_file() for path in files):
        _draw_all(pictures, encoder, indices, exemplar, files)
    sketches, tokens, owners = (np.load(path, mmap_mode="r") for path in files)
    return SketchedPictures(indices, len(first), sketches, tokens, owners)


def _distinct_scenes(pictures: Pictures, count: int) -> npt.NDArray[np.int64]:
    """Return the first scenes whose objects are all of different kinds."""
    kinds = [[kind for _, kind in things] for things in pictures.scenes.things]
    return np.array([index for index, names in enumerate(kinds) if len(set(names)) == len(names)][:count])


class _Files(NamedTuple):
    """Files of the arrays of `SketchedPictures`."""

    sketches: Path
    tokens: Path
    owners: Path


def _draw_all(
    pictures: Pictures, encoder: torch.nn.Module, indices: npt.NDArray[np.int64], exemplar: ExemplarKind, files: _Files
) -> None:
    """Write all arrays."""
    config: Any = encoder.config
    num_patches = (config.image_size // config.patch_size) ** 2
    shapes = ((128, 128), (1 + num_patches, config.projection_dim), (num_patches,))
    parts = [part_path(path) for path in files]
    sketches, tokens, owners = (
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=(len(indices), *shape))
        for part, dtype, shape in zip(parts, (np.uint8, np.float16, np.int8), shapes, strict=True)
    )
    device = next(encoder.parameters()).device
    for start in tqdm(range(0, len(indices), _BATCH), desc=files.tokens.stem, mininterval=10):
        drawn = list(_draw(pictures, indices[start : start + _BATCH].tolist(), exemplar))
        rows = slice(start, start + len(drawn))
        with torch.no_grad():
            encoded = projected_tokens(encoder, torch.stack([picture for _, picture, _ in drawn]).to(device))
        sketches[rows] = np.stack([lines for lines, _, _ in drawn])
        tokens[rows] = encoded.to(torch.float16).cpu().numpy()
        owners[rows] = np.stack([patch_owners(masks).flatten() for _, _, masks in drawn])
    for array in (sketches, tokens, owners):
        array.flush()
    for path, part in zip(files, parts, strict=True):
        part.replace(path)


def _draw(
    pictures: Pictures, indices: list[int], exemplar: ExemplarKind
) -> Iterator[tuple[npt.NDArray[np.uint8], torch.Tensor, torch.Tensor]]:
    """Yield of each picture its sketch (H, W) uint8, the exemplar (3, H, W) in [0, 1], and masks (K, H, W) in it."""
    for index in indices:
        image = picture_at(pictures, index)
        number = index - len(pictures.photographs)
        if number < 0:
            lines, masks = sketch_of(image_to_gray(image[None]))[0, 0].numpy(), image[:0]
        else:
            scene = corpus_scene(number)
            lines, masks = sketch(scene), own_masks(scene, scene)
            if is_mirrored(number):
                lines, masks = lines[:, ::-1], masks.flip(-1)
        if exemplar == "arranged" and number >= 0:
            arranged = exemplar_scene(scene, seed=number)
            image, masks = load_image(arranged.image)[0], own_masks(scene, arranged)
        elif exemplar != "same":
            both = deform(torch.cat([image, masks])[None], torch.Generator().manual_seed(index))[0]
            image, masks = both[:3], both[3:]
        yield np.rint(lines * 255).astype(np.uint8), image, masks


def own_masks(scene: Scene, exemplar: Scene) -> torch.Tensor:
    """Return the masks (K, H, W) float32 that the things of a scene have in its exemplar; all kinds differ."""
    masks = {instance.kind: instance.mask for instance in exemplar.instances}
    return torch.from_numpy(np.stack([masks[instance.kind] for instance in scene.instances])).float()


def patch_owners(masks: torch.Tensor) -> npt.NDArray[np.int8]:
    """Tell which of K masks (K, H, W) covers most of each patch, (H / 8, W / 8) int8; `NO_THING` for none."""
    height, width = (side // PATCH_PX for side in masks.shape[1:])
    covered = masks.reshape(len(masks), height, PATCH_PX, width, PATCH_PX).mean((2, 4)).numpy() > 0.5
    owners = np.full(covered.shape[1:], NO_THING, np.int8)
    for number, cells in enumerate(covered):
        owners[cells] = number
    return owners
