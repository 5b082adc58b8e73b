"""Batches of pictures for the recipes that look at pixels: scenes and photographs mixed."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from colorlab.training.captions import measured_colors
from colorlab.training.corpus import SceneCorpus, scene_corpus
from colorlab.training.photos import Photographs, crops, load_photographs


@dataclass(frozen=True)
class Pictures:
    """All pictures of the mini family.

    Args:
        scenes: the procedural world.
        photographs: the training photographs.
        colors: main color of each photograph, see `measured_colors`.
        photograph_share: share of photographs in a batch, [0, 1].
    """

    scenes: SceneCorpus
    photographs: Photographs
    colors: tuple[str, ...]
    photograph_share: float = 0.5

    @classmethod
    def load(cls, data: Path, cache: Path, *, num_scenes: int, photograph_share: float = 0.5) -> "Pictures":
        """Read photographs and draw scenes, both kept in `cache`.

        Args:
            data: photograph folder, see `load_photographs`.
            cache: folder for decoded arrays.
            num_scenes: size of the scene corpus.
            photograph_share: as in the class.

        Returns:
            The pictures.
        """
        photographs = load_photographs(data, cache=cache)
        path = cache / "colors.json"
        if not path.is_file():
            path.write_text(json.dumps(measured_colors(photographs.images)))
        colors = tuple(json.loads(path.read_text()))
        return cls(scene_corpus(num_scenes, cache), photographs, colors, photograph_share)

    def draw(self, count: int, size_px: int, generator: torch.Generator) -> "Draws":
        """Draw pictures: random mirrored crops of photographs, and scenes whole or cropped.

        Args:
            count: number of pictures.
            size_px: their side.
            generator: random source.

        Returns:
            The pictures and where they come from.
        """
        num_photographs = round(count * self.photograph_share)
        numbers = (num_photographs, count - num_photographs)
        chosen = [
            torch.randint(0, len(images), (number,), generator=generator).sort().values.tolist()
            for images, number in zip((self.photographs.images, self.scenes.images), numbers, strict=True)
        ]
        parts, mirrored = [], []
        for images, indices in zip((self.photographs.images, self.scenes.images), chosen, strict=True):
            if indices:
                squares, flips = crops(torch.from_numpy(images[indices]), size_px, generator)
                parts.append(squares)
                mirrored.append(flips)
        return Draws(torch.cat(parts), tuple(chosen[0]), tuple(chosen[1]), tuple(mirrored[-1].tolist()))


@dataclass(frozen=True)
class Draws:
    """One batch of pictures.

    Args:
        images: (B, 3, H, W) float32, [0, 1]; photographs first.
        photographs: index of each photograph.
        scenes: index of each scene.
        mirrored: whether each scene was mirrored.
    """

    images: torch.Tensor
    photographs: tuple[int, ...]
    scenes: tuple[int, ...]
    mirrored: tuple[bool, ...]
