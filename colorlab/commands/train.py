"""`colorlab train`: run one recipe."""

from pathlib import Path

from colorlab.commands.files import check_writable
from colorlab.commands.problems import BadUsageError


def train_member(name: str, data: Path, out: Path, *, device: str, resume: bool, steps: int | None) -> None:
    """Train one network.

    Args:
        name: name of the recipe.
        data: folder of photographs.
        out: folder that receives everything.
        device: where to train.
        resume: go on from the last checkpoint in `out`.
        steps: optimiser steps; None takes the recipe's own number.

    Raises:
        BadUsageError: there is no such recipe or no such folder.
    """
    from colorlab.training import recipes

    if name not in recipes.PLANS:
        raise BadUsageError(f'There is no recipe "{name}"; expected one of {", ".join(recipes.PLANS)}.')
    if not data.is_dir():
        raise BadUsageError(f"{data} is no folder; name the folder of photographs with --data.")
    check_writable(out)
    recipes.run_recipe(name, data=data, out=out, device=device, resume=resume, steps=steps)
