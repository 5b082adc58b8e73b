"""What a model makes of real photographs that it has never seen.

A folder holds either `manifest.csv` with the tar shards it names (the split "val" is used), or pictures.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from colorlab.color import gray_to_lightness, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.errors import ImageError
from colorlab.evaluation.metrics import colorfulness, mean_chroma, mean_delta_e, psnr
from colorlab.evaluation.report import Estimate, Report, bootstrapped, ratio_of_means
from colorlab.images import load_gray, load_image, to_uint8
from colorlab.methods.base import gray_image
from colorlab.training.photos import load_photographs

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

Colorize = Callable[[Sequence[Conditioning], str], Sequence[np.ndarray]]
"""Pictures (H, W, 3) uint8 for conditionings; the second argument names the work."""


@dataclass(frozen=True)
class Photograph:
    """One photograph in color.

    Args:
        name: file name.
        label: what it shows; empty if that is not known.
        image: (1, 3, H, W) float32, [0, 1], sRGB.
    """

    name: str
    label: str
    image: torch.Tensor


def load_folder(folder: Path, *, limit: int | None = None) -> list[Photograph]:
    """Read the validation photographs of a folder.

    Args:
        folder: `manifest.csv` and shards, or pictures.
        limit: take only the first ones; None takes all.

    Returns:
        The photographs, in the order of the manifest or of their names.

    Raises:
        ImageError: the folder is missing, holds nothing, or one picture cannot be read.
    """
    if not folder.is_dir():
        raise ImageError(f"{folder} is no folder; name one with pictures, or with a manifest.csv and its shards.")
    if (folder / "manifest.csv").is_file():
        photographs = load_photographs(folder, split="val")
        count = len(photographs) if limit is None else min(limit, len(photographs))
        images = torch.from_numpy(photographs.images[:count]).permute(0, 3, 1, 2).float() / 255.0
        return [Photograph(photographs.names[i], photographs.labels[i], images[i : i + 1]) for i in range(count)]
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)[:limit]
    if not paths:
        raise ImageError(f"{folder} holds no picture; expected files ending in {', '.join(PICTURE_SUFFIXES)}.")
    return [Photograph(path.name, "", load_image(path, name=str(path))) for path in paths]


def evaluate_photographs(colorize: Colorize, photographs: Sequence[Photograph], *, uses_labels: bool = False) -> Report:
    """Colorize photographs from their lightness and compare with the truth.

    Args:
        colorize: colorizes a list of conditionings.
        photographs: in color.
        uses_labels: give the label as the prompt; otherwise the prompt is empty.

    Returns:
        Colorfulness, chroma, the error of the lightness in the 8-bit file, and distances to the true colors.
    """
    conditionings = [
        Conditioning(gray=color_to_gray(photograph.image), prompt=photograph.label if uses_labels else "")
        for photograph in photographs
    ]
    images = colorize(conditionings, "photographs")
    rows = photograph_rows(photographs, conditionings, images)
    prompt = "the label" if uses_labels else "empty"
    details = {"photographs": len(photographs), "prompt": prompt}
    return Report(f"{len(photographs)} photographs, prompt: {prompt}", tuple(rows), details)


def photograph_rows(
    photographs: Sequence[Photograph], conditionings: Sequence[Conditioning], images: Sequence[np.ndarray]
) -> list[Estimate]:
    """Compare results with the photographs.

    Args:
        photographs: the truth.
        conditionings: what was given.
        images: what came out, (H, W, 3) uint8 each.

    Returns:
        The figures.
    """
    results = [load_image(image) for image in images]
    pairs = list(zip(results, [photograph.image for photograph in photographs], strict=True))
    colorful = np.array([[float(colorfulness(result)), float(colorfulness(truth))] for result, truth in pairs])
    chroma = np.array([[float(mean_chroma(result)), float(mean_chroma(truth))] for result, truth in pairs])
    grays = [gray_image(conditioning) for conditioning in conditionings]
    errors = [lightness_error(image, gray) for image, gray in zip(images, grays, strict=True)]
    gray_pairs = [(gray.expand(-1, 3, -1, -1), truth) for gray, (_, truth) in zip(grays, pairs, strict=True)]
    return [
        bootstrapped("colorfulness / the truth's", *colorful.T, statistic=ratio_of_means, at_least=0.6, at_most=1.1),
        bootstrapped("mean chroma / the truth's", *chroma.T, statistic=ratio_of_means),
        bootstrapped("mean chroma", chroma[:, 0]),
        bootstrapped("mean chroma of the truth", chroma[:, 1]),
        bootstrapped("lightness: largest error in the 8-bit file", errors, statistic=np.max, unit="L", at_most=0.5),
        bootstrapped("PSNR to the truth", [float(psnr(*pair)) for pair in pairs], unit="dB"),
        bootstrapped("ΔE 2000 to the truth", [float(mean_delta_e(*pair)) for pair in pairs]),
        bootstrapped("  of the gray picture", [float(mean_delta_e(*pair)) for pair in gray_pairs]),
    ]


def color_to_gray(image: torch.Tensor) -> np.ndarray:
    """Take the color out of a picture, as a gray file would hold it.

    Args:
        image: (1, 3, H, W) float, [0, 1], sRGB.

    Returns:
        (H, W) uint8 gray of the same lightness.
    """
    return (load_gray(to_uint8(image))[0, 0] * 255.0).round().to(torch.uint8).numpy()


def lightness_error(image: np.ndarray, gray: torch.Tensor) -> float:
    """Compare the lightness of a result, written to a file and read again, with that of the input.

    Args:
        image: (H, W, 3) uint8, the result.
        gray: (1, 1, H, W) float, [0, 1], the input.

    Returns:
        The largest absolute difference of L over all pixels.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    file.seek(0)
    with Image.open(file) as stored:
        lightness = rgb_to_lab(load_image(stored))[:, :1]
    return float((lightness - gray_to_lightness(gray.float())).abs().max())
