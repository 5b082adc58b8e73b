"""How fast is a model, from a fresh process: load, the first picture, and the memory at its peak.

    python benchmarks/speed.py [MODEL] [--threads 2] [--repeats 5] [--json]

Each repeat is a new process, so that nothing is warm: libraries are imported, the model is loaded, and its first
picture (128 px, 20 steps with guidance) is colorized from start to picture. Printed are medians and ranges.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LIMITS = {"load_s": 2.0, "first_picture_s": 2.0, "peak_gb": 1.5}
UNITS = {"import_s": "s", "load_s": "s", "first_picture_s": "s", "next_picture_s": "s", "peak_gb": "GB"}


def measure(model: str, threads: int, steps: int) -> dict[str, float]:
    """Measure in this process, which must be fresh."""
    import resource

    started = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    from skimage import data

    import colorlab
    from colorlab.images import load_gray, resize_image
    from colorlab.networks import libraries

    # Names are fetched on first use: ask for those that loading a model asks for, so that load is only that.
    for name in ("AutoencoderKL", "UNet2DConditionModel", "CLIPTextModel", "CLIPTokenizer"):
        getattr(libraries, name)
    load = colorlab.load
    imported = time.perf_counter()
    colorizer = load(model)
    loaded = time.perf_counter()
    gray = resize_image(load_gray(data.astronaut()), (128, 128))[0, 0].numpy()

    def colorize(seed: int) -> float:
        began = time.perf_counter()
        run = colorizer.start(gray, prompt="a woman in an orange suit", num_inference_steps=steps, seed=seed)
        assert run.finish(progress=False).image.shape == (128, 128, 3)
        return time.perf_counter() - began

    first, following = colorize(0), colorize(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "import_s": imported - started,
        "load_s": loaded - imported,
        "first_picture_s": first,
        "next_picture_s": following,
        "peak_gb": peak / 1e9,
    }


def main() -> None:
    """Measure in fresh processes and print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="mini/lcad")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print every measurement as JSON")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(measure(options.model, options.threads, options.steps)))
        return
    command = [sys.executable, __file__, options.model, "--once"]
    command += ["--threads", str(options.threads), "--steps", str(options.steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    measured = []
    for _ in range(options.repeats):
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        measured.append(json.loads(ended.stdout.splitlines()[-1]))
    if options.json:
        print(json.dumps({"model": options.model, "threads": options.threads, "measured": measured}, indent=2))
        return
    print(f"{options.model}: {options.steps} steps at 128 px, {options.threads} threads, {options.repeats} processes\n")
    print("| what | median | range | asked |\n| --- | --- | --- | --- |")
    for name, unit in UNITS.items():
        values = [one[name] for one in measured]
        asked = f"below {LIMITS[name]:g} {unit}" if name in LIMITS else ""
        median = f"{statistics.median(values):.2f} {unit}"
        what = name.rsplit("_", 1)[0].replace("_", " ")
        print(f"| {what} | {median} | {min(values):.2f} to {max(values):.2f} | {asked} |")


if __name__ == "__main__":
    main()
