"""Parity with numbers recorded by running the released CtrlColor code, cases 1 to 8.

Every case file in the folder is found by its name, and every size, weight file and network is read from its own
description, so that any set recorded in the same way can be checked.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RecordedCase, case_params, find_cases, reference_folder

from colorlab.checkpoints import UNET_PREFIX, VAE_PREFIX, load_ldm_weights, select_prefix, unet_key_map, vae_key_map
from colorlab.checkpoints.ctrlcolor import CONTROL_PREFIX, controlnet_key_map, deformable_key_map, split_deformable
from colorlab.eight_bit import resize8_lanczos4, rgb8_to_lab8, to_truncated8
from colorlab.mechanisms.exemplar_losses import contextual_loss
from colorlab.mechanisms.published_uploads import (
    Upload,
    is_gray_upload,
    put_lightness,
    read_upload,
    upload_lightness,
    working_size_as_published,
    write_result,
)
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance, received_attention
from colorlab.mechanisms.stroke_encoding import masked_picture, pool_mask
from colorlab.methods.ctrlcolor import CtrlColor, PreparedCtrlColor
from colorlab.networks.deformable import DeformableUnits, content_guide, decode_deformable
from colorlab.networks.libraries import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from colorlab.networks.probe import Probe
from colorlab.networks.sites import find_sites
from colorlab.sampling import SOLVERS, NoiseSchedule, State, first_state
from colorlab.sampling.loop import sample_step
from colorlab.sampling.solvers import Solver
from colorlab.settings import Settings

KINDS = (
    "case1_apply_model",
    "case2_ddim_sag",
    "case3_vae",
    "case4_strokes",
    "case5_postprocess",
    "case5_preprocess_tables",
    "case6_contextual_loss",
    "case7_ddim_schedule",
    "case8_end_to_end",
)
UNITS = ("dcn_in", "mid.block_1.dcn1", "mid.block_1.dcn2", "mid.block_2.dcn1", "mid.block_2.dcn2")
NETWORK = {"rtol": 1e-4, "atol": 5e-5}
UNET_CONFIG, VAE_CONFIG = "unet", "vae"

Note = Callable[[str, Any], None]


def params(kind: str) -> Any:
    return pytest.mark.parametrize("case", case_params("ctrlcolor", kind, KINDS))


@pytest.mark.skipif(
    reference_folder("ctrlcolor") is None, reason="COLORLAB_REFERENCE is not set: no CtrlColor case was run"
)
def test_every_recorded_case_is_run_or_named(not_run: Note) -> None:
    cases = find_cases("ctrlcolor", KINDS)
    assert cases, f"no recorded case in {reference_folder('ctrlcolor')}"
    for case in cases:
        if not case.kind:
            not_run(case.name, "a kind of case that no test here knows")
    for kind in KINDS:
        if not any(case.kind == kind for case in cases):
            not_run(kind, "no such file in the folder")


@params("case1_apply_model")
def test_networks(case: RecordedCase, compared: Note) -> None:
    method = ctrlcolor(case)
    x, t, context = (case.input(name) for name in ("x", "t", "context"))
    hint = case.input("hint").float()
    around = [case.input(name).expand(len(x), -1, -1, -1) for name in ("mask", "masked_image_latents")]
    wanted = case.outputs()
    network: Any = method.components["control_network"]
    with torch.no_grad():
        close(case, "hint_embedding", network.controlnet_cond_embedding(hint), wanted.pop("hint_embedding"))
        down, middle = network(x, t, encoder_hidden_states=context, controlnet_cond=hint, return_dict=False)
        for index, residual in enumerate((*down, middle)):
            close(case, f"control.{index:02d}", residual, wanted.pop(f"control.{index:02d}"))
        for name, scales in case.meta["control_scales"].items():
            residuals = [part * scale for part, scale in zip((*down, middle), scales, strict=False)]
            site = find_sites(method.unet, x.shape, glob="mid_block.*", kind="attn1")[0]
            with Probe(method.unet, [site], guidance_passes=["cond"], num_samples=len(x)) as probe:
                eps = method.unet(
                    torch.cat([x, *around], dim=1),
                    t,
                    encoder_hidden_states=context,
                    down_block_additional_residuals=tuple(residuals[:-1]),
                    mid_block_additional_residual=residuals[-1],
                ).sample
            close(case, name, eps, wanted.pop(name))
            if name == "eps":
                probs = attention_of(probe[site.path, "cond"])
                close(case, "mid_attn1_probs", probs.flatten(0, 1), wanted.pop("mid_attn1_probs"))
                assert list(site.grid) == wanted.pop("mid_map_size").tolist()
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, len(case.outputs()))


@params("case2_ddim_sag")
def test_sampling_with_guidance(case: RecordedCase, compared: Note) -> None:
    """The whole run through the method, each tensor of each step, errors adding up as they do."""
    method, settings = ctrlcolor(case), settings_of(case)
    prepared = prepared_of(
        case, method, settings, case.input("hint").float(), case.input("mask"), case.input("masked_image_latents")
    )
    state = first_state(case.input("x_T"), schedule=method.schedule, timesteps=prepared.timesteps)
    num_compared = 0
    for index, row in enumerate(case.meta["steps"]):
        wanted = case.outputs(f"step{index}.")
        assert state.timestep == row["t"]
        sees(case, f"step{index}.x", state.latents, wanted.pop("x"))
        calls = method.network_calls.copy()
        state, record, attention = recorded_step(method, prepared, state, settings, wanted.pop("noise", torch.zeros(0)))
        asked = method.network_calls["unet"] - calls["unet"]
        assert asked == (2 if row["sag"] else 1)
        assert asked == method.network_calls["control_network"] - calls["control_network"]
        assert len(record.predictions) == row["apply_model_calls"]
        for name, result in step_results(method, settings, record, attention, prepared, wanted).items():
            # Softmax of these random weights is sharp, and magnifies rounding: 0.5e-4 to 1.6e-4, by processor.
            most = 2e-4 if name in ("mid_attn_probs", "sag_attn_used") else 1e-4
            sees(case, f"step{index}.{name}", result, wanted.pop(name), most=most)
            num_compared += 1
        sees(case, f"step{index}.x_prev", state.latents, wanted.pop("x_prev"))
        assert not wanted, f"{case.name} step {index} holds tensors no test computes: {set(wanted)}"
        num_compared += 2
    sees(case, "samples", state.latents, case.outputs()["samples"])
    assert state.is_finished
    compared(case.name, num_compared + 1)


@params("case3_vae")
def test_autoencoders(case: RecordedCase, compared: Note) -> None:
    vae, units = deformable_networks(case)
    wanted = case.outputs()
    scaling = vae.config.scaling_factor
    x, latents = case.input("x"), case.input("latent_x0")
    results: dict[str, torch.Tensor] = {name: wanted[name] for name in ("plain.noise", "guide.noise")}
    with torch.no_grad():
        posterior = vae.encode(x).latent_dist
        sample = posterior.mean + posterior.std * wanted["plain.noise"]
        results |= {f"plain.{name}": getattr(posterior, name) for name in ("mean", "logvar", "std")}
        results |= {"plain.moments": posterior.parameters, "plain.sample": sample}
        results |= {
            "plain.first_stage_encoding": sample * scaling,
            "plain.decode_first_stage": vae.decode(sample).sample,
        }
        results |= {
            "plain.decode_of_mean": vae.decode(posterior.mean).sample,
            "plain.decode_x0": vae.decode(latents / scaling).sample,
        }
        gray = torch.from_numpy(case.input("gray_L8_uint8").numpy()[:, :, :1] / np.float32(255)).permute(2, 0, 1)[None]
        guide = content_guide(vae, gray, wanted["guide.noise"])
        about = vae.encode(gray.repeat(1, 3, 1, 1)).latent_dist
        results |= {"guide.sample": guide, "guide.mean": content_guide(vae, gray), "guide.logvar": about.logvar}
        results |= {"guide.post_quant": vae.post_quant_conv(guide), "dcn.z_unscaled": latents / scaling}
        decoded, done = decode_deformable(vae, units, latents, guide)
        for name, unit in zip(UNITS, done, strict=True):
            parts = {"input": unit.hidden, "offset": unit.offset, "modulation": unit.modulation, "output": unit.output}
            results |= {f"dcn.{name}.{part}": value for part, value in parts.items()}
        results |= {"dcn.decode": decoded, **middle_of(vae, units, done)}
        straight, _ = decode_deformable(vae, without_offsets(units), latents, guide)
        results["dcn.decode_with_zero_conv_offset"] = straight
    for name in [name for name in wanted if name.endswith("uint8")]:
        results[name] = torch.from_numpy(to_truncated8((decoded + 1) / 2))
    for name, want in wanted.items():
        assert name in results, f"{case.name} holds {name}, which no test computes"
        (levels if want.dtype == torch.uint8 else close)(case, name, results[name].reshape(want.shape), want)
    compared(case.name, len(wanted))


@params("case4_strokes")
def test_strokes(case: RecordedCase, compared: Note) -> None:
    upload = upload_of(case)
    wanted = case.outputs()
    num_tensors = len(wanted)
    assert bool(wanted.pop("is_gray")) == is_gray_upload(case.input("input_image").numpy())
    vae = main_autoencoder(case)
    check_upload(case, upload, vae, wanted, noise=wanted.pop("masked_image_latent_noise"))
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, num_tensors)


@params("case5_postprocess")
def test_postprocessing(case: RecordedCase, compared: Note) -> None:
    picture = case.input("input_image").numpy()
    decoded = (case.input("decoded") + 1) / 2
    upload = read_upload(picture, picture, case.meta["params"]["image_resolution"])
    cut = to_truncated8(decoded)
    resized = resize8_lanczos4(cut, picture.shape[:2])
    results = {
        "l_image_fullres": upload_lightness(picture),
        "decoded_uint8": cut,
        "resized_uint8": resized,
        "resized_lab8": rgb8_to_lab8(resized),
        "result": write_result(decoded, upload_lightness(picture)),
    }
    wanted = case.outputs()
    control = torch.round(upload.control * 255).to(torch.uint8)
    levels(case, "control", control, torch.round(wanted.pop("control") * 255).to(torch.uint8))
    for name, want in wanted.items():
        levels(case, name, torch.from_numpy(results[name]), want, most=3 if name in ("result", "resized_lab8") else 1)
    compared(case.name, len(wanted) + 1)


@params("case5_preprocess_tables")
def test_preprocessing_tables(case: RecordedCase, compared: Note) -> None:
    for row in case.meta["resize_table"]:
        size = working_size_as_published(row["H"], row["W"], row["resolution"])
        assert size == (row["out_H"], row["out_W"]), row
        assert row["interp"] == ("lanczos4" if row["resolution"] > min(row["H"], row["W"]) else "area")
    names = sorted(name for name in case.tensors if name.startswith("inputs."))
    found = [is_gray_upload(case.tensors[name].numpy()) for name in names]
    assert found == case.outputs()["is_gray"].bool().tolist()
    compared(case.name, len(case.meta["resize_table"]) + len(names))


@params("case6_contextual_loss")
def test_contextual_loss(case: RecordedCase, compared: Note) -> None:
    wanted = case.outputs()
    num_tensors = len(wanted)
    for name in [name for name in wanted if not name.endswith("grad_X")]:
        match = re.fullmatch(r"(.+)\.(backward|forward)\.h([\d.]+)\.centering([01])", name)
        assert match, name
        x = case.input(f"{match[1]}.X").requires_grad_()
        loss = contextual_loss(
            x,
            case.input(f"{match[1]}.Y"),
            bandwidth=float(match[3]),
            centering=match[4] == "1",
            direction=match[2],  # type: ignore[arg-type]
        )
        torch.testing.assert_close(loss.detach(), wanted.pop(name), rtol=1e-4, atol=1e-6, msg=name)
        if f"{name}.grad_X" in wanted:
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            close(case, f"{name}.grad_X", gradient, wanted.pop(f"{name}.grad_X"))
    assert not wanted
    compared(case.name, num_tensors)


@params("case7_ddim_schedule")
def test_schedule(case: RecordedCase, compared: Note) -> None:
    schedule, wanted = NoiseSchedule(), case.outputs()
    num_tensors = len(wanted)
    abar = schedule.alphas_cumprod.double()
    tables = {
        "betas_float32": 1 - abar / torch.cat([torch.ones(1), abar[:-1]]),
        "alphas_cumprod_float32": abar,
        "sqrt_one_minus_alphas_cumprod_float32": (1 - abar).sqrt(),
    }
    for name, table in tables.items():
        # Betas and 1 - abar are differences of the float32 products that the schedule keeps.
        rtol = 2e-6 if name.startswith("alphas") else 1e-4
        torch.testing.assert_close(table, wanted.pop(name).double(), rtol=rtol, atol=1e-7, msg=name)
    for count, number in case.meta["number_of_timesteps"].items():
        prefix = f"steps{int(count):03d}."
        timesteps = schedule.timesteps(int(count), as_published=True).flip(0)
        assert len(timesteps) == number
        assert timesteps.tolist() == wanted.pop(prefix + "timesteps").tolist()
        alphas = abar[timesteps]
        previous = torch.cat([abar[:1], alphas[:-1]])
        rows = {"alphas": alphas, "alphas_prev": previous, "sqrt_one_minus_alphas": (1 - alphas).sqrt()}
        for name in [name for name in wanted if name.startswith(prefix + "sigmas_eta")]:
            eta = float(name.rpartition("eta")[2])
            rows[name.removeprefix(prefix)] = eta * ((1 - previous) / (1 - alphas) * (1 - alphas / previous)).sqrt()
        for name, row in rows.items():
            want = wanted.pop(prefix + name).double()
            rtol = 2e-6 if name.startswith("alphas") else 1e-4
            torch.testing.assert_close(row, want, rtol=rtol, atol=1e-7, msg=prefix + name)
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, num_tensors)


@params("case8_end_to_end")
def test_from_upload_to_result(case: RecordedCase, compared: Note) -> None:
    method, settings, upload = ctrlcolor(case), settings_of(case), upload_of(case)
    wanted = case.outputs()
    num_tensors = len(wanted)
    control = wanted.pop("control")
    levels(
        case,
        "control",
        torch.round(upload.control * 255)[:, : control.shape[1]].byte(),
        torch.round(control * 255).byte(),
    )
    wanted_samples = {name: wanted.pop(name) for name in [name for name in wanted if name.startswith("x_prev.")]}
    guide_sample = wanted.pop("guide_sample", None)
    ends = {name: wanted.pop(name) for name in ("samples", "decoded", "result_0", "resized_uint8_0")}
    encoded = check_upload(case, upload, method.vae, wanted, noise=case.input("masked_image_latent_noise"))
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"

    if guide_sample is not None:
        with torch.no_grad():
            guide = content_guide(method.components["deformable_vae"], upload.control[:, :1], case.input("guide_noise"))
        close(case, "guide_sample", guide, guide_sample, atol=2e-4)
    # Random networks multiply rounding errors: what was compared is replaced by what was recorded before it goes on.
    prepared = prepared_of(
        case, method, settings, upload.control, encoded[0], case.outputs()["masked_image_latents"], guide=guide_sample
    )
    state = first_state(case.input("x_T"), schedule=method.schedule, timesteps=prepared.timesteps)
    for (name, want), timestep in zip(wanted_samples.items(), prepared.timesteps.tolist(), strict=True):
        assert name.endswith(f"_t{timestep}")
        state, _, _ = recorded_step(method, prepared, state, settings)
        sees(case, name, state.latents, want)
    sees(case, "samples", state.latents, ends["samples"])
    with torch.no_grad():
        decoded = method.decode(ends["samples"], prepared, settings)
    apart = float((decoded * 2 - 1 - ends["decoded"].clamp(-1, 1)).abs().max() / ends["decoded"].abs().max())
    assert apart <= 1e-4, f"{case.name} decoded: {apart:.3g}"
    size = upload.lightness.shape[:2]
    resized = resize8_lanczos4(to_truncated8(decoded), size)
    levels(case, "resized", torch.from_numpy(resized), ends["resized_uint8_0"])
    result = torch.from_numpy(put_lightness(ends["resized_uint8_0"].numpy(), upload.lightness))
    levels(case, "result of the recorded picture", result, ends["result_0"])
    # One level of the decoded picture can be many in a color outside the gamut.
    result = torch.from_numpy(write_result(decoded, upload.lightness))
    levels(case, "result", result, ends["result_0"], most=255)
    compared(case.name, num_tensors)


# --- the networks of a case, built from its own description ----------------------------------------------------------


def networks_config(case: RecordedCase, part: str) -> dict[str, Any]:
    """Return constructor arguments; a case of autoencoders only describes just that one."""
    config = case.meta["diffusers"]
    config = config if "cls" in config else config[part]
    return {name: value for name, value in config.items() if name != "cls"}


@lru_cache(maxsize=2)
def unet_and_control(case: RecordedCase) -> tuple[UNet2DConditionModel, ControlNetModel]:
    weights = case.named_weights()
    unet = UNet2DConditionModel(**networks_config(case, "unet"))
    part = select_prefix(weights, UNET_PREFIX)
    load_ldm_weights(unet, part, unet_key_map(part), name="UNet")
    control = ControlNetModel(**networks_config(case, "controlnet"))
    part = select_prefix(weights, CONTROL_PREFIX)
    load_ldm_weights(control, part, controlnet_key_map(part), name="control network")
    return unet.eval(), control.eval()


@lru_cache(maxsize=2)
def deformable_networks(case: RecordedCase) -> tuple[AutoencoderKL, DeformableUnits]:
    plain, unit_weights = split_deformable(case.named_weights(without_prefix=True))
    vae = AutoencoderKL(**networks_config(case, "vae"))
    load_ldm_weights(vae, plain, vae_key_map(plain), name="autoencoder")
    units = DeformableUnits(vae.config.block_out_channels[-1], vae.config.latent_channels)
    load_ldm_weights(units, unit_weights, deformable_key_map(unit_weights), name="deformable decoder")
    return vae.eval(), units.eval()


@lru_cache(maxsize=2)
def main_autoencoder(case: RecordedCase) -> AutoencoderKL:
    """Return the main model's autoencoder: that of the deformable file, but for what the case itself holds."""
    weights, _ = split_deformable(case.named_weights(without_prefix=True))
    weights |= select_prefix(case.named_weights(), VAE_PREFIX)
    vae = AutoencoderKL(**networks_config(case, "vae"))
    load_ldm_weights(vae, weights, vae_key_map(weights), name="autoencoder")
    return vae.eval()


