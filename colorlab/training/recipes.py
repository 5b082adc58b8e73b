"""The recipes by name: what each needs, how long it trains, and how to run it.

`out` holds one folder of training state for each recipe and `out/family`, where the members land side by side as in
`data/mini`. A recipe takes the frozen members it needs from `out/family`, else from the shipped family.

| recipe | needs | makes |
| --- | --- | --- |
| `vae` | photographs | `family/vae` |
| `clip` | photographs | `family/clip` with the tokenizer |
| `clip-words` | clip | `family/clip`: same vision tower, other words: UNets have to be trained anew |
| `clip-vision` | clip | `family/clip`: same words, vision tower trained on; hashes in the models' indexes anew |
| `prior` | vae, clip | `family/prior` |
| `lcad-luminance` | vae | `family/luminance` |
| `lcad` | vae, clip, prior, luminance | `family/lcad` |
| `ctrlcolor-lightness` | lcad, luminance | `family/ctrlcolor-lightness`: a control network to begin with |
| `ctrlcolor-inpaint` | vae, clip, lcad | `family/ctrlcolor-inpaint`: a nine-channel UNet to begin with |
| `ctrlcolor` | vae, clip, and the two before | `family/ctrlcolor` |
| `ctrlcolor-deformable` | vae, clip, ctrlcolor | the deformable decoder in `family/ctrlcolor` |
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from colorlab.data import data_folder
from colorlab.errors import StateError, WeightsError
from colorlab.methods.components import load_component
from colorlab.methods.folder import read_index, write_index
from colorlab.networks.libraries import AutoencoderKL, CLIPModel, CLIPTokenizer
from colorlab.sampling.schedules import NoiseSchedule
from colorlab.training.captions import vocabulary
from colorlab.training.clip import ClipRecipe, Frozen
from colorlab.training.ctrlcolor import ControlledUNet, CtrlColorRecipe, InpaintRecipe, LightnessRecipe
from colorlab.training.deformable import DeformableRecipe
from colorlab.training.denoising import DenoisingRecipe, FrozenText
from colorlab.training.encoded_hints import EncodedHints, encode_hints
from colorlab.training.latents import EncodedPictures, encode_pictures, weights_key
from colorlab.training.lcad import LcadRecipe, LuminanceRecipe
from colorlab.training.loop import Plan, Recipe, export_checkpoint, train
from colorlab.training.photos import photographs_key
from colorlab.training.pixels import Pictures
from colorlab.training.prior import PriorRecipe
from colorlab.training.tokenizer import train_tokenizer
from colorlab.training.vae import VaeRecipe

NUM_SCENES = 24_000
"""Size of the scene corpus."""

PLANS: dict[str, Plan] = {
    "vae": Plan(steps=3_000, batch_size=16, learning_rate=1.5e-3, ema_decay=0.995, weight_decay=1e-4),
    "clip": Plan(steps=1_000, batch_size=64, learning_rate=1e-3, ema_decay=0.995, weight_decay=0.05, warmup=200),
    "clip-words": Plan(steps=1_500, batch_size=64, learning_rate=1e-3, ema_decay=0.995, weight_decay=0.05, warmup=50),
    "clip-vision": Plan(steps=300, batch_size=64, learning_rate=3e-4, ema_decay=0.98, weight_decay=0.05, warmup=20),
    "prior": Plan(steps=2_000, batch_size=32, learning_rate=6e-4, ema_decay=0.999),
    "lcad-luminance": Plan(steps=2_000, batch_size=16, learning_rate=1.5e-3, ema_decay=0.995, weight_decay=1e-4),
    "lcad": Plan(steps=8_000, batch_size=32, learning_rate=6e-4, ema_decay=0.999),
    "ctrlcolor-lightness": Plan(steps=600, batch_size=16, learning_rate=2e-3, warmup=20, ema_decay=0.98),
    "ctrlcolor-inpaint": Plan(steps=600, batch_size=16, learning_rate=4e-4, warmup=20, ema_decay=0.98),
    "ctrlcolor": Plan(steps=4_000, batch_size=16, learning_rate=6e-4, warmup=50, ema_decay=0.998),
    "ctrlcolor-deformable": Plan(steps=600, batch_size=8, learning_rate=4e-4, warmup=20, ema_decay=0.98),
}
"""How long each recipe trains unless told otherwise; what the shipped weights got is in their model cards."""

VISION_PHOTOGRAPH_SHARE = 0.7
"""Share of photographs in a batch of `clip-vision`; ours: they are harder to tell from gray than scenes are."""

NUM_HINTED = (1_000, 4_000)
"""Photographs and scenes for which CtrlColor's recipes encode a hint and an exemplar."""

