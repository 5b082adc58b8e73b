"""From a published checkpoint to a model folder, for the methods whose authors published Stable Diffusion weights.

| method | file | second file |
| --- | --- | --- |
| `colorizediffusion` | one of the `mult` checkpoints (version 1) | - |
| `ctrlcolor` | the main checkpoint | the content-guided deformable autoencoder |
| `lcad` | one of the checkpoints | - |

No file holds CLIP's tokenizer, and ColorizeDiffusion's no CLIP at all: a folder of it is given beside them. Nothing of
a file is executed, see `read_weights`.

Source: `tellurion-kanata/colorizeDiffusion@c9bd9fb`, `ZhexinLiang/Control-Color@f21054a`,
    `changzheng123/L-CAD@3e1d8d6`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from colorlab.checkpoints import architecture
from colorlab.checkpoints.colorizediffusion import sketch_encoder_key_map, split_colorizediffusion
from colorlab.checkpoints.ctrlcolor import (
    CONTROL_PREFIX,
    TEXT_PREFIX,
    controlnet_key_map,
    deformable_key_map,
    split_deformable,
)
from colorlab.checkpoints.ldm import (
    LUMINANCE_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    load_ldm_weights,
    luminance_encoder_key_map,
    select_prefix,
    unet_key_map,
    vae_key_map,
)
from colorlab.checkpoints.reading import file_sha256, read_weights
from colorlab.checkpoints.vgg19 import read_vgg19
from colorlab.errors import RangeError, WeightsError
from colorlab.methods.components import load_component, weight_files
from colorlab.methods.folder import find_method, save_method
from colorlab.networks import libraries
from colorlab.networks.deformable import DeformableUnits
from colorlab.networks.exemplar_projection import ExemplarProjection
from colorlab.networks.luminance import LuminanceEncoder
from colorlab.networks.sketch_encoder import SketchEncoder
from colorlab.sampling.schedules import NoiseSchedule, PredictionType

__all__ = ["CONVERTIBLE", "convert_published"]

CONVERTIBLE = ("colorizediffusion", "ctrlcolor", "lcad")
"""Methods whose published checkpoints can be converted."""

_WORKING_PX = {"colorizediffusion": 512, "ctrlcolor": 512, "lcad": 256}
_CLIP_OF = {
    "colorizediffusion": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K, all of it",
    "ctrlcolor": "openai/clip-vit-large-patch14, its tokenizer",
    "lcad": "openai/clip-vit-large-patch14, its tokenizer",
}

Weights = Mapping[str, torch.Tensor]


def convert_published(
    method: str,
    checkpoint: Path,
    folder: Path,
    *,
    clip: Path,
    prediction_type: PredictionType | None = None,
    deformable: Path | None = None,
    vgg19: Path | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Convert the published checkpoint of a method into a model folder that `colorlab.load` reads.

    Args:
        method: one of `CONVERTIBLE`.
        checkpoint: the file.
        folder: where the model goes.
        clip: folder of CLIP in transformers' format: of `openai/clip-vit-large-patch14` the tokenizer is enough; for
            ColorizeDiffusion the towers of `laion/CLIP-ViT-H-14-laion2B-s32B-b79K`, too.
        prediction_type: what ColorizeDiffusion's UNet predicts, which its file does not say; None for the others.
        deformable: CtrlColor's file of the deformable autoencoder; without it the plain one decodes.
        vgg19: file of VGG19's convolutions, see `read_vgg19`; with it an exemplar can guide CtrlColor.
        card: what the model card says; the hashes of the files are added.

    Returns:
        The folder.

    Raises:
        RangeError: there is no such method to convert, or it has no deformable autoencoder and no guidance by an
            exemplar, or what the UNet predicts is not said, or said of a method that has no choice.
        WeightsError: a file is missing, damaged, or holds another network; CLIP does not fit.
        ColorlabError: the folder cannot be written.
    """
    _check_options(method, prediction_type, {"deformable autoencoder": deformable, "guidance by an exemplar": vgg19})
    weights = read_weights(checkpoint)
    if method == "colorizediffusion":
        components = _colorizediffusion_components(weights, checkpoint, clip)
        components["scheduler"] = NoiseSchedule(prediction_type=prediction_type or "epsilon", set_alpha_to_one=True)
        text_encoder = components["projected_text_encoder"]
    else:
        components = _shared_components(weights, checkpoint)
        own = _ctrlcolor_components if method == "ctrlcolor" else _lcad_components
        components |= own(weights, checkpoint, components)
        text_encoder = components["text_encoder"]
    hashes = {"source_sha256": file_sha256(checkpoint)}
    if deformable is not None:
        components |= _deformable_components(read_weights(deformable))
        hashes["deformable_sha256"] = file_sha256(deformable)
    if vgg19 is not None:
        components["exemplar_network"] = read_vgg19(vgg19)
        hashes["vgg19_sha256"] = file_sha256(vgg19)
    components["tokenizer"] = _tokenizer(clip, text_encoder, method)
    found = find_method(method)
    built = found(components, _WORKING_PX[method])
    save_method(built, folder, settings=found.default_settings, card={**(card or {}), **hashes})
    return folder


