"""Key maps between Stable Diffusion's original checkpoint layout and diffusers' modules.

A map goes from the names of the original layout to the names of ours, one to one. It is read off the names that are
there, so it holds for any number of levels, residual blocks and attention layers. Values keep their numbers; only the
1x1 convolutions of an autoencoder's attention become matrices (`convert_weights`).

| part of a full L-CAD checkpoint | prefix | map |
| --- | --- | --- |
| UNet | `UNET_PREFIX` | `unet_key_map` |
| autoencoder | `VAE_PREFIX` without the next | `vae_key_map` |
| luminance encoder | `LUMINANCE_PREFIX` | `luminance_encoder_key_map` |
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from colorlab.errors import WeightsError

__all__ = [
    "LUMINANCE_PREFIX",
    "UNET_PREFIX",
    "VAE_PREFIX",
    "convert_weights",
    "load_ldm_weights",
    "luminance_encoder_key_map",
    "select_prefix",
    "unet_key_map",
    "vae_key_map",
]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
LUMINANCE_PREFIX = "first_stage_model.g_encoder."

_UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_ENDS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}


def select_prefix(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the weights whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def unet_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of an original UNet to those of `UNet2DConditionModel`.

    Args:
        names: the original names, without `UNET_PREFIX`.

    Returns:
        Original name -> diffusers name, for every name.

    Raises:
        WeightsError: a name belongs to no known part.
    """
    names = list(names)
    places = {**_down_places(names), **_middle_places(names), **_up_places(names)}
    mapped: dict[str, str | None] = {}
    for name in names:
        stem, leaf = name.rpartition(".")[::2]
        if stem in _UNET_ENDS:
            mapped[name] = f"{_UNET_ENDS[stem]}.{leaf}"
            continue
        match = re.match(r"(input_blocks\.\d+\.\d+|middle_block\.\d+|output_blocks\.\d+\.\d+)\.(.+)", name)
        place = places.get(match[1]) if match else None
        if match is None or place is None:
            mapped[name] = None
        elif ".resnets." in place:
            mapped[name] = _replace_stem(match[2], _UNET_RESNET, place)
        elif "samplers." in place:
            mapped[name] = f"{place}.{match[2].replace('op.', 'conv.')}"
        else:
            mapped[name] = f"{place}.{match[2]}"
    return checked_key_map(mapped, "UNet")


