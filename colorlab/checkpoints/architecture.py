"""What a network of the original Stable Diffusion layout looks like, read off the names and shapes of its weights.

Each function returns the configuration of our class. Three numbers leave no trace in the weights and are Stable
Diffusion 1's: 8 attention heads, 32 groups of a normalisation, and CLIP heads of 64 features. ColorizeDiffusion's UNet
has heads of 64 features instead, as Stable Diffusion 2's.
"""

from collections.abc import Mapping
from typing import Any

import torch

from colorlab.checkpoints.ldm import num_numbered
from colorlab.errors import WeightsError

__all__ = [
    "controlnet_config",
    "image_token_unet_config",
    "luminance_config",
    "sketch_encoder_config",
    "text_config",
    "unet_config",
    "vae_config",
]

_NUM_HEADS = 8
_NUM_GROUPS = 32
_CLIP_HEAD_WIDTH = 64
_UNET_HEAD_WIDTH = 64

Weights = Mapping[str, torch.Tensor]


def unet_config(weights: Weights) -> dict[str, Any]:
    """Describe an original UNet, without its prefix, to `UNet2DConditionModel`.

    Raises:
        WeightsError: a weight that every UNet has is missing.
    """
    config = _denoiser_config(weights, "UNet")
    down = config["down_block_types"]
    up = tuple("CrossAttnUpBlock2D" if name.startswith("Cross") else "UpBlock2D" for name in reversed(down))
    out_channels = _shape(weights, "out.2.weight", "UNet")[0]
    return {**config, "up_block_types": up, "out_channels": out_channels}


