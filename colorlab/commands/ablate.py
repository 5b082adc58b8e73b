"""`colorlab ablate`: what each mechanism of a model does to the number it exists for."""

from collections.abc import Sequence

import numpy as np

from colorlab.commands.catalog import load_colorizer
from colorlab.commands.evaluate import to_json, to_tables
from colorlab.conditioning import Conditioning
from colorlab.evaluation.ablations import evaluate_ablations
from colorlab.evaluation.batches import colorize_all
from colorlab.settings import Settings


def ablate_model(model: str, *, num_scenes: int, device: str, as_json: bool) -> None:
    """Switch every mechanism of a model on and off and print what that does.

    Args:
        model: name or folder of the model.
        num_scenes: held-out scenes for each mechanism.
        device: where to compute.
        as_json: print JSON instead of a table.

    Raises:
        BadUsageError: the model colors no gray pictures.
    """
    colorizer = load_colorizer(model, device=device)

    def colorize(conditionings: Sequence[Conditioning], settings: Settings, label: str) -> Sequence[np.ndarray]:
        return colorize_all(colorizer.method, conditionings, settings, label=label)

    report = evaluate_ablations(colorize, colorizer.method.mechanisms, colorizer.settings, num_scenes)
    write = to_json if as_json else to_tables
    print(write(colorizer, colorizer.settings, [report]))
