"""One picture under descriptions of several levels: all colors named, some, none, and no words at all."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from colorlab.color import COLORS, rgb_to_lab
from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image
from colorlab.inspection.chroma import CHROMA_UNIT
from colorlab.inspection.seeds import chroma_spread, chroma_spread_by_chance
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.views import origin
from colorlab.runs.run import Run

__all__ = ["DescribedPicture", "description_levels", "plan_levels"]

_COLOR_WORD = re.compile(rf"\b(?:{'|'.join(COLORS)})\s+", flags=re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class DescribedPicture:
    """A picture made under one description.

    Args:
        level: what the description is called.
        prompt: the description.
        image: (H, W, 3) uint8.
    """

    level: str
    prompt: str
    image: np.ndarray


def description_levels(prompt: str) -> dict[str, str]:
    """Take color words out of a description.

    Returns:
        The prompt itself as `complete`, with its first color word only as `partial`, without any as `scarce`, and no
        words as `empty`. Where it names no color, `complete` and `partial` are left out.

    Example:
        >>> description_levels("an orange cup and a blue hat")["partial"]
        'an orange cup and a hat'
    """
    colors = list(_COLOR_WORD.finditer(prompt))
    levels = {"scarce": _with_articles(_COLOR_WORD.sub("", prompt)), "empty": ""}
    if not colors:
        return levels
    first = colors[0].end()
    partial = prompt[:first] + _COLOR_WORD.sub("", prompt[first:])
    return {"complete": prompt, "partial": _with_articles(partial), **levels}


def plan_levels(
    run: Run, prompts: Mapping[str, str] | None = None, *, baseline: bool = False
) -> Study[DescribedPicture]:
    """Plan to make the picture of a run under several descriptions, all else equal.

    Args:
        run: any run; its conditioning and settings at the start are taken, its masks are not.
        prompts: descriptions by the names of their levels; None for those of `description_levels`.
        baseline: whether to add the spread when every picture but the first is moved at random (16 times).

    Returns:
        A study of one part for each description. Its exhibit is (H, W): how far apart the chromas are; the pictures
        stand beside it.

    Raises:
        RangeError: there is no description.
    """
    segment = run.segment_at(0)
    chosen = description_levels(segment.conditioning.prompt) if prompts is None else dict(prompts)
    if not chosen:
        raise RangeError("prompts is empty, but at least one description by its level is expected.")
    cost = estimate_cost(run, calls=len(chosen) * run.num_steps, decodings=len(chosen))

    def work() -> Iterator[list[DescribedPicture]]:
        for level, prompt in chosen.items():
            conditioning = segment.conditioning.replace(prompt=prompt, masks={})
            # A tree of its own: the study only reads the run.
            other = Run.start(run.method, conditioning, segment.settings, sample_index=run.sample_index)
            while other.step_index < other.num_steps - 1:
                other.step()
                yield []
            other.step()
            yield [DescribedPicture(level, prompt, other.image)]

    def conclude(parts: list[DescribedPicture]) -> Exhibit:
        return _show(run, parts, baseline)

    return Study(run, "levels", cost=cost, num_parts=len(chosen), work=work, conclude=conclude)


def _show(run: Run, parts: list[DescribedPicture], baseline: bool) -> Exhibit:
    """Put pictures and the spread of their chromas together."""
    chromas = {part.level: float(rgb_to_lab(load_image(part.image))[:, 1:].norm(dim=1).mean()) for part in parts}
    means = ", ".join(f"{level} {chroma:.1f}" for level, chroma in chromas.items())
    images = [part.image for part in parts]
    return Exhibit(
        array=chroma_spread(images),
        axes=("H", "W"),
        unit=CHROMA_UNIT,
        caption=f"One picture and one seed under {len(parts)} descriptions; mean chroma: {means}.",
        provenance={
            **origin(run, None, "levels"),
            "prompts": {part.level: part.prompt for part in parts},
            "mean_chroma": chromas,
        },
        baseline=chroma_spread_by_chance(images) if baseline else None,
        kind="gallery",
        pictures={part.level: part.image for part in parts},
    )


def _with_articles(text: str) -> str:
    """Mend "a" and "an" before the words that follow them now."""
    text = re.sub(r"\b(a) (?=[aeiou])", "an ", text, flags=re.IGNORECASE)
    return re.sub(r"\b(an) (?=[^aeiou\W])", "a ", text, flags=re.IGNORECASE)
