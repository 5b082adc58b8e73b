"""Parity with numbers recorded by running the released L-CAD code (cases 1, 2, 3 and 5; case 4 is in
`test_lcad_instances.py`).

Every case file in the folder is found by its name and every size is read from it, so that any set recorded in the same
way can be checked. What is not run is named, with its reason, at the end of the test run.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from lcad_networks import (
    KINDS,
    Note,
    ask,
    autoencoder,
    check_all,
    guided,
    luminance_encoder,
    noise_network,
    params,
    sampling_plan,
    three_channels,
)
from recorded import RecordedCase, find_cases, reference_folder
from torch import nn

from colorlab.color import lab_to_rgb, rgb_to_lab
from colorlab.conditioning import Conditioning
from colorlab.methods.lcad import Lcad, PreparedLcad
from colorlab.networks.kept_scores import keep_scores, put_scores
from colorlab.networks.libraries import AutoencoderKL
from colorlab.networks.luminance import (
    decode_with_taps,
    lightness_hint,
    lightness_to_hint,
    resize_as_published,
)
from colorlab.networks.patching import patched
from colorlab.runs.segments import Segment, take_step
from colorlab.sampling import SOLVERS, NoiseSchedule, State, first_state
from colorlab.sampling.records import StepRecord
from colorlab.settings import Settings

PASS = ("cond",)  # of a single call
PICTURES = {"decoded", "image_uint8"}  # of case 3; everything else in it is stacked by step


@pytest.mark.skipif(reference_folder("lcad") is None, reason="COLORLAB_REFERENCE is not set: no L-CAD case was run")
def test_every_recorded_case_is_run_or_named(not_run: Note) -> None:
    cases = find_cases("lcad", KINDS)
    assert any(case.kind for case in cases), f"no recorded case to run in {reference_folder('lcad')}"
    for case in cases:
        if not case.kind:
            not_run(case.name, "a kind of case that no test here knows")
    for kind in KINDS:
        if not any(case.kind == kind for case in cases):
            not_run(kind, "no such file in the folder")


@params("case1_hint")
def test_hint(case: RecordedCase, compared: Note) -> None:
    wanted = case.outputs()
    results = {}
    for source in ("rgb", "gray"):
        picture = case.input(f"{source}_uint8").numpy()
        if f"hint_{source}" in wanted:
            results[f"hint_{source}"] = resize_as_published(picture, tuple(wanted[f"hint_{source}"].shape[-2:]))
        results[f"hint_{source}_noresize"] = resize_as_published(picture, picture.shape[:2])
        if f"jpg_{source}" in wanted:
            target = resize_as_published(picture, tuple(wanted[f"jpg_{source}"].shape[-2:])) * 2 - 1
            case.check(f"jpg_{source}", target, wanted.pop(f"jpg_{source}"))
    for name, want in wanted.items():
        hint = lightness_hint(results[name])
        assert torch.equal(hint, hint[:, :1].repeat(1, 3, 1, 1))
        case.check(name, hint[:, : want.shape[1]], want)
    compared(case.name, len(case.outputs()))


@params("case1_vae")
def test_taps_and_decoder(case: RecordedCase, compared: Note) -> None:
    encoder, vae = luminance_encoder(case), autoencoder(case)
    wanted = case.outputs()
    with torch.no_grad(), Inputs(decoder_places(vae, wanted)) as seen:
        taps = encoder(three_channels(case.input("hint")))
        decoded = decode_with_taps(vae, case.input("z"), taps)
    with torch.no_grad():
        plain = decode_with_taps(vae, case.input("z"))
    assert len(taps) == sum(bool(re.fullmatch(r"tap_\d+", name)) for name in wanted) == encoder.num_taps
    results = {f"tap_{index}": tap for index, tap in enumerate(taps)}
    results |= {"decoded": decoded, "decoded_without_taps": plain, **seen}
    check_all(case, results, wanted)
    compared(case.name, len(wanted))


@params("case2_unet")
def test_unet(case: RecordedCase, compared: Note) -> None:
    unet = noise_network(case)
    x, g9, t, context = (case.input(name) for name in ("x", "g9", "t", "context"))
    wanted = case.outputs()
    places = {"time_embed": unet.time_embedding, "conv_in": unet.conv_in, "middle": unet.mid_block}
    scale, shift = re.findall(r"\(([\d.]+)\*x, t-(\d+),", case.meta["description"])[0]
    second = (float(scale) * x, g9, t - int(shift), context.flip(0))
    with torch.no_grad(), Outputs(places) as seen, keep_scores(unet, x.shape, PASS) as kept:
        # Keeping scores computes them by hand, which moves the result by rounding alone.
        eps = ask(unet, x, g9, t, context)
    with torch.no_grad():
        results = {"eps": eps, "eps_zero_luminance": ask(unet, x, torch.zeros_like(g9), t, context), **seen}
        results["second_call_fresh"] = ask(unet, *second)
        with patched(unet, put_scores(kept), guidance_passes=PASS, step_index=1, num_samples=len(x)):
            results["second_call_stale"] = ask(unet, *second)
    check_all(case, results, wanted)
    compared(case.name, len(wanted))


@params("case3_sampling")
def test_sampling_step_by_step(case: RecordedCase, compared: Note) -> None:
    """Each step starts from the recorded latents, so that a difference shows at its own step."""
    schedule, timesteps = sampling_plan(case)
    unet, encoder = noise_network(case), luminance_encoder(case)
    wanted = case.outputs("fresh.")
    with torch.no_grad():
        g9 = encoder(three_channels(case.input("hint")))[-1]
        case.check("g9", g9, case.outputs()["g9"])
        state = first_state(case.input("x_T"), schedule=schedule, timesteps=timesteps)
        for step, timestep in enumerate(timesteps.tolist()):
            eps = guided(case, unet, state.latents, g9, timestep)
            clean = schedule.to_original_sample(eps["eps"], state.latents, timestep)
            state = SOLVERS["ddim"].step(state, eps["eps"], schedule=schedule, timesteps=timesteps)
            results = {**eps, "x_prev": state.latents, "pred_x0": clean}
            check_all(case, results, {name: wanted[name][step] for name in set(wanted) - PICTURES})
            state = State(state.step_index, state.timestep, wanted["x_prev"][step])
    compared(case.name, len(set(wanted) - PICTURES) * len(timesteps) + 1)


@params("case3_sampling")
def test_sampling_from_hint_to_picture(case: RecordedCase, compared: Note) -> None:
    schedule, timesteps = sampling_plan(case)
    unet, encoder, vae = noise_network(case), luminance_encoder(case), autoencoder(case)
    wanted = case.outputs("fresh.")
    with torch.no_grad():
        taps = encoder(three_channels(case.input("hint")))
        state = first_state(case.input("x_T"), schedule=schedule, timesteps=timesteps)
        for step, timestep in enumerate(timesteps.tolist()):
            eps = guided(case, unet, state.latents, taps[-1], timestep)["eps"]
            state = SOLVERS["ddim"].step(state, eps, schedule=schedule, timesteps=timesteps)
            case.check("fresh.x_prev", state.latents, wanted["x_prev"][step])
        assert state.is_finished
        decoded = decode_with_taps(vae, state.latents, taps)
    pictures = {"decoded": decoded, "image_uint8": write_as_published(decoded)}
    recorded = {name: wanted[name] for name in PICTURES & set(wanted)}
    check_all(case, {name: pictures[name][: len(want)] for name, want in recorded.items()}, recorded)
    compared(case.name, len(timesteps) + len(recorded))


@params("case3_sampling")
def test_sampling_as_released(case: RecordedCase, compared: Note) -> None:
    """Steps 1 and 3 attend by the scores of steps 0 and 2, through the method itself as published."""
    vae, encoder = autoencoder(case), luminance_encoder(case)
    wanted = case.outputs("asreleased.")
    with torch.no_grad():
        taps = encoder(three_channels(case.input("hint")))
        records, states = run_as_published(case, case.input("x_T"), taps)
        names = ("uncond", "cond")
        for step, (record, state) in enumerate(zip(records, states, strict=True)):
            results = {f"eps_{name}": record.predictions[name] for name in names}
            results |= {"eps": record.noise_pred, "x_prev": state.latents, "pred_x0": record.pred_original_sample}
            for name, result in results.items():
                case.check(name, result, wanted[name][step])
        decoded = decode_with_taps(vae, states[-1].latents, taps)
    pictures = {"decoded": decoded, "image_uint8": write_as_published(decoded)}
    recorded = {name: wanted[name] for name in PICTURES & set(wanted)}
    check_all(case, {name: pictures[name][: len(want)] for name, want in recorded.items()}, recorded)
    compared(f"{case.name} as released", 5 * len(states) + len(recorded))


@params("case3_leak")
def test_leak_into_the_next_picture(case: RecordedCase, compared: Note) -> None:
    """After an odd number of steps the last scores are left over; as published a method of ours starts clean."""
    wanted = case.outputs()
    with torch.no_grad():
        taps = luminance_encoder(case)(three_channels(case.input("hint")))
        first_records, first = run_as_published(case, case.input("x_T_1"), taps)
        _, second = run_as_published(case, case.input("x_T_2"), taps)
        left = (first[-2].latents, first_records[-1].timestep)
        _, leaked = run_as_published(case, case.input("x_T_2"), taps, left=left)
    results = {"first_run": first, "second_run_cleared": second, "second_run_leaked": leaked}
    check_all(case, {name: states[-1].latents for name, states in results.items()}, wanted)
    compared(case.name, len(wanted))


@params("case3_schedule")
def test_schedule(case: RecordedCase, compared: Note) -> None:
    schedule = NoiseSchedule.from_config(case.constructor("DDIMScheduler"))
    wanted = case.outputs()
    abar = schedule.alphas_cumprod
    case.check("alphas_cumprod", abar, wanted.pop("alphas_cumprod"))
    # The schedule keeps the products of 1 - beta only.
    case.check("betas", abar, torch.cumprod(1 - wanted.pop("betas"), dim=0))
    for name, want in wanted.items():
        num_steps = int(name.rpartition("_")[2])
        visited = abar[schedule.timesteps(num_steps, as_published=True).flip(0)]
        if name.startswith("ddim_alphas_prev_"):
            visited = torch.cat([abar[:1], visited[:-1]])
        case.check(name, visited.double(), want)
    num_lists = check_step_lists(schedule, case.meta["timesteps_by_S"])
    compared(case.name, len(case.outputs()) + num_lists)


@params("case5_color")
def test_color(case: RecordedCase, compared: Note) -> None:
    image = case.input("rgb_uint8").permute(2, 0, 1)[None].float() / 255
    lab = rgb_to_lab(image)
    normalised = torch.cat([lightness_to_hint(lab[:, :1])[:, :1], lab[:, 1:] / 110], dim=1)
    # The released inverse takes lightness for L / 50 - 1, unlike its own forward function.
    mistaken = torch.cat([(normalised[:, :1] + 1) * 50, normalised[:, 1:] * 110], dim=1)
    decoded = case.input("decoded")
    results = {
        "xyz": kornia.color.rgb_to_xyz(kornia.color.rgb_to_linear_rgb(image))[0],
        "lab": lab[0],
        "lab_normalised": normalised[0],
        "rgb_from_lab": lab_to_rgb(lab),
        "lab2rgb_of_normalised": lab_to_rgb(mistaken),
        "image01": (decoded.clamp(-1, 1) + 1) / 2,
        "image_uint8": write_as_published(decoded),
    }
    wanted = case.outputs()
    check_all(case, results, wanted)
    compared(case.name, len(wanted))


# --- small helpers ----------------------------------------------------------------------------------------------------


def run_as_published(
    case: RecordedCase,
    noise: torch.Tensor,
    taps: tuple[torch.Tensor, ...],
    *,
    left: tuple[torch.Tensor, float] | None = None,
) -> tuple[list[StepRecord], list[State]]:
    """Take all steps of a case with the method as published, for several pictures.

    Args:
        case: with `w`, contexts and weights.
        noise: (B, 4, h, w), what the run starts from.
        taps: of the pictures.
        left: latents and timestep of an earlier call whose scores are left over, as if it were the step before the
            first: then steps 0, 2 ... are the stale ones.
    """
    schedule, timesteps = sampling_plan(case)
    parts = {
        "unet": noise_network(case),
        "luminance_encoder": luminance_encoder(case),
        "vae": autoencoder(case),
        "scheduler": schedule,
        "text_encoder": None,
        "tokenizer": None,
    }
    method = Lcad(parts, working_px=noise.shape[-1] * 8)
    settings = Settings(num_inference_steps=case.meta["steps"], guidance_scale=case.meta["w"], as_published=True)
    text = {name: case.input(f"context_{name}").expand(len(noise), -1, -1) for name in ("uncond", "cond")}
    prepared = PreparedLcad(latent_shape=tuple(noise.shape[1:]), notes=(), text=text, taps=taps)
    segment = Segment(0, Conditioning(gray=np.zeros((8, 8))), settings, prepared)
    state, records, states = first_state(noise, schedule=schedule, timesteps=timesteps), [], []
    while not state.is_finished:
        with leftover_scores(method, prepared, settings, left, state):
            if left is not None:
                # With its own memory emptied a step attends by what is left over, or afresh.
                state = state.without_history()
            record, following = take_step(method, segment, state, timesteps=timesteps)
        left = None if left is None else (state.latents, record.timestep)
        state = following
        records.append(record)
        states.append(following)
    return records, states


@contextmanager
def leftover_scores(
    method: Lcad, prepared: PreparedLcad, settings: Settings, left: tuple[torch.Tensor, float] | None, state: State
) -> Iterator[None]:
    """At every second step put the scores of the call before in the place of the step's own."""
    if left is None or state.step_index % 2:
        yield
        return
    names = ("uncond", "cond")
    with keep_scores(method.unet, left[0].shape, names) as kept:
        method.predict(prepared, *left, settings)
    with patched(method.unet, put_scores(kept), guidance_passes=names, step_index=0, num_samples=len(left[0])):
        yield


