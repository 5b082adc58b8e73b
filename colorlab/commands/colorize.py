"""`colorlab colorize`: pictures in, pictures out, one run each."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm

import colorlab
from colorlab.colorizer import Colorizer
from colorlab.commands.catalog import load_colorizer
from colorlab.commands.files import plan_outputs, save_picture, writable_folder
from colorlab.commands.problems import BadUsageError, InterruptedRunError, as_bad_usage
from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError
from colorlab.methods.adaptation import Adaptation
from colorlab.sketches import invert_sketch


def colorize_files(
    inputs: Sequence[Path],
    out: Path,
    *,
    model: str,
    adaptation: Path | None = None,
    conditioning: Conditioning,
    settings: dict[str, Any],
    device: str,
    keeps_runs: bool = False,
    are_sketches: bool = False,
    are_inverted: bool = False,
) -> None:
    """Colorize pictures and write the results; one bad picture does not stop the others.

    Args:
        inputs: picture files.
        out: result file, or folder of results.
        model: name or folder of the model.
        adaptation: file of what a tuning made of the model; None for the model as it is.
        conditioning: what is given for every picture, without the picture itself.
        settings: values for `colorlab.Settings`; those that are None keep the method's own.
        device: where to compute, as torch names it.
        keeps_runs: whether to write the run file of each picture beside it.
        are_sketches: whether the inputs are line drawings and no gray pictures.
        are_inverted: whether these have white lines on black, and are turned around.

    Raises:
        BadUsageError: names or values make no sense, or the model colors no gray pictures.
        InterruptedRunError: Ctrl-C; the prediction of the last finished step is kept beside the wanted result.
        ColorlabError: at least one picture could not be colorized.
    """
    with as_bad_usage():
        given = {name: value for name, value in settings.items() if value is not None}
        colorlab.Settings(**given)
        outputs = plan_outputs(inputs, out)
    with writable_folder(outputs[0].parent):
        colorizer = _load(model, adaptation, device=device)
        if are_sketches and "sketch" not in colorizer.method.fields_read():
            raise BadUsageError(f"{model} reads no sketches; name a model that does, such as mini/colorizediffusion.")
        failures = []
        for source, target in zip(inputs, outputs, strict=True):
            try:
                if are_sketches:
                    drawn = conditioning.replace(sketch=invert_sketch(source) if are_inverted else source)
                else:
                    drawn = conditioning.replace(gray=source)
                run = colorizer.start(drawn, **given)
                _finish(run, source, target)
                if keeps_runs:
                    run.save(target.with_suffix(".colorlab"))
            except InterruptedRunError:
                raise
            except ColorlabError as error:
                failures.append(str(error))
                if len(inputs) > 1:
                    print(f"colorlab: {source}: {error}", file=sys.stderr)
        if failures:
            number = f"{len(failures)} of {len(inputs)} pictures failed."
            raise ColorlabError(failures[0] if len(inputs) == 1 else number)


def _load(model: str, adaptation: Path | None, *, device: str) -> Colorizer:
    """Load a model, with what was tuned of it; the smaller file is read first."""
    with as_bad_usage():
        found = None if adaptation is None else Adaptation.load(adaptation)
    colorizer = load_colorizer(model, device=device)
    with as_bad_usage():
        return colorizer if found is None else colorizer.with_adaptation(found)


def _finish(run: Any, source: Path, target: Path) -> None:
    """Step a run to its end and write the picture; on Ctrl-C write the last prediction instead."""
    total = run.num_steps
    try:
        for _ in tqdm.tqdm(run, total=total, desc=source.name, unit="step", leave=False, disable=None):
            pass
        save_picture(run.image, target)
    except KeyboardInterrupt:
        raise InterruptedRunError(_keep_partial(run, target)) from None
    print(target)


def _keep_partial(run: Any, target: Path) -> str:
    """Write the prediction of the last finished step and say where it is."""
    finished, total = run.step_index, run.num_steps
    if finished == 0:
        return "Interrupted before the first step was finished; nothing was written."
    partial = target.with_name(f"{target.stem}.partial{target.suffix}")
    save_picture(run.preview(finished - 1), partial)
    return f"Interrupted after {finished} of {total} steps; the prediction of the last finished step is in {partial}."