def _check_options(method: str, prediction_type: PredictionType | None, parts: Mapping[str, Path | None]) -> None:
    """Check that what is given belongs to the method, and that nothing is left to a guess."""
    if method not in CONVERTIBLE:
        raise RangeError(f"There is nothing to convert for {method!r}; there is for: {', '.join(CONVERTIBLE)}.")
    for what, file in parts.items():
        if file is not None and method != "ctrlcolor":
            raise RangeError(f"{method} has no {what}; leave its file out.")
    if method == "colorizediffusion" and prediction_type not in ("epsilon", "v_prediction"):
        came = "is not given" if prediction_type is None else f"is {prediction_type!r}"
        raise RangeError(
            f"prediction_type {came}, but epsilon or v_prediction is expected, because the file does not say it: its "
            "authors put eps into the names of those that predict noise (epsilon)."
        )
    if method != "colorizediffusion" and prediction_type not in (None, "epsilon"):
        raise RangeError(f"prediction_type is {prediction_type!r}, but {method} predicts noise; leave it out.")


def _colorizediffusion_components(weights: Weights, path: Path, clip: Path) -> dict[str, Any]:
    """Build UNet, sketch encoder and autoencoder of the file, and both towers of CLIP."""
    try:
        parts = split_colorizediffusion(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    if "vae" not in parts:
        raise WeightsError(f"{path} holds no autoencoder: no weight begins with {VAE_PREFIX!r}; give it as published.")
    unet = _filled(
        libraries.UNet2DConditionModel, architecture.image_token_unet_config, parts["unet"], unet_key_map, "UNet"
    )
    width = unet.config.cross_attention_dim
    return {
        "unet": unet,
        "vae": _filled(libraries.AutoencoderKL, architecture.vae_config, parts["vae"], vae_key_map, "autoencoder"),
        "sketch_encoder": _filled(
            SketchEncoder,
            architecture.sketch_encoder_config,
            parts["sketch_encoder"],
            sketch_encoder_key_map,
            "sketch encoder",
        ),
        # Which end of the similarities is the region was never measured; the published thresholds take the low one.
        "exemplar_projection": ExemplarProjection(reads="local", width=width, polarity="low"),
        **{name: _clip_tower(name, clip, width) for name in ("projected_image_encoder", "projected_text_encoder")},
    }


def _clip_tower(name: str, folder: Path, width: int) -> Any:
    """Load a tower of CLIP and check that its tokens are as wide as what the UNet reads."""
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder} with CLIP; give that of {_CLIP_OF['colorizediffusion']}.")
    weight_files(name, folder)
    tower = load_component(name, folder, device=torch.device("cpu"), dtype=torch.float32)
    if tower.config.projection_dim != width:
        raise WeightsError(
            f"CLIP in {folder} gives tokens of {tower.config.projection_dim} features, but the UNet reads {width}; "
            f"give that of {_CLIP_OF['colorizediffusion']}."
        )
    return tower


def _shared_components(weights: Weights, path: Path) -> dict[str, Any]:
    """Build what both checkpoints hold: UNet, autoencoder, text tower and the schedule of Stable Diffusion 1."""
    unet = _part(weights, UNET_PREFIX, path, "UNet")
    vae = {
        name: value
        for name, value in _part(weights, VAE_PREFIX, path, "autoencoder").items()
        if not name.startswith(LUMINANCE_PREFIX.removeprefix(VAE_PREFIX))
    }
    return {
        "unet": _filled(libraries.UNet2DConditionModel, architecture.unet_config, unet, unet_key_map, "UNet"),
        "vae": _filled(libraries.AutoencoderKL, architecture.vae_config, vae, vae_key_map, "autoencoder"),
        "text_encoder": _text_encoder(_part(weights, TEXT_PREFIX, path, "text encoder")),
        "scheduler": NoiseSchedule(),
    }


