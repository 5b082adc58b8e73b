"""Masks from the model's own attention: offline, with the weights that color the picture.

| step | variable |
| --- | --- |
| attention p_i of each cell to phrase i, mean over noises | `phrase_attention` |
| foreground F = sum_i p_i; whose is a cell: p_i / F, dealt out so that each phrase gets as much of F | `deal_out` |
| both averaged over superpixels of the gray picture, at several scales | `smooth_within` |
| mask i: F above a share of its nearly largest value, and i the likeliest there | `segment` |

Cross-attention knows what is where on a coarse grid, and the picture's own edges know where it ends. The first
prediction, from noise alone, tells most: its attention rests on the luminance and the words. No sampling is needed.

Source: ours. Dealing out is the iteration of Sinkhorn and Knopp, 1967; superpixels are those of Felzenszwalb and
    Huttenlocher, "Efficient Graph-Based Image Segmentation", 2004.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import felzenszwalb
from torch.nn import functional

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.methods.base import Method
from colorlab.methods.phrases import phrase_tokens
from colorlab.networks.probe import Probe
from colorlab.networks.sites import Site, find_sites
from colorlab.runs.batches import collate
from colorlab.sampling.noise import initial_noise
from colorlab.segmentation.base import Target
from colorlab.settings import Settings

__all__ = ["AttentionSegmenter", "deal_out", "phrase_attention", "smooth_within"]

_SCALES = ((10.0, 20), (30.0, 30), (60.0, 30), (100.0, 30), (200.0, 40))
"""Scale and smallest superpixel at 128 px. Ours; all numbers here were tuned on 24 to 80 scenes of training seeds."""
_SCALES_PX = 128
_DEALING_POWER = 2.0
_DEALING_ROUNDS = 50
_NEARLY_LARGEST = 0.97


class AttentionSegmenter:
    """Find objects by words with a colorizing model.

    Args:
        method: a loaded model with cross-attention to a prompt, such as `colorizer.method`.
        num_noises: noises whose attention is averaged, in one network call.
        foreground: share of the nearly largest attention from which a pixel belongs to an object.
    """

    def __init__(self, method: Method, *, num_noises: int = 8, foreground: float = 0.7) -> None:
        self.method, self.num_noises, self.foreground = method, num_noises, foreground

    def segment(self, conditioning: Conditioning, targets: Sequence[Target]) -> list[np.ndarray]:
        """Find objects by the words of their phrases, which stand in the prompt; see `Segmenter`.

        Raises:
            RangeError: words are not in the prompt.
        """
        names = [target.name for target in targets]
        attention = phrase_attention(self.method, conditioning, names, num_noises=self.num_noises).numpy()
        gray = np.asarray(conditioning.gray)
        segments = _superpixels(gray)
        foreground = smooth_within(_enlarged(attention.sum(axis=0, keepdims=True), gray.shape), segments)[0]
        owners = smooth_within(_enlarged(deal_out(attention) * attention.sum(axis=0), gray.shape), segments)
        is_object = foreground > self.foreground * np.quantile(foreground, _NEARLY_LARGEST)
        owner = owners.argmax(axis=0)
        return [ndimage.binary_fill_holes(ndimage.binary_opening(is_object & (owner == k))) for k in range(len(names))]


@torch.no_grad()
def phrase_attention(
    method: Method, conditioning: Conditioning, names: Sequence[str], *, num_noises: int = 8
) -> torch.Tensor:
    """Ask the model about noise and return the attention of each cell to phrases of the prompt.

    Read at the first cross-attention on the way up at the finest grid, where it tells objects best.

    Args:
        method: a loaded model.
        conditioning: picture and prompt; its masks are not used.
        names: of masks, words of the prompt.
        num_noises: that are averaged.

    Returns:
        (phrases, h, w) float32, shares of attention.
    """
    settings = Settings()
    plain = conditioning.replace(masks={})
    with method.lock:
        tokens = phrase_tokens(names, plain.prompt, method.components)
        prepared = method.prepare(plain, settings)
        shape = (1, *prepared.latent_shape)
        noise = torch.cat([initial_noise(seed, 0, shape) for seed in range(num_noises)])
        site = _reading_site(find_sites(method.unet, noise.shape, glob="up_blocks.*", kind="attn2"))
        timestep = method.schedule.timesteps(settings.num_inference_steps)[0].item()
        passes = method.guidance_passes(settings, timestep)
        with Probe(
            method.unet, [site], guidance_passes=passes, wanted_passes=["cond"], num_samples=num_noises
        ) as probe:
            method.predict(collate([prepared] * num_noises), noise, timestep, settings)
    reading = probe[site.path, "cond"]
    scores = reading.get("q").float() @ reading.get("k").float().transpose(-1, -2) * reading.scale
    probs = scores.softmax(dim=-1).mean(dim=(0, 1))
    return torch.stack([probs[:, list(own)].sum(dim=-1) for own in tokens]).unflatten(1, site.grid)


def deal_out(attention: np.ndarray) -> np.ndarray:
    """Say whose each cell is, so that every phrase gets the same part of the foreground.

    A word that draws attention everywhere (two objects look alike to the model) does not take the other's cells.

    Args:
        attention: (K, h, w), at least 0.

    Returns:
        (K, h, w), sums to 1 over K.
    """
    shares = attention + 1e-4
    foreground = shares.sum(axis=0)
    weights = np.clip(foreground, 0, 1) ** _DEALING_POWER
    weights = weights / weights.sum()
    owners = (shares / foreground) ** _DEALING_POWER
    for _ in range(_DEALING_ROUNDS):
        owners = owners / (owners * weights).sum(axis=(1, 2), keepdims=True)
        owners = owners / owners.sum(axis=0)
    return owners


def smooth_within(values: np.ndarray, segments: Sequence[np.ndarray]) -> np.ndarray:
    """Replace values by their means within superpixels, averaged over several divisions of the picture.

    Args:
        values: (K, H, W).
        segments: (H, W) integers, each a division.
    """
    smoothed = np.zeros_like(values)
    for labels in segments:
        sizes = np.bincount(labels.ravel())
        for part, out in zip(values, smoothed, strict=True):
            out += (np.bincount(labels.ravel(), part.ravel()) / sizes)[labels]
    return smoothed / len(segments)


def _superpixels(gray: np.ndarray) -> list[np.ndarray]:
    """Divide a gray picture (H, W) in [0, 1] at several scales, which grow with the picture."""
    factor = max(gray.shape) / _SCALES_PX
    return [
        felzenszwalb(gray, scale=scale * factor, sigma=0.5 * factor, min_size=round(smallest * factor**2))
        for scale, smallest in _SCALES
    ]


def _enlarged(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring maps (K, h, w) to the size of the picture."""
    maps = torch.from_numpy(values)[None].float()
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)[0].numpy()


def _reading_site(sites: Sequence[Site]) -> Site:
    """Return the first of the sites with the finest grid."""
    if not sites:
        raise RangeError("The network has no cross-attention on the way up; use a model that reads a prompt.")
    return max(sites, key=lambda site: site.num_positions)
