"""Captions of photographs and of pictures whose color was taken away, and every word the tokenizer has to know."""

from collections.abc import Sequence

import numpy as np
import torch

from colorlab.color import COLORS, rgb_to_lab
from colorlab.training.scene_captions import caption_words, with_article

MIN_SHARE = 0.35
"""Share of colored pixels that must wear one name before a caption uses it. Ours."""
MIN_CHROMA = 15.0
"""Chroma from which a pixel counts as colored. Ours."""
GRAY_CHROMA = 5.0
"""Mean chroma below which a photograph is captioned as black and white. Ours."""

PHOTO_TEMPLATES = ("a photo of {}", "{}", "a photo of {}", "a color photo of {}", "a colorful photo of {}")
"""Captions of a colored photograph; the object stands in the braces."""

FADED_TEMPLATES: dict[str, tuple[str, ...]] = {
    "gray": (
        "a black and white photo of {}",
        "a grayscale image of {}",
        "a monochrome picture of {}",
        "a gray picture of {}",
    ),
    "sepia": ("a sepia photo of {}", "an old sepia picture of {}", "a scratchy old photo of {}"),
    "washed": ("a washed-out photo of {}", "a desaturated picture of {}", "a faded photo of {}"),
}
"""Captions of pictures without (full) color, by how it was taken away."""

IDENTIFIERS = ("sks", "zwx", "ohwx", "qvz", "xjk", "vpt")
"""Rare words without meaning, one token each, for textual identifiers."""

EXTRA_WORDS = (
    "something light dark bright pale deep vivid colorful color colored photo picture image scene painting "
    "teal turquoise navy crimson golden silver white black beige violet magenta maroon tan gold rose lime "
    "the a an of in on at with and or to is are its this that left right small big "
    "sky grass sand snow road earth sun cloud sea water hair skin face leaf leaves wall floor background foreground "
    "person man woman child dog cat horse bike street city forest mountain field table window door wheel roof"
)


def vocabulary(labels: Sequence[str]) -> tuple[str, ...]:
    """List every word that must be one token.

    Args:
        labels: labels of the photographs.

    Returns:
        The words, sorted, without repetition.
    """
    templates = [*PHOTO_TEMPLATES, *(template for group in FADED_TEMPLATES.values() for template in group)]
    texts = [*caption_words(), *COLORS, *IDENTIFIERS, *labels, EXTRA_WORDS, *templates]
    return tuple(sorted({word for text in texts for word in text.replace("{}", " ").replace("-", " ").split()}))


def measured_colors(images: np.ndarray) -> tuple[str, ...]:
    """Name the main color of each photograph.

    Args:
        images: (N, H, W, 3) uint8.

    Returns:
        For each picture a name of `COLORS`; "" where no color prevails in the middle; "none" for a gray photograph.
    """
    centers = torch.tensor(list(COLORS.values()))  # (K, 2)
    names = list(COLORS)
    result = []
    for start in range(0, len(images), 64):
        batch = torch.from_numpy(np.array(images[start : start + 64, ::4, ::4])).permute(0, 3, 1, 2).float() / 255
        ab = rgb_to_lab(batch)[:, 1:]
        chroma = ab.norm(dim=1)
        side = ab.shape[-1]
        middle = slice(side // 5, side - side // 5)
        nearest = (ab.permute(0, 2, 3, 1).unsqueeze(-2) - centers).norm(dim=-1).argmin(-1)
        for index in range(len(batch)):
            if chroma[index].mean() < GRAY_CHROMA:
                result.append("none")
                continue
            colored = chroma[index, middle, middle] > MIN_CHROMA
            counts = torch.bincount(nearest[index, middle, middle][colored], minlength=len(names))
            best = int(counts.argmax())
            result.append(names[best] if counts[best] >= MIN_SHARE * colored.numel() else "")
    return tuple(result)


def photo_caption(label: str, color: str, generator: torch.Generator, *, name_color: bool) -> str:
    """Draw a caption of a photograph.

    Args:
        label: what it shows.
        color: as from `measured_colors`.
        generator: random source.
        name_color: whether the caption names the color, if one was measured.

    Returns:
        Such as "a photo of a yellow daisy".
    """
    if color == "none":
        return faded_caption(label, "gray", generator)
    template = PHOTO_TEMPLATES[int(torch.randint(len(PHOTO_TEMPLATES), (1,), generator=generator))]
    return template.format(with_article(f"{color} {label}" if name_color and color else label))


def faded_caption(label: str, fading: str, generator: torch.Generator) -> str:
    """Draw a caption of a picture whose color was taken away.

    Args:
        label: what it shows: a bare noun, or a phrase that begins with an article.
        fading: a key of `FADED_TEMPLATES`.
        generator: random source.

    Returns:
        Such as "a sepia photo of a daisy".
    """
    templates = FADED_TEMPLATES[fading]
    template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
    return template.format(label if label.startswith(("a ", "an ")) else with_article(label))


def fade(images: torch.Tensor, fading: str) -> torch.Tensor:
    """Take the color of pictures away.

    Args:
        images: (B, 3, H, W) float, [0, 1].
        fading: "gray" removes it, "sepia" replaces it by brown, "washed" leaves a fifth of it.

    Returns:
        Pictures of the same shape.
    """
    gray = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True).expand_as(images)
    if fading == "gray":
        return gray
    if fading == "sepia":
        return (gray * torch.tensor([1.07, 0.9, 0.7]).view(1, 3, 1, 1)).clamp(0, 1)
    return gray + 0.2 * (images - gray)