def vae_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of an original autoencoder (without `VAE_PREFIX`) to those of `AutoencoderKL`.

    Raises:
        WeightsError: a name belongs to no known part.
    """
    names = list(names)
    mapped: dict[str, str | None] = {}
    for name in names:
        side, _, rest = name.partition(".")
        if side in ("quant_conv", "post_quant_conv"):
            mapped[name] = name
        elif side in ("encoder", "decoder"):
            inner = _autoencoder_name(rest, num_numbered(names, f"{side}.up."))
            mapped[name] = None if inner is None else f"{side}.{inner}"
        else:
            mapped[name] = None
    return checked_key_map(mapped, "autoencoder")


def luminance_encoder_key_map(names: Iterable[str]) -> dict[str, str]:
    """Map the names of L-CAD's luminance encoder (without `LUMINANCE_PREFIX`) to those of `LuminanceEncoder`.

    Raises:
        WeightsError: a name belongs to no known part.
    """
    names = list(names)
    num_levels = num_numbered(names, "down.")
    layers = [int(match[1]) + 1 for name in names if (match := re.match(r"down\.\d+\.zero_conv\.(\d+)\.", name))]
    layers_per_block = max(layers, default=0)
    mapped: dict[str, str | None] = {}
    for name in names:
        leaf = name.rpartition(".")[2]
        if match := re.fullmatch(r"down\.(\d+)\.zero_conv\.(\d+)\.\w+", name):
            mapped[name] = f"zero_convs.{int(match[1]) * layers_per_block + int(match[2])}.{leaf}"
        elif match := re.fullmatch(r"zero_conv_mid([12])\.\w+", name):
            mapped[name] = f"zero_convs.{num_levels * layers_per_block + int(match[1]) - 1}.{leaf}"
        else:
            inner = _autoencoder_name(name, num_levels)
            mapped[name] = None if inner is None else f"encoder.{inner}"
    return checked_key_map(mapped, "luminance encoder")


def convert_weights(
    weights: Mapping[str, torch.Tensor], key_map: Mapping[str, str], shapes: Mapping[str, torch.Size]
) -> dict[str, torch.Tensor]:
    """Rename weights and give each the shape of its target.

    A 1x1 convolution and a matrix of the same numbers are exchanged where the target asks for it, in either direction;
    any other difference of shape is an error. With an inverted map this converts back.

    Args:
        weights: tensors by name.
        key_map: their names -> target names.
        shapes: shape of each target, by target name.

    Returns:
        Tensors by target name; those without a shape in `shapes` are passed on as they are.

    Raises:
        WeightsError: shapes differ in more than two trailing ones.
    """
    converted = {}
    for name, value in weights.items():
        target = key_map[name]
        shape = shapes.get(target, value.shape)
        if value.shape != shape:
            short, long = sorted((tuple(value.shape), tuple(shape)), key=len)
            if long != (*short, 1, 1):
                raise WeightsError(
                    f"{name} has shape {tuple(value.shape)}, but {target} needs {tuple(shape)}; "
                    "the weights belong to a network of another size."
                )
            value = value.reshape(shape)
        converted[target] = value
    return converted


def load_ldm_weights(
    module: nn.Module,
    weights: Mapping[str, torch.Tensor],
    key_map: Mapping[str, str],
    *,
    name: str,
    optional: tuple[str, ...] = (),
) -> None:
    """Convert weights of the original layout and load them into a module, strictly.

    Args:
        module: the target; it is changed only if everything fits.
        weights: tensors by original name.
        key_map: original names -> the module's names.
        name: what to call the module in an error.
        optional: prefixes of the module's names that may be absent as a whole; those parts keep their values.

    Raises:
        WeightsError: weights are missing or left over, or shapes differ.
    """
    own = module.state_dict()
    given = {key_map[key] for key in weights}
    absent = tuple(prefix for prefix in optional if not any(key.startswith(prefix) for key in given))
    missing = [key for key in own if key not in given and not (absent and key.startswith(absent))]
    unexpected = sorted(given - set(own))
    if missing or unexpected:
        raise WeightsError(
            f"the weights do not fit the {name}: {_name_some(missing, 'missing')}, "
            f"{_name_some(unexpected, 'unexpected')}; check that the file belongs to this network."
        )
    converted = convert_weights(weights, key_map, {key: value.shape for key, value in own.items()})
    module.load_state_dict(converted, strict=False)  # strict above, but for the optional parts


def _down_places(names: list[str]) -> dict[str, str]:
    """Walk the input blocks in order and name the diffusers module of each part."""
    places = {}
    level = layer = 0
    for block in range(1, num_numbered(names, "input_blocks.")):
        if any(name.startswith(f"input_blocks.{block}.0.op.") for name in names):
            places[f"input_blocks.{block}.0"] = f"down_blocks.{level}.downsamplers.0"
            level, layer = level + 1, 0
            continue
        places[f"input_blocks.{block}.0"] = f"down_blocks.{level}.resnets.{layer}"
        places[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{layer}"
        layer += 1
    return places


def _middle_places(names: list[str]) -> dict[str, str]:
    """Name the parts of the middle block: residual blocks, with or without attention between them."""
    places = {}
    num_resnets = num_attentions = 0
    for part in range(num_numbered(names, "middle_block.")):
        if any(name.startswith(f"middle_block.{part}.in_layers.") for name in names):
            places[f"middle_block.{part}"] = f"mid_block.resnets.{num_resnets}"
            num_resnets += 1
        else:
            places[f"middle_block.{part}"] = f"mid_block.attentions.{num_attentions}"
            num_attentions += 1
    return places


def _up_places(names: list[str]) -> dict[str, str]:
    """Walk the output blocks in order; a level ends with the block that holds an upsampling convolution."""
    places = {}
    level = layer = 0
    for block in range(num_numbered(names, "output_blocks.")):
        places[f"output_blocks.{block}.0"] = f"up_blocks.{level}.resnets.{layer}"
        is_last = False
        for part in (1, 2):
            if any(name.startswith(f"output_blocks.{block}.{part}.conv.") for name in names):
                places[f"output_blocks.{block}.{part}"] = f"up_blocks.{level}.upsamplers.0"
                is_last = True
            else:
                places[f"output_blocks.{block}.{part}"] = f"up_blocks.{level}.attentions.{layer}"
        level, layer = (level + 1, 0) if is_last else (level, layer + 1)
    return places


def _autoencoder_name(name: str, num_levels: int) -> str | None:
    """Translate one name of an original encoder or decoder; None if it belongs to no known part."""
    stem, leaf = name.rpartition(".")[::2]
    if stem in _VAE_ENDS:
        return f"{_VAE_ENDS[stem]}.{leaf}"
    if match := re.fullmatch(r"(down|up)\.(\d+)\.block\.(\d+)\.(.+)", name):
        return _replace_stem(match[4], _VAE_RESNET, f"{_block_name(match[1], match[2], num_levels)}.resnets.{match[3]}")
    if match := re.fullmatch(r"(down|up)\.(\d+)\.\1sample\.conv\.\w+", name):
        return f"{_block_name(match[1], match[2], num_levels)}.{match[1]}samplers.0.conv.{leaf}"
    if match := re.fullmatch(r"mid\.block_([12])\.(.+)", name):
        return _replace_stem(match[2], _VAE_RESNET, f"mid_block.resnets.{int(match[1]) - 1}")
    if match := re.fullmatch(r"mid\.attn_1\.(.+)", name):
        return _replace_stem(match[1], _VAE_ATTENTION, "mid_block.attentions.0")
    return None


def _block_name(direction: str, level: str, num_levels: int) -> str:
    """Name a level: the original counts its up levels from the finest, diffusers from the coarsest."""
    return f"down_blocks.{level}" if direction == "down" else f"up_blocks.{num_levels - 1 - int(level)}"


def _replace_stem(name: str, table: Mapping[str, str], place: str) -> str | None:
    """Translate `part.weight` by a table of parts and put it at its place."""
    stem, leaf = name.rpartition(".")[::2]
    return f"{place}.{table[stem]}.{leaf}" if stem in table else None


def num_numbered(names: Iterable[str], prefix: str) -> int:
    """Count what is numbered directly behind a prefix: the largest number there, plus one."""
    indices = [int(match[1]) for name in names if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))]
    return max(indices, default=-1) + 1


def checked_key_map(mapped: Mapping[str, str | None], name: str) -> dict[str, str]:
    """Return the map if it knows every name and no two share a target."""
    unknown = [key for key, target in mapped.items() if target is None]
    if unknown:
        raise WeightsError(f"these are not the weights of a Stable Diffusion {name}: {_name_some(unknown, 'unknown')}.")
    known = {key: target for key, target in mapped.items() if target is not None}
    if len(set(known.values())) != len(known):
        raise WeightsError(f"the weights of this {name} hold one layer twice; check how the file was made.")
    return known


def _name_some(names: list[str], what: str) -> str:
    """Say how many names there are and which come first."""
    if not names:
        return f"none {what}"
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} {what} ({shown})"