@lru_cache(maxsize=2)
def ctrlcolor(case: RecordedCase) -> CtrlColor:
    """Wire the recorded networks up; the text encoder is replaced by recorded tokens and never called."""
    unet, control = unet_and_control(case)
    has_autoencoders = any("vae" in name for name in case.meta["weights"])
    components: dict[str, Any] = {
        "unet": unet,
        "control_network": control,
        "vae": main_autoencoder(case) if has_autoencoders else AutoencoderKL(**networks_config(case, "vae")),
        "text_encoder": torch.nn.Identity(),
        "tokenizer": None,
        "scheduler": NoiseSchedule.from_config(networks_config(case, "scheduler")),
    }
    if has_autoencoders:
        components["deformable_vae"], components["deformable_units"] = deformable_networks(case)
    return CtrlColor(components, working_px=64)


def settings_of(case: RecordedCase) -> Settings:
    """Translate the parameters of the recorded run; those of case 8 are short names with defaults."""
    given = case.meta["params"]

    def get(default: Any, *names: str) -> Any:
        return next((given[name] for name in names if name in given), default)

    return Settings(
        num_inference_steps=get(4, "ddim_steps", "steps"),
        guidance_scale=get(7.0, "guidance_scale", "scale"),
        eta=get(0.0, "eta"),
        as_published=True,
        mechanisms={
            "self_attention_guidance": {
                "sag_scale": get(0.05, "sag_scale", "sag"),
                "min_timestep": get(600, "SAG_influence_step", "T_s"),
                "blur_sigma": get(1.0, "blur_sigma"),
                "blur_radius": get(9, "blur_kernel") // 2,
            },
            "lightness_control": {"strength": get(1.0, "control_strength", "strength")},
            "deformable_decoding": {"is_on": get(False, "dvae_on")},
        },
    )


