"""The contact sheet of the procedural world: `python -m colorlab.training.scene_sheet docs/scenes.png`."""

import sys
import textwrap
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from colorlab.color import COLORS, lightness_to_gray
from colorlab.images import to_uint8
from colorlab.training.scenes import (
    CAPTION_LEVELS,
    GROUNDS,
    KINDS,
    SKIES,
    Scene,
    ScenePlan,
    Thing,
    caption,
    exemplar_scene,
    make_scene,
    moving_clip,
    recolored,
    render,
    simulated_strokes,
    sketch,
)

Picture = npt.NDArray[np.uint8]

_WIDTH, _GAP, _LINE = 828, 6, 13
_KNOWN_SEED, _CLIP_SEED = 215, 1872
_INK, _PAPER = (40, 40, 46), (250, 249, 246)


class _Sheet:
    """Rows of tiles from top to bottom, each tile with words below."""

    def __init__(self) -> None:
        self.rows: list[Image.Image] = []

    def text(self, words: str, *, size: int = 15) -> None:
        """Add a line of words; a title, or smaller."""
        row = Image.new("RGB", (_WIDTH, size + 19 if size > 12 else size + 7), _PAPER)
        ImageDraw.Draw(row).text((_GAP, row.height - size - 7), words, fill=_INK, font=ImageFont.load_default(size))
        self.rows.append(row)

    def tiles(self, pictures: Sequence[Picture], words: Sequence[str] | None = None, *, num_lines: int = 1) -> None:
        """Add a row of pictures of one size, spread over the width."""
        size, step = pictures[0].shape[0], (_WIDTH - _GAP) / len(pictures)
        row = Image.new("RGB", (_WIDTH, size + _GAP + (num_lines * _LINE + 2 if words else 0)), _PAPER)
        draw = ImageDraw.Draw(row)
        for index, picture in enumerate(pictures):
            left = round(_GAP + index * step)
            row.paste(Image.fromarray(picture), (left, 2))
            if words:
                text = "\n".join(textwrap.wrap(words[index], max(8, size // 5))[:num_lines])
                draw.multiline_text((left, size + 4), text, fill=_INK, font=ImageFont.load_default(10), spacing=2)
        self.rows.append(row)

    def image(self) -> Picture:
        """Put the rows under each other."""
        sheet = Image.new("RGB", (_WIDTH, sum(row.height for row in self.rows) + _GAP), _PAPER)
        top = 0
        for row in self.rows:
            sheet.paste(row, (0, top))
            top += row.height
        return np.asarray(sheet)


def contact_sheet(first_seed: int = 0) -> Picture:
    """Show the procedural world on one page.

    Args:
        first_seed: seed of the first scene.

    Returns:
        (H, 828, 3) uint8: random scenes with their captions, all kinds in color and gray, all colors at three
        lightnesses, what is known about one scene, and a moving clip.
    """
    sheet = _Sheet()
    sheet.text("Random scenes and their complete captions")
    for row in range(3):
        scenes = [make_scene(first_seed + 6 * row + column) for column in range(6)]
        sheet.tiles([scene.image for scene in scenes], [caption(s, "complete", seed=0) for s in scenes], num_lines=5)
    sheet.text(f"The {len(KINDS)} kinds, in color and in gray")
    portraits = [_portrait(kind, index) for index, kind in enumerate(KINDS)]
    for start in range(0, len(portraits), 8):
        shown = portraits[start : start + 8]
        sheet.tiles([scene.image for scene in shown])
        sheet.tiles([_gray(scene) for scene in shown], [scene.instances[0].kind for scene in shown])
    sheet.text(f"The {len(COLORS)} colors, each at the lightnesses 48, 58 and 67")
    for lightness in (48.0, 58.0, 67.0):
        cars = [_car(color, lightness) for color in COLORS]
        sheet.tiles([scene.image for scene in cars], list(COLORS) if lightness == 67.0 else None)
    sheet.text("Known about one scene")
    _known(sheet, make_scene(_KNOWN_SEED, num_instances=4))
    sheet.text("Six frames of a clip")
    sheet.tiles([frame.image for frame in moving_clip(_CLIP_SEED, 6, num_instances=3)])
    return sheet.image()


def _portrait(kind: str, index: int) -> Scene:
    """One object, large."""
    color = list(COLORS)[(5 * index + 1) % len(COLORS)]
    thing = Thing(kind, color, COLORS[color], 50.0 + 5 * (index % 4), 0.5, 0.52, 0.4, 0.0, False, 7 * index + 3)
    sky, ground = list(SKIES)[index % len(SKIES)], list(GROUNDS)[index % len(GROUNDS)]
    return render(ScenePlan(index, 96, (thing,), sky, ground, 0.55, (0.5, -0.87), index))


def _car(color: str, lightness: float) -> Scene:
    """A car of one color and lightness."""
    thing = Thing("car", color, COLORS[color], lightness, 0.5, 0.5, 0.44, 0.0, False, 5)
    return render(ScenePlan(0, 64, (thing,), "overcast", "road", 0.5, (0.5, -0.87), 3))


def _known(sheet: _Sheet, scene: Scene) -> None:
    """Everything that goes with one scene."""
    height, width = scene.lightness.shape
    masks = np.full((height, width, 3), 235, np.uint8)
    for instance, shade in zip(
        scene.instances, ((230, 90, 80), (80, 150, 230), (90, 190, 110), (235, 190, 70)), strict=False
    ):
        masks[instance.mask] = shade
    hint, hint_mask = simulated_strokes(scene, 2).rasterize(height, width)
    painted = hint_mask[0, 0].numpy() > 0
    strokes = _gray(scene)
    strokes[painted] = np.rint(255 * hint[0].permute(1, 2, 0).numpy()[painted]).astype(np.uint8)
    lines = np.repeat(np.rint(255 * sketch(scene)).astype(np.uint8)[..., None], 3, axis=2)
    sheet.tiles(
        [scene.image, _gray(scene), masks, lines, strokes, exemplar_scene(scene, 3).image],
        ["picture", "lightness", "visible masks", "sketch", "simulated strokes", "exemplar"],
    )
    names = list(COLORS)
    changed = [
        recolored(scene, [names[(names.index(item.color) + 3 * shift) % 12] for item in scene.instances])
        for shift in range(1, 4)
    ]
    others = [exemplar_scene(scene, seed) for seed in (4, 5, 6)]
    sheet.tiles(
        [picture.image for picture in (*changed, *others)],
        ["recolored: same lightness"] * 3 + ["other arrangement"] * 3,
    )
    for level in CAPTION_LEVELS:
        sheet.text(f"{level} caption: {caption(scene, level, seed=1)}", size=12)


def _gray(scene: Scene) -> Picture:
    """The scene as the models see it: sRGB gray of the same lightness."""
    gray = lightness_to_gray(torch.from_numpy(scene.lightness)[None, None])
    return to_uint8(gray.expand(-1, 3, -1, -1))


def main() -> None:
    """Write the contact sheet to the path given on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("Give the path of the picture to write, for instance docs/scenes.png.")
    Image.fromarray(contact_sheet()).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
