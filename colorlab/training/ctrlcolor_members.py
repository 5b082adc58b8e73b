"""What CtrlColor's recipes are built from: trained members, and pictures with their hints."""

from pathlib import Path
from typing import Any

import torch

from colorlab.methods.components import load_component
from colorlab.training.ctrlcolor import ControlledUNet, CtrlColorRecipe, InpaintRecipe, LightnessRecipe
from colorlab.training.deformable import DeformableRecipe
from colorlab.training.denoising import FrozenText
from colorlab.training.encoded_hints import EncodedHints, encode_hints
from colorlab.training.latents import EncodedPictures, encode_pictures, weights_key
from colorlab.training.members import family_schedule, find_member, load_frozen, load_lcad_unet, load_vae
from colorlab.training.pixels import Pictures

NUM_HINTED = (1_000, 4_000)
"""Photographs and scenes for which a hint and an exemplar are encoded."""


def build_lightness(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> LightnessRecipe:
    """Build `ctrlcolor-lightness`; arguments as everywhere in `recipes`."""
    folder = find_member(out, "luminance", "lcad/luminance_encoder")
    encoder: Any = load_frozen("luminance_encoder", folder, device)
    return LightnessRecipe(pictures, load_lcad_unet(out, device), encoder)


def build_inpaint(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> InpaintRecipe:
    """Build `ctrlcolor-inpaint`."""
    hinted = _hinted(pictures, out, cache, device)
    return InpaintRecipe(*hinted, family_schedule(), lcad=load_lcad_unet(out, device))


def build_ctrlcolor(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> CtrlColorRecipe:
    """Build `ctrlcolor`."""
    unet, control = (
        load_component(
            kind, find_member(out, f"ctrlcolor-{stage}", f"ctrlcolor/{kind}"), device=device, dtype=torch.float32
        )
        for kind, stage in (("unet", "inpaint"), ("control_network", "lightness"))
    )
    hinted = _hinted(pictures, out, cache, device)
    return CtrlColorRecipe(*hinted, family_schedule(), unet=unet, control_network=control)


def build_deformable(pictures: Pictures, out: Path, cache: Path, device: torch.device) -> DeformableRecipe:
    """Build `ctrlcolor-deformable`."""
    folder = find_member(out, "ctrlcolor")
    parts = [
        load_component(name, folder / name, device=device, dtype=torch.float32) for name in ("unet", "control_network")
    ]
    return DeformableRecipe(
        *_hinted(pictures, out, cache, device),
        family_schedule(),
        networks=ControlledUNet(*parts).requires_grad_(False),
        vae=load_vae(out, device),
        image_encoder=_image_encoder(out, device),
    )


def _image_encoder(out: Path, device: torch.device) -> Any:
    """Load the frozen vision tower."""
    return load_frozen("image_encoder", find_member(out, "clip"), device)


def _hinted(
    pictures: Pictures, out: Path, cache: Path, device: torch.device
) -> tuple[EncodedPictures, EncodedHints, FrozenText]:
    """Encode pictures and hints."""
    vae, clip = load_vae(out, device), find_member(out, "clip")
    key = weights_key(*find_member(out, "vae").glob("*.safetensors"))
    hints_key = f"{key}_{weights_key(*clip.glob('*.safetensors'))}"
    hints = encode_hints(pictures, vae, _image_encoder(out, device), cache, key=hints_key, counts=NUM_HINTED)
    return encode_pictures(pictures, vae, cache, key=key), hints, FrozenText.load(clip, device)
