"""What only a GPU can tell, in one command and without any download: tests, verdicts of replays, speed.

    python benchmarks/gpu.py [--device cuda] [--pairs 10] [--tiny]

1. The tests that need a GPU (`pytest -m gpu`).
2. Replays of a run of `mini/lcad`, and of a branch whose edit changes nothing, in float32, bfloat16 and float16.
3. Speed of `mini/lcad`, and of a UNet of the size of Stable Diffusion 1.5 with random weights at 512 px in float16:
   recorded runs and first queries against plain diffusers.

`--tiny` does the same with networks that take no time, to see that the command works: `--device cpu --tiny`.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inspection import SD_UNET, THIN_UNET, Stopwatch, plain_call, plain_loop, random_colorizer
from skimage import data

import colorlab
from colorlab.images import load_gray, resize_image
from colorlab.inspection.edits import Reweight
from colorlab.inspection.replay import moment_of, replay_step, run_sites
from colorlab.inspection.shelf import shelf_of
from colorlab.inspection.verdicts import TOLERANCE, TOLERANCE_HALF
from colorlab.networks import libraries
from colorlab.runs.run import Run

HEADER = "| what | measured | asked | |\n| --- | --- | --- | --- |"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROMPT = "a red car"
RECORDED_RATIO, QUERY_RATIO = 1.03, 1.3


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        what: was measured.
        measured: in words.
        asked: in words; "" where nothing is.
        is_reached: whether it is what was asked.
    """

    what: str
    measured: str
    asked: str
    is_reached: bool

    def __str__(self) -> str:
        verdict = ("reached" if self.is_reached else "missed") if self.asked else ""
        return f"| {self.what} | {self.measured} | {self.asked} | {verdict} |"


def tests_row(arguments: Sequence[str]) -> Row:
    """Run the tests that need a GPU in a process of their own."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]]
    return Row(f"`pytest {' '.join(arguments)}`", lines[-1].strip("= "), "all pass", done.returncode == 0)


def verdict_rows(start: Callable[[torch.dtype], Run]) -> list[Row]:
    """Replay every step of a run, and compare it with a branch whose edit changes nothing, in every dtype."""
    rows = []
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        tolerance = TOLERANCE if dtype == torch.float32 else TOLERANCE_HALF
        run = start(dtype).finish(progress=False)
        verdicts = [replay_step(moment_of(run, step), run_sites(run)).verdict for step in range(run.num_steps)]
        count = {kind: sum(verdict.name == kind for verdict in verdicts) for kind in ("exact", "close", "refused")}
        furthest = max(verdict.difference for verdict in verdicts)
        told = ", ".join(f"{number} {kind}" for kind, number in count.items() if number)
        rows.append(Row(f"replays, {name}", f"{told} ({furthest:.2g})", "none refused", not count["refused"]))
        branch = run.branch(0, edits=[Reweight("red", 1.0)]).finish(progress=False)
        apart = float((branch.state.latents - run.state.latents).abs().max() / run.state.latents.abs().max())
        rows.append(
            Row(f"edit that changes nothing, {name}", f"{apart:.2g}", f"at most {tolerance:g}", apart <= tolerance)
        )
    return rows


def speed_rows(what: str, start: Callable[[], Run], pairs: int, watch: Stopwatch) -> list[Row]:
    """Compare a recorded run and the first query of a step with plain diffusers."""
    run = start().finish(progress=False)
    scheduler = libraries.DDIMScheduler.from_config(run.method.schedule.to_config())
    plain_loop(run, scheduler)

    def recorded(number: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        fresh = start()
        return lambda: fresh.finish(progress=False), lambda: plain_loop(run, scheduler)

    def first(number: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
        step = number % run.num_steps
        shelf_of(run.method).clear()
        return lambda: run.attention(step, word="red"), lambda: plain_call(run, step)

    run.attention(0, word="red")
    one_ms = 1000 * statistics.median(watch.seconds(lambda: plain_call(run, 0)) for _ in range(max(pairs, 3)))
    rows = [Row(f"{what}: one UNet call with guidance", f"{one_ms:.1f} ms", "", True)]
    for name, pair, target in (("recorded run", recorded, RECORDED_RATIO), ("first query", first, QUERY_RATIO)):
        ratio = statistics.median(watch.ratios(pair, pairs))
        rows.append(Row(f"{what}: {name} / plain", f"{ratio:.3f}", f"at most {target}", ratio <= target))
    return rows


def synchronized(device: torch.device) -> Callable[[], float]:
    """Return a clock that waits for the device first."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def mini_starter(device: torch.device) -> Callable[[torch.dtype], Callable[[], Run]]:
    """Return what loads `mini/lcad` in a dtype and starts runs of it."""
    gray = resize_image(load_gray(data.astronaut()), (128, 128))[0, 0].numpy()

    def load(dtype: torch.dtype) -> Callable[[], Run]:
        colorizer = colorlab.load("mini/lcad", device=device, dtype=dtype)
        return lambda: colorizer.start(gray, prompt=PROMPT, num_inference_steps=20)

    return load


def random_starter(
    device: torch.device, sizes: Mapping[str, Any], side_px: int
) -> Callable[[torch.dtype], Callable[[], Run]]:
    """Return the same for a UNet with random weights."""
    tokenizer = colorlab.load("mini/lcad").method.components["tokenizer"]

    def make(dtype: torch.dtype) -> Callable[[], Run]:
        colorizer = random_colorizer(sizes, side_px, tokenizer)
        for network in colorizer.method.networks.values():
            network.to(device, dtype)
        return lambda: colorizer.start(prompt=PROMPT, num_inference_steps=4)

    return make


def measure(device: torch.device, pairs: int, *, is_tiny: bool) -> list[Row]:
    """Measure everything but the tests."""
    watch, dtype = Stopwatch(synchronized(device)), torch.float32 if is_tiny else torch.float16
    sizes, side_px = (THIN_UNET, 64) if is_tiny else (SD_UNET, 512)
    large = random_starter(device, sizes, side_px)
    small, name = (large, "thin UNet") if is_tiny else (mini_starter(device), "`mini/lcad`")
    rows = verdict_rows(lambda dtype: small(dtype)())
    rows += speed_rows(name, small(torch.float32), pairs, watch)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    what = f"random UNet, {side_px} px, {str(dtype).removeprefix('torch.')}"
    rows += speed_rows(what, large(dtype), pairs, watch)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(Row(f"{what}: peak memory", f"{peak:.2f} GiB", "", True))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="networks that take no time, to see that it works")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device; give --device cpu --tiny to see that the command works.")
    rows = [] if options.tiny else [tests_row(["-m", "gpu", "tests/unit"])]
    rows += measure(device, options.pairs, is_tiny=options.tiny)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}\n\n{HEADER}")
    print("\n".join(map(str, rows)))


if __name__ == "__main__":
    main()
