"""Options that several commands have, or that need many words; nothing heavy is imported here."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DEFAULT_MODEL",
    "AdaptationFile",
    "Device",
    "Edits",
    "Exemplar",
    "Force",
    "GuidanceScale",
    "Json",
    "MeasuredModel",
    "Model",
    "NegativePrompt",
    "Nouns",
    "Prompt",
    "Seed",
    "Solver",
    "Steps",
    "TuningValues",
]

DEFAULT_MODEL = "mini/lcad"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of a model (colorlab models lists them), or its folder.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps, or auto.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help='What to paint, as in "a red car".')]
NegativePrompt = Annotated[str, typer.Option(help="What not to paint.")]
Exemplar = Annotated[Path | None, typer.Option(metavar="FILE", help="Picture whose colors are borrowed.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, max=1000, help="Sampling steps.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the noise.")]
GuidanceScale = Annotated[float | None, typer.Option(help="How strongly the words steer; 1 is off.")]
Solver = Annotated[str | None, typer.Option(help="ddim, euler or dpmpp_2m.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

AdaptationFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What colorlab tune made of the model; name that with --model, too."),
]
Nouns = Annotated[
    list[str] | None,
    typer.Option("--noun", help="A word of the prompt that is an object; several in order. Found by articles if none."),
]
TuningValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a value of the preset, as luma_weight=4, backend=flow or reconstruction=200 (steps); a wrong name "
        "lists them.",
    ),
]
Edits = Annotated[
    list[str] | None,
    typer.Option("--edit", help='Text edit of the exemplar, "the red car -> the blue car"; several act in order.'),
]
MeasuredModel = Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model, or its folder.")]
Force = Annotated[bool, typer.Option("--force", help="Tune anew, even if FILE or an unfinished tuning is there.")]
