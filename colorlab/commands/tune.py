"""`colorlab tune`: DiffColor on one picture, from the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from colorlab.colorizer import Colorizer
from colorlab.commands.catalog import load_colorizer
from colorlab.commands.files import save_picture, writable_folder
from colorlab.commands.problems import BadUsageError, InterruptedRunError, as_bad_usage
from colorlab.commands.tuning_values import ChosenPlan
from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError, WeightsError
from colorlab.methods.adaptation import SUFFIX as ADAPTATION_SUFFIX
from colorlab.methods.adaptation import Adaptation
from colorlab.methods.diffcolor import DiffColor
from colorlab.methods.identifiers import Rewriting, check_context
from colorlab.settings import Settings
from colorlab.tuning import Tuning
from colorlab.tuning.files import SUFFIX

__all__ = ["tune_picture"]


def tune_picture(
    source: Path,
    out: Path,
    *,
    model: str,
    prompt: str,
    plan: ChosenPlan,
    nouns: Sequence[str],
    seed: int | None,
    targets: Sequence[str],
    resume: bool,
    force: bool,
    device: str,
) -> None:
    """Tune a model on one picture, and color it by target texts; where that was done before, only color it.

    Args:
        source: the gray picture.
        out: the adaptation, ending in ".safetensors"; the tuning is kept beside it until it is done.
        model: name or folder of the model.
        prompt: the context: what the picture shows, without colors.
        plan: how long and by which values.
        nouns: words of the prompt that are objects; found by their articles if there are none.
        seed: of everything that is drawn; None for the model's own.
        targets: the context with colors; each gives a picture beside `out`.
        resume: go on with the tuning that lies beside `out`.
        force: tune anew, whatever lies there.
        device: where to compute.

    Raises:
        BadUsageError: names that do not fit, words that cannot be used, or files that would be lost.
    """
    if out.suffix != ADAPTATION_SUFFIX:
        raise BadUsageError(f"{out} is no name of an adaptation; choose one that ends in {ADAPTATION_SUFFIX}.")
    with as_bad_usage():
        check_context(prompt, nouns=nouns)
    conditioning, kept = Conditioning(gray=source, prompt=prompt), out.with_suffix(SUFFIX)
    adaptation = _find_finished(out, conditioning, resume=resume, force=force)
    with writable_folder(out.parent):
        colorizer = load_colorizer(model, device=device)
        if adaptation is None:
            with as_bad_usage():
                tuning = (
                    _resumed(colorizer, kept, conditioning, plan, seed, nouns)
                    if resume
                    else colorizer.tune(conditioning, _settings(colorizer, plan, seed), preset=plan.plan, nouns=nouns)
                )
                _check_targets(tuning.rewriting, colorizer, targets)
            adaptation = _tuned(tuning, kept)
            print(adaptation.save(out))
            kept.unlink(missing_ok=True)
        else:
            print(
                f"{out} is a finished adaptation of this picture and context and is used as it is, with its own plan, "
                "seed and nouns; --force tunes anew."
            )
            with as_bad_usage():
                colorizer.with_adaptation(adaptation)
                _check_targets(adaptation.rewriting, colorizer, targets)
        _color_targets(colorizer, adaptation, conditioning, targets, out)


def _find_finished(out: Path, conditioning: Conditioning, *, resume: bool, force: bool) -> Adaptation | None:
    """Return what an earlier tuning made of the same picture and context; None where one is to begin or go on.

    Raises:
        BadUsageError: a file would be lost, or there is nothing to go on with.
    """
    kept = out.with_suffix(SUFFIX)
    if force and resume:
        raise BadUsageError("--resume goes on with a tuning and --force begins anew; give one of them.")
    if force or (resume and kept.exists()):
        return None
    if kept.exists():
        raise BadUsageError(f"{kept} holds a tuning that was not finished; add --resume, or --force to begin anew.")
    if not out.exists():
        if resume:
            raise BadUsageError(f"Nothing was tuned for {out} yet, so nothing can go on; leave --resume out to begin.")
        return None
    try:
        found = Adaptation.load(out)
    except WeightsError as error:
        raise BadUsageError(f"{error} Choose another name with -o, or --force to replace it.") from error
    if not found.is_of(conditioning) or found.context != conditioning.prompt:
        raise BadUsageError(
            f"{out} holds an adaptation of another picture or context ({found.context!r}); choose another name with "
            "-o, or --force to replace it."
        )
    return found


def _settings(colorizer: Colorizer, plan: ChosenPlan, seed: int | None) -> Settings:
    """Return the model's settings with what was chosen."""
    settings = colorizer.settings if seed is None else colorizer.settings.replace(seed=seed)
    for name, values in plan.mechanisms.items():
        settings = settings.with_mechanism(name, **values)
    return settings


def _resumed(
    colorizer: Colorizer,
    kept: Path,
    conditioning: Conditioning,
    plan: ChosenPlan,
    seed: int | None,
    nouns: Sequence[str],
) -> Tuning:
    """Return the tuning that is kept, and say what of the command does not count for it.

    Raises:
        BadUsageError: it is of another picture or context.
    """
    tuning = colorizer.resume_tuning(kept)
    if tuning.conditioning != conditioning:
        raise BadUsageError(
            f"{kept} is a tuning of another picture or context ({tuning.conditioning.prompt!r}); choose another name "
            "with -o, or --force to begin anew."
        )
    print(f"{kept} goes on with its own plan, seed and nouns.")
    known = tuning.settings.mechanisms
    told = {
        "the plan": plan.is_given and plan.plan != tuning.plan,
        "the seed": seed is not None and seed != tuning.settings.seed,
        "mechanisms": any({**known.get(name, {}), **one} != known.get(name) for name, one in plan.mechanisms.items()),
        "nouns": bool(nouns) and tuple(nouns) != tuning.nouns,
    }
    differing = [name for name, differs in told.items() if differs]
    if differing:
        print(f"This command says {', '.join(differing)} otherwise, which does not count; --force begins anew with it.")
    return tuning


def _tuned(tuning: Tuning, kept: Path) -> Adaptation:
    """Tune to the end; on Ctrl-C the tuning is kept."""
    print(tuning.budget)
    try:
        tuning.autosave(kept).finish()
    except KeyboardInterrupt:
        tuning.save(kept)
        raise InterruptedRunError(f"Interrupted; {kept} is kept, and --resume goes on from it.") from None
    return tuning.adaptation


def _color_targets(
    colorizer: Colorizer, adaptation: Adaptation, conditioning: Conditioning, targets: Sequence[str], out: Path
) -> None:
    """Color the picture by each target, with the settings of the tuning but for those that only tune."""
    tuned = colorizer.with_adaptation(adaptation)
    settings = Settings.from_dict(adaptation.info["settings"])
    mechanisms = {name: values for name, values in settings.mechanisms.items() if name != DiffColor.tuning.name}
    for number, target in enumerate(targets, start=1):
        path = out.with_name(f"{out.stem}-{number}.png")
        run = tuned.start(conditioning.replace(prompt=target), settings.replace(mechanisms=mechanisms))
        save_picture(run.finish().image, path)
        print(path)


def _check_targets(rewriting: Rewriting | None, colorizer: Colorizer, targets: Sequence[str]) -> None:
    """Refuse target texts that do not fit before anything is computed."""
    components: Any = colorizer.method.components
    for target in targets:
        if rewriting is None:
            raise RangeError("This tuning has no second stage, so that no target can be aimed at.")
        rewriting.align(target, components)
