"""What inspection costs, against diffusers alone: recorded runs, autosave, memory kept, queries, branches.

    python benchmarks/inspection.py [MODEL] [--threads 2] [--pairs 30] [--sd-size] [--cpu-time] [--only PART] [--quick]

All in one warm process, as ratios of times that were taken in alternating pairs; recorded runs and the plain loop
take their steps in turns, so that both see the same machine. The loop in plain diffusers (DDIM and
the same network, fed with the same encodings) must come to the same latents, or it ends there. A ratio is the
median of its pairs, with the upper 95 % bound of that median; the bound has to stay below the target. Where there are
too few pairs for a bound the median has to. Rows are printed as they are measured. `--sd-size` adds a UNet of the size
of Stable Diffusion 1.5 with random weights at 256 px: 4 GB of memory, and half a minute a run on one core. `--cpu-time`
counts the processor's seconds in place of the clock's, for a machine that is busy with other things; it knows no
waiting for the disk, and needs `--threads 1`, since those of the plain loop are counted in its own thread.
"""

import argparse
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from skimage import data

import colorlab
from colorlab.colorizer import Colorizer
from colorlab.images import load_gray, resize_image
from colorlab.inspection.shelf import shelf_of
from colorlab.methods.base import Method
from colorlab.methods.text_to_image import TextToImage
from colorlab.networks import libraries
from colorlab.networks.sites import find_sites
from colorlab.runs.journal import Journal
from colorlab.runs.run import Run
from colorlab.sampling.schedules import NoiseSchedule

PROMPT = "a red car"
SAME_LATENTS = 1e-4
CONFIDENCE = 0.95
HEADER = "| what | median | upper 95 % bound | target | |\n| --- | --- | --- | --- | --- |"

