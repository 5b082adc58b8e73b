"""Do colorized photographs look right to a classifier that has never seen this project.

    python benchmarks/judge.py --judge DIR --photos DIR [--model mini/lcad] [--limit N] [--words none|label] [--json]

DIR of the judge holds `judge.py` with a class `Judge(folder)` that maps images (B, 3, H, W) in [0, 1] to ImageNet
logits and features and has `.labels`, and a function `frechet(a, b)`. Its code is run: name a folder you trust.

Photographs whose label is an ImageNet class are classified in color, in gray and colorized; the difference between
colorized and gray is paired, so its interval is McNemar's. The Frechet distance of the features (over all photographs)
is called `fid_mnv2`, because it is not FID, and can be compared only between rows of one table.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import colorlab
from colorlab.evaluation.batches import colorize_all
from colorlab.evaluation.metrics import paired_difference_interval
from colorlab.evaluation.photographs import Photograph, color_to_gray, load_folder
from colorlab.evaluation.report import Estimate, Report, proportion

BATCH_SIZE = 32

CLASSES: dict[str, tuple[str, ...]] = {
    # Label of a photograph: first names of the ImageNet classes that mean the same, or are kinds of it.
    "barrel": ("barrel",),
    "beaver": ("beaver",),
    "binocular": ("binoculars",),
    "butterfly": ("ringlet", "monarch", "cabbage butterfly", "sulphur butterfly", "lycaenid", "admiral"),
    "cannon": ("cannon",),
    "cellphone": ("cellular telephone",),
    "cougar": ("cougar",),
    "cougar face": ("cougar",),
    "crab": ("Dungeness crab", "rock crab", "fiddler crab", "king crab", "hermit crab"),
    "crayfish": ("crayfish",),
    "crocodile": ("African crocodile",),
    "cup": ("cup",),
    "daisy": ("daisy",),
    "dalmatian": ("dalmatian",),
    "dragonfly": ("dragonfly",),
    "elephant": ("Indian elephant", "African elephant"),
    "ewer": ("pitcher",),
    "flamingo": ("flamingo",),
    "grand piano": ("grand piano",),
    "hedgehog": ("porcupine",),
    "laptop": ("laptop",),
    "leopard": ("leopard",),
    "llama": ("llama",),
    "lobster": ("American lobster", "spiny lobster"),
    "nautilus": ("chambered nautilus",),
    "panda": ("giant panda",),
    "pizza": ("pizza",),
    "revolver": ("revolver",),
    "rooster": ("cock",),
    "sailing ship": ("schooner",),
    "saxophone": ("sax",),
    "scorpion": ("scorpion",),
    "skirt": ("miniskirt", "hoopskirt", "overskirt"),
    "soccer ball": ("soccer ball",),
    "starfish": ("starfish",),
    "strawberry": ("strawberry",),
    "t-shirt": ("jersey",),
    "tick": ("tick",),
    "trilobite": ("trilobite",),
    "umbrella": ("umbrella",),
}


def load_judge(folder: Path) -> Any:
    """Import the module that the user named."""
    path = folder / "judge.py"
    if not path.is_file():
        raise SystemExit(f"{folder} holds no judge.py; name the folder of the judge with --judge.")
    spec = importlib.util.spec_from_file_location("external_judge", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def class_indices(labels: Sequence[str]) -> dict[str, set[int]]:
    """Find the classes of each photograph label among the judge's labels."""
    by_name: dict[str, int] = {}
    for index, label in enumerate(labels):
        by_name.setdefault(label.split(",")[0], index)
    return {label: {by_name[name] for name in names if name in by_name} for label, names in CLASSES.items()}


def classify(judge: Any, images: Sequence[torch.Tensor]) -> tuple[np.ndarray, torch.Tensor]:
    """Return the top-1 class (N,) and the features (N, F) of pictures."""
    has_one_size = len({image.shape for image in images}) == 1
    batches = torch.cat(list(images)).split(BATCH_SIZE) if has_one_size else images
    logits, features = zip(*(judge(batch) for batch in batches), strict=True)
    return torch.cat(logits).argmax(1).numpy(), torch.cat(features)


def judge_rows(
    photographs: Sequence[Photograph], versions: dict[str, list[torch.Tensor]], module: Any, folder: Path
) -> list[Estimate]:
    """Classify every version of the photographs and compare."""
    judge = module.Judge(folder)
    wanted = class_indices(judge.labels)
    known = np.array([bool(wanted.get(photograph.label)) for photograph in photographs])
    tops, features = {}, {}
    for name, images in versions.items():
        tops[name], features[name] = classify(judge, images)
    right = {
        name: np.array([top in wanted.get(photo.label, ()) for top, photo in zip(found, photographs, strict=True)])[
            known
        ]
        for name, found in tops.items()
    }
    total = int(known.sum())
    rows = [proportion(f"top-1 {name}", int(hits.sum()), total) for name, hits in right.items()]
    gained = int((right["colorized"] & ~right["gray"]).sum())
    lost = int((~right["colorized"] & right["gray"]).sum())
    low, high = paired_difference_interval(gained, lost, total)
    difference = 100.0 * (gained - lost) / total if total else float("nan")
    rows.append(
        Estimate(f"colorized - gray (+{gained}, -{lost})", difference, 100.0 * low, 100.0 * high, total, "points")
    )
    for name in ("gray", "colorized"):
        if len(photographs) > 1:
            distance = float(module.frechet(features[name], features["color"]))
            rows.append(
                Estimate(f"fid_mnv2 of {name} to color", distance, float("nan"), float("nan"), len(photographs))
            )
    return rows


def main() -> None:
    """Colorize, judge, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--judge", type=Path, required=True, help="folder of the judge; its code is run")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--model", default="mini/lcad")
    parser.add_argument("--limit", type=int, help="use only the first photographs")
    parser.add_argument("--words", choices=("none", "label"), default="none", help="label tells the model what it is")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    module = load_judge(options.judge)
    photographs = load_folder(options.photos, limit=options.limit)
    colorizer = colorlab.load(options.model)
    grays = [color_to_gray(photograph.image) for photograph in photographs]
    prompts = [photograph.label if options.words == "label" else "" for photograph in photographs]
    conditionings = [
        colorlab.Conditioning(gray=gray, prompt=prompt) for gray, prompt in zip(grays, prompts, strict=True)
    ]
    settings = colorizer.settings.replace(num_inference_steps=options.steps)
    colorized = colorize_all(colorizer.method, conditionings, settings, label="photographs")
    versions = {
        "color": [photograph.image for photograph in photographs],
        "gray": [torch.from_numpy(gray / np.float32(255.0))[None, None].expand(-1, 3, -1, -1) for gray in grays],
        "colorized": [torch.from_numpy(image / np.float32(255.0)).permute(2, 0, 1)[None] for image in colorized],
    }
    rows = judge_rows(photographs, versions, module, options.judge)
    details = {"model": options.model, "prompt": options.words, "settings": settings.to_dict()}
    report = Report(f"{options.model} before the judge, {len(photographs)} photographs", tuple(rows), details)
    print(report.to_json() if options.json else report.to_table())


if __name__ == "__main__":
    main()
