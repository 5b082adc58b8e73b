"""Training photographs: tar shards with a manifest, decoded once into one array.

The photographs themselves are never shipped; every command takes their folder as an argument.
"""

import csv
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorlab.checkpoints.reading import file_sha256
from colorlab.errors import ImageError


@dataclass(frozen=True)
class Photographs:
    """Decoded square photographs with what is known of them.

    Args:
        images: (N, side, side, 3) uint8, sRGB.
        labels: what each picture shows, in words.
        names: file name of each picture.
    """

    images: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


def load_photographs(folder: Path, *, split: str = "train", cache: Path | None = None) -> Photographs:
    """Read one split of a photograph folder.

    Args:
        folder: holds `manifest.csv` (name, shard, label, ...) and the tar shards it names.
        split: file names of the split begin with it: "train" or "val".
        cache: folder for the decoded array, made when missing; without it the pictures are decoded at each call.

    Returns:
        The pictures, in the order of the manifest.

    Raises:
        ImageError: the manifest, a shard or a picture is missing, or no picture belongs to the split.
    """
    manifest = _manifest(folder)
    with manifest.open(newline="") as file:
        reader = csv.DictReader(file)
        lacking = {"name", "shard", "label"} - set(reader.fieldnames or ())
        if lacking:
            raise ImageError(f"{manifest} lacks the column {min(lacking)!r}; expected name, shard and label.")
        rows = [row for row in reader if row["name"].startswith(split)]
    if not rows:
        raise ImageError(f"{manifest} names no picture of split {split!r}; expected names like {split}_00000.jpg.")
    path = cache / f"{split}.npy" if cache else None
    if path is not None and path.is_file():
        images = np.load(path, mmap_mode="r")
    else:
        images = _decode(folder, rows)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all, so that an interrupted command does not leave a broken array behind.
            partial = path.with_suffix(".partial.npy")
            np.save(partial, images)
            partial.replace(path)
    labels = tuple(readable_label(row["label"]) for row in rows)
    return Photographs(images, labels, tuple(row["name"] for row in rows))


def photographs_key(folder: Path) -> str:
    """Name a set of photographs by its manifest, so that what was cached of one set never meets another.

    Args:
        folder: as in `load_photographs`.

    Returns:
        Eight hexadecimal digits.

    Raises:
        ImageError: there is no manifest.
    """
    return file_sha256(_manifest(folder))[:8]


def _manifest(folder: Path) -> Path:
    """Return the path of the manifest."""
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise ImageError(f"{folder} holds no manifest.csv; pass the folder with the photograph shards.")
    return manifest


def readable_label(label: str) -> str:
    """Turn a data set's label into plain singular words.

    Args:
        label: such as "Motorbikes", "grand_piano" or "t-shirt".

    Returns:
        Lower-case words, such as "motorbike".
    """
    plain = {
        "airplanes": "airplane", "motorbikes": "motorbike", "faces": "face", "leopards": "leopard", "roses": "rose",
        "sunflowers": "sunflower", "tulips": "tulip", "water lilly": "water lily", "outwear": "jacket",
        "longsleeve": "long sleeve shirt", "cougar body": "cougar", "crocodile head": "crocodile",
        "flamingo head": "flamingo", "ketch": "sailing boat", "schooner": "sailing ship",
    }  # fmt: skip
    words = label.lower().replace("_", " ")
    return plain.get(words, words)


def crops(images: torch.Tensor, size_px: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut one random square out of each picture and mirror half of them.

    Args:
        images: (B, side, side, 3) uint8.
        size_px: side of the crop, at most the picture's.
        generator: random source.

    Returns:
        (B, 3, size_px, size_px) float32, [0, 1], and (B,) bool, which were mirrored.
    """
    count, side = images.shape[0], images.shape[1]
    offsets = torch.randint(0, side - size_px + 1, (count, 2), generator=generator).tolist()
    mirrored = torch.rand(count, generator=generator) < 0.5
    squares = torch.stack(
        [image[y : y + size_px, x : x + size_px] for image, (y, x) in zip(images, offsets, strict=True)]
    )
    squares = torch.where(mirrored[:, None, None, None], squares.flip(2), squares)
    return squares.permute(0, 3, 1, 2).float() / 255, mirrored


def _picture(data: bytes, place: str) -> np.ndarray:
    """Decode one picture; an error says where it lies."""
    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{place} cannot be read ({error}); fetch the folder again.") from error


def _decode(folder: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """Decode the rows' pictures out of their shards."""
    wanted = {row["name"]: index for index, row in enumerate(rows)}
    images: np.ndarray | None = None
    missing = dict(wanted)
    for shard in sorted({row["shard"] for row in rows}):
        if not (folder / shard).is_file():
            raise ImageError(f"{folder} lacks the shard {shard} that its manifest.csv names.")
        with tarfile.open(folder / shard) as archive:
            for member in archive:
                index = wanted.get(Path(member.name).name)
                file = archive.extractfile(member) if index is not None else None
                if index is None or file is None:
                    continue
                picture = _picture(file.read(), f"{member.name} in {folder / shard}")
                if images is not None and picture.shape != images.shape[1:]:
                    raise ImageError(
                        f"{member.name} in {folder / shard} is {picture.shape[0]} x {picture.shape[1]}, but "
                        f"{images.shape[1]} x {images.shape[2]} is expected, as the first picture has."
                    )
                if images is None:
                    images = np.zeros((len(rows), *picture.shape), np.uint8)
                images[index] = picture
                missing.pop(Path(member.name).name, None)
    if images is None or missing:
        raise ImageError(
            f"The shards of {folder} lack {len(missing)} of the {len(rows)} pictures that manifest.csv names, such as "
            f"{next(iter(missing))}; fetch the folder again."
        )
    return images
