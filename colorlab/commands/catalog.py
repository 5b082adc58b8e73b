"""`colorlab models`: which models there are; and loading one for a command that colors gray pictures."""

import json
from dataclasses import asdict

import colorlab
from colorlab.commands.problems import BadUsageError
from colorlab.registry import models


def load_colorizer(model: str, *, device: str) -> "colorlab.Colorizer":
    """Load a model that colors gray pictures.

    Args:
        model: name or folder of the model.
        device: where to compute.

    Raises:
        BadUsageError: the model makes pictures from something else.
        ColorlabError: as `colorlab.load`.
    """
    colorizer = colorlab.load(model, device=device)
    if "gray" not in colorizer.method.fields_read():
        raise BadUsageError(f"{model} does not color gray pictures; name a model that does, such as mini/lcad.")
    return colorizer


def print_models(*, as_json: bool) -> None:
    """Print the table of models, as text or as JSON."""
    table = models()
    print(json.dumps([asdict(entry) for entry in table], indent=2) if as_json else table)
