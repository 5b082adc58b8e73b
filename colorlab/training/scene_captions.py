"""Captions of scenes at three levels, from a small closed vocabulary."""

from collections.abc import Sequence

import numpy as np

from colorlab.color import COLORS
from colorlab.errors import RangeError
from colorlab.training.scene_kinds import FLYING_KINDS, KINDS
from colorlab.training.scene_types import Scene

CAPTION_LEVELS = ("complete", "partial", "scarce")
"""All colors named; a part of them; none."""

GROUND_PHRASES = {
    "grass": "on the grass",
    "sand": "on the sand",
    "snow": "in the snow",
    "road": "on the road",
    "earth": "on the earth",
}
"""How a caption names each ground."""

SKY_PHRASES = {
    "clear": "under a clear sky",
    "sunset": "at sunset",
    "overcast": "under a cloudy sky",
    "dusk": "at dusk",
}
"""How a caption names each sky."""

BACKDROP_PHRASES = {("sky", name): f"the {name} sky" for name in SKY_PHRASES} | {
    ("ground", name): phrase.split(" ", 1)[1] for name, phrase in GROUND_PHRASES.items()
}
"""How a phrase of its own names each sky and each ground: "the grass"."""

_GENERIC = ("a colorful picture", "a picture", "a colorful scene", "a nice picture")
_LEADS = ("", "", "", "a picture of ")


def caption_words() -> tuple[str, ...]:
    """List every word that `caption` can use, sorted."""
    phrases = [*GROUND_PHRASES.values(), *SKY_PHRASES.values(), *_GENERIC, *_LEADS, "an and next to over"]
    return tuple(sorted({*KINDS, *COLORS, *(word for phrase in phrases for word in phrase.split())}))


def with_article(words: str) -> str:
    """Put "a" or "an" before words, or nothing before a plural.

    Args:
        words: such as "orange umbrella".

    Returns:
        Such as "an orange umbrella".
    """
    if words.split()[-1] in {"pants", "shoes", "shorts", "scissors"}:
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def named_instances(scene: Scene, level: str, seed: int) -> tuple[int, ...]:
    """Tell which instances the caption of the same level and seed names with their color.

    Args:
        scene: the scene.
        level: one of `CAPTION_LEVELS`.
        seed: seed of the caption.

    Returns:
        Rising indices into `scene.instances`: all for "complete"; for "partial" at least one and, of several, not all
        (of a single one, half of the time none); none for "scarce".

    Raises:
        RangeError: `level` is unknown.
    """
    count = len(scene.instances)
    if level not in CAPTION_LEVELS:
        raise RangeError(f"level is {level!r}, but one of {', '.join(CAPTION_LEVELS)} is expected.")
    if level == "complete":
        return tuple(range(count))
    if level == "scarce":
        return ()
    rng = np.random.default_rng([seed, scene.seed, 11])
    if count == 1:
        return (0,) if rng.random() < 0.5 else ()
    chosen = rng.choice(count, int(rng.integers(1, count)), replace=False)
    return tuple(sorted(int(index) for index in chosen))


def caption(scene: Scene, level: str, *, seed: int) -> str:
    """Describe a scene in words.

    Args:
        scene: the scene.
        level: "complete" names every object with its color, the ground and the sky; "partial" names every object, the
            colors of `named_instances`, and ground and sky half of the time each; "scarce" names no color.
        seed: decides order and wording.

    Returns:
        A caption such as "a red car and a blue house on the grass under a clear sky".

    Raises:
        RangeError: `level` is unknown.
    """
    named = named_instances(scene, level, seed)
    rng = np.random.default_rng([seed, scene.seed, 12])
    order = rng.permutation(len(scene.instances))
    lead, word = str(rng.choice(_LEADS)), "next to" if len(order) == 2 and rng.random() < 0.25 else "and"
    keep_ground, keep_sky = (True, True) if level == "complete" else tuple(rng.random(2) < 0.5)
    place = _place_words(scene, ground=bool(keep_ground), sky=bool(keep_sky))
    if level == "scarce" and rng.random() < 0.5:
        return " ".join([str(rng.choice(_GENERIC)), *place])
    objects = []
    for index in order:
        instance = scene.instances[index]
        objects.append(with_article(f"{instance.color} {instance.kind}" if index in named else instance.kind))
    return " ".join([lead + _listed(objects, word), *place])


def _place_words(scene: Scene, *, ground: bool, sky: bool) -> list[str]:
    """The phrases for ground and sky; what flies is over the ground."""
    words = []
    if ground:
        flying = all(instance.kind in FLYING_KINDS for instance in scene.instances)
        words.append(f"over the {scene.ground}" if flying else GROUND_PHRASES[scene.ground])
    if sky:
        words.append(SKY_PHRASES[scene.sky])
    return words


def _listed(parts: Sequence[str], word: str) -> str:
    """Join parts with commas and a last word."""
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