def prepared_of(
    case: RecordedCase,
    method: CtrlColor,
    settings: Settings,
    control: torch.Tensor,
    mask: torch.Tensor,
    masked_latents: torch.Tensor,
    *,
    guide: torch.Tensor | None = None,
) -> PreparedCtrlColor:
    timesteps = method.schedule.timesteps(settings.num_inference_steps, as_published=True)
    nothing = torch.zeros(1, 1, *control.shape[-2:])
    return PreparedCtrlColor(
        latent_shape=tuple(case.input("x_T").shape[1:]),  # type: ignore[arg-type]
        notes=(),
        text={"uncond": case.input("context_neg"), "cond": case.input("context_pos")},
        control_image=control,
        hints=(control,),
        known=(nothing,),
        painted=(nothing,),
        masks=(mask,),
        masked_latents=(masked_latents,),
        hint_of_step=(0,) * len(timesteps),
        timesteps=timesteps,
        guide=guide,
    )


# --- one step of a run, looked into ----------------------------------------------------------------------------------


def recorded_step(
    method: CtrlColor,
    prepared: PreparedCtrlColor,
    state: State,
    settings: Settings,
    noise: torch.Tensor | None = None,
) -> tuple[State, Any, torch.Tensor]:
    """Take one step with the recorded noise; return also the attention of the last pass of the step."""
    names = method.guidance_passes(settings, state.timestep)
    site = method.attention.find_site(method.unet, state.latents.shape, settings)

    def step(*args: Any, **kwargs: Any) -> State:
        return SOLVERS["ddim"].step(*args, **{**kwargs, "noise": noise})

    with torch.no_grad(), Probe(method.unet, [site], guidance_passes=names, num_samples=len(state.latents)) as probe:
        following, record = sample_step(
            state,
            predict=lambda latents, timestep: method.predict(prepared, latents, timestep, settings),
            guide=lambda predictions: method.guide(predictions, settings),
            solver=Solver("ddim", step, takes_eta=True),
            schedule=method.schedule,
            timesteps=prepared.timesteps,
            eta=settings.eta,
        )
    return following, record, attention_of(probe[site.path, names[0]])


