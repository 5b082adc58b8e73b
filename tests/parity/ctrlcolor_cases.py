"""The networks of a recorded CtrlColor case, its runs and uploads, and how closely tensors have to agree."""

import math
from functools import lru_cache
from typing import Any

import torch
from recorded import RecordedCase

from colorlab.checkpoints import UNET_PREFIX, VAE_PREFIX, load_ldm_weights, select_prefix, unet_key_map, vae_key_map
from colorlab.checkpoints.ctrlcolor import CONTROL_PREFIX, controlnet_key_map, deformable_key_map, split_deformable
from colorlab.mechanisms.published_uploads import (
    Upload,
    read_upload,
)
from colorlab.mechanisms.self_attention_guidance import SelfAttentionGuidance, received_attention
from colorlab.mechanisms.stroke_encoding import masked_picture, pool_mask
from colorlab.methods.ctrlcolor import CtrlColor, PreparedCtrlColor
from colorlab.networks.deformable import DeformableUnits
from colorlab.networks.libraries import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from colorlab.networks.probe import Probe
from colorlab.sampling import SOLVERS, NoiseSchedule, State
from colorlab.sampling.loop import sample_step
from colorlab.sampling.solvers import Solver
from colorlab.settings import Settings

UNITS = ("dcn_in", "mid.block_1.dcn1", "mid.block_1.dcn2", "mid.block_2.dcn1", "mid.block_2.dcn2")
NETWORK = {"rtol": 1e-4, "atol": 5e-5}
UNET_CONFIG, VAE_CONFIG = "unet", "vae"


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
