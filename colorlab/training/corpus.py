"""The scene corpus: scenes drawn once into arrays that every recipe reads."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from colorlab.training.scenes import TRAIN_SEEDS, Scene, caption, make_scene

CAPTION_KINDS = ("complete", "complete", "partial", "scarce")
"""Level of each of the captions kept for a scene."""

PATCH_PX = 8
"""Side of the square patches of `SceneCorpus.patches`."""

NO_THING = -1
SKY_INDEX = 4
GROUND_INDEX = 5


@dataclass(frozen=True)
class SceneCorpus:
    """Scenes as arrays.

    Args:
        images: (N, 128, 128, 3) uint8, sRGB.
        captions: for each scene its captions, in the order of `CAPTION_KINDS`.
        things: for each scene the (color, kind) of its instances.
        backdrops: for each scene the names of (sky, ground).
        patches: (N, 16, 16) int8, what covers most of each patch: an index into `things`, `SKY_INDEX`,
            `GROUND_INDEX`, or `NO_THING` where it is mixed.
    """

    images: npt.NDArray[np.uint8]
    captions: tuple[tuple[str, ...], ...]
    things: tuple[tuple[tuple[str, str], ...], ...]
    backdrops: tuple[tuple[str, str], ...]
    patches: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.captions)


def scene_corpus(count: int, cache: Path) -> SceneCorpus:
    """Draw the first `count` training scenes, or read them from the cache.

    Args:
        count: number of scenes.
        cache: folder for the arrays; a corpus of another size is drawn anew.

    Returns:
        The corpus; the pictures are memory-mapped.
    """
    folder = cache / f"scenes_{count}"
    if not (folder / "facts.json").is_file():
        _draw(count, folder)
    facts = json.loads((folder / "facts.json").read_text())
    return SceneCorpus(
        np.load(folder / "images.npy", mmap_mode="r"),
        tuple(tuple(fact["captions"]) for fact in facts),
        tuple(tuple((color, kind) for color, kind in fact["things"]) for fact in facts),
        tuple((fact["sky"], fact["ground"]) for fact in facts),
        np.load(folder / "patches.npy"),
    )


def corpus_scene(index: int) -> Scene:
    """Make the scene of the corpus with this index.

    A quarter of them may hold several objects of one kind: the hardest case for naming colors.
    """
    return make_scene(TRAIN_SEEDS[index], distinct_kinds=index % 4 != 0)


def patch_map(scene: Scene, patch_px: int = PATCH_PX) -> npt.NDArray[np.int8]:
    """Tell what covers most of each patch of a scene.

    Args:
        scene: the scene, of side S.
        patch_px: side of a patch.

    Returns:
        (S / patch_px, S / patch_px) int8 as in `SceneCorpus.patches`. Patches within one patch of the horizon belong to
        neither sky nor ground, because hills are uneven.
    """
    side = scene.image.shape[0] // patch_px
    rows = (np.arange(side) + 0.5) / side
    margin = 1.0 / side
    column = np.full(side, NO_THING, np.int8)
    column[rows < scene.plan.horizon - margin] = SKY_INDEX
    column[rows > scene.plan.horizon + margin] = GROUND_INDEX
    patches = np.repeat(column[:, None], side, axis=1)
    for index, instance in enumerate(scene.instances):
        covered = instance.mask.reshape(side, patch_px, side, patch_px).mean((1, 3))
        patches[covered > 0] = NO_THING
        patches[covered > 0.5] = index
    return patches


def _draw(count: int, folder: Path) -> None:
    """Draw the scenes and write the arrays, the facts last."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, 128, 128, 3)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    patches = np.zeros((count, 128 // PATCH_PX, 128 // PATCH_PX), np.int8)
    facts = []
    for index in tqdm(range(count), desc="drawing scenes", mininterval=10):
        scene = corpus_scene(index)
        images[index] = scene.image
        patches[index] = patch_map(scene)
        facts.append(
            {
                "captions": [caption(scene, level, seed=number) for number, level in enumerate(CAPTION_KINDS)],
                "things": [(instance.color, instance.kind) for instance in scene.instances],
                "sky": scene.sky,
                "ground": scene.ground,
            }
        )
    images.flush()
    np.save(folder / "patches.npy", patches)
    (folder / "facts.json").write_text(json.dumps(facts))
