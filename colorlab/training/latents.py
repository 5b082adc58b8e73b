"""The encoded corpus: latents and deepest luminance taps of all pictures, computed once with the frozen networks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from colorlab.checkpoints.reading import file_sha256
from colorlab.errors import RangeError
from colorlab.networks.libraries import AutoencoderKL
from colorlab.networks.luminance import LuminanceEncoder, lightness_hint
from colorlab.training.captions import photo_caption
from colorlab.training.corpus import CAPTION_KINDS, NO_THING, SKY_INDEX
from colorlab.training.photos import crops
from colorlab.training.pixels import Pictures
from colorlab.training.scene_captions import CAPTION_LEVELS

WORKING_PX = 128

NAMED_COLOR_SHARE = 0.7
"""How often a photograph's caption names its measured color."""


@dataclass(frozen=True)
class CaptionMix:
    """How often a scene is shown with a caption of each level.

    Args:
        levels: shares of complete, partial and scarce captions among those that are not dropped; they sum to 1.
        first_levels: the same at the beginning of a curriculum, from which the shares move to `levels` in equal steps;
            None for no curriculum.
        dropout: share of pictures shown with the empty prompt, which guidance needs; the released recipe has none.

    Raises:
        RangeError: shares do not sum to 1, or `dropout` is not in [0, 1).

    Source: L-CAD, arXiv 2305.15217, trains on one caption of any level for each picture; shares, curriculum: ours.
    """

    levels: tuple[float, float, float] = (6 / 9, 2 / 9, 1 / 9)
    first_levels: tuple[float, float, float] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for shares in (self.levels, self.first_levels or self.levels):
            if len(shares) != len(CAPTION_LEVELS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
                names = ", ".join(CAPTION_LEVELS)
                raise RangeError(f"levels are {shares}, but shares of {names} that sum to 1 are expected.")
        if not 0 <= self.dropout < 1:
            raise RangeError(f"dropout is {self.dropout!r}, but a number from 0 to below 1 is expected.")

    def shares(self, progress: float) -> tuple[float, ...]:
        """Return the share of every caption of `CAPTION_KINDS` when a share of the training is done, [0, 1]."""
        first = self.first_levels or self.levels
        now = {
            level: (1 - progress) * start + progress * end
            for level, start, end in zip(CAPTION_LEVELS, first, self.levels, strict=True)
        }
        return tuple(now[kind] / CAPTION_KINDS.count(kind) for kind in CAPTION_KINDS)


CURRICULUM = CaptionMix(first_levels=(1.0, 0.0, 0.0))
"""Begins with complete captions, in which every word is about something to be seen. Ours."""


@dataclass(frozen=True)
class EncodedPictures:
    """All pictures as the UNets see them; photographs first, then scenes.

    Args:
        pictures: what was encoded.
        latents: (N, 4, 16, 16) float16, scaled posterior means.
        taps: (N, C, 16, 16) float16, deepest luminance tap; None where no luminance encoder was given.
    """

    pictures: Pictures
    latents: npt.NDArray[np.float16]
    taps: npt.NDArray[np.float16] | None

    def captions(
        self, indices: list[int], generator: torch.Generator, mix: CaptionMix | None = None, progress: float = 1.0
    ) -> list[str]:
        """Draw one caption for each picture, at any level, sometimes the empty one.

        Args:
            indices: of pictures.
            generator: random source.
            mix: how often each level is drawn; the default mix by default.
            progress: share of the training that is done, for a curriculum.

        Returns:
            The captions.
        """
        mix = mix or CaptionMix()
        return [self._caption(index, generator, mix, progress) for index in indices]

    def patches(self, indices: list[int]) -> torch.Tensor:
        """Tell what covers most of each latent cell.

        Args:
            indices: of B pictures.

        Returns:
            (B, 16, 16) int64 as in `SceneCorpus.patches`; `NO_THING` all over photographs.
        """
        count = len(self.pictures.photographs)
        found = torch.full((len(indices), *self.latents.shape[-2:]), NO_THING, dtype=torch.long)
        for position, index in enumerate(indices):
            if index >= count:
                patches = torch.from_numpy(self.pictures.scenes.patches[index - count]).long()
                found[position] = patches.flip(1) if is_mirrored(index - count) else patches
        return found

    def object_cells(self, indices: list[int]) -> torch.Tensor:
        """Tell which latent cells show an object of a scene.

        Args:
            indices: of B pictures.

        Returns:
            (B, 1, 16, 16) float, 1 on objects of scenes, 0 elsewhere and on photographs.
        """
        patches = self.patches(indices)
        return ((patches >= 0) & (patches < SKY_INDEX)).float().unsqueeze(1)

    def things(self, index: int) -> tuple[tuple[str, str], ...]:
        """Return (color, kind) of the instances of a picture; none for a photograph."""
        count = len(self.pictures.photographs)
        return () if index < count else self.pictures.scenes.things[index - count]

    def _caption(self, index: int, generator: torch.Generator, mix: CaptionMix, progress: float) -> str:
        """Draw one caption."""
        draw = float(torch.rand(1, generator=generator))
        if draw < mix.dropout:
            return ""
        count = len(self.pictures.photographs)
        if index < count:
            label, color = self.pictures.photographs.labels[index], self.pictures.colors[index]
            return photo_caption(label, color, generator, name_color=draw < mix.dropout + NAMED_COLOR_SHARE)
        texts, bounds = self.pictures.scenes.captions[index - count], np.cumsum(mix.shares(progress))
        kind = int(np.searchsorted(bounds, (draw - mix.dropout) / (1 - mix.dropout)))
        return texts[min(kind, len(texts) - 1)]


def encode_pictures(
    pictures: Pictures,
    vae: AutoencoderKL,
    cache: Path,
    *,
    key: str,
    luminance: tuple[LuminanceEncoder, str] | None = None,
) -> EncodedPictures:
    """Encode every picture once, or read the arrays from the cache.

    Every second scene is mirrored; photographs are cut at random, by a fixed seed.

    Args:
        pictures: what to encode.
        vae: frozen autoencoder.
        cache: folder for the arrays.
        key: names the autoencoder's weights, so that another one never meets old latents; see `weights_key`.
        luminance: frozen luminance encoder and its own key, or None.

    Returns:
        The encoded corpus, memory-mapped.
    """
    count = len(pictures.photographs) + len(pictures.scenes)
    cache.mkdir(parents=True, exist_ok=True)
    device = vae.device
    scale = float(vae.config.scaling_factor)

    def to_latents(images: torch.Tensor) -> torch.Tensor:
        return vae.encode(images.to(device) * 2 - 1).latent_dist.mean * scale

    latents = _encoded(cache / f"latents_{key}_{count}.npy", pictures, to_latents)
    taps = None
    if luminance is not None:
        encoder, name = luminance
        path = cache / f"taps_{name}_{count}.npy"
        taps = _encoded(path, pictures, lambda images: encoder(lightness_hint(images).to(device))[-1])
    return EncodedPictures(pictures, latents, taps)


def weights_key(*files: Path) -> str:
    """Name a set of weight files by their content.

    Args:
        files: weight files.

    Returns:
        Eight hexadecimal digits for each.
    """
    return "_".join(file_sha256(file)[:8] for file in files)


def is_mirrored(scene_index: int) -> bool:
    """Tell which scenes of the corpus are encoded mirrored."""
    return scene_index % 2 == 1


@torch.no_grad()
def _encoded(
    path: Path, pictures: Pictures, encode: Callable[[torch.Tensor], torch.Tensor], batch_size: int = 32
) -> npt.NDArray[np.float16]:
    """Encode all pictures into one array file; a half-written one is never taken for whole."""
    if not path.is_file():
        partial = path.with_suffix(".partial.npy")
        num_photographs, num_scenes = len(pictures.photographs), len(pictures.scenes)
        array = None
        for start in tqdm(range(0, num_photographs + num_scenes, batch_size), desc=path.stem, mininterval=10):
            stop = min(start + batch_size, num_photographs + num_scenes)
            images = torch.stack([picture_at(pictures, index) for index in range(start, stop)])
            values = encode(images.contiguous(memory_format=torch.channels_last)).to(torch.float16).cpu().numpy()
            if array is None:
                shape = (num_photographs + num_scenes, *values.shape[1:])
                array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            array[start:stop] = values
        if array is not None:
            array.flush()
        partial.replace(path)
    encoded: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return encoded


def picture_at(pictures: Pictures, index: int) -> torch.Tensor:
    """Return picture `index` at working size, (3, H, W) float32, [0, 1]."""
    count = len(pictures.photographs)
    if index < count:
        photograph = torch.from_numpy(np.array(pictures.photographs.images[index]))[None]
        return crops(photograph, WORKING_PX, torch.Generator().manual_seed(index))[0][0]
    image = np.array(pictures.scenes.images[index - count])
    image = image[:, ::-1].copy() if is_mirrored(index - count) else image
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255
