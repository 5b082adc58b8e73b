"""`colorlab models`: which models there are."""

import json
from dataclasses import asdict

from colorlab.registry import models


def print_models(*, as_json: bool) -> None:
    """Print the table of models, as text or as JSON."""
    table = models()
    print(json.dumps([asdict(entry) for entry in table], indent=2) if as_json else table)
