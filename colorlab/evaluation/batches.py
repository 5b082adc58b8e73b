"""Many pictures at once, to their finished form: what an evaluation needs and a notebook does not.

Picture i of a list is what `colorizer.start(conditionings[i], seed=settings.seed + i)` gives, to rounding: in a batch
the same sums are added in another order (about 1e-6 on the CPU).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import tqdm

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.images import to_uint8
from colorlab.methods.base import Method
from colorlab.runs.batches import collate, take_steps
from colorlab.runs.segments import Segment, timesteps_of
from colorlab.sampling.loop import first_state
from colorlab.sampling.noise import initial_noise
from colorlab.settings import Settings


def colorize_all(
    method: Method,
    conditionings: Sequence[Conditioning],
    settings: Settings,
    *,
    batch_size: int = 16,
    label: str = "",
) -> list[np.ndarray]:
    """Colorize a list of pictures.

    Args:
        method: the loaded method.
        conditionings: what is wanted; pictures of one working size share a batch.
        settings: for all; picture i takes the seed `settings.seed` + i.
        batch_size: pictures sampled together.
        label: what the progress bar calls the work; without a terminal there is no bar.

    Returns:
        One picture (H, W, 3) uint8 for each conditioning, in order.

    Raises:
        RangeError: `settings.eta` is not 0; a step's own noise belongs to one picture.
    """
    if settings.eta != 0:
        raise RangeError(f"eta is {settings.eta:g}; pictures are colorized together with eta=0 only.")
    images: list[np.ndarray | None] = [None] * len(conditionings)
    with tqdm.tqdm(total=len(conditionings), desc=label, unit="picture", leave=False, disable=None) as bar:
        for indices in _batches(method, conditionings, batch_size):
            with method.lock, torch.no_grad():
                finished = _colorize_batch(method, [conditionings[i] for i in indices], indices, settings)
            for index, image in zip(indices, finished, strict=True):
                images[index] = image
            bar.update(len(indices))
    return [image for image in images if image is not None]


def _batches(method: Method, conditionings: Sequence[Conditioning], batch_size: int) -> Iterator[list[int]]:
    """Yield the indices of pictures that can share a network call: of one size, with as many masks and text edits."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, conditioning in enumerate(conditionings):
        counts = (len(conditioning.masks), len(conditioning.manipulations))
        alike.setdefault((*method.working_size(conditioning.size), *counts), []).append(index)
    for indices in alike.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]


def _colorize_batch(
    method: Method, conditionings: Sequence[Conditioning], indices: Sequence[int], settings: Settings
) -> list[np.ndarray]:
    """Sample, decode and finish pictures that can share a network call."""
    segments = [
        Segment(0, conditioning, settings, method.prepare(conditioning, settings)) for conditioning in conditionings
    ]
    timesteps = timesteps_of(method, settings)
    states = [
        first_state(
            method.start_noise(
                segment.prepared, initial_noise(settings.seed + index, 0, (1, *segment.prepared.latent_shape)), settings
            ),
            schedule=method.schedule,
            timesteps=timesteps,
        )
        for index, segment in zip(indices, segments, strict=True)
    ]
    for _ in range(len(timesteps)):
        states = [state for _, state in take_steps(method, segments, states, timesteps=timesteps)]
    latents = torch.cat([state.latents for state in states])
    decoded = method.decode(latents, collate([segment.prepared for segment in segments]), settings)
    return [
        to_uint8(method.finish_image(decoded[i : i + 1], conditioning, settings))
        for i, conditioning in enumerate(conditionings)
    ]
