"""Weight files: safe reading, hashes, and the way from the original Stable Diffusion layout to diffusers."""

from colorlab.checkpoints.ldm import (
    LUMINANCE_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    convert_weights,
    load_ldm_weights,
    luminance_encoder_key_map,
    select_prefix,
    unet_key_map,
    vae_key_map,
)
from colorlab.checkpoints.reading import check_sha256, file_sha256, read_weights

__all__ = [
    "LUMINANCE_PREFIX",
    "UNET_PREFIX",
    "VAE_PREFIX",
    "check_sha256",
    "convert_weights",
    "file_sha256",
    "load_ldm_weights",
    "luminance_encoder_key_map",
    "read_weights",
    "select_prefix",
    "unet_key_map",
    "vae_key_map",
]
