"""The networks of a recorded L-CAD case, built from its own description, and what its tests share."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from recorded import RecordedCase, case_params

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
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.networks.luminance import LuminanceEncoder
from colorlab.sampling import NoiseSchedule, classifier_free

KINDS = (
    "case1_hint",
    "case1_vae",
    "case2_unet",
    "case3_sampling",
    "case3_leak",
    "case3_schedule",
    "case4_spans",
    "case4_masks",
    "case4_saturation",
    "case4_logits",
    "case4_logits_v0",
    "case4_release",
    "case4_v0",
    "case4_v0_latent",
    "case5_color",
)
"""Every kind of case that a test computes."""

Note = Callable[[str, Any], None]


def params(kind: str) -> Any:
    return pytest.mark.parametrize("case", case_params("lcad", kind, KINDS))


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


def ask(
    unet: UNet2DConditionModel, x: torch.Tensor, g9: torch.Tensor, t: torch.Tensor | int, context: torch.Tensor
) -> torch.Tensor:
    return unet(torch.cat([x, g9], dim=1), t, context).sample


def guided(
    case: RecordedCase, unet: UNet2DConditionModel, latents: torch.Tensor, g9: torch.Tensor, timestep: int
) -> dict[str, torch.Tensor]:
    passes = {}
    for name in ("uncond", "cond"):
        context = case.input(f"context_{name}").expand(len(latents), -1, -1)
        passes[f"eps_{name}"] = ask(unet, latents, g9, timestep, context)
    return {**passes, "eps": classifier_free(passes["eps_uncond"], passes["eps_cond"], case.meta["w"])}


def sampling_plan(case: RecordedCase) -> tuple[NoiseSchedule, torch.Tensor]:
    config = case.constructor("DDIMScheduler")
    schedule = NoiseSchedule.from_config(config)
    timesteps = schedule.timesteps(case.meta["steps"], config["timestep_spacing"], as_published=True)
    assert timesteps.tolist() == case.meta["timesteps"]
    return schedule, timesteps


def check_all(case: RecordedCase, results: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Compare everything that was recorded; a recorded name without a result fails."""
    assert not set(wanted) - set(results), f"{case.name} holds tensors no test computes: {set(wanted) - set(results)}"
    for name, want in wanted.items():
        case.check(name, results[name], want)


def three_channels(hint: torch.Tensor) -> torch.Tensor:
    return hint.expand(-1, 3, -1, -1)
