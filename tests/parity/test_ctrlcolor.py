"""Parity with numbers recorded by running the released CtrlColor code, cases 1 to 8.

Every case file in the folder is found by its name, and every size, weight file and network is read from its own
description, so that any set recorded in the same way can be checked.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ctrlcolor_cases import (
    UNITS,
    attention_of,
    check_upload,
    close,
    ctrlcolor,
    deformable_networks,
    levels,
    main_autoencoder,
    middle_of,
    prepared_of,
    recorded_step,
    sees,
    settings_of,
    step_results,
    upload_of,
    without_offsets,
)
from recorded import RecordedCase, case_params, find_cases, reference_folder

from colorlab.eight_bit import resize8_lanczos4, rgb8_to_lab8, to_truncated8
from colorlab.mechanisms.exemplar_losses import contextual_loss
from colorlab.mechanisms.published_uploads import (
    is_gray_upload,
    put_lightness,
    read_upload,
    upload_lightness,
    working_size_as_published,
    write_result,
)
from colorlab.networks.deformable import content_guide, decode_deformable
from colorlab.networks.probe import Probe
from colorlab.networks.sites import find_sites
from colorlab.sampling import NoiseSchedule, first_state

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
