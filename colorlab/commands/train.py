"""`colorlab train`: run one recipe."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from colorlab.commands.files import check_writable
from colorlab.commands.problems import BadUsageError, InterruptedRunError
from colorlab.errors import MissingExtraError


def train_member(
    name: str,
    data: Path,
    out: Path,
    *,
    device: str,
    resume: bool,
    warm_start: bool,
    steps: int | None,
    caption_dropout: float | None = None,
    has_curriculum: bool = False,
) -> None:
    """Train one network.

    Args:
        name: name of the recipe.
        data: folder of photographs.
        out: folder that receives everything.
        device: where to train.
        resume: go on from the last checkpoint in `out`.
        warm_start: begin with the weights of the member that is there already.
        steps: optimiser steps; None takes the recipe's own number.
        caption_dropout: share of pictures that a UNet sees without words; None takes the recipe's own.
        has_curriculum: whether a UNet begins with complete captions.

    Raises:
        BadUsageError: there is no such recipe or no such folder.
        MissingExtraError: the training extra is not installed.
        InterruptedRunError: Ctrl-C; the last checkpoint is kept.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("Training needs accelerate; install it with: pip install 'colorlab[train]'.")
    from colorlab.training import recipes
    from colorlab.training.latents import CURRICULUM, CaptionMix

    if name not in recipes.PLANS:
        raise BadUsageError(f'There is no recipe "{name}"; expected one of {", ".join(recipes.PLANS)}.')
    if not data.is_dir():
        raise BadUsageError(f"{data} is no folder; name the folder of photographs with --data.")
    check_writable(out)
    captions = CURRICULUM if has_curriculum else None
    if caption_dropout is not None:
        captions = replace(captions or CaptionMix(), dropout=caption_dropout)
    try:
        member = recipes.run_recipe(
            name,
            data=data,
            out=out,
            device=device,
            resume=resume,
            warm_start=warm_start,
            steps=steps,
            captions=captions,
        )
    except KeyboardInterrupt:
        checkpoint = out / name / "checkpoint.pt"
        if not checkpoint.exists():
            raise InterruptedRunError("Interrupted before the first checkpoint; nothing can be resumed.") from None
        raise InterruptedRunError(f"Interrupted; {checkpoint} is kept, and --resume goes on from it.") from None
    print(member)