def step_results(
    method: CtrlColor,
    settings: Settings,
    record: Any,
    attention: torch.Tensor,
    prepared: PreparedCtrlColor,
    wanted: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Compute everything that was recorded inside of a step."""
    predictions = record.predictions
    results = {"eps_cond": predictions["cond"], "pred_x0": record.pred_original_sample}
    if "uncond" in predictions:
        results["eps_uncond"] = predictions["uncond"]
    if "eps_cfg" in wanted:
        results["eps_cfg"] = method.guidance.guide(predictions, settings)
    if "sag_received" not in record.network_inputs:
        return results
    received, degraded = (record.network_inputs[name] for name in ("sag_received", "sag_degraded"))
    half = attention.shape[1] // 2
    used = attention.flatten(0, 1)[: len(attention) * half]
    assert torch.allclose(received_attention(attention, heads="first_half", as_published=True), received.flatten(1))
    guidance: SelfAttentionGuidance = method.attention
    clean = wanted["pred_x0_before_sag"]
    everywhere = torch.full_like(received, math.inf)
    results |= {
        "mid_attn_probs": attention.flatten(0, 1),
        "sag_attn_used": used,
        "sag_received": received.flatten(1),
        "sag_mask_map": (received > 1).float(),
        "sag_mask": guidance.salient(received, degraded.shape[-2:], settings),
        "pred_x0_before_sag": before_guidance(method, settings, record),
        "blurred_x0": guidance.degrade(clean, everywhere, settings),
        "degraded_x0": degraded,
        "deg_eps_cond": predictions["degraded_cond"],
        "eps_guided": record.noise_pred,
    }
    if "degraded_uncond" in predictions:
        results["deg_eps_uncond"] = predictions["degraded_uncond"]
    return results


def before_guidance(method: CtrlColor, settings: Settings, record: Any) -> torch.Tensor:
    """Return the clean latents that classifier-free guidance alone implies, from what the record holds."""
    alpha, sigma = method.schedule.alpha_sigma_at(record.timestep)
    moved = record.noise_pred - method.guidance.guide(record.predictions, settings)
    return record.pred_original_sample + sigma / alpha * moved


def attention_of(reading: Any) -> torch.Tensor:
    """Return (B, heads, N, N)."""
    return (reading.q @ reading.k.transpose(-1, -2) * reading.scale).softmax(dim=-1)


# --- autoencoder and uploads ------------------------------------------------------------------------------------------


def middle_of(vae: AutoencoderKL, units: DeformableUnits, done: Any) -> dict[str, torch.Tensor]:
    """Rebuild the three recorded stages of the middle from what the units got and gave."""
    middle = vae.decoder.mid_block
    entered = done[0].hidden + done[0].output
    first = entered + done[2].hidden + done[2].output
    attended = middle.attentions[0](first, temb=None)
    return {
        "dcn.mid_block_1": first,
        "dcn.mid_attn": attended,
        "dcn.mid_block_2": attended + done[4].hidden + done[4].output,
    }


def without_offsets(units: DeformableUnits) -> DeformableUnits:
    copy = DeformableUnits(units.config.channels, units.config.guide_channels, units.config.kernel_size)
    weights = {
        name: torch.zeros_like(value) if "conv_offset" in name else value for name, value in units.state_dict().items()
    }
    copy.load_state_dict(weights)
    return copy


def upload_of(case: RecordedCase) -> Upload:
    given = case.meta["params"]
    edit = "off"
    if given.get("iterative_editing"):
        edit = "rim" if given["change_according_to_strokes"] else "area"
    pictures = (case.input(name).numpy() for name in ("input_image", "painted_image"))
    return read_upload(*pictures, given.get("image_resolution", given.get("res")), edit=edit)


def check_upload(
    case: RecordedCase, upload: Upload, vae: AutoencoderKL, wanted: dict[str, torch.Tensor], *, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare what is made of an upload, taking it out of `wanted`; return latent mask and masked-image latents."""
    pictures = {
        "mask_opened": upload.unpainted,
        "mask_fullres": upload.free,
        "hint_fullres": upload.hint,
        "l_image_fullres": upload.lightness,
        "l_image_work": upload.lightness_work,
        "mask_work_uint8": upload.free_work,
        "hint_work_uint8": upload.hint_work,
    }
    for name in [name for name in pictures if name in wanted]:
        levels(case, name, torch.from_numpy(pictures[name]), wanted.pop(name))
    mask = 1 - upload.known
    assert torch.equal(mask.byte(), wanted.pop("mask"))
    masked = masked_picture(upload.given, upload.known)
    if "masked_image" in wanted:
        # One 8-bit level of the resized hint is 0.0078 here.
        assert float((masked - wanted.pop("masked_image")).abs().max()) < 0.008
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    latent_mask = 1 - pool_mask(upload.known, factor, pool="nearest")
    assert torch.equal(latent_mask, wanted.pop("mask_latent"))
    with torch.no_grad():
        posterior = vae.encode(masked).latent_dist
    scaling = vae.config.scaling_factor
    sees(case, "masked_image_latent_mean", posterior.mean * scaling, wanted.pop("masked_image_latent_mean"))
    latents = (posterior.mean + posterior.std * noise) * scaling
    want = wanted.pop("masked_image_latents")
    # Large flat regions and standard deviations of up to 8: the recorded values are up to 1.7e-4 from what the same
    # weights give in float64, ours up to 3e-6.
    sees(case, "masked_image_latents", latents, want, most=2e-4)
    return latent_mask, latents


# --- tolerances -------------------------------------------------------------------------------------------------------


def close(case: RecordedCase, name: str, got: torch.Tensor, want: torch.Tensor, *, atol: float = 5e-5) -> None:
    """Compare what a network gave."""
    torch.testing.assert_close(got, want.to(got), rtol=1e-4, atol=atol, msg=lambda text: f"{case.name} {name}: {text}")


def sees(case: RecordedCase, name: str, got: torch.Tensor, want: torch.Tensor, *, most: float = 1e-4) -> None:
    """Compare by the largest error over the largest value; masks have to be equal."""
    assert got.shape == want.shape, f"{case.name} {name}: shape {tuple(got.shape)}, recorded {tuple(want.shape)}"
    apart = float((got - want).abs().max() / want.abs().max().clamp(min=1e-12))
    assert apart <= (0.0 if "mask" in name and "image" not in name else most), f"{case.name} {name}: {apart:.3g}"


def levels(case: RecordedCase, name: str, got: torch.Tensor, want: torch.Tensor, *, most: int = 1) -> None:
    """Compare 8-bit pictures: at most so many levels apart, and one on 99.5 % of the values."""
    assert got.shape == want.shape, f"{case.name} {name}: shape {tuple(got.shape)}, recorded {tuple(want.shape)}"
    apart = (got.int() - want.int()).abs()
    assert int(apart.max()) <= most, f"{case.name} {name}: {int(apart.max())} levels apart"
    assert float((apart > 1).float().mean()) <= 0.005, f"{case.name} {name}: {float((apart > 1).float().mean()):.2%}"
