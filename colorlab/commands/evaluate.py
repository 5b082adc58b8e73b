"""`colorlab evaluate`: the numbers of a model card."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from colorlab.colorizer import Colorizer
from colorlab.commands.catalog import load_colorizer
from colorlab.commands.files import writable_folder
from colorlab.commands.problems import BadUsageError, as_bad_usage
from colorlab.conditioning import Conditioning
from colorlab.data import data_folder
from colorlab.errors import WeightsError
from colorlab.evaluation.autoencoder import evaluate_autoencoder
from colorlab.evaluation.batches import PictureMaker
from colorlab.evaluation.clip import evaluate_clip
from colorlab.evaluation.costs import evaluate_costs
from colorlab.evaluation.diffcolor import evaluate_diffcolor
from colorlab.evaluation.exemplars import evaluate_exemplars
from colorlab.evaluation.flicker import color_clip, evaluate_flicker
from colorlab.evaluation.instances import evaluate_instances
from colorlab.evaluation.local_edits import evaluate_edits
from colorlab.evaluation.mask_quality import evaluate_masks
from colorlab.evaluation.photographs import Photograph, evaluate_photographs, load_folder
from colorlab.evaluation.report import Report
from colorlab.evaluation.scenes import evaluate_scenes
from colorlab.evaluation.sketches import evaluate_sketches
from colorlab.evaluation.solver_speed import evaluate_solvers
from colorlab.evaluation.strokes import ColorizeWith, evaluate_strokes
from colorlab.evaluation.token_edits import evaluate_token_edits
from colorlab.mechanisms.instance_guidance import InstanceGuidance
from colorlab.methods.diffcolor import DiffColor
from colorlab.segmentation import AttentionSegmenter
from colorlab.settings import Settings

PROTOCOLS = ("words", "instances", "masks", "solvers")
"""What can be measured on scenes: captions (or strokes), instances with masks, proposed masks, fast solvers."""


def evaluate_model(
    model: str,
    *,
    num_scenes: int | None,
    num_clips: int | None,
    images: Path | None,
    limit: int | None,
    protocol: str,
    settings: dict[str, Any],
    uses_labels: bool,
    device: str,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure a model and print what was found.

    Args:
        model: name or folder of the model.
        num_scenes: held-out scenes to measure on; None leaves them out. Models that read strokes are measured by
            strokes, local edits and exemplars, those that read sketches by exemplars and text edits, others by words.
        num_clips: held-out moving clips to measure flicker on; None leaves them out.
        images: folder of photographs to measure on; None leaves them out.
        protocol: one of `PROTOCOLS`, what is measured on scenes.
        limit: use only the first photographs.
        settings: values for `colorlab.Settings`; those that are None keep the model's own.
        uses_labels: give photographs their label as prompt.
        device: where to compute.
        as_json: print JSON instead of tables.
        out: file that receives the JSON as well.

    Raises:
        BadUsageError: nothing to measure on was named, or the model colors no gray pictures.
    """
    if protocol not in PROTOCOLS:
        raise BadUsageError(f'--protocol is "{protocol}"; expected one of {", ".join(PROTOCOLS)}.')
    if num_scenes is None and num_clips is None and images is None:
        raise BadUsageError("Nothing to measure on; add --scenes N, --clips N or --images DIR.")
    with as_bad_usage():
        given = {name: value for name, value in settings.items() if value is not None}
        Settings(**given)
    if out is not None and out.is_dir():
        raise BadUsageError(f"{out} is a folder; name a file with -o.")
    with nullcontext() if out is None else writable_folder(out.parent):
        photographs = [] if images is None else load_folder(images, limit=limit)
        folder = _clip_folder(model)
        if folder is not None:
            text = _measure_clip(folder, num_scenes or 0, photographs, as_json=as_json)
        else:
            colorizer = load_colorizer(model, device=device)
            in_force = colorizer.settings.replace(**given)
            measured = _reports(colorizer, in_force, num_scenes, num_clips, protocol, photographs, uses_labels)
            reports = list(measured if as_json else print_tables(colorizer, in_force, measured))
            text = to_json(colorizer, in_force, reports)
        if as_json:
            print(text)
        if out is not None:
            out.write_text(text + "\n", encoding="utf-8")


def _measure_clip(folder: Path, num_scenes: int, photographs: Sequence[Photograph], *, as_json: bool) -> str:
    """Measure the family's CLIP, print its table unless JSON is wanted, and return the JSON."""
    report = evaluate_clip(folder, num_scenes, [one.image for one in photographs], [one.label for one in photographs])
    if not as_json:
        print(report.to_table())
    return report.to_json()


