"""The command line: `colorlab COMMAND`. Here are the words and options; the work is in `colorlab.commands`.

Exit codes: 0 done, 1 the work failed, 2 bad usage. Errors are one sentence on stderr; `--debug`, anywhere on the line,
shows the traceback as well.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from colorlab.commands import options as common

app = typer.Typer(
    name="colorlab",
    help="Colorize pictures with diffusion models, and look inside while they do it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (anywhere on the line).")] = False,
) -> None:
    """Colorize pictures with diffusion models, and look inside while they do it."""
    if version:
        from importlib.metadata import version as installed_version

        print(installed_version("colorlab"))
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command()
def colorize(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Pictures, gray or in color.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Result file, or a folder for several.")],
    model: common.Model = common.DEFAULT_MODEL,
    adaptation: common.AdaptationFile = None,
    prompt: common.Prompt = "",
    negative_prompt: common.NegativePrompt = "",
    strokes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Strokes on the picture, as Strokes.to_json writes them.")
    ] = None,
    exemplar: common.Exemplar = None,
    sketch: Annotated[Path | None, typer.Option(metavar="FILE", help="Line drawing of the picture's size.")] = None,
    are_sketches: Annotated[
        bool, typer.Option("--from-sketch", help="The inputs are line drawings, black on white, not gray pictures.")
    ] = False,
    invert_sketch: Annotated[
        bool, typer.Option("--invert-sketch", help="The drawings are white on black; turn them around.")
    ] = False,
    edit: common.Edits = None,
    edit_scale: Annotated[float, typer.Option(help="How strongly text edits act; 0 to 20 is usual.")] = 18.0,
    steps: common.Steps = None,
    seed: common.Seed = None,
    guidance_scale: common.GuidanceScale = None,
    solver: common.Solver = None,
    device: common.Device = "cpu",
    save_run: Annotated[
        bool, typer.Option("--save-run", help="Write each run beside its picture too, as NAME.colorlab.")
    ] = False,
) -> None:
    """Color gray pictures, or sketches. The size of each input is kept, and the lightness of gray pictures."""
    from colorlab.commands.colorize import colorize_files
    from colorlab.commands.devices import check_device
    from colorlab.commands.inputs import read_conditioning

    settings = {"num_inference_steps": steps, "seed": seed, "guidance_scale": guidance_scale, "solver": solver}
    colorize_files(
        inputs,
        out,
        model=model,
        adaptation=adaptation,
        conditioning=read_conditioning(
            prompt=prompt,
            negative_prompt=negative_prompt,
            strokes=strokes,
            exemplar=exemplar,
            sketch=sketch,
            inverts_sketch=invert_sketch,
            edits=edit or (),
            edit_scale=edit_scale,
        ),
        settings=settings,
        device=check_device(device),
        keeps_runs=save_run,
        are_sketches=are_sketches,
        are_inverted=invert_sketch,
    )


@app.command()
def video(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Video, gray or in color.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Result: .mp4, .mov, or lossless .mkv.")],
    model: common.Model = "mini/ctrlcolor",
    prompt: common.Prompt = "",
    negative_prompt: common.NegativePrompt = "",
    strokes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Strokes on the first frame, as Strokes.to_json writes them.")
    ] = None,
    exemplar: common.Exemplar = None,
    by_itself: Annotated[
        bool, typer.Option("--no-propagation", help="Color every frame by itself; any model can.")
    ] = False,
    steps: common.Steps = None,
    seed: common.Seed = None,
    guidance_scale: common.GuidanceScale = None,
    solver: common.Solver = None,
    device: common.Device = "cpu",
) -> None:
    """Color a gray video; the colors of each frame are carried to the next. Goes on where it was interrupted."""
    from colorlab.commands.devices import check_device
    from colorlab.commands.video import color_video_file

    settings = {"num_inference_steps": steps, "seed": seed, "guidance_scale": guidance_scale, "solver": solver}
    color_video_file(
        source,
        out,
        model=model,
        given={"prompt": prompt, "negative_prompt": negative_prompt, "exemplar": exemplar},
        strokes=strokes,
        settings=settings,
        propagate=not by_itself,
        device=check_device(device),
    )


@app.command()
def models(as_json: common.Json = False) -> None:
    """List the models: method, size, licence, and whether each is ready."""
    from colorlab.commands.catalog import print_models

    print_models(as_json=as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Which network to train; a wrong name lists them.")],
    data: Annotated[Path, typer.Option(help="Folder of photographs: manifest.csv and its shards, or pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of weights, checkpoints, curves and samples.")],
    device: common.Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    warm_start: Annotated[
        bool,
        typer.Option("--warm-start", help="Begin with the weights in OUT or the shipped ones; not every recipe can."),
    ] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; the recipe's own if not given.")] = None,
    caption_dropout: Annotated[
        float | None, typer.Option(min=0.0, max=0.99, help="Share of pictures a UNet sees without words.")
    ] = None,
    curriculum: Annotated[
        bool, typer.Option("--curriculum", help="Begin with complete captions; partial and scarce ones come later.")
    ] = False,
) -> None:
    """Train a network by its recipe; can be stopped and resumed."""
    from colorlab.commands.devices import check_device
    from colorlab.commands.train import train_member

    place = check_device(device)
    train_member(
        recipe,
        data,
        out,
        device=place,
        resume=resume,
        warm_start=warm_start,
        steps=steps,
        caption_dropout=caption_dropout,
        has_curriculum=curriculum,
    )


@app.command()
def tune(
    source: Annotated[Path, typer.Argument(metavar="IMAGE", help="Gray picture.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The adaptation, FILE.safetensors.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help='What it shows, without colors: "a photo of a cat".')],
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help='The same with colors: "a photo of a brown cat".')
    ] = None,
    model: common.Model = "mini/diffcolor",
    preset: Annotated[
        str | None, typer.Option(help="smoke, notebook or paper: how long to tune; notebook by default.")
    ] = None,
    noun: common.Nouns = None,
    change: common.TuningValues = None,
    seed: common.Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the tuning that lies beside FILE.")] = False,
    force: common.Force = False,
    device: common.Device = "cpu",
) -> None:
    """Tune a model on one gray picture (DiffColor), and color it by texts; can be stopped and resumed."""
    from colorlab.commands.devices import check_device
    from colorlab.commands.tune import tune_picture
    from colorlab.commands.tuning_values import read_plan

    tune_picture(
        source,
        out,
        model=model,
        prompt=prompt,
        plan=read_plan(preset, change or ()),
        nouns=noun or (),
        seed=seed,
        targets=target or (),
        resume=resume,
        force=force,
        device=check_device(device),
    )


@app.command()
def evaluate(
    model: common.MeasuredModel = common.DEFAULT_MODEL,
    scenes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Measure on N held-out scenes.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, metavar="N", help="Measure flicker on N moving clips.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Measure on the photographs of a folder.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first photographs.")] = None,
    protocol: Annotated[
        str, typer.Option(help="What to measure on scenes: words, instances, masks or solvers.")
    ] = "words",
    words: Annotated[str, typer.Option(help="Prompt of photographs: none, or their label.")] = "none",
    steps: common.Steps = None,
    seed: common.Seed = None,
    guidance_scale: common.GuidanceScale = None,
    solver: common.Solver = None,
    device: common.Device = "cpu",
    as_json: common.Json = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the JSON into this file too.")] = None,
) -> None:
    """Measure a model on scenes or photographs; every figure comes with its 95 % interval."""
    from colorlab.commands.devices import check_device
    from colorlab.commands.evaluate import evaluate_model
    from colorlab.commands.problems import BadUsageError

    if words not in ("none", "label"):
        raise BadUsageError(f'--words is "{words}"; expected none or label.')
    evaluate_model(
        model,
        num_scenes=scenes,
        num_clips=clips,
        images=images,
        limit=limit,
        protocol=protocol,
        settings={"num_inference_steps": steps, "seed": seed, "guidance_scale": guidance_scale, "solver": solver},
        uses_labels=words == "label",
        device=check_device(device),
        as_json=as_json,
        out=out,
    )


@app.command()
def ablate(
    model: common.MeasuredModel = common.DEFAULT_MODEL,
    scenes: Annotated[int, typer.Option(min=1, metavar="N", help="Held-out scenes for each mechanism.")] = 50,
    device: common.Device = "cpu",
    as_json: common.Json = False,
) -> None:
    """Switch each mechanism of a model on and off, and say what that does to the number it exists for."""
    from colorlab.commands.ablate import ablate_model
    from colorlab.commands.devices import check_device

    ablate_model(model, num_scenes=scenes, device=check_device(device), as_json=as_json)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="Published checkpoint.", show_default=False)],
    method: Annotated[str, typer.Option(help="Whose checkpoint it is: colorizediffusion, ctrlcolor or lcad.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the model.")],
    clip: Annotated[
        Path | None,
        typer.Option(
            "--clip",
            "--tokenizer",
            metavar="DIR",
            help="Tokenizer of openai/clip-vit-large-patch14; for colorizediffusion all of "
            "laion/CLIP-ViT-H-14-laion2B-s32B-b79K. No checkpoint has it.",
        ),
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="What colorizediffusion predicts: epsilon (eps in its name) or v_prediction.")
    ] = None,
    deformable: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CtrlColor's content-guided deformable autoencoder.")
    ] = None,
    vgg19: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="VGG19's vgg19_conv.pth, for guidance of CtrlColor by exemplars."),
    ] = None,
) -> None:
    """Convert a published checkpoint into a model folder; no code in it is run."""
    from colorlab.commands.convert import convert_checkpoint

    convert_checkpoint(
        checkpoint,
        out,
        method=method,
        clip=clip,
        prediction_type=prediction_type,
        deformable=deformable,
        vgg19=vgg19,
    )


@app.command()
def doctor() -> None:
    """Say what this installation has, what is missing, and how to get it."""
    from colorlab.doctor import diagnose, format_checks

    checks = diagnose()
    print(format_checks(checks))
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)


# Without a --help of its own: JupyterLab's says what can be given.
@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab(context: typer.Context) -> None:
    """Open JupyterLab on the notebooks; other options go to JupyterLab."""
    from colorlab.commands.lab import open_lab

    raise typer.Exit(open_lab(context.args))


SHELL_CODE_OF_CTRL_C = 130
"""What typer makes of Ctrl-C where a command does not catch it itself, without a word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after `colorlab`; None takes those the process was started with.

    Returns:
        The exit code: 0 done, 1 the work failed, 2 bad usage.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debugging = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        with warnings.catch_warnings():
            if not is_debugging:
                _quiet_warnings()
            result = typer.main.get_command(app).main(args=words, prog_name="colorlab", standalone_mode=False)
        sys.stdout.flush()
        if result == SHELL_CODE_OF_CTRL_C:
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        # The reader of our output went away; a second failure while Python shuts down would print a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if is_debugging:
            import traceback

            traceback.print_exc()
        from colorlab.commands.problems import explain_error

        code, message = explain_error(error)
        print(f"colorlab: {message}", file=sys.stderr)
        return code


def _quiet_warnings() -> None:
    """Show notes about the user's words, and on tuning, as plain sentences, each once; nothing that libraries say."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        # By name: their modules import torch, which not every command needs.
        if category.__name__ in ("ConditioningWarning", "TuningWarning"):
            print(f"colorlab: {message}", file=sys.stderr)

    warnings.simplefilter("once")
    warnings.showwarning = show


if __name__ == "__main__":
    raise SystemExit(main())