MEMBERS = {
    "vae": "vae",
    "clip": "clip",
    "clip-words": "clip",
    "clip-vision": "clip",
    "prior": "prior",
    "lcad-luminance": "luminance",
    "lcad": "lcad",
    "ctrlcolor-lightness": "ctrlcolor-lightness",
    "ctrlcolor-inpaint": "ctrlcolor-inpaint",
    "ctrlcolor": "ctrlcolor",
    "ctrlcolor-deformable": "ctrlcolor",
}
"""Folder of `family` that each recipe makes."""


def run_recipe(
    name: str,
    *,
    data: Path,
    out: Path,
    device: str = "cpu",
    resume: bool = False,
    steps: int | None = None,
    max_seconds: float | None = None,
    num_scenes: int = NUM_SCENES,
    warm_start: bool = False,
    export_only: bool = False,
) -> Path:
    """Run one recipe: train, or go on training, and export the member.

    Args:
        name: in `PLANS`.
        data: photograph folder, see `load_photographs`.
        out: where everything goes.
        device: "cpu" or "cuda".
        resume: go on from the last checkpoint.
        steps: optimiser steps in all; None takes the plan's.
        max_seconds: stop after this time, resumable.
        num_scenes: size of the scene corpus.
        warm_start: begin a UNet with the weights of the member that is there already instead of the recipe's beginning.
        export_only: export the last checkpoint without training on.

    Returns:
        Folder of the member.

    Raises:
        StateError: a member this recipe needs has not been trained; a checkpoint exists and `resume` is false; only
            UNets can start warm.
    """
    plan = PLANS[name] if steps is None else replace(PLANS[name], steps=steps)
    cache = out / "cache" / photographs_key(data)
    pictures = Pictures.load(data, cache, num_scenes=num_scenes)
    recipe = _BUILDERS[name](pictures, out, cache, torch.device(device))
    member = out / "family" / MEMBERS[name]
    if warm_start:
        if not isinstance(recipe, DenoisingRecipe):
            raise StateError(f"{name} is no UNet, so it can not start warm; leave warm_start (--warm-start) out.")
        recipe.go_on_from(_member(out, MEMBERS[name]), torch.device(device))
    if export_only:
        export_checkpoint(recipe, plan, out / name, member)
    else:
        train(recipe, plan, out / name, member, device=device, resume=resume, max_seconds=max_seconds)
    if name == "clip-vision":
        refresh_indexes(member.parent)
    return member


def refresh_indexes(family: Path) -> None:
    """Hash the weights of every model of a family anew, after a shared member changed in a way that keeps them valid.

    Args:
        family: folder of the members.
    """
    for path in sorted(family.glob("*/model_index.json")):
        write_index(path.parent, read_index(path.parent))


def _member(out: Path, *names: str) -> Path:
    """Find a trained member under the first of its names that holds weights: in `out`, else in the shipped family."""
    families = [out / "family"]
    # Who trains from nothing may have no shipped data at all.
    with suppress(WeightsError):
        families.append(data_folder() / "mini")
    for family in families:
        for name in names:
            if any((family / name).rglob("*.safetensors")):
                return family / name
    places = " or ".join(str(family) for family in families)
    raise StateError(f"There is no trained {names[0]} in {places}; train its recipe first.")


def _vae(out: Path, device: torch.device) -> AutoencoderKL:
    """Load the frozen autoencoder."""
    vae: AutoencoderKL = load_component("vae", _member(out, "vae"), device=device, dtype=torch.float32)
    return vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _schedule() -> NoiseSchedule:
    """Return Stable Diffusion's noise levels, as in all four papers, with the prediction of `denoising`."""
    return NoiseSchedule(prediction_type="v_prediction")


