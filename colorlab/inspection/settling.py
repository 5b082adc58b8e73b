"""The settle map: from which step on the color of a pixel is decided."""

from collections.abc import Iterable, Iterator

import torch
from tqdm.auto import tqdm

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.inspection.baselines import random_shifts
from colorlab.inspection.chroma import CHROMA_UNIT, ChromaDecoder, DecoderName, chroma_decoder, chroma_distance
from colorlab.inspection.moments import Askable
from colorlab.inspection.replay import moment_of
from colorlab.inspection.views import origin

__all__ = ["settle_steps", "settled"]


def settle_steps(
    backwards: Iterable[torch.Tensor],
    num_steps: int,
    *,
    tolerance: float = 5.0,
    shifts: Iterable[tuple[int, int]] = ((0, 0),),
) -> torch.Tensor:
    """Find the first step from which on the chroma stays near the end.

    Args:
        backwards: chroma (2, H, W) of the prediction of every step, the last one first, which is the end.
        num_steps: how many there are.
        tolerance: largest distance that counts as near, Delta E 1976 of (a, b).
        shifts: (down, right) by which the path of another pixel is put in the place of each pixel's own, for baselines;
            by default only its own.

    Returns:
        (number of shifts, H, W) int64, [0, num_steps]; num_steps where even the last prediction is far, which a pixel's
        own path never is.
    """
    moves, end = tuple(shifts), None
    stays, num_near = torch.empty(0), torch.empty(0, dtype=torch.long)
    for chroma in backwards:
        if end is None:
            end = chroma
            stays = torch.ones(len(moves), *chroma.shape[1:], dtype=torch.bool)
            num_near = torch.zeros(stays.shape, dtype=torch.long)
        for index, move in enumerate(moves):
            if bool(stays[index].any()):
                # Once far, a pixel counts no more, even if it was near at a step before.
                stays[index] &= chroma_distance(chroma.roll(move, dims=(1, 2)), end) <= tolerance
        num_near += stays
        if not bool(stays.any()):
            break
    return num_steps - num_near


def settled(
    run: Askable,
    *,
    tolerance: float = 5.0,
    decoder: DecoderName = "model",
    baseline: bool = False,
    progress: bool = True,
) -> Exhibit:
    """Show after which step the color of every pixel is decided (record: no call of the denoising network).

    The first step from which on the chroma of the decoded clean prediction stays within `tolerance` of the prediction
    of the last step taken.

    Args:
        run: any run or recording that has taken a step.
        tolerance: distance in the (a, b) plane, Delta E 1976 without the lightness; 5 is a difference that is seen at
            once when the colors lie side by side.
        decoder: "model" decodes the prediction of each step with the model's own decoder; "linear" decodes at most
            five, fits a linear map from latents to chroma to them, and gives a map on the latent grid. The caption
            names the decoder and its error.
        baseline: whether to add what chance would give: the mean settle step when the path of another place of the
            picture (16 random moves) is held against the end of this one.
        progress: whether to show a bar of the steps looked at; it ends where nothing was decided yet.

    Returns:
        (H, W) of the picture, or (h, w) of the latents: the step, 0 first.

    Raises:
        StateError: the run has taken no step.
        RangeError: `tolerance` is not positive, or there is no such decoder.
    """
    if not tolerance > 0:
        raise RangeError(f"tolerance is {tolerance!r}, but a number above 0 is expected.")
    records = run.records
    if not records:
        raise StateError("This run has taken no step, so nothing is decided; step() or finish() it.")
    decode, last, null = chroma_decoder(run, decoder), len(records) - 1, None
    chromas: Iterable[torch.Tensor] = _backwards(run, decode, progress)
    # The baseline goes through them once more.
    chromas = list(chromas) if baseline else chromas
    steps = settle_steps(chromas, len(records), tolerance=tolerance)[0]
    if baseline:
        moves = random_shifts((steps.shape[0], steps.shape[1]))
        null = settle_steps(chromas, len(records), tolerance=tolerance, shifts=moves).float().mean(dim=0).numpy()
    return Exhibit(
        array=steps.numpy(),
        axes=("H", "W") if decoder == "model" else ("h", "w"),
        unit="step",
        caption=(
            f"First step from which on the chroma stays within {tolerance:g} ({CHROMA_UNIT}) of that at step {last}: "
            f"mean {float(steps.float().mean()):.1f}. Decoded by {decode.description}."
        ),
        provenance={
            **origin(run, moment_of(run, last), "settled"),
            "tolerance": tolerance,
            "decoder": decode.name,
            "decoder_error": decode.error,
        },
        baseline=null,
    )


def _backwards(run: Askable, decode: ChromaDecoder, progress: bool) -> Iterator[torch.Tensor]:
    """Yield the chroma (2, H, W) of the clean prediction of every step, the last one first, under a bar."""
    for record in tqdm(run.records[::-1], desc="settled", unit="step", disable=not progress):
        moment = moment_of(run, record.step_index)
        yield decode(moment, moment.clean)
