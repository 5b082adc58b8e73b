"""Parity with numbers recorded by running the released ColorizeDiffusion code, cases 1 to 6.

Every case file in the folder is found by its name, and every size and name is read from it, so that any set recorded in
the same way can be checked. What is not run is named, with its reason, at the end of the test run.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from recorded import RecordedCase, case_params, find_cases, reference_folder

from colorlab.checkpoints import load_ldm_weights, unet_key_map
from colorlab.checkpoints.colorizediffusion import sketch_encoder_key_map, split_colorizediffusion
from colorlab.conditioning import Manipulation
from colorlab.eight_bit import to_truncated8
from colorlab.mechanisms.base import UpcomingCall
from colorlab.mechanisms.exemplar_attention import ExemplarAttention, layer_scales
from colorlab.mechanisms.global_manipulation import GlobalManipulation, TextEdit, projection
from colorlab.mechanisms.position_weights import PositionWeights, published_position_weights
from colorlab.mechanisms.published_sketches import pad_exemplar, place_sketch
from colorlab.mechanisms.sketch_injection import SketchInjection
from colorlab.methods.colorizediffusion import ColorizeDiffusion, PreparedColorizeDiffusion
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.image_tokens import exemplar_pixels
from colorlab.networks.libraries import UNet2DConditionModel
from colorlab.networks.patching import patched
from colorlab.networks.sites import find_sites
from colorlab.networks.sketch_encoder import NO_SKETCH, SketchEncoder, injected_hints
from colorlab.sampling import SOLVERS, NoiseSchedule, State
from colorlab.sampling.loop import sample_step
from colorlab.sampling.solvers import Solver
from colorlab.settings import Settings
from colorlab.training.deformation import thin_plate_warp
from colorlab.training.token_strategies import drop_tokens, noisy_tokens, offset_noise, shuffle_tokens

KINDS = (
    "case1_unet_control",
    "case2_cfg_sampling",
    "case3_local_manipulation",
    "case4_global_manipulation",
    "case5_training_noise",
    "case6_preprocessing",
)
EPS = {"rtol": 1e-4, "atol": 5e-5}
FEATURES = {"rtol": 1e-4, "atol": 5e-4}
LATENTS = {"rtol": 1e-3, "atol": 1e-3}
TOKENS = {"rtol": 1e-5, "atol": 1e-4}
# Sums of a thousand and more values of up to 60, in float32.
KARRAS = "the solvers here have no Karras or k-diffusion step lists: every prediction is compared, the steps are not"
MIN_SNR = "min-SNR weighting is not offered"
STICKY = "the heat map is a picture of the released interface, which is not built"

Note = Callable[[str, Any], None]


def params(kind: str) -> Any:
    return pytest.mark.parametrize("case", case_params("colorizediffusion", kind, KINDS))


@pytest.mark.skipif(
    reference_folder("colorizediffusion") is None,
    reason="COLORLAB_REFERENCE is not set: no ColorizeDiffusion case was run",
)
def test_every_recorded_case_is_run_or_named(not_run: Note) -> None:
    cases = find_cases("colorizediffusion", KINDS)
    assert cases, f"no recorded case in {reference_folder('colorizediffusion')}"
    for case in cases:
        if not case.kind:
            not_run(case.name, "a kind of case that no test here knows")
    for kind in KINDS:
        if not any(case.kind == kind for case in cases):
            not_run(kind, "no such file in the folder")


@params("case1_unet_control")
def test_networks(case: RecordedCase, compared: Note) -> None:
    unet, encoder = networks(case)
    wanted = case.outputs()
    tokens, x, t = case.input("tokens_257"), case.input("x"), case.input("t")
    with torch.no_grad():
        hints = {"sketch": encoder(case.input("sketch"))}
        hints["nosketch"] = encoder(torch.full_like(case.input("sketch"), NO_SKETCH))
        hints["zerohints"] = tuple(torch.zeros_like(hint) for hint in hints["sketch"])
        for name in ("sketch", "nosketch"):
            for index, hint in enumerate(hints[name]):
                close(case, f"hint_{name}.{index}", hint, wanted, FEATURES)
        contexts = {"ref": tokens[:, 1:], "noref": torch.zeros_like(tokens[:, 1:]), "ref_cls_token_too": tokens}
        for sketch, drawn in hints.items():
            for reference, context in contexts.items():
                if (name := f"eps_{sketch}_{reference}") in wanted:
                    close(case, name, predict(unet, drawn, x, t, context), wanted, EPS)
        pair = predict(unet, hints["sketch"], x, case.input("t_pair"), contexts["ref"])
        close(case, "eps_two_timesteps", pair, wanted, EPS)
        check_scales(case, unet, hints["sketch"], wanted)
        check_features(case, unet, hints["sketch"], wanted)
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, len(case.outputs()))


@params("case2_cfg_sampling")
def test_guidance_and_sampling(case: RecordedCase, compared: Note, not_run: Note) -> None:
    """Guided predictions, whole runs through the method, and where our windows differ the steps that are equal."""
    method, wanted = colorize_diffusion(case), case.outputs()
    torch.testing.assert_close(method.schedule.alphas_cumprod, case.input("alphas_cumprod"), rtol=1e-6, atol=0)
    first = int(wanted.pop("cfg.t")[0])
    branches = {"cond": "full", "noref": "no_exemplar", "nosketch": "no_sketch"}
    for name in sorted(name for name in wanted if name.startswith("cfg.gr")):
        settings = settings_of(name)
        predictions = predict_pass(case, method, settings, case.input("x_T"), first)
        close(case, name, method.guide(predictions, settings), wanted, {"rtol": 1e-4, "atol": 1e-4})
        if name == "cfg.gr4_gs3.eps":
            for recorded, ours in branches.items():
                close(case, f"cfg.branch.{recorded}", predictions[ours], wanted, EPS)
    for run in sorted({name.split(".eps")[0] for name in wanted if name.endswith(".eps")}):
        if "karras" in run:
            check_predictions(case, method, run, wanted)
        else:
            check_run(case, method, run, wanted)
    for run in sorted({name.removesuffix(".raw") for name in wanted if name.endswith(".raw")}):
        check_raw(case, method, run, wanted)
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    not_run(case.name, KARRAS)
    compared(case.name, len(case.outputs()))


@params("case3_local_manipulation")
def test_local_manipulation(case: RecordedCase, compared: Note, not_run: Note) -> None:
    wanted, settings = case.outputs(), Settings(as_published=True)
    for name, steps in case.meta["steps_per_case"].items():
        edits = [text_edit(case, step) for step in steps]
        edited, done = PositionWeights().apply(case.input("tokens_257"), edits, settings, polarity="high")
        close(case, f"{name}.tokens", edited, wanted, TOKENS)
        assert torch.equal(edited[:, 0], case.input("tokens_257")[:, 0])
        for index, (edit, one) in enumerate(zip(edits, done, strict=True)):
            close(case, f"{name}.step{index}.control_map", one.similarity[..., 0], wanted, TOKENS)
            close(case, f"{name}.step{index}.pwm", one.weights[..., 0], wanted, TOKENS)
            erases = edit.manipulation.enhance and edit.anchor is not None
            text = edit.anchor if erases and edit.anchor is not None else edit.target
            shift = edit.manipulation.target_scale - projection(case.input("tokens_257")[:, :1], text)
            close(case, f"{name}.step{index}.dscale", shift.reshape(1), wanted, TOKENS)
    config = case.meta["config"]
    grid, example = (case.input(f"pwm_{name}.map")[..., None] for name in ("grid", "example"))
    for name, values, shift, thresholds in (
        ("pwm_grid.default_d5", grid, 5.0, "default"),
        ("pwm_grid.custom_dminus3", grid, -3.0, "custom"),
        ("pwm_example.d5", example, 5.0, "default"),
    ):
        weights = published_position_weights(values, shift, thresholds=config[f"{thresholds}_thresholds"])
        close(case, name, weights[..., 0], wanted, TOKENS)
    constant = torch.ones(1, wanted["pwm_constant_map.nan"].shape[1], 1)
    weights = published_position_weights(constant, 5.0, thresholds=config["default_thresholds"])
    close(case, "pwm_constant_map.nan", weights[..., 0].isnan().float(), wanted, TOKENS)
    heatmaps = [name for name in wanted if name.startswith("heatmap.")]
    for name in heatmaps:
        del wanted[name]
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    not_run(case.name, STICKY)
    compared(case.name, len(case.outputs()) - len(heatmaps))


@params("case4_global_manipulation")
def test_global_manipulation(case: RecordedCase, compared: Note) -> None:
    wanted = case.outputs()
    for name, steps in case.meta["steps_per_case"].items():
        edits = [text_edit(case, step) for step in steps]
        edited, projections = GlobalManipulation().apply(case.input("cls"), edits)
        close(case, f"{name}.cls", edited, wanted, TOKENS)
        for text in ("target0", "anchor0"):
            if f"{name}.proj_{text}" in wanted:
                found = projection(edited, case.input(f"text.{text}")).reshape(1)
                close(case, f"{name}.proj_{text}", found, wanted, TOKENS)
        if steps[0]["target"] == "target0":
            before = case.input("proj_target0_before")[0]
            torch.testing.assert_close(projections[0, 0, 0], before, rtol=1e-5, atol=1e-4)
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, len(case.outputs()))


@params("case5_training_noise")
def test_training_noise(case: RecordedCase, compared: Note, not_run: Note) -> None:
    wanted, schedule = case.outputs(), NoiseSchedule()
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    tokens, noise, t, x0, eps = (case.input(name) for name in ("tokens", "token_noise", "t", "x0", "eps"))
    shared = {"later": None, "v1": case.input("token_offset_noise_v1")}
    draws = {"later": case.input("offset_noise_per_channel"), "v1": case.input("offset_noise_per_sample")}
    versions: dict[str, Any] = {"later": "later", "v1": "first"}
    for name, version in versions.items():
        noised = noisy_tokens(tokens, noise, t, schedule, version=version, shared=shared[name])
        close(case, f"{name}.noisy_tokens", noised, wanted, tolerance)
        kept = case.input(f"{name}.keep_mask_p0.5").flatten()
        close(case, f"{name}.noisy_then_dropped_tokens", drop_tokens(noised, kept), wanted, tolerance)
        target = offset_noise(eps, draws[name])
        close(case, f"{name}.x_noisy", schedule.add_noise(x0, target, t), wanted, tolerance)
        output = case.input("model_output")
        loss = (output - schedule.training_target(x0, target, t)).square().mean().reshape(1)
        close(case, "v1.loss" if name == "v1" else "later.loss_eps", loss, wanted, tolerance)
        if name == "later":
            velocity = NoiseSchedule(prediction_type="v_prediction").training_target(x0, target, t)
            close(case, "later.loss_v", (output - velocity).square().mean().reshape(1), wanted, tolerance)
    close(case, "v1.shuffled_tokens", shuffle_tokens(tokens, case.input("v1.permutation")), wanted, tolerance)
    check_reference_noise(case, wanted, tolerance)
    assert set(wanted) == {"later.loss_eps_min_snr5"}, f"{case.name} holds tensors no test computes: {set(wanted)}"
    not_run(case.name, MIN_SNR)
    compared(case.name, len(case.outputs()) - 1)


@params("case6_preprocessing")
def test_preprocessing(case: RecordedCase, compared: Note) -> None:
    wanted = case.outputs()
    tolerance = {"rtol": 1e-5, "atol": 1e-4}
    for name, target in case.meta["targets"].items():
        for mode in ("none", "invert", "invert-webui"):
            preprocessor: Any = mode
            placed = place_sketch(case.input(f"sketch_{name}").numpy(), tuple(target), preprocessor=preprocessor)
            rule = {"rtol": 1e-5, "atol": 1e-2} if mode == "invert-webui" else tolerance
            close(case, f"sketch_{name}.{mode}", placed.picture, wanted, rule)
            rows, columns = placed.area
            area = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
            assert area == case.meta["facts"][f"sketch_{name}.{mode}.left_top_width_height"]
    for name in [name for name in case.tensors if name.startswith("inputs.reference_")]:
        label = name.removeprefix("inputs.")
        uploaded = case.tensors[name]
        picture = uploaded.permute(2, 0, 1)[None].float() / 255
        side_px = int(case.meta["facts"]["clip_preprocess_shape"][-1])
        if f"{label}.tensor" in wanted:
            close(case, f"{label}.tensor", picture * 2 - 1, wanted, tolerance)
        even = exemplar_pixels(picture, side_px)[..., ::2, ::2]
        close(case, f"{label}.clip_input_even", even, wanted, tolerance)
        for padded in [key for key in wanted if key.startswith(f"{label}.padded_")]:
            scale = float(padded.rpartition("_")[2])
            assert np.array_equal(pad_exemplar(uploaded.numpy(), scale), wanted.pop(padded).numpy())
    decoded = (case.input("decoded") + 1) / 2
    assert np.array_equal(to_truncated8(decoded), wanted.pop("decoded_uint8")[0].numpy())
    image, before, after = (case.input(f"tps.{name}") for name in ("image", "points_before", "points_after"))
    for name, points in (("warped", after), ("identity", before)):
        close(case, f"tps.{name}", thin_plate_warp(image, before, points), wanted, {"rtol": 1e-5, "atol": 2e-3})
    assert not wanted, f"{case.name} holds tensors no test computes: {set(wanted)}"
    compared(case.name, len(case.outputs()))


# --- networks ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def networks(case: RecordedCase) -> tuple[UNet2DConditionModel, SketchEncoder]:
    parts = split_colorizediffusion(case.weights())
    unet = UNet2DConditionModel(**case.constructor("UNet2DConditionModel"))
    load_ldm_weights(unet, parts["unet"], unet_key_map(parts["unet"]), name="UNet")
    encoder = SketchEncoder(block_out_channels=unet.config.block_out_channels)
    keys = sketch_encoder_key_map(parts["sketch_encoder"])
    load_ldm_weights(encoder, parts["sketch_encoder"], keys, name="sketch encoder")
    return unet.eval(), encoder.eval()


def predict(unet: Any, hints: Any, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    with injected_hints(unet, hints):
        eps: torch.Tensor = unet(x, t, encoder_hidden_states=context).sample
    return eps


def check_scales(case: RecordedCase, unet: Any, hints: Any, wanted: dict[str, torch.Tensor]) -> None:
    """Compare scaled cross-attention, by groups, one by one, and switched off."""
    mechanism = ExemplarAttention()
    x, t, context = case.input("x"), case.input("t"), case.input("tokens_257")[:, 1:]
    sites = find_sites(unet, x.shape, kind="attn2")
    groups = {"encoder_scale": 0.6, "color_scale": 0.8, "semantics_scale": 0.3, "strength": 0.5}
    single = tuple((index + 1) / len(sites) for index in range(len(sites)))
    cases = {"level": groups, "individual": {"layer_scales": single}, "0": {"layer_scales": (0.0,) * len(sites)}}
    for name, parameters in cases.items():
        settings = Settings(mechanisms={mechanism.name: parameters})
        if name == "level":
            found = layer_scales(sites, (x.shape[-2], x.shape[-1]), mechanism, settings)
            assert found == pytest.approx(case.meta["facts"]["level_scales_result_per_index"])
        call = UpcomingCall(unet, settings, None, ("full",), tuple(x.shape[1:]), 0, None, None)  # type: ignore[arg-type]
        patches = mechanism.patches(call)
        with patched(unet, patches, guidance_passes=("full",), step_index=0, num_samples=len(x)):
            eps = predict(unet, hints, x, t, context)
        close(case, "eps_scale0" if name == "0" else f"eps_{name}_scales", eps, wanted, EPS)


def check_features(case: RecordedCase, unet: Any, hints: Any, wanted: dict[str, torch.Tensor]) -> None:
    """Compare the features behind every block of the original layout."""
    places = {"middle_block": "mid_block", "attn2_idx0": case_site(case, "0")}
    for key in unet_key_map(name for name in split_colorizediffusion(case.weights())["unet"]).items():
        if match := re.match(r"(input_blocks|output_blocks)\.(\d+)\.", key[0]):
            module = re.match(r"conv_in|(?:down|up)_blocks\.\d+\.\w+\.\d+", key[1])
            assert module is not None
            # The part of a block with the highest number comes last.
            part = int(key[0].split(".")[2])
            block = f"{match[1]}.{match[2]}"
            if part >= places.get(f"{block} part", -1):  # type: ignore[operator]
                places[block], places[f"{block} part"] = module[0], part  # type: ignore[assignment]
    found: dict[str, torch.Tensor] = {}
    names = [name.removeprefix("act.") for name in wanted if name.startswith("act.")]

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

        return hook

    with injected_hints(unet, hints):
        # Behind the hooks that add the hints.
        handles = [unet.get_submodule(str(places[name])).register_forward_hook(keep(name)) for name in names]
        unet(case.input("x"), case.input("t"), encoder_hidden_states=case.input("tokens_257")[:, 1:])
    for handle in handles:
        handle.remove()
    for name in names:
        close(case, f"act.{name}", found[name], wanted, FEATURES)


def case_site(case: RecordedCase, index: str) -> str:
    """Return our path of a cross-attention layer of the original layout."""
    unet, _ = networks(case)
    return find_sites(unet, case.input("x").shape, kind="attn2")[int(index)].path


# --- sampling ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def colorize_diffusion(case: RecordedCase) -> ColorizeDiffusion:
    """Wire the recorded networks up; what the recording replaced (CLIP, autoencoder) is never called."""
    unet, encoder = networks(case)
    nothing = torch.nn.Identity()
    width = case.input("tokens_257").shape[-1]
    components: dict[str, Any] = {
        "unet": unet,
        "sketch_encoder": encoder,
        "exemplar_projection": ExemplarProjection(width=width),
        "scheduler": NoiseSchedule(set_alpha_to_one=True),
        "vae": nothing,
        "projected_image_encoder": nothing,
        "projected_text_encoder": nothing,
        "tokenizer": None,
    }
    return ColorizeDiffusion(components, working_px=128)


def settings_of(name: str) -> Settings:
    """Read the settings of a recorded run off its name."""
    exemplar, sketch = (float(part) for part in re.search(r"gr([\d.]+)_gs([\d.]*\d)", name).groups())  # type: ignore[union-attr]
    strength = re.search(r"sketch_strength([\d.]*\d)", name)
    window: dict[str, float] = {}
    if match := re.search(r"_(start|end)([\d.]*\d)_", name):
        window = {match[1]: float(match[2])}
    if match := re.search(r"_no([\d.]*\d)to([\d.]*\d)_", name):
        window = {"skip_start": float(match[1]), "skip_end": float(match[2])}
    return Settings(
        num_inference_steps=4,
        guidance_scale=exemplar,
        solver="dpmpp_2m" if "dpm" in name else "ddim",
        as_published=True,
        mechanisms={
            "dual_guidance": {"sketch_guidance_scale": sketch},
            "sketch_injection": {"strength": float(strength[1]) if strength else 1.0},
            "exemplar_attention": window,
        },
    )


def prepared_of(case: RecordedCase, method: ColorizeDiffusion, settings: Settings) -> PreparedColorizeDiffusion:
    _, encoder = networks(case)
    sketch, tokens = case.input("sketch"), case.input("tokens_257")
    with torch.no_grad():
        hints, blank = encoder(sketch), encoder(torch.full_like(sketch, NO_SKETCH))
    return PreparedColorizeDiffusion(
        latent_shape=tuple(case.input("x_T").shape[1:]),  # type: ignore[arg-type]
        notes=(),
        sketch=sketch[:, :1],
        hints=SketchInjection().scale(hints, settings),
        blank_hints=SketchInjection().scale(blank, settings),
        exemplar_tokens=tokens,
        edited_tokens=tokens,
        context=tokens[:, 1:],
        similarities=(),
        weights=(),
        projections=torch.zeros(0, 2, 2),
        timesteps=method.timesteps(settings),
    )


def predict_pass(
    case: RecordedCase, method: ColorizeDiffusion, settings: Settings, x: torch.Tensor, t: float
) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return method.predict(prepared_of(case, method, settings), x, t, settings)


def check_run(case: RecordedCase, method: ColorizeDiffusion, run: str, wanted: dict[str, torch.Tensor]) -> None:
    """Sample the whole run and compare timestep, guided prediction and latents of each step."""
    settings = settings_of(run)
    prepared = prepared_of(case, method, settings)
    solver = SOLVERS[settings.solver]
    assert isinstance(solver, Solver)
    state = State(0, prepared.timesteps[0].item(), case.input("x_T"))
    told: dict[str, list[torch.Tensor]] = {"t": [], "eps": [], "x_after": []}
    with torch.no_grad():
        for timestep in prepared.timesteps:
            state, record = sample_step(
                state,
                predict=lambda latents, at: method.predict(prepared, latents, at, settings),
                guide=lambda predictions: method.guide(predictions, settings),
                solver=solver,
                schedule=method.schedule,
                timesteps=prepared.timesteps,
            )
            for name, value in zip(told, (timestep.float(), record.noise_pred, state.latents), strict=True):
                told[name].append(value)
    for name, values in told.items():
        close(case, f"{run}.{name}", torch.stack(values), wanted, LATENTS)


def check_predictions(case: RecordedCase, method: ColorizeDiffusion, run: str, wanted: dict[str, torch.Tensor]) -> None:
    """Compare the guided prediction of each step from the recorded latents before it."""
    settings = settings_of(run)
    after, timesteps = wanted.pop(f"{run}.x_after"), wanted.pop(f"{run}.t")
    assert len(after) == len(timesteps) == settings.num_inference_steps
    guided = []
    for latents, timestep in zip(torch.cat([case.input("x_T")[None], after[:-1]]), timesteps.tolist(), strict=True):
        guided.append(method.guide(predict_pass(case, method, settings, latents, timestep), settings))
    close(case, f"{run}.eps", torch.stack(guided), wanted, LATENTS)


def check_raw(case: RecordedCase, method: ColorizeDiffusion, run: str, wanted: dict[str, torch.Tensor]) -> None:
    """Compare what every pass predicts at the fractional timesteps of k-diffusion."""
    settings = settings_of(run)
    entered, timesteps = wanted.pop(f"{run}.x_in"), wanted.pop(f"{run}.t")
    assert torch.isfinite(wanted.pop(f"{run}.final")).all()
    raw = [
        torch.cat(list(predict_pass(case, method, settings, x, t).values()))
        for x, t in zip(entered, timesteps.tolist(), strict=True)
    ]
    close(case, f"{run}.raw", torch.stack(raw), wanted, LATENTS)


# --- texts and tokens -------------------------------------------------------------------------------------------------


def text_edit(case: RecordedCase, step: dict[str, Any]) -> TextEdit:
    """Encode a recorded step by the recorded table of texts; no anchor and the word "none" are the same."""
    anchor = step["anchor"] if step["anchor"] != "none" else None
    control = step.get("control")
    manipulation = Manipulation(
        target_text=step["target"],
        target_scale=step["target_scale"],
        anchor_text=anchor or "none",
        control_text=control or "",
        enhance=step["enhance"],
        thresholds=tuple(step.get("thresholds", (0.5, 0.55, 0.65, 0.95))),
    )
    vectors = [None if name is None else case.input(f"text.{name}") for name in (step["target"], anchor, control)]
    assert vectors[0] is not None
    return TextEdit(manipulation, vectors[0], vectors[1], vectors[2])


def check_reference_noise(case: RecordedCase, wanted: dict[str, torch.Tensor], tolerance: dict[str, float]) -> None:
    """Compare the first version's noisy tokens in sampling: when, and how noisy, the rows without an exemplar too."""
    schedule, mechanism = NoiseSchedule(), ExemplarAttention()
    rows = torch.stack([case.input("tokens")[0], torch.zeros_like(case.input("tokens")[0])])
    noise = case.input("token_noise")[:2]
    for name in [name for name in wanted if name.startswith("v1.reference_noise_level")]:
        level, timestep = (float(number) for number in re.search(r"level([\d.]+)\.t([\d.]+)", name).groups())  # type: ignore[union-attr]
        settings = Settings(mechanisms={mechanism.name: {"noise_level": level}})
        alpha, sigma = schedule.alpha_sigma_at(int(timestep))
        noised = rows
        if mechanism.is_noisy(timestep, settings, schedule.num_train_timesteps):
            noised = alpha * rows + sigma * noise
        close(case, name, noised, wanted, tolerance)


def close(
    case: RecordedCase, name: str, got: torch.Tensor, wanted: dict[str, torch.Tensor], tolerance: dict[str, float]
) -> None:
    """Compare with a recorded tensor and take it out of those that are left."""
    torch.testing.assert_close(got, wanted.pop(name), **tolerance, msg=lambda text: f"{case.name} {name}: {text}")
