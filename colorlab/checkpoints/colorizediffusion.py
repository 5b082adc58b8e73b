"""Key maps between the published ColorizeDiffusion checkpoints (`mult*`, v1) and our modules.

| file | prefix | part | map |
| --- | --- | --- | --- |
| main | `UNET_PREFIX` | UNet | `unet_key_map` |
| main | `SKETCH_PREFIX` | sketch encoder | `sketch_encoder_key_map` |
| main | `VAE_PREFIX` | autoencoder | `vae_key_map` |
| main | the rest | tables of the schedule, averaged copies, CLIP | dropped: `split_colorizediffusion` |

What a file's UNet predicts (noise or v) is not in it; its manifest says so. Files of other versions are refused.

Source: tellurion-kanata/colorizeDiffusion@c9bd9fb.
"""

import re
from collections.abc import Iterable, Mapping

import torch

from colorlab.checkpoints.ldm import UNET_PREFIX, VAE_PREFIX, checked_key_map, select_prefix
from colorlab.errors import WeightsError

__all__ = ["SKETCH_PREFIX", "sketch_encoder_key_map", "split_colorizediffusion"]

SKETCH_PREFIX = "control_encoder."

_SCHEDULE_TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)
_DROPPED_PREFIXES = ("cond_stage_model.", "model_ema.")
# Signs of files that this network is not made for, and what they are.
_OTHER_VERSIONS = {
    r"model\.diffusion_model\.semantic_input_blocks\.": "the single-hint network of the paper's first code",
    r"model\.diffusion_model\.output_blocks\.12\.": "the layout with separate upsampling blocks",
    r"model\.diffusion_model\..*\.lora_(down|up)_(fg|bg)\.": "version 1.5 (switch)",
    r"(bg_encoder|style_encoder)\.": "version 2",
}


def split_colorizediffusion(weights: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Split a published file into its networks, without their prefixes.

    Returns:
        `unet`, `sketch_encoder`, and `vae` where the file has one, by original name.

    Raises:
        WeightsError: the file is of another version, a network is missing, or something in it is unknown.
    """
    for pattern, version in _OTHER_VERSIONS.items():
        if any(re.match(pattern, name) for name in weights):
            raise WeightsError(f"the weights are of {version}, but those of version 1 (mult) are expected.")
    prefixes = {"unet": UNET_PREFIX, "sketch_encoder": SKETCH_PREFIX, "vae": VAE_PREFIX}
    known = (*prefixes.values(), *_DROPPED_PREFIXES)
    unknown = [name for name in weights if not name.startswith(known) and name not in _SCHEDULE_TABLES]
    if unknown:
        raise WeightsError(f"the weights hold {unknown[0]!r} and {len(unknown) - 1} more names of no known network.")
    parts = {part: select_prefix(weights, prefix) for part, prefix in prefixes.items()}
    missing = [part for part in ("unet", "sketch_encoder") if not parts[part]]
    if missing:
        raise WeightsError(
            f"the weights hold no {missing[0]} (names that begin with {prefixes[missing[0]]!r}); give a checkpoint of "
            "ColorizeDiffusion."
        )
    return {part: found for part, found in parts.items() if found}


def sketch_encoder_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of a published control encoder (without `SKETCH_PREFIX`) to those of `SketchEncoder`.

    Raises:
        WeightsError: a name belongs to no known part.
    """
    mapped: dict[str, str | None] = {}
    for name in names:
        stem, leaf = name.rpartition(".")[::2]
        if match := re.fullmatch(r"model\.(\d+)", stem):
            mapped[name] = f"stem.{match[1]}.{leaf}"
        elif match := re.fullmatch(r"output_blocks\.(\d+)\.([13])", stem):
            mapped[name] = f"stages.{match[1]}.{match[2]}.{leaf}"
        elif stem == "zero_layer.0":
            mapped[name] = f"zero_convs.0.{leaf}"
        elif match := re.fullmatch(r"zero_blocks\.(\d+)\.0", stem):
            mapped[name] = f"zero_convs.{int(match[1]) + 1}.{leaf}"
        else:
            mapped[name] = None
    return checked_key_map(mapped, "sketch encoder")
