"""Parity with numbers recorded by running the released L-CAD code (cases 1, 2, 3 fresh, and 5).

Every case file in the folder is found by its name and every size is read from it, so that any set recorded in the same
way can be checked. What is not run is named, with its reason, at the end of the test run.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import kornia
import pytest
import torch
from recorded import RecordedCase, case_params, find_cases, reference_folder
from torch import nn

from colorlab.checkpoints import (
    LUMINANCE_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    load_ldm_weights,
    luminance_encoder_key_map,
    select_prefix,
    unet_key_map,
    vae_key_map,
)
from colorlab.color import lab_to_rgb, rgb_to_lab
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.networks.luminance import (
    LuminanceEncoder,
    decode_with_taps,
    lightness_hint,
    lightness_to_hint,
    resize_as_published,
)
from colorlab.sampling import SOLVERS, NoiseSchedule, State, classifier_free, first_state

KINDS_RUN = ("case1_hint", "case1_vae", "case2_unet", "case3_sampling", "case3_schedule", "case5_color")
STALE = "the released attention reuses logits of the call before, which is not built yet"
GUIDANCE = "instance guidance is not built yet"
KINDS_NOT_RUN = {"case3_leak": STALE, "case4_": GUIDANCE}
KINDS = (*KINDS_RUN, *KINDS_NOT_RUN)
PICTURES = {"decoded", "image_uint8"}  # of case 3; everything else in it is stacked by step

Note = Callable[[str, Any], None]


def params(kind: str) -> Any:
    return pytest.mark.parametrize("case", case_params("lcad", kind, KINDS))


@pytest.mark.skipif(reference_folder("lcad") is None, reason="COLORLAB_REFERENCE is not set: no L-CAD case was run")
def test_every_recorded_case_is_run_or_named(not_run: Note) -> None:
    cases = find_cases("lcad", KINDS)
    assert any(case.kind in KINDS_RUN for case in cases), f"no recorded case to run in {reference_folder('lcad')}"
    for case in cases:
        if case.kind not in KINDS_RUN:
            not_run(case.name, KINDS_NOT_RUN.get(case.kind, "a kind of case that no test here knows"))
    for kind in KINDS_RUN:
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
def test_unet(case: RecordedCase, compared: Note, not_run: Note) -> None:
    unet = noise_network(case)
    x, g9, t, context = (case.input(name) for name in ("x", "g9", "t", "context"))
    wanted = case.outputs()
    if wanted.pop("second_call_stale", None) is not None:
        not_run(f"{case.name}: second_call_stale", STALE)
    places = {"time_embed": unet.time_embedding, "conv_in": unet.conv_in, "middle": unet.mid_block}
    with torch.no_grad(), Outputs(places) as seen:
        eps = predict(unet, x, g9, t, context)
    with torch.no_grad():
        results = {"eps": eps, "eps_zero_luminance": predict(unet, x, torch.zeros_like(g9), t, context), **seen}
        scale, shift = re.findall(r"\(([\d.]+)\*x, t-(\d+),", case.meta["description"])[0]
        results["second_call_fresh"] = predict(unet, float(scale) * x, g9, t - int(shift), context.flip(0))
    check_all(case, results, wanted)
    compared(case.name, len(wanted))


@params("case3_sampling")
def test_sampling_step_by_step(case: RecordedCase, compared: Note, not_run: Note) -> None:
    """Each step starts from the recorded latents, so that a difference shows at its own step."""
    schedule, timesteps = sampling_plan(case)
    unet, encoder = noise_network(case), luminance_encoder(case)
    wanted = case.outputs("fresh.")
    stale = [name for name in case.outputs() if not name.startswith("fresh.") and "." in name]
    for group in sorted({name.split(".")[0] for name in stale}):
        not_run(f"{case.name}: {group}.*", STALE)
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


# --- the networks of a case, built from its own description ----------------------------------------------------------


@lru_cache(maxsize=4)
def luminance_encoder(case: RecordedCase) -> LuminanceEncoder:
    config = case.constructor("AutoencoderKL")
    names = ("in_channels", "block_out_channels", "layers_per_block", "norm_num_groups")
    encoder = LuminanceEncoder(
        out_channels=config["latent_channels"], **{name: config[name] for name in names if name in config}
    )
    weights = select_prefix(case.weights(), LUMINANCE_PREFIX)
    load_ldm_weights(encoder, weights, luminance_encoder_key_map(weights), name="luminance encoder")
    return encoder.eval()


@lru_cache(maxsize=4)
def autoencoder(case: RecordedCase) -> AutoencoderKL:
    """Build the autoencoder; its plain encoder is used by no case and may be left out of the files."""
    vae = AutoencoderKL(**case.constructor("AutoencoderKL"))
    luminance = select_prefix(case.weights(), LUMINANCE_PREFIX)
    g_encoder = LUMINANCE_PREFIX.removeprefix(VAE_PREFIX)
    weights = {
        name: value
        for name, value in select_prefix(case.weights(), VAE_PREFIX).items()
        if name.removeprefix(g_encoder) not in luminance or not name.startswith(g_encoder)
    }
    load_ldm_weights(vae, weights, vae_key_map(weights), name="autoencoder", optional=("encoder.", "quant_conv."))
    return vae.eval()


@lru_cache(maxsize=4)
def noise_network(case: RecordedCase) -> UNet2DConditionModel:
    unet = UNet2DConditionModel(**case.constructor("UNet2DConditionModel"))
    weights = select_prefix(case.weights(), UNET_PREFIX)
    load_ldm_weights(unet, weights, unet_key_map(weights), name="UNet")
    return unet.eval()


def predict(
    unet: UNet2DConditionModel, x: torch.Tensor, g9: torch.Tensor, t: torch.Tensor | int, context: torch.Tensor
) -> torch.Tensor:
    return unet(torch.cat([x, g9], dim=1), t, context).sample


def guided(
    case: RecordedCase, unet: UNet2DConditionModel, latents: torch.Tensor, g9: torch.Tensor, timestep: int
) -> dict[str, torch.Tensor]:
    passes = {}
    for name in ("uncond", "cond"):
        context = case.input(f"context_{name}").expand(len(latents), -1, -1)
        passes[f"eps_{name}"] = predict(unet, latents, g9, timestep, context)
    return {**passes, "eps": classifier_free(passes["eps_uncond"], passes["eps_cond"], case.meta["w"])}


def sampling_plan(case: RecordedCase) -> tuple[NoiseSchedule, torch.Tensor]:
    config = case.constructor("DDIMScheduler")
    schedule = NoiseSchedule.from_config(config)
    timesteps = schedule.timesteps(case.meta["steps"], config["timestep_spacing"], as_published=True)
    assert timesteps.tolist() == case.meta["timesteps"]
    return schedule, timesteps


# --- small helpers ----------------------------------------------------------------------------------------------------


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


def check_all(case: RecordedCase, results: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Compare everything that was recorded; a recorded name without a result fails."""
    assert not set(wanted) - set(results), f"{case.name} holds tensors no test computes: {set(wanted) - set(results)}"
    for name, want in wanted.items():
        case.check(name, results[name], want)


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


def three_channels(hint: torch.Tensor) -> torch.Tensor:
    return hint.expand(-1, 3, -1, -1)


def write_as_published(decoded: torch.Tensor) -> torch.Tensor:
    """Turn a decoded picture into 8-bit values as the released image writer does: it truncates."""
    return (((decoded.clamp(-1, 1) + 1) / 2) * 255).permute(0, 2, 3, 1).to(torch.uint8)
