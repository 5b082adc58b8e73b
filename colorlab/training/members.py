"""Members of the family that recipes build on: where they lie, and how they are loaded."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from colorlab.data import data_folder
from colorlab.errors import StateError, WeightsError
from colorlab.methods.components import load_component
from colorlab.networks.libraries import AutoencoderKL, UNet2DConditionModel
from colorlab.sampling.schedules import NoiseSchedule

EXEMPLAR_ENCODER = "projected_image_encoder"
"""Component of ColorizeDiffusion that reads exemplars, and its folder in a model."""

PHRASE_ENCODER = "projected_text_encoder"
"""Component of ColorizeDiffusion that reads the texts of edits, and its folder in the Attention model."""


def find_member(out: Path, *names: str) -> Path:
    """Find a trained member under the first of its names that holds weights: in `out`, else in the shipped family.

    Args:
        out: where recipes put everything.
        names: folders of the family.

    Returns:
        Its folder.

    Raises:
        StateError: it has not been trained.
    """
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


def find_exemplar_encoder(out: Path, *, reads_patches: bool = True) -> Path:
    """Find the vision tower that a ColorizeDiffusion model reads exemplars with, as `find_member` does.

    Args:
        out: as for `find_member`.
        reads_patches: of the Attention model, or of the CLS model.

    Returns:
        Its folder.

    Raises:
        StateError: it has not been trained, or there are other words in `out` than those the shipped one belongs to.
    """
    if reads_patches:
        return _find_tower(out, "clip-kinds", f"colorizediffusion/{EXEMPLAR_ENCODER}", "clip")
    return _find_tower(out, "clip-class", f"colorizediffusion-cls/{EXEMPLAR_ENCODER}", "clip", "clip-kinds")


def find_phrase_encoder(out: Path) -> Path:
    """Find the text tower that the Attention model reads edits with, as `find_member` does.

    Args:
        out: as for `find_member`.

    Returns:
        Its folder.

    Raises:
        StateError: it has not been trained, or there are other towers in `out` than those the shipped one belongs to.
    """
    return _find_tower(out, "clip-phrases", f"colorizediffusion/{PHRASE_ENCODER}", "clip", "clip-kinds")


def _find_tower(out: Path, recipe: str, shipped: str, *needs: str) -> Path:
    """Find what a recipe makes; the shipped one is refused beside a member that it needs and that was trained anew."""
    folder = find_member(out, recipe, shipped)
    if not folder.is_relative_to(out):
        for name in needs:
            if (out / "family" / name).is_dir():
                raise StateError(
                    f"{out / 'family'} has a {name} of its own, but no {recipe}, which depends on it; train {recipe}."
                )
    return folder


def load_frozen(name: str, folder: Path, device: torch.device) -> Any:
    """Load a network that is not trained."""
    return load_component(name, folder, device=device, dtype=torch.float32).requires_grad_(False).eval()


def load_vae(out: Path, device: torch.device) -> AutoencoderKL:
    """Load the frozen autoencoder."""
    vae: AutoencoderKL = load_frozen("vae", find_member(out, "vae"), device).to(memory_format=torch.channels_last)
    return vae


def family_schedule() -> NoiseSchedule:
    """Return Stable Diffusion's noise levels, as in all four papers, with the prediction of `denoising`."""
    return NoiseSchedule(prediction_type="v_prediction")


def load_lcad_unet(out: Path, device: torch.device) -> UNet2DConditionModel:
    """Load the trained L-CAD's UNet, which others begin from."""
    unet: UNet2DConditionModel = load_component(
        "unet", find_member(out, "lcad") / "unet", device=device, dtype=torch.float32
    )
    return unet