class Outputs:
    """Keep what modules return while the context lasts."""

    def __init__(self, places: dict[str, nn.Module]) -> None:
        self.places = places
        self.seen: dict[str, torch.Tensor] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> dict[str, torch.Tensor]:
        self.handles = [self.watch(name, module) for name, module in self.places.items()]
        return self.seen

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def watch(self, name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda module, args, output: self.seen.update({name: output}))


class Inputs(Outputs):
    """Keep what enters modules while the context lasts."""

    def watch(self, name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(lambda module, args: self.seen.update({name: args[0]}))


def decoder_places(vae: AutoencoderKL, names: dict[str, torch.Tensor]) -> dict[str, nn.Module]:
    """Find the modules that the recorded activations enter; the original counts up levels from the finest."""
    decoder = vae.decoder
    places: dict[str, nn.Module] = {"dec_mid_attn_in": decoder.mid_block.attentions[0]}
    for name in names:
        if match := re.fullmatch(r"dec_up(\d+)_in", name):
            places[name] = decoder.up_blocks[len(decoder.up_blocks) - 1 - int(match[1])].resnets[0]
    return places


def check_step_lists(schedule: NoiseSchedule, by_count: dict[str, dict[str, Any]]) -> int:
    """Compare the published list of timesteps for each step count; return how many there are."""
    for count, row in by_count.items():
        if row["crashes_out_of_range"]:
            with pytest.raises(ValueError, match="num_inference_steps"):
                schedule.timesteps(int(count), as_published=True)
            continue
        timesteps = schedule.timesteps(int(count), as_published=True).tolist()
        assert (len(timesteps), timesteps[0], timesteps[-1]) == (row["count"], row["first"], row["last"]), count
        if row.get("descending") is not None:
            assert timesteps == row["descending"], count
        if row["count"] == int(count):
            assert schedule.timesteps(int(count), "leading").tolist() == timesteps, count
    return len(by_count)


def write_as_published(decoded: torch.Tensor) -> torch.Tensor:
    """Turn a decoded picture into 8-bit values as the released image writer does: it truncates."""
    return (((decoded.clamp(-1, 1) + 1) / 2) * 255).permute(0, 2, 3, 1).to(torch.uint8)
