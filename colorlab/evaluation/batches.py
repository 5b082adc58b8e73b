"""Many pictures at once, to their finished form: what an evaluation needs and a notebook does not.

Picture i of a list is what `colorizer.start(conditionings[i], seed=settings.seed + i)` gives, to rounding: in a batch
the same sums are added in another order (about 1e-6 on the CPU).

| work | saved |
| --- | --- |
| the same picture again, for another figure | it is kept |
| settings that differ in decoding alone | the latents are kept |
| classifier-free guidance where both passes read the same tokens | one pass is asked, which is what guidance gives |
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.evaluation.progress import progress
from colorlab.images import to_uint8
from colorlab.mechanisms.instance_guidance import InstanceGuidance
from colorlab.methods.base import Method
from colorlab.runs.batches import collate, make_up, take_steps
from colorlab.runs.segments import Segment, timesteps_of
from colorlab.sampling.loop import first_state
from colorlab.sampling.noise import initial_noise
from colorlab.settings import Settings

__all__ = ["PictureMaker", "colorize_all"]


@dataclass(frozen=True, eq=False)
class _Order:
    """One picture to make.

    Args:
        conditioning: what is wanted.
        seed: of its noise.
        latents_key: equal for orders that end in the same latents.
        image_key: equal for orders that end in the same picture.
    """

    conditioning: Conditioning
    seed: int
    latents_key: Hashable
    image_key: Hashable


class PictureMaker:
    """Colorizes lists of conditionings with one model, and makes no picture twice.

    Settings are compared by what they come to: a default that is named is none the less the default, and the
    parameters of a mechanism that is off do not matter.

    Args:
        method: the loaded method.
        batch_size: pictures sampled together.
    """

    def __init__(self, method: Method, *, batch_size: int = 16) -> None:
        self.method = method
        self.batch_size = batch_size
        self._latents: dict[Hashable, torch.Tensor] = {}
        self._images: dict[Hashable, np.ndarray] = {}

    def __call__(
        self,
        conditionings: Sequence[Conditioning],
        settings: Settings,
        label: str = "",
        *,
        seeds: Sequence[int] | None = None,
    ) -> list[np.ndarray]:
        """Colorize a list of pictures.

        Args:
            conditionings: what is wanted; pictures of one working size share a batch.
            settings: for all.
            label: what the progress bar calls the work; without a terminal there is no bar.
            seeds: one for each picture; None gives picture i the seed `settings.seed` + i.

        Returns:
            One picture (H, W, 3) uint8 for each conditioning, in order.

        Raises:
            RangeError: `settings.eta` is not 0; a step's own noise belongs to one picture. Or there is not one seed
                for each picture.
        """
        if settings.eta != 0:
            raise RangeError(f"eta is {settings.eta:g}; pictures are colorized together with eta=0 only.")
        seeds = range(settings.seed, settings.seed + len(conditionings)) if seeds is None else seeds
        if len(seeds) != len(conditionings):
            raise RangeError(f"{len(seeds)} seeds came for {len(conditionings)} conditionings; expected one for each.")
        orders = [self._order(one, settings, seed) for one, seed in zip(conditionings, seeds, strict=True)]
        missing = {order.image_key: order for order in orders if order.image_key not in self._images}
        with progress(label, len(missing), "picture") as update:
            for batch in _batches(self.method, list(missing.values()), self.batch_size):
                with self.method.lock, torch.no_grad():
                    self._make(batch, settings)
                update(len(batch))
        return [self._images[order.image_key] for order in orders]

    def _order(self, conditioning: Conditioning, settings: Settings, seed: int) -> _Order:
        """Name what a picture and its latents depend on."""
        parameters = {
            mechanism.name: tuple(mechanism.in_force(settings).items()) if mechanism.is_on(settings) else None
            for mechanism in self.method.mechanisms
        }
        # The guidance by an exemplar looks through the decoder.
        is_late = [one.phase == "decode" and conditioning.exemplar is None for one in self.method.mechanisms]
        early = [values for values, late in zip(parameters.items(), is_late, strict=True) if not late]
        common = (conditioning.content_hash(), settings.replace(seed=seed, mechanisms={}))
        return _Order(conditioning, seed, (*common, *early), (*common, *parameters.items()))

    def _make(self, orders: Sequence[_Order], settings: Settings) -> None:
        """Sample what is not sampled yet, decode and finish pictures that can share a network call."""
        segments = [
            Segment(0, one.conditioning, settings, self.method.prepare(one.conditioning, settings)) for one in orders
        ]
        is_new = [order.latents_key not in self._latents for order in orders]
        for is_one_pass in (False, True):
            rows = [
                (order, segment)
                for order, segment, new in zip(orders, segments, is_new, strict=True)
                if new and _is_one_pass(self.method, segment) == is_one_pass
            ]
            if rows:
                chosen = settings.replace(guidance_scale=1.0) if is_one_pass else settings
                found = _sample(self.method, [order for order, _ in rows], [segment for _, segment in rows], chosen)
                self._latents |= {order.latents_key: latents for (order, _), latents in zip(rows, found, strict=True)}
        alike: dict[Hashable, list[tuple[_Order, Segment]]] = {}
        for order, segment in zip(orders, segments, strict=True):
            alike.setdefault(make_up(segment.prepared), []).append((order, segment))
        for rows in alike.values():
            latents = torch.cat([self._latents[order.latents_key] for order, _ in rows])
            decoded = self.method.decode(latents, collate([segment.prepared for _, segment in rows]), settings)
            for index, (order, _) in enumerate(rows):
                image = self.method.finish_image(decoded[index : index + 1], order.conditioning, settings)
                self._images[order.image_key] = to_uint8(image)


def colorize_all(
    method: Method,
    conditionings: Sequence[Conditioning],
    settings: Settings,
    *,
    batch_size: int = 16,
    label: str = "",
) -> list[np.ndarray]:
    """Colorize one list of pictures; see `PictureMaker`, which more than one list should share.

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
    return PictureMaker(method, batch_size=batch_size)(conditionings, settings, label)