def _ctrlcolor_components(weights: Weights, path: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Build the control network; the UNet must be the inpainting one."""
    _check_channels(shared, 2 * shared["vae"].config.latent_channels + 1, "latents, mask and masked picture", path)
    control = _part(weights, CONTROL_PREFIX, path, "control network")
    config, key_map = architecture.controlnet_config, controlnet_key_map
    return {"control_network": _filled(libraries.ControlNetModel, config, control, key_map, "control network")}


def _lcad_components(weights: Weights, path: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Build the luminance encoder; the UNet must see its deepest tap."""
    encoder = _part(weights, LUMINANCE_PREFIX, path, "luminance encoder")
    config, key_map = architecture.luminance_config, luminance_encoder_key_map
    built = _filled(LuminanceEncoder, config, encoder, key_map, "luminance encoder")
    seen = shared["vae"].config.latent_channels + built.config.block_out_channels[-1]
    _check_channels(shared, seen, "latents and the deepest luminance feature", path)
    return {"luminance_encoder": built}


def _deformable_components(weights: Weights) -> dict[str, Any]:
    """Build the deformable autoencoder and its units."""
    vae, units = split_deformable(weights)
    name = "decoder.dcn_in.weight"
    if name not in units:
        raise WeightsError(f"There is no {name} in the file of the deformable autoencoder; it holds another network.")
    built = _filled(libraries.AutoencoderKL, architecture.vae_config, vae, vae_key_map, "deformable autoencoder")
    channels, _, size, _ = units[name].shape
    bent = DeformableUnits(channels, built.config.latent_channels, size)
    load_ldm_weights(bent, units, deformable_key_map(units), name="deformable decoder")
    return {"deformable_vae": built, "deformable_units": bent}


def _filled(
    network_class: Any,
    config_of: Callable[[Weights], dict[str, Any]],
    weights: Weights,
    key_map: Callable[[Any], dict[str, str]],
    name: str,
) -> Any:
    """Build a network as its weights describe it, without drawing random ones first, and fill it strictly."""
    with torch.device("meta"):
        network: nn.Module = network_class.from_config(config_of(weights))
    network.to_empty(device="cpu")
    load_ldm_weights(network, weights, key_map(weights), name=name)
    return network


def _text_encoder(weights: Weights) -> Any:
    """Build CLIP's text tower; its table of positions, which older files hold, is none of its weights."""
    named = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    # Some of its buffers are not in the file, so it cannot be built without memory.
    with torch.random.fork_rng(devices=[]):
        encoder: Any = libraries.CLIPTextModel(libraries.CLIPTextConfig(**architecture.text_config(named)))
    # Files say "text_model.", and so does the class before transformers 5.
    own = encoder.state_dict()
    prefix = "" if any(name.startswith("text_model.") for name in own) else "text_model."
    load_ldm_weights(encoder, named, {name: name.removeprefix(prefix) for name in named}, name="text encoder")
    return encoder


def _tokenizer(folder: Path, text_encoder: Any, method: str) -> Any:
    """Load the tokenizer and check that it speaks the text tower's vocabulary."""
    if not folder.is_dir():
        raise WeightsError(f"There is no folder {folder} with a tokenizer; give that of {_CLIP_OF[method]}.")
    tokenizer = load_component("tokenizer", folder, device=torch.device("cpu"), dtype=torch.float32)
    vocabulary = text_encoder.config.vocab_size
    if len(tokenizer) != vocabulary:
        raise WeightsError(
            f"The tokenizer in {folder} has {len(tokenizer)} words, but the text encoder {vocabulary}; give the "
            "tokenizer that belongs to it."
        )
    return tokenizer


def _part(weights: Weights, prefix: str, path: Path, name: str) -> dict[str, torch.Tensor]:
    """Return one part of a checkpoint, by names without the prefix."""
    found = select_prefix(weights, prefix)
    if not found:
        raise WeightsError(f"{path} holds no {name}: no weight begins with {prefix!r}; give the main checkpoint.")
    return found


def _check_channels(shared: Mapping[str, Any], expected: int, what: str, path: Path) -> None:
    """Check what the first convolution of the UNet sees."""
    found = shared["unet"].config.in_channels
    if found != expected:
        raise WeightsError(
            f"The UNet in {path} sees {found} channels, but {expected} ({what}) are expected; the file belongs to "
            "another method."
        )
