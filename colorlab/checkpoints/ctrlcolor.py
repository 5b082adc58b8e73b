"""Key maps between the published CtrlColor checkpoints and our modules.

| file | prefix | part | map |
| --- | --- | --- | --- |
| main | `UNET_PREFIX` | UNet with nine input channels | `unet_key_map` |
| main | `CONTROL_PREFIX` | control network | `controlnet_key_map` |
| main | `VAE_PREFIX` | autoencoder | `vae_key_map` |
| main | `TEXT_PREFIX` | CLIP's text tower | names without the prefix are those of its files |
| main | the rest | tables of the schedule | dropped |
| deformable | none | autoencoder | `vae_key_map`, of what `split_deformable` calls the autoencoder |
| deformable | `decoder...dcn` | the five units | `deformable_key_map`, of what it calls the units |
| deformable | `loss.` | losses of its training | dropped |

Source: `ZhexinLiang/Control-Color@f21054a`.
"""

import re
from collections.abc import Iterable, Mapping

import torch

from colorlab.checkpoints.ldm import checked_key_map, num_numbered, unet_key_map

__all__ = [
    "CONTROL_PREFIX",
    "TEXT_PREFIX",
    "controlnet_key_map",
    "deformable_key_map",
    "split_deformable",
]

CONTROL_PREFIX = "control_model."
TEXT_PREFIX = "cond_stage_model.transformer."

_UNIT_PLACES = {
    "decoder.dcn_in": 0,
    "decoder.mid.block_1.dcn1": 1,
    "decoder.mid.block_1.dcn2": 2,
    "decoder.mid.block_2.dcn1": 3,
    "decoder.mid.block_2.dcn2": 4,
}
_UNIT_LEAVES = ("weight", "bias", "conv_offset.weight", "conv_offset.bias")


def controlnet_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of an original control network to those of `ControlNetModel`.

    Args:
        names: the original names, without `CONTROL_PREFIX`.

    Returns:
        Original name -> diffusers name, for every name.

    Raises:
        WeightsError: a name belongs to no known part.
    """
    names = list(names)
    # The last numbered convolution of the hint is the one that goes out; a SiLU stands between any two.
    last_hint = num_numbered(names, "input_hint_block.") - 1
    own: dict[str, str | None] = {}
    for name in names:
        stem, leaf = name.rpartition(".")[::2]
        if match := re.fullmatch(r"input_hint_block\.(\d+)", stem):
            index = int(match[1])
            place = "conv_in" if index == 0 else "conv_out" if index == last_hint else f"blocks.{index // 2 - 1}"
            own[name] = f"controlnet_cond_embedding.{place}.{leaf}"
        elif match := re.fullmatch(r"zero_convs\.(\d+)\.0", stem):
            own[name] = f"controlnet_down_blocks.{match[1]}.{leaf}"
        elif stem == "middle_block_out.0":
            own[name] = f"controlnet_mid_block.{leaf}"
    rest = unet_key_map(name for name in names if name not in own)
    return checked_key_map({name: own.get(name) or rest.get(name) for name in names}, "control network")


def split_deformable(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Split the file of the deformable autoencoder; what belongs to the losses of its training is dropped.

    Returns:
        The autoencoder's weights, and the units', by original name.
    """
    kept = {name: value for name, value in weights.items() if not name.startswith("loss.")}
    units = {name: value for name, value in kept.items() if ".dcn" in name}
    return {name: value for name, value in kept.items() if name not in units}, units


def deformable_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of the five deformable convolutions to those of `DeformableUnits`.

    Raises:
        WeightsError: a name belongs to none of them.
    """
    mapped: dict[str, str | None] = {}
    for name in names:
        match = re.fullmatch(r"(decoder\..*?dcn\w+)\.(.+)", name)
        known = match is not None and match[1] in _UNIT_PLACES and match[2] in _UNIT_LEAVES
        mapped[name] = f"units.{_UNIT_PLACES[match[1]]}.{match[2]}" if match and known else None
    return checked_key_map(mapped, "deformable decoder")
