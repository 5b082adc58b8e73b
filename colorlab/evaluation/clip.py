"""The gate of the family's CLIP: patches know their words, and color is told from gray.

| figure | what is compared | asked |
| --- | --- | --- |
| patch-text AUC | similarity of every patch to the phrase of an instance, with its exact mask | 0.85 |
| binding | a noun's hidden state inside a complete caption, with "the {color} {kind}" in all colors | 95 % |
| margin, in color | similarity to a plain caption, with the most similar anti-color caption | positive on 95 % |
| margin, in gray | the same for the same pictures in gray | none: reported |
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from colorlab.color import COLORS
from colorlab.evaluation.metrics import mean_chroma
from colorlab.evaluation.report import Estimate, Report, bootstrapped, proportion
from colorlab.images import load_image
from colorlab.networks.libraries import CLIPModel, CLIPTokenizer
from colorlab.training.captions import GRAY_CHROMA, fade
from colorlab.training.clip import IMAGE_PX, encode_images, encode_mentions, encode_texts
from colorlab.training.corpus import NO_THING, patch_map
from colorlab.training.mentions import find_mentions
from colorlab.training.scene_captions import with_article
from colorlab.training.scenes import TEST_SEEDS, Scene, caption, make_scene

ANTI_COLOR = (
    "a black and white photo of {}",
    "a grayscale image of {}",
    "a sepia photo of {}",
    "a washed-out photo of {}",
)
"""Captions that a picture in color should not resemble; the object stands in the braces."""

_FIRST_SEED = TEST_SEEDS.start + 3 * 10**8


def evaluate_clip(
    folder: Path, num_scenes: int, photographs: Sequence[torch.Tensor] = (), labels: Sequence[str] = ()
) -> Report:
    """Measure the gate.

    Args:
        folder: of the CLIP with its tokenizer.
        num_scenes: held-out scenes.
        photographs: each (1, 3, H, W) float, [0, 1]; brought to CLIP's square. Those without color or label are left
            out.
        labels: what each shows, in words; empty if that is not known.

    Returns:
        The figures, with their targets.
    """
    model, tokenizer = CLIPModel.from_pretrained(folder).float().eval(), CLIPTokenizer.from_pretrained(folder)
    scenes = [make_scene(seed) for seed in islice(range(_FIRST_SEED, TEST_SEEDS.stop), num_scenes)]
    rows = list(patch_rows(model, tokenizer, scenes))
    if scenes:
        rows.append(binding_row(model, tokenizer, scenes))
        images = torch.cat([load_image(scene.image) for scene in scenes])
        contents = [caption(scene, "scarce", seed=0) for scene in scenes]
        rows += margin_rows(model, tokenizer, images, contents, "scenes")
    if photographs:
        squares = torch.cat([F.interpolate(image, (IMAGE_PX, IMAGE_PX), mode="area") for image in photographs])
        # A gray photograph has no color that could be told from gray.
        kept = (mean_chroma(squares) >= GRAY_CHROMA) & torch.tensor([bool(label) for label in labels])
        named = [with_article(label) for label, is_kept in zip(labels, kept.tolist(), strict=True) if is_kept]
        if named:
            rows += margin_rows(model, tokenizer, squares[kept], named, "photographs")
    return Report(f"CLIP gate of {folder.name}", tuple(rows), {"scenes": num_scenes, "photographs": len(photographs)})


@torch.no_grad()
def patch_rows(model: CLIPModel, tokenizer: CLIPTokenizer, scenes: Sequence[Scene]) -> list[Estimate]:
    """Compare patch similarities with exact masks.

    Args:
        model: the CLIP.
        tokenizer: its tokenizer.
        scenes: held-out scenes.

    Returns:
        Mean AUC over instances, for the full phrase and for the kind alone.
    """
    areas: dict[str, list[float]] = {"the {color} {kind}": [], "the {kind}": []}
    for scene in scenes:
        tokens = F.normalize(encode_images(model, load_image(scene.image))[0, 1:], dim=-1)
        patches = patch_map(scene).flatten()
        for index, instance in enumerate(scene.instances):
            if not (patches == index).any():
                continue
            for template, found in areas.items():
                text = encode_texts(model, tokenizer, [template.format(color=instance.color, kind=instance.kind)])
                similarity = (tokens @ text[0]).numpy()
                known = patches != NO_THING
                found.append(area_under_curve(similarity[known], patches[known] == index))
    return [
        bootstrapped(f"patch-text AUC, {template!r}", values, at_least=0.85 if "color" in template else None)
        for template, values in areas.items()
    ]


@torch.no_grad()
def binding_row(model: CLIPModel, tokenizer: CLIPTokenizer, scenes: Sequence[Scene]) -> Estimate:
    """Tell whether the nouns inside complete captions carry their own color; cross-attention reads nothing else.

    Args:
        model: the CLIP.
        tokenizer: its tokenizer.
        scenes: held-out scenes; those with several instances count, whose colors could be mixed up.

    Returns:
        Share of nouns whose hidden state is nearest to the phrase with their own color, among all colors.
    """
    right = total = 0
    for scene in scenes:
        if len(scene.instances) < 2:
            continue
        things = [(instance.color, instance.kind) for instance in scene.instances]
        mentions = find_mentions(tokenizer, [caption(scene, "complete", seed=0)], [things])
        for noun, label in zip(encode_mentions(model, tokenizer, mentions), mentions.labels, strict=True):
            color, kind = label.split(" ", 1)
            phrases = encode_texts(model, tokenizer, [f"the {name} {kind}" for name in COLORS])
            right += list(COLORS)[int((phrases @ noun).argmax())] == color
            total += 1
    return proportion("color read from a noun in a complete caption", right, total, at_least=95.0)


def area_under_curve(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> float:
    """Area under the receiver operating characteristic: how often a positive outscores a negative.

    Args:
        scores: (N,) numbers.
        is_positive: (N,) bool with both kinds present.

    Returns:
        In [0, 1]; 0.5 is chance, ties count half. nan without positives or without negatives.
    """
    positives, negatives = scores[is_positive], scores[~is_positive]
    if not len(positives) or not len(negatives):
        return float("nan")
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left") + np.searchsorted(ordered, positives, side="right")
    return float(below.mean() / 2 / len(negatives))


@torch.no_grad()
def margin_rows(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: torch.Tensor, contents: Sequence[str], name: str
) -> list[Estimate]:
    """Tell how well color is told from gray.

    Args:
        model: the CLIP.
        tokenizer: its tokenizer.
        images: (B, 3, 128, 128) float, [0, 1], in color.
        contents: what each picture shows, with its article.
        name: of the pictures, for the rows.

    Returns:
        Share of positive margins in color, and of negative margins in gray.
    """
    signs: dict[str, int] = {}
    for kind, shown in (("color", images), ("gray", fade(images, "gray"))):
        count = 0
        for image, content in zip(shown.split(1), contents, strict=True):
            plain = content if content.startswith("a picture") else f"a photo of {content}"
            text = encode_texts(model, tokenizer, [plain, *(template.format(content) for template in ANTI_COLOR)])
            similarity = text @ F.normalize(encode_images(model, image)[0, 0], dim=-1)
            count += int(similarity[0] > similarity[1:].max())
        signs[kind] = count
    total = len(contents)
    return [
        proportion(f"margin positive, {name} in color", signs["color"], total, at_least=95.0),
        proportion(f"margin negative, {name} in gray", total - signs["gray"], total),
    ]
