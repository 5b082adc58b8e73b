"""`colorlab tune`: DiffColor on one picture, from the command line."""

from pathlib import Path

from PIL import Image

from colorlab.commands.catalog import load_colorizer
from colorlab.commands.files import check_writable
from colorlab.commands.problems import BadUsageError, InterruptedRunError, as_bad_usage
from colorlab.errors import RangeError
from colorlab.tuning import PRESETS, Tuning
from colorlab.tuning.files import SUFFIX

__all__ = ["tune_picture"]


def tune_picture(
    source: Path,
    out: Path,
    *,
    model: str,
    prompt: str,
    preset: str,
    seed: int | None,
    targets: list[str],
    resume: bool,
    device: str,
) -> None:
    """Tune a model on one picture, and color it by target texts.

    Args:
        source: the gray picture.
        out: the adaptation, ending in ".safetensors"; the tuning is kept beside it until it is done.
        model: name or folder of the model.
        prompt: the context: what the picture shows, without colors.
        preset: in `PRESETS`.
        seed: of everything that is drawn; None for the model's own.
        targets: the context with colors; each gives a picture beside `out`.
        resume: go on with the tuning that lies beside `out`.
        device: where to compute.

    Raises:
        BadUsageError: names that do not fit, or words that cannot be used.
    """
    if out.suffix != ".safetensors":
        raise BadUsageError(f"{out} is no name of an adaptation; choose one that ends in .safetensors.")
    if preset not in PRESETS:
        raise BadUsageError(f'--preset is "{preset}"; expected one of {", ".join(PRESETS)}.')
    check_writable(out.parent)
    kept = out.with_suffix(SUFFIX)
    if kept.exists() and not resume:
        raise BadUsageError(f"{kept} holds a tuning that was not finished; add --resume, or remove it.")
    colorizer = load_colorizer(model, device=device)
    with as_bad_usage():
        if resume:
            tuning = colorizer.resume_tuning(kept)
        else:
            shortcuts = {} if seed is None else {"seed": seed}
            tuning = colorizer.tune(source, prompt=prompt, preset=preset, **shortcuts)  # type: ignore[arg-type]
        _check_targets(tuning, targets)
    print(tuning.budget)
    try:
        tuning.autosave(kept).finish()
    except KeyboardInterrupt:
        tuning.save(kept)
        raise InterruptedRunError(f"Interrupted; {kept} is kept, and --resume goes on from it.") from None
    adaptation = tuning.adaptation
    print(adaptation.save(out))
    tuned = colorizer.with_adaptation(adaptation)
    for number, target in enumerate(targets, start=1):
        path = out.with_name(f"{out.stem}-{number}.png")
        Image.fromarray(tuned.start(tuning.conditioning.replace(prompt=target)).finish().image).save(path)
        print(path)
    kept.unlink()


def _check_targets(tuning: Tuning, targets: list[str]) -> None:
    """Refuse target texts that do not fit before anything is computed."""
    for target in targets:
        if tuning.rewriting is None:
            raise RangeError("This tuning has no second stage, so that no target can be aimed at.")
        tuning.rewriting.align(target, tuning.method.components)
