"""What a picture costs: seconds, and what a guided step asks of the networks beyond a plain one."""

import time

import torch

from colorlab.colorizer import Colorizer
from colorlab.evaluation.report import Report, bootstrapped
from colorlab.evaluation.strokes import stroked_scenes
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance
from colorlab.runs.run import Run
from colorlab.settings import Settings

_NUM_PICTURES = 5


def evaluate_costs(colorizer: Colorizer, settings: Settings, *, size_px: int = 128) -> Report:
    """Time pictures with strokes one by one, from the gray picture to the colored one, and count calls step by step.

    Args:
        colorizer: whose method has self-attention guidance.
        settings: what is in force.
        size_px: height and width of the scenes.

    Returns:
        Seconds of a picture, and calls of a guided step.
    """
    cases = [case for case, _ in zip(stroked_scenes(size_px), range(_NUM_PICTURES + 1), strict=False)]
    seconds = []
    for index, case in enumerate(cases):
        started_s = time.perf_counter()
        _ = _start(colorizer, case.conditioning, settings.replace(seed=index)).finish(progress=False).image
        seconds.append(time.perf_counter() - started_s)
    guided, plain = (
        _calls(colorizer, cases[0].conditioning, settings.with_mechanism(SelfAttentionGuidance.name, is_on=is_on))
        for is_on in (True, False)
    )
    extra = [one - other for one, other in zip(guided["networks"], plain["networks"], strict=True)]
    acts = [index for index, calls in enumerate(extra) if calls]
    threads = torch.get_num_threads()
    rows = (
        bootstrapped(f"a picture, the first not counted, {threads} threads", seconds[1:], unit="s", at_most=3.0),
        bootstrapped("extra network calls of a guided step", [extra[index] for index in acts], at_most=2.0),
        bootstrapped("  decoder calls in it", [guided["decoders"][index] for index in acts], at_most=0.0),
    )
    details = {"size_px": size_px, "threads": threads, "guided_steps": len(acts)}
    return Report(f"Cost at {size_px} px; guidance acts in {len(acts)} steps", rows, details)


def _calls(colorizer: Colorizer, conditioning: object, settings: Settings) -> dict[str, list[int]]:
    """Count, for each step of a run, the calls of the two networks that predict, and of the decoders."""
    run = _start(colorizer, conditioning, settings)
    counted: dict[str, list[int]] = {"networks": [], "decoders": []}
    calls = colorizer.method.network_calls
    names = {"networks": ("unet", "control_network"), "decoders": ("vae", "deformable_vae")}
    for _ in range(run.num_steps):
        before = {kind: sum(calls[name] for name in names[kind]) for kind in names}
        run.step()
        for kind in names:
            counted[kind].append(sum(calls[name] for name in names[kind]) - before[kind])
    return counted


def _start(colorizer: Colorizer, conditioning: object, settings: Settings) -> Run:
    """Start a run, of which nothing is sampled yet."""
    return colorizer.start(conditioning, settings)