def _batches(method: Method, orders: Sequence[_Order], batch_size: int) -> Iterator[list[_Order]]:
    """Yield pictures that can share a network call: of one size, with as many masks and text edits."""
    alike: dict[tuple[object, ...], list[_Order]] = {}
    for order in orders:
        wanted = order.conditioning
        counts = (len(wanted.masks), len(wanted.manipulations))
        alike.setdefault((*method.working_size(wanted.size), *counts), []).append(order)
    for same in alike.values():
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def _is_one_pass(method: Method, segment: Segment) -> bool:
    """Return whether both passes of classifier-free guidance would predict the same: equal tokens, nothing else."""
    text = getattr(segment.prepared, "text", {})
    if set(text) != {"cond", "uncond"} or segment.settings.as_published:
        return False
    # It touches the conditional pass alone.
    is_masked = segment.conditioning.masks and InstanceGuidance.name in [one.name for one in method.mechanisms]
    return not is_masked and torch.equal(text["cond"], text["uncond"])


def _sample(
    method: Method, orders: Sequence[_Order], segments: Sequence[Segment], settings: Settings
) -> list[torch.Tensor]:
    """Return the last latents (1, C, h, w) of pictures that can share a network call."""
    segments = [replace(segment, settings=settings) for segment in segments]
    timesteps = timesteps_of(method, settings)
    states = [
        first_state(
            method.start_noise(
                segment.prepared, initial_noise(order.seed, 0, (1, *segment.prepared.latent_shape)), settings
            ),
            schedule=method.schedule,
            timesteps=timesteps,
        )
        for order, segment in zip(orders, segments, strict=True)
    ]
    for _ in range(len(timesteps)):
        states = [state for _, state in take_steps(method, segments, states, timesteps=timesteps)]
    return [state.latents for state in states]