def _reports(
    colorizer: Colorizer,
    settings: Settings,
    num_scenes: int | None,
    num_clips: int | None,
    protocol: str,
    photographs: Sequence[Photograph],
    uses_labels: bool,
) -> Iterator[Report]:
    """Measure a model that colors gray pictures."""
    if colorizer.method.name == DiffColor.name:
        # A tuning for each picture: photographs are measured in the same report.
        yield evaluate_diffcolor(colorizer, num_scenes or 0, photographs)
        return
    make = PictureMaker(colorizer.method)

    def colorize(conditionings: Sequence[Conditioning], label: str) -> Sequence[np.ndarray]:
        return make(conditionings, settings, label)

    if num_scenes is not None and protocol != "words":
        yield _masked_report(colorizer, make, settings, num_scenes, protocol)
    elif num_scenes is not None and "strokes" in colorizer.method.fields_read():
        yield from _painted_reports(colorizer, make, settings, num_scenes)
    elif num_scenes is not None and "sketch" in colorizer.method.fields_read():
        yield from _sketched_reports(colorizer, make, settings, num_scenes)
    elif num_scenes is not None:
        yield evaluate_scenes(colorize, num_scenes)
    if num_clips is not None:
        yield evaluate_flicker(partial(color_clip, colorizer, settings), num_clips)
    if photographs:
        yield evaluate_photographs(colorize, photographs, uses_labels=uses_labels)
        components = colorizer.method.components
        if {"vae", "luminance_encoder"} <= set(components):
            size_px = colorizer.method.working_px
            yield evaluate_autoencoder(components, [photo.image for photo in photographs], size_px=size_px)


def _masked_report(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int, protocol: str
) -> Report:
    """Measure a model that reads masks of instances by one protocol.

    Raises:
        BadUsageError: it reads none.
    """
    if InstanceGuidance.name not in [mechanism.name for mechanism in colorizer.method.mechanisms]:
        raise BadUsageError(f"{colorizer.name} reads no masks of instances, which --protocol {protocol} is about.")
    if protocol == "masks":
        return evaluate_masks(AttentionSegmenter(colorizer.method), num_scenes)

    evaluation = evaluate_instances if protocol == "instances" else evaluate_solvers
    return evaluation(colorizer, colorize, settings, num_scenes)


def _painted_reports(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int
) -> Iterator[Report]:
    """Measure a model that reads strokes: strokes, local edits of half as many scenes, exemplars, its cost."""
    yield evaluate_strokes(colorize, settings, num_scenes)
    yield evaluate_edits(colorize, settings, max(1, num_scenes // 2))
    if "exemplar" in colorizer.method.fields_read():
        yield evaluate_exemplars(colorize, settings, max(2, num_scenes))
    yield evaluate_costs(colorizer, settings)


def _sketched_reports(
    colorizer: Colorizer, colorize: ColorizeWith, settings: Settings, num_scenes: int
) -> Iterator[Report]:
    """Measure a model that reads sketches: sketch and exemplar, and text edits of half as many scenes."""
    method: Any = colorizer.method
    yield evaluate_sketches(colorize, settings, max(2, num_scenes), reads=method.exemplar_part)
    if method.exemplar_part == "local":
        yield evaluate_token_edits(colorize, method, settings, max(1, num_scenes // 2))


def _clip_folder(model: str) -> Path | None:
    """Return the folder if the model is the family's CLIP, which is evaluated by its own gate."""
    folders = [Path(model).expanduser()]
    # A model in a folder of its own can be evaluated without the shipped data.
    with suppress(WeightsError):
        folders.insert(0, data_folder() / model)
    for folder in folders:
        if (folder / "tokenizer.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    return None


def print_tables(colorizer: Colorizer, settings: Settings, reports: Iterable[Report]) -> Iterator[Report]:
    """Print each report as soon as it is there, since a protocol may take an hour, below a line on what is measured."""
    above = (
        f"{colorizer.name}: {settings.num_inference_steps} steps, {settings.solver}, guidance scale "
        f"{settings.guidance_scale:g}, seeds from {settings.seed}; all intervals 95 %\n"
    )
    for report in reports:
        print(f"{above}\n{report.to_table()}", flush=True)
        above = ""
        yield report


def to_json(colorizer: Colorizer, settings: Settings, reports: Sequence[Report]) -> str:
    """Put the reports and what is needed to repeat them into one JSON text."""
    parts = [json.loads(report.to_json()) for report in reports]
    whole = {"model": colorizer.name, "settings": settings.to_dict(), "reports": parts}
    return json.dumps(whole, indent=2, ensure_ascii=False)