def image_token_unet_config(weights: Weights) -> dict[str, Any]:
    """Describe ColorizeDiffusion's UNet, without its prefix, to `UNet2DConditionModel`.

    Raises:
        WeightsError: a weight that every UNet has is missing.
    """
    config = unet_config(weights)
    # diffusers calls the number of heads their dimension.
    heads = tuple(max(1, width // _UNET_HEAD_WIDTH) for width in config["block_out_channels"])
    projections = [value for name, value in weights.items() if name.endswith(".proj_in.weight")]
    return {**config, "attention_head_dim": heads, "use_linear_projection": projections[0].ndim == 2}


def sketch_encoder_config(weights: Weights) -> dict[str, Any]:
    """Describe ColorizeDiffusion's control encoder, without its prefix, to `SketchEncoder`.

    Raises:
        WeightsError: a weight that every such encoder has is missing.
    """
    part = "sketch encoder"
    # Between the first convolution and the one that goes out come pairs, of which the second one widens.
    last = num_numbered(weights, "model.") - 1
    wider = [_shape(weights, f"model.{index}.weight", part)[0] for index in range(4, last, 4)]
    first = _shape(weights, "model.0.weight", part)
    levels = range(num_numbered(weights, "output_blocks."))
    return {
        "in_channels": first[1],
        "stem_channels": (first[0], *wider),
        "block_out_channels": tuple(_shape(weights, f"output_blocks.{level}.1.weight", part)[0] for level in levels),
    }


def controlnet_config(weights: Weights) -> dict[str, Any]:
    """Describe an original control network, without its prefix, to `ControlNetModel`.

    Raises:
        WeightsError: a weight that every control network has is missing.
    """
    part = "control network"
    first = _shape(weights, "input_hint_block.0.weight", part)
    # Behind the first convolution come pairs, of which the second one widens; the last of all goes out.
    last = num_numbered(weights, "input_hint_block.") - 1
    wider = [_shape(weights, f"input_hint_block.{index}.weight", part)[0] for index in range(4, last, 4)]
    return {
        **_denoiser_config(weights, part),
        "conditioning_channels": first[1],
        "conditioning_embedding_out_channels": (first[0], *wider),
    }


def vae_config(weights: Weights) -> dict[str, Any]:
    """Describe an original autoencoder, without its prefix, to `AutoencoderKL`.

    Raises:
        WeightsError: a weight that every autoencoder has is missing.
    """
    encoder = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    config = luminance_config(encoder, part="autoencoder")
    num_levels = len(config["block_out_channels"])
    return {
        **{name: config[name] for name in ("block_out_channels", "layers_per_block", "norm_num_groups")},
        "down_block_types": ("DownEncoderBlock2D",) * num_levels,
        "up_block_types": ("UpDecoderBlock2D",) * num_levels,
        "latent_channels": _shape(weights, "decoder.conv_in.weight", "autoencoder")[1],
    }


def luminance_config(weights: Weights, *, part: str = "luminance encoder") -> dict[str, Any]:
    """Describe L-CAD's luminance encoder, or any original encoder, without its prefix, to `LuminanceEncoder`.

    Raises:
        WeightsError: a weight that every encoder has is missing.
    """
    levels = range(num_numbered(weights, "down."))
    return {
        "in_channels": _shape(weights, "conv_in.weight", part)[1],
        "out_channels": _shape(weights, "conv_out.weight", part)[0] // 2,
        "block_out_channels": tuple(_shape(weights, f"down.{level}.block.0.conv1.weight", part)[0] for level in levels),
        "layers_per_block": num_numbered(weights, "down.0.block."),
        "norm_num_groups": _NUM_GROUPS,
    }


def text_config(weights: Weights) -> dict[str, Any]:
    """Describe CLIP's text tower, named from `text_model.` on, to `CLIPTextConfig`.

    Raises:
        WeightsError: a weight that every text tower has is missing.
    """
    part = "text encoder"
    vocabulary, width = _shape(weights, "text_model.embeddings.token_embedding.weight", part)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(weights, "text_model.encoder.layers.0.mlp.fc1.weight", part)[0],
        "num_hidden_layers": num_numbered(weights, "text_model.encoder.layers."),
        "num_attention_heads": max(1, width // _CLIP_HEAD_WIDTH),
        "max_position_embeddings": _shape(weights, "text_model.embeddings.position_embedding.weight", part)[0],
        # The last two words of CLIP's vocabulary begin and end a text; Stable Diffusion pads with the end.
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _denoiser_config(weights: Weights, part: str) -> dict[str, Any]:
    """Describe what a UNet and a control network have in common: everything up to the middle."""
    width, in_channels = _shape(weights, "input_blocks.0.0.weight", part)[:2]
    widths: list[int] = []
    kinds: list[str] = []
    num_layers = 0
    is_new_level = True
    for block in range(1, num_numbered(weights, "input_blocks.")):
        if f"input_blocks.{block}.0.op.weight" in weights:
            is_new_level = True
            continue
        width = _shape(weights, f"input_blocks.{block}.0.out_layers.3.weight", part)[0]
        if is_new_level:
            has_words = any(name.startswith(f"input_blocks.{block}.1.") for name in weights)
            kinds.append("CrossAttnDownBlock2D" if has_words else "DownBlock2D")
            widths.append(width)
            num_layers = 0
        num_layers += 1
        is_new_level = False
    words = [name for name in weights if name.endswith("attn2.to_k.weight")]
    if not words:
        raise WeightsError(f"The {part} has no cross-attention (attn2); it is not a network that reads words.")
    return {
        "in_channels": in_channels,
        "block_out_channels": tuple(widths),
        "layers_per_block": num_layers,
        "down_block_types": tuple(kinds),
        "cross_attention_dim": weights[words[0]].shape[1],
        "attention_head_dim": _NUM_HEADS,
        "norm_num_groups": _NUM_GROUPS,
    }


def _shape(weights: Weights, name: str, part: str) -> tuple[int, ...]:
    """Return the shape of a weight that has to be there."""
    if name not in weights:
        raise WeightsError(f"There is no {name} among the weights of the {part}; the file holds another network.")
    return tuple(weights[name].shape)
