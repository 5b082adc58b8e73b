"""The encoded hints: a simulated hint and an exemplar of some pictures, computed once with the frozen networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from colorlab.images import load_image
from colorlab.mechanisms.stroke_encoding import masked_picture, pool_mask
from colorlab.networks.image_tokens import pooled_token
from colorlab.networks.libraries import AutoencoderKL
from colorlab.training.corpus import PATCH_PX, corpus_scene
from colorlab.training.hints import SimulatedHint, photograph_hint, scene_hint
from colorlab.training.latents import WORKING_PX, is_mirrored, picture_at
from colorlab.training.photos import crops
from colorlab.training.pixels import Pictures
from colorlab.training.scenes import exemplar_scene

EXEMPLAR_CROP_PX = 112
"""Side of the part of a photograph that serves as its exemplar. Ours."""

HINT_SEED = 0
"""Decides all hints and exemplars."""

_BATCH = 16


@dataclass(frozen=True)
class EncodedHints:
    """What is given with some pictures.

    Args:
        indices: (N,) int64, which pictures of `EncodedPictures`, rising.
        masked_latents: (N, 4, 16, 16) float16, scaled latents of the masked picture.
        free: (N, 1, 16, 16) bool, cells whose color is not given.
        owners: (N, 16, 16) int8, see `SimulatedHint`.
        exemplars: (N, 1, D) float16, token of the exemplar.
        blank: (4, 16, 16) float16, latents of the masked picture when nothing is given.
    """

    indices: npt.NDArray[np.int64]
    masked_latents: npt.NDArray[np.float16]
    free: npt.NDArray[np.bool_]
    owners: npt.NDArray[np.int8]
    exemplars: npt.NDArray[np.float16]
    blank: npt.NDArray[np.float16]

    def rows(self, indices: list[int]) -> npt.NDArray[np.int64]:
        """Return (B,) int64, the row of each picture; any row for a picture without hint."""
        return np.searchsorted(self.indices, indices).clip(max=len(self.indices) - 1)

    def around(self, indices: list[int], is_hinted: torch.Tensor) -> torch.Tensor:
        """Return what the nine-channel network sees beside the noisy latents.

        Args:
            indices: of B pictures.
            is_hinted: (B,) bool; nothing is given on the others.

        Returns:
            (B, 5, 16, 16) float32: mask, 1 where the network is free, and the latents of the masked picture.
        """
        chosen, rows = is_hinted.view(-1, 1, 1, 1), self.rows(indices)
        masks = torch.from_numpy(self.free[rows]).float()
        latents = torch.from_numpy(self.masked_latents[rows]).float()
        blank = torch.from_numpy(self.blank).float()
        return torch.cat([masks.where(chosen, torch.ones(())), latents.where(chosen, blank)], dim=1)


@torch.no_grad()
def encode_hints(
    pictures: Pictures, vae: AutoencoderKL, image_encoder: Any, cache: Path, *, key: str, counts: tuple[int, int]
) -> EncodedHints:
    """Simulate and encode a hint and an exemplar for some pictures, or read them from the cache.

    Args:
        pictures: photographs first, then scenes.
        vae: frozen autoencoder.
        image_encoder: frozen vision tower.
        cache: folder for the file.
        key: names the weights of both; see `weights_key`.
        counts: number of photographs, spread evenly over all of them, and of scenes, the first ones; at most all.

    Returns:
        The encoded hints.
    """
    total = len(pictures.photographs)
    photographs = np.linspace(0, total - 1, min(counts[0], total)).astype(int)
    indices = np.concatenate([photographs, total + np.arange(min(counts[1], len(pictures.scenes)))])
    path = cache / f"hints_{key}_{len(photographs)}_{len(indices) - len(photographs)}.npz"
    if not path.is_file():
        parts = [
            _encode(pictures, vae, image_encoder, indices[start : start + _BATCH].tolist())
            for start in tqdm(range(0, len(indices), _BATCH), desc="hints", mininterval=10)
        ]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        nothing = torch.zeros(1, 3, WORKING_PX, WORKING_PX, device=vae.device)
        partial = path.with_suffix(".partial.npz")
        arrays |= {"indices": indices, "blank": _latents(vae, nothing)[0]}
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.replace(path)
    with np.load(path) as file:
        return EncodedHints(**{name: file[name] for name in file.files})


def _encode(pictures: Pictures, vae: AutoencoderKL, image_encoder: Any, indices: list[int]) -> dict[str, np.ndarray]:
    """Simulate and encode one batch."""
    hints, exemplars = zip(*(_simulate(pictures, index) for index in indices), strict=True)
    known = torch.from_numpy(np.stack([hint.known for hint in hints])).float()[:, None]
    colors = torch.from_numpy(np.stack([hint.picture for hint in hints])).permute(0, 3, 1, 2).float()
    tokens = pooled_token(image_encoder, torch.stack(exemplars).to(vae.device))
    return {
        "masked_latents": _latents(vae, masked_picture(colors, known).to(vae.device)),
        "free": (1 - pool_mask(known, PATCH_PX)).numpy().astype(bool),
        "owners": np.stack([hint.owners for hint in hints]),
        "exemplars": tokens.to(torch.float16).cpu().numpy(),
    }


def _latents(vae: AutoencoderKL, masked: torch.Tensor) -> np.ndarray:
    """Encode (B, 3, H, W) in [-1, 1] into scaled float16 latents."""
    posterior = vae.encode(masked.contiguous(memory_format=torch.channels_last)).latent_dist
    latents: np.ndarray = (posterior.mean * vae.config.scaling_factor).to(torch.float16).cpu().numpy()
    return latents


def _simulate(pictures: Pictures, index: int) -> tuple[SimulatedHint, torch.Tensor]:
    """Return the hint of a picture, and its exemplar (3, 128, 128), [0, 1]: a part of the photograph, or another
    arrangement of the scene.
    """
    number = len(pictures.photographs)
    if index < number:
        image = (picture_at(pictures, index).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        photograph = torch.from_numpy(np.array(pictures.photographs.images[index]))[None]
        part, _ = crops(photograph, EXEMPLAR_CROP_PX, torch.Generator().manual_seed(HINT_SEED + index))
        exemplar = torch.nn.functional.interpolate(part, size=(WORKING_PX, WORKING_PX), mode="bilinear")[0]
        return photograph_hint(image, HINT_SEED + index), exemplar
    scene = corpus_scene(index - number)
    hint = scene_hint(scene, HINT_SEED)
    other = load_image(exemplar_scene(scene, HINT_SEED).image)[0]
    return hint.mirrored() if is_mirrored(index - number) else hint, other