def _build_vae(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return VaeRecipe(pictures)


def _build_clip(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return ClipRecipe(pictures, train_tokenizer(vocabulary(pictures.photographs.labels), cache / "tokenizer"))


def _go_on_with_clip(pictures: Pictures, out: Path, frozen: Frozen) -> Recipe:
    folder = _member(out, "clip")
    start = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    return ClipRecipe(pictures, CLIPTokenizer.from_pretrained(folder), start, frozen)


def _build_clip_words(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return _go_on_with_clip(pictures, out, "vision")


def _build_clip_vision(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return _go_on_with_clip(replace(pictures, photograph_share=VISION_PHOTOGRAPH_SHARE), out, "words")


def _build_prior(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    key = weights_key(*_member(out, "vae").glob("*.safetensors"))
    encoded = encode_pictures(pictures, _vae(out, device), cache, key=key)
    return PriorRecipe(encoded, FrozenText.load(_member(out, "clip"), device), _schedule())


def _build_luminance(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return LuminanceRecipe(pictures, _vae(out, device))


def _build_lcad(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    luminance = _member(out, "luminance", "lcad/luminance_encoder")
    encoder: Any = load_component("luminance_encoder", luminance, device=device, dtype=torch.float32)
    encoder.requires_grad_(False).eval()
    key = weights_key(*_member(out, "vae").glob("*.safetensors"))
    named = (encoder, weights_key(*luminance.glob("*.safetensors")))
    encoded = encode_pictures(pictures, _vae(out, device), cache, key=key, luminance=named)
    prior = load_component("unet", _member(out, "prior") / "unet", device=device, dtype=torch.float32)
    text = FrozenText.load(_member(out, "clip"), device)
    return LcadRecipe(encoded, text, _schedule(), prior=prior, luminance_encoder=encoder)


def _lcad_unet(out: Path, device: torch.device) -> Any:
    """Load L-CAD's UNet, from which CtrlColor's networks are grown."""
    return load_component("unet", _member(out, "lcad") / "unet", device=device, dtype=torch.float32)


def _image_encoder(out: Path, device: torch.device) -> Any:
    """Load the frozen vision tower."""
    encoder: Any = load_component("image_encoder", _member(out, "clip"), device=device, dtype=torch.float32)
    return encoder.requires_grad_(False).eval()


def _hinted(
    pictures: Pictures, out: Path, cache: Path, device: torch.device
) -> tuple[EncodedPictures, EncodedHints, FrozenText]:
    """Encode what CtrlColor is trained on."""
    vae, clip = _vae(out, device), _member(out, "clip")
    key = weights_key(*_member(out, "vae").glob("*.safetensors"))
    hints_key = f"{key}_{weights_key(*clip.glob('*.safetensors'))}"
    hints = encode_hints(pictures, vae, _image_encoder(out, device), cache, key=hints_key, counts=NUM_HINTED)
    return encode_pictures(pictures, vae, cache, key=key), hints, FrozenText.load(clip, device)


def _build_lightness(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    luminance = _member(out, "luminance", "lcad/luminance_encoder")
    encoder: Any = load_component("luminance_encoder", luminance, device=device, dtype=torch.float32)
    return LightnessRecipe(pictures, _lcad_unet(out, device), encoder.requires_grad_(False).eval())


def _build_inpaint(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    return InpaintRecipe(*_hinted(pictures, out, cache, device), _schedule(), lcad=_lcad_unet(out, device))


def _build_ctrlcolor(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    unet, control = (
        load_component(kind, _member(out, f"ctrlcolor-{stage}"), device=device, dtype=torch.float32)
        for kind, stage in (("unet", "inpaint"), ("control_network", "lightness"))
    )
    encoded, hints, text = _hinted(pictures, out, cache, device)
    return CtrlColorRecipe(encoded, hints, text, _schedule(), unet=unet, control_network=control)


def _build_deformable(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> Recipe:
    folder = _member(out, "ctrlcolor")
    parts = [
        load_component(name, folder / name, device=device, dtype=torch.float32) for name in ("unet", "control_network")
    ]
    encoded, hints, text = _hinted(pictures, out, cache, device)
    return DeformableRecipe(
        encoded,
        hints,
        text,
        _schedule(),
        networks=ControlledUNet(*parts).requires_grad_(False),
        vae=_vae(out, device),
        image_encoder=_image_encoder(out, device),
    )


_BUILDERS: dict[str, Callable[[Pictures, Path, Path, torch.device], Recipe]] = {
    "vae": _build_vae,
    "clip": _build_clip,
    "clip-words": _build_clip_words,
    "clip-vision": _build_clip_vision,
    "prior": _build_prior,
    "lcad-luminance": _build_luminance,
    "lcad": _build_lcad,
    "ctrlcolor-lightness": _build_lightness,
    "ctrlcolor-inpaint": _build_inpaint,
    "ctrlcolor": _build_ctrlcolor,
    "ctrlcolor-deformable": _build_deformable,
}
