"""Would another seed agree? Several seeds side by side, and how far apart their colors are, pixel by pixel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from colorlab.color import rgb_to_lab
from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image, to_uint8
from colorlab.inspection.baselines import NUM_RANDOM_SHIFTS, random_shifts
from colorlab.inspection.chroma import CHROMA_UNIT
from colorlab.inspection.study import Study, estimate_cost
from colorlab.inspection.views import origin
from colorlab.runs.batches import in_batches, take_steps
from colorlab.runs.run import Run
from colorlab.runs.segments import Segment, initial_state
from colorlab.sampling.state import State

__all__ = ["SeededPicture", "chroma_spread", "chroma_spread_by_chance", "plan_seeds"]


@dataclass(frozen=True, eq=False)
class SeededPicture:
    """What a run would have become with another seed.

    Args:
        seed: at the start.
        image: (H, W, 3) uint8, finished.
    """

    seed: int
    image: np.ndarray


def plan_seeds(run: Run, n: int = 8, *, batch_size: int = 4, baseline: bool = False) -> Study[SeededPicture]:
    """Plan to sample a run again with other seeds: its own and the `n` - 1 that follow it.

    All conditionings, settings and edits of the run are followed, at the steps at which they came into force. A run
    that is finished gives its own picture; the others agree with a run of that seed within the rounding of batches.

    Args:
        run: any run.
        n: number of seeds, at least 2.
        batch_size: pictures that share a network call.
        baseline: whether to add the spread when every picture but the first is moved at random (16 times): what it
            would be if the place in the picture did not matter.

    Returns:
        A study of one part for each seed. Its exhibit is the spread map (H, W), with the pictures beside it.

    Raises:
        RangeError: `n` is below 2, or `batch_size` below 1.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise RangeError(f"n is {n!r}, but a number of seeds is expected; a spread needs at least 2.")
    first = 1 if run.is_finished else 0
    offsets = list(range(first, n))
    batches = [[offsets[index] for index in batch] for batch in in_batches(offsets, batch_size)]
    steps = run.num_steps
    cost = estimate_cost(
        run, calls=steps * len(batches), predictions=steps * len(offsets), decodings=len(offsets) + first
    )

    def work() -> Iterator[list[SeededPicture]]:
        own = [SeededPicture(run.segment_at(0).settings.seed, run.image)] if first else []
        for batch in batches:
            for finished in _sample(run, batch):
                yield own + finished
                own = []

    def conclude(parts: list[SeededPicture]) -> Exhibit:
        return _show(run, parts, baseline)

    return Study(run, "seeds", cost=cost, num_parts=n, work=work, conclude=conclude)


def chroma_spread(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return how far apart the colors of pictures are, pixel by pixel.

    Args:
        images: (H, W, 3) uint8 each.

    Returns:
        (H, W) float32: root mean square distance from the mean (a, b), with n - 1 in the denominator; NaN for one
        picture, which says nothing about others.
    """
    return _spread(_chromas(images)).numpy()


def chroma_spread_by_chance(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean spread (H, W) when each picture after the first is moved at random, 16 draws."""
    chromas = _chromas(images)
    size = (chromas.shape[-2], chromas.shape[-1])
    moves = iter(random_shifts(size, NUM_RANDOM_SHIFTS * (len(chromas) - 1)))
    draws = []
    for _ in range(NUM_RANDOM_SHIFTS):
        moved = [part.roll(next(moves), dims=(1, 2)) for part in chromas[1:]]
        draws.append(_spread(torch.stack([chromas[0], *moved])))
    return torch.stack(draws).mean(dim=0).numpy()


def _sample(run: Run, offsets: Sequence[int]) -> Iterator[list[SeededPicture]]:
    """Take all steps of a run with several seeds together; yields after every call, the pictures with the last one."""
    method, states = run.method, [_initial(run, offset) for offset in offsets]
    for step in range(run.num_steps):
        segment = run.segment_at(step)
        if step and segment.settings.solver != run.segment_at(step - 1).settings.solver:
            states = [state.without_history() for state in states]
        with method.lock:
            edges = take_steps(
                method,
                segment,
                states,
                timesteps=run.timesteps,
                seeds=[segment.settings.seed + offset for offset in offsets],
                sample_index=run.sample_index,
            )
        states = [state for _, state in edges]
        if step + 1 < run.num_steps:
            yield []
    last, seed = run.segment_at(run.num_steps), run.segment_at(0).settings.seed
    yield [
        SeededPicture(seed + offset, _finish(run, last, state)) for offset, state in zip(offsets, states, strict=True)
    ]


def _initial(run: Run, offset: int) -> State:
    """Return state 0 of a run with another seed."""
    segment = run.segment_at(0)
    settings = segment.settings.replace(seed=segment.settings.seed + offset)
    return initial_state(run.method, replace(segment, settings=settings), sample_index=run.sample_index)


def _finish(run: Run, segment: Segment, state: State) -> np.ndarray:
    """Decode and finish a last state, (H, W, 3) uint8."""
    with run.method.lock, torch.no_grad():
        decoded = run.method.decode(state.latents, segment.prepared, segment.settings)
        return to_uint8(run.method.finish_image(decoded, segment.conditioning, segment.settings))


def _chromas(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the chromas (n, 2, H, W) of pictures."""
    return torch.cat([rgb_to_lab(load_image(image))[:, 1:] for image in images])


def _spread(chromas: torch.Tensor) -> torch.Tensor:
    """Return the spread (H, W) of chromas (n, 2, H, W)."""
    squares = (chromas - chromas.mean(dim=0)).square().sum(dim=(0, 1))
    return (squares / (len(chromas) - 1)).sqrt()


def _show(run: Run, parts: list[SeededPicture], baseline: bool) -> Exhibit:
    """Put spread map and pictures together."""
    images = [part.image for part in parts]
    spread = chroma_spread(images)
    return Exhibit(
        array=spread,
        axes=("H", "W"),
        unit=CHROMA_UNIT,
        caption=(
            f"Spread of the chroma over {len(parts)} seeds: root mean square distance from their mean, on average "
            f"{float(spread.mean()):.1f}."
        ),
        provenance={**origin(run, None, "seeds"), "seeds": [part.seed for part in parts]},
        baseline=chroma_spread_by_chance(images) if baseline else None,
        kind="gallery",
        pictures={f"seed {part.seed}": part.image for part in parts},
    )