# The UNet of Stable Diffusion 1.5, and one that is quick and makes latents of the same size.
SD_UNET = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
THIN_UNET = {
    **SD_UNET,
    "block_out_channels": (32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
SD_STEPS, SD_PX, SD_TOKENS = 50, 512, 77
HALF_BYTES = 2

Pair = tuple[Callable[[], Any], Callable[[], Any]]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        what: was measured.
        values: of every repetition, in `unit`.
        target: what the bound, or the one value, may be at most.
        unit: "" for ratios.
    """

    what: str
    values: Sequence[float]
    target: float
    unit: str = ""

    @property
    def bound(self) -> float | None:
        """Upper bound of the median."""
        return upper_bound(self.values)

    @property
    def is_reached(self) -> bool:
        """Whether the target is reached."""
        return (statistics.median(self.values) if self.bound is None else self.bound) <= self.target

    def __str__(self) -> str:
        bound = "" if self.bound is None else _number(self.bound, self.unit)
        median, target = _number(statistics.median(self.values), self.unit), _number(self.target, self.unit)
        verdict = "reached" if self.is_reached else "missed"
        return f"| {self.what} | {median} | {bound} | at most {target} | {verdict} |"


def _number(value: float, unit: str) -> str:
    """Write a ratio, small ones as a fraction, or a value with its unit."""
    if unit:
        return f"{value:.1f} {unit}"
    return f"{value:.3f}" if value > 0.01 else f"1/{round(1 / value)}"


def upper_bound(values: Sequence[float]) -> float | None:
    """Return the upper 95 % bound of the median, whatever the distribution; None for fewer than five values.

    The k-th smallest of n values lies above the median unless k or more of them lie below it, which happens as often
    as n coins show k heads or more.
    """
    ordered, below = sorted(values), 0.0
    for k, value in enumerate(ordered):
        below += math.comb(len(ordered), k) / 2 ** len(ordered)
        if below >= CONFIDENCE:
            return value
    return None


class Stopwatch:
    """Times pieces of work.

    Args:
        clock: in seconds.
        own_clock: the same for the present thread alone, where the clock counts those of all.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, own_clock: Callable[[], float] | None = None
    ) -> None:
        self.clock = clock
        self.own_clock = own_clock or clock

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return the seconds of a piece of work, with no garbage of others."""
        gc.collect()
        began = self.clock()
        work()
        return self.clock() - began

    def ratios(self, pair: Callable[[int], Pair], pairs: int) -> list[float]:
        """Time two pieces of work in turns, each first in every other pair.

        Args:
            pair: makes the two of a pair from its number; what they need is ready then.
            pairs: how many.

        Returns:
            The first one's seconds over the second one's.
        """
        ratios = []
        for number in range(pairs):
            first, second = pair(number)
            if number % 2:
                under = self.seconds(second)
                ratios.append(self.seconds(first) / under)
            else:
                over = self.seconds(first)
                ratios.append(over / self.seconds(second))
        return ratios

    def ratio_by_steps(self, over: Iterator[Any], under: Iterator[Any]) -> float:
        """Take the steps of two loops in turns, so that both see the same machine; return the ratio of their times.

        What other threads do meanwhile counts for the first loop, where the clock sees it.
        """
        gc.collect()
        began, under_s, is_over = self.clock(), 0.0, False
        while not is_over:
            is_over = next(over, None) is None
            started = self.own_clock()
            next(under, None)
            under_s += self.own_clock() - started
        return (self.clock() - began - under_s) / under_s


# The same in plain diffusers.


def plain_loop(run: Run, scheduler: Any) -> torch.Tensor:
    """Sample what a run samples, with nothing but diffusers, and return the last latents."""
    *_, latents = plain_steps(run, scheduler)
    return latents


@torch.no_grad()
def plain_steps(run: Run, scheduler: Any) -> Iterator[torch.Tensor]:
    """Yield the latents after every step; the run has its encodings, and gives state 0."""
    method, settings = run.method, run.settings
    unet = method.unet
    scheduler.set_timesteps(settings.num_inference_steps)
    extra, hidden = plain_inputs(run)
    latents = run.states[0].latents.to(method.device, method.dtype) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        batch = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
        if extra is not None:
            batch = torch.cat([batch, extra], dim=1)
        uncond, cond = unet(batch, timestep, encoder_hidden_states=hidden).sample.chunk(2)
        noise_pred = uncond + settings.guidance_scale * (cond - uncond)
        latents = scheduler.step(noise_pred, timestep, latents).prev_sample
        yield latents


@torch.no_grad()
def plain_call(run: Run, step: int) -> None:
    """Call the UNet once with guidance, as a run did at a step."""
    method, (extra, hidden) = run.method, plain_inputs(run)
    latents = run.states[step].latents.to(method.device, method.dtype)
    batch = torch.cat([latents, latents])
    batch = batch if extra is None else torch.cat([batch, extra], dim=1)
    method.unet(batch, run.records[step].timestep, encoder_hidden_states=hidden)


def plain_inputs(run: Run) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Return what enters the UNet beside the latents: more channels (2, C, h, w), and tokens (2, N, D)."""
    prepared: Any = run.segments[-1].prepared
    taps = getattr(prepared, "taps", None)
    extra = None if taps is None else torch.cat([taps[-1], taps[-1]])
    return extra, torch.cat([prepared.text["uncond"], prepared.text["cond"]])


def check_same(run: Run, scheduler: Any) -> None:
    """Stop unless both loops come to the same latents."""
    apart = float((run.finish(progress=False).state.latents - plain_loop(run, scheduler)).abs().max())
    if not apart <= SAME_LATENTS:
        raise SystemExit(f"The loop in plain diffusers ends {apart:.2g} off the run, so that nothing can be compared.")


# What is measured.


def recording_rows(what: str, start: Callable[[], Run], pairs: int, watch: Stopwatch) -> Iterator[Row]:
    """Compare recorded runs with the plain loop, without and with autosave."""
    scheduler = libraries.DDIMScheduler.from_config(start().method.schedule.to_config())
    check_same(start(), scheduler)

    def saved(run: Run, journal: Journal) -> Iterator[Any]:
        yield from run
        # Until everything is written, so that no work is left to the writer thread.
        journal.close()

    def ratio(make: Callable[[Run], Iterator[Any]]) -> float:
        run = start()
        return watch.ratio_by_steps(make(run), plain_steps(run, scheduler))

    title = f"recorded run / the same loop in plain diffusers, {what}"
    yield Row(f"{title}, autosave off", [ratio(iter) for _ in range(pairs)], 1.03)
    with tempfile.TemporaryDirectory(prefix="colorlab-") as name:
        folders = (Path(name) / str(number) for number in range(pairs))
        ratios = [ratio(lambda run, folder=folder: saved(run, run.autosave(folder))) for folder in folders]
        yield Row(f"{title}, autosave on", ratios, 1.03)


def memory_row(tokenizer: Any, steps: int) -> Row:
    """Compare what a run keeps of latents of 64x64 with all maps of Stable Diffusion 1.5 in half precision."""
    run = random_colorizer(THIN_UNET, SD_PX, tokenizer).start(prompt=PROMPT, num_inference_steps=steps)
    kept = sum(phase.num_bytes for phase in run.finish(progress=False).cost.values()) + run.states[0].latents.nbytes
    maps = attention_map_bytes(SD_UNET, SD_PX // 8, SD_TOKENS) * len(run.records[0].predictions) * steps
    what = f"memory kept by the run ({kept / 2**20:.1f} MiB) / all attention maps ({maps / 2**30:.0f} GiB)"
    return Row(f"{what}, Stable Diffusion 1.5, {SD_PX} px, {steps} steps", [kept / maps], 1 / 1000)


def attention_map_bytes(unet: Mapping[str, Any], side: int, num_tokens: int) -> int:
    """Return the bytes of all attention maps of one pass of a UNet over latents (4, side, side), in half precision."""
    with torch.device("meta"):
        network = libraries.UNet2DConditionModel(**unet)
    return HALF_BYTES * sum(
        site.heads * site.num_positions * (site.num_positions if site.kind == "attn1" else num_tokens)
        for site in find_sites(network, (4, side, side), kind=("attn1", "attn2"))
    )


def query_rows(what: str, run: Run, pairs: int, watch: Stopwatch) -> Iterator[Row]:
    """Compare the first query of a step with one call of the UNet, and time the queries after it."""
    shelf = shelf_of(run.method)

    def first(number: int) -> Pair:
        step = number % run.num_steps
        shelf.clear()
        return lambda: run.attention(step, word="red"), lambda: plain_call(run, step)

    shelf.clear()
    run.attention(0, word="red")
    yield Row(f"first query of a step / one UNet call with guidance, {what}", watch.ratios(first, pairs), 1.3)
    height, width = run.preview(0).shape[:2]
    region = torch.zeros(height, width, dtype=torch.bool)
    region[height // 4 : height // 2, width // 4 : width // 2] = True
    pixel = (width / 3, height / 3)
    questions: dict[str, dict[str, Any]] = {
        "another word": {"word": "car"},
        "a pixel, from": {"pixel": pixel},
        "a pixel, to": {"pixel": pixel, "direction": "to"},
        "a region": {"region": region.numpy()},
        "entropy": {"measure": "entropy"},
    }
    for name, question in questions.items():
        times = []
        for number in range(-1, pairs):
            step = number % run.num_steps
            run.attention(step, word="red")
            took = watch.seconds(lambda step=step, question=question: run.attention(step, **question))
            # The first one warms up what this kind of question needs.
            times += [1000 * took] if number >= 0 else []
        yield Row(f"further query of the same step, {what}: {name}", times, 30, "ms")


def branch_row(what: str, start: Callable[[], Run], pairs: int, watch: Stopwatch) -> Row:
    """Compare a branch without an edit with the steps that remained."""
    parent = start().finish(progress=False)
    step = parent.num_steps // 2

    def branch(number: int) -> Pair:
        other = start()
        while other.step_index < step:
            other.step()
        return lambda: parent.branch(step, edits=()).finish(progress=False), lambda: other.finish(progress=False)

    ratios = watch.ratios(branch, pairs)
    return Row(f"branch with no edit at step {step} / time of the remaining steps, {what}", ratios, 1.05)


def random_colorizer(unet: Mapping[str, Any], working_px: int, tokenizer: Any) -> Colorizer:
    """Return a text-to-image model with random weights, the same every time."""
    text_config = libraries.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=unet["cross_attention_dim"],
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=8,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method: Method = TextToImage(
            {
                "unet": libraries.UNet2DConditionModel(**unet),
                "vae": libraries.AutoencoderKL(
                    block_out_channels=(32,) * 4,
                    down_block_types=("DownEncoderBlock2D",) * 4,
                    up_block_types=("UpDecoderBlock2D",) * 4,
                    latent_channels=4,
                ),
                "text_encoder": libraries.CLIPTextModel(text_config),
                "tokenizer": tokenizer,
                "scheduler": NoiseSchedule(),
            },
            working_px,
        )
    return Colorizer(method)


@dataclass(frozen=True, eq=False)
class Bench:
    """What is measured on one model; each part by itself, or one after the other.

    Args:
        model: name of the model.
        watch: times it.
        steps: of a run.
        pairs: of everything that is repeated.
        sd_pairs: of runs of the size of Stable Diffusion.
        memory_steps: of the run whose memory is counted.
    """

    model: str
    watch: Stopwatch
    steps: int
    pairs: int
    sd_pairs: int
    memory_steps: int

    @cached_property
    def colorizer(self) -> Colorizer:
        """The model."""
        return colorlab.load(self.model)

    @property
    def what(self) -> str:
        """Its name in the table."""
        return f"`{self.model}`"

    def start(self) -> Run:
        """Start a run of a photograph."""
        gray = resize_image(load_gray(data.astronaut()), (128, 128))[0, 0].numpy()
        return self.colorizer.start(gray, prompt=PROMPT, num_inference_steps=self.steps)

    def recording(self) -> Iterator[Row]:
        """Compare recorded runs with the plain loop."""
        return recording_rows(f"{self.what}, {self.steps} steps", self.start, self.pairs, self.watch)

    def queries(self) -> Iterator[Row]:
        """Time queries."""
        return query_rows(self.what, self.start().finish(progress=False), self.pairs, self.watch)

    def branch(self) -> Iterator[Row]:
        """Compare a branch with the steps that remained."""
        yield branch_row(self.what, self.start, self.pairs, self.watch)

    def memory(self) -> Iterator[Row]:
        """Count what is kept."""
        yield memory_row(self.colorizer.method.components["tokenizer"], self.memory_steps)

    def sd_size(self) -> Iterator[Row]:
        """Compare recorded runs of the size of Stable Diffusion with the plain loop."""
        large = random_colorizer(SD_UNET, 256, self.colorizer.method.components["tokenizer"])
        title = "a UNet of the size of Stable Diffusion 1.5 at 256 px, 4 steps"
        start = partial(large.start, prompt=PROMPT, num_inference_steps=4)
        return recording_rows(title, start, self.sd_pairs, self.watch)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "recording": Bench.recording,
    "queries": Bench.queries,
    "branch": Bench.branch,
    "memory": Bench.memory,
    "sd-size": Bench.sd_size,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="mini/lcad")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--sd-size", action="store_true", help="also a random UNet of the size of Stable Diffusion 1.5")
    parser.add_argument("--sd-pairs", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, not of the clock")
    parser.add_argument("--only", choices=[*PARTS], help="one part of the table")
    parser.add_argument("--quick", action="store_true", help="few short repetitions, to see that it works")
    options = parser.parse_args(arguments)
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time needs --threads 1: of the plain loop it counts one thread alone.")
    steps, pairs, memory_steps = (3, 2, 2) if options.quick else (20, options.pairs, SD_STEPS)
    parts = [options.only] if options.only else [part for part in PARTS if part != "sd-size" or options.sd_size]
    clock = "processor time" if options.cpu_time else "clock time"
    print(f"{options.model} at 128 px: {pairs} pairs, {options.threads} threads, {clock}\n\n{HEADER}", flush=True)
    watch = Stopwatch(time.process_time, time.thread_time) if options.cpu_time else Stopwatch()
    bench = Bench(options.model, watch, steps, pairs, options.sd_pairs, memory_steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        for part in parts:
            for row in PARTS[part](bench):
                print(row, flush=True)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
