"""What the autoencoder loses, and what the luminance taps and the kept lightness bring back.

| row | picture | chroma | lightness |
| --- | --- | --- | --- |
| raw | decode(encode(x)), without and with taps | the decoder's | the decoder's |
| finished | the same, with the input's lightness | the decoder's | true |
| oracle | nothing is encoded | 8x8 means of the true one, bilinear | true |

The oracle is what latents of 8-px cells could hold at best if each stored its mean color and nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from colorlab.color import fit_chroma_to_gamut, gray_to_lightness, lab_to_rgb, rgb_to_lab
from colorlab.evaluation.metrics import psnr, ssim
from colorlab.evaluation.report import Report, bootstrapped
from colorlab.images import finish_keep_lightness, load_gray, resize_image, to_uint8
from colorlab.networks.luminance import decode_with_taps, lightness_hint

CELL_PX = 8


def evaluate_autoencoder(
    components: Mapping[str, Any], images: Sequence[torch.Tensor], *, size_px: int = 128, batch_size: int = 16
) -> Report:
    """Send pictures through the autoencoder and back, with and without luminance taps.

    Args:
        components: networks of a model; "vae" and "luminance_encoder" are used.
        images: (1, 3, H, W) float, [0, 1], sRGB; brought to `size_px` squares.
        size_px: side of the squares, a multiple of 8.
        batch_size: pictures at a time.

    Returns:
        PSNR in dB, averaged over pictures, and the differences that are asked for.
    """
    scores: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), batch_size):
        batch = torch.cat([resize_image(image, (size_px, size_px)) for image in images[start : start + batch_size]])
        for name, values in round_trip_scores(components, batch.clamp(0.0, 1.0)).items():
            scores.setdefault(name, []).append(values)
    columns = {name: np.concatenate(parts) for name, parts in scores.items()}
    gain = columns["raw with taps"] - columns["raw"]
    behind = columns["oracle"] - columns["finished with taps"]
    better = columns["finished with taps"] - columns["finished"]
    rows = [bootstrapped(f"{name}: PSNR", values, unit="dB") for name, values in columns.items() if "SSIM" not in name]
    rows += [bootstrapped(name, values) for name, values in columns.items() if "SSIM" in name]
    rows += [
        bootstrapped("taps gain, raw", gain, unit="dB", at_least=5.0),
        bootstrapped("finished with taps, behind the oracle", behind, unit="dB", at_most=3.0),
        bootstrapped("taps gain, finished", better, unit="dB", at_least=0.0),
    ]
    details = {"photographs": len(images), "size_px": size_px}
    return Report(f"Autoencoder round trip of {len(images)} photographs at {size_px} px", tuple(rows), details)


@torch.no_grad()
def round_trip_scores(components: Mapping[str, Any], images: torch.Tensor) -> dict[str, np.ndarray]:
    """Score one batch.

    Args:
        components: as for `evaluate_autoencoder`.
        images: (B, 3, H, W) float, [0, 1], H and W multiples of 8.

    Returns:
        Name to (B,) values: PSNR in dB, and SSIM of the raw ones.
    """
    vae, encoder = components["vae"], components["luminance_encoder"]
    weight = next(vae.parameters())
    latents = vae.encode((images * 2.0 - 1.0).to(weight)).latent_dist.mode() * vae.config.scaling_factor
    taps = encoder(lightness_hint(images).to(weight))
    raw = {"raw": _decode(vae, latents, None), "raw with taps": _decode(vae, latents, taps)}
    # The gray that a file would hold, as for the photographs.
    grays = [load_gray(to_uint8(image[None])) for image in images]
    pictures = dict(raw)
    for name, decoded in raw.items():
        finished = [finish_keep_lightness(one[None], gray) for one, gray in zip(decoded, grays, strict=True)]
        pictures[name.replace("raw", "finished")] = torch.cat(finished)
    pictures["oracle"] = oracle(images, torch.cat(grays))
    scores = {name: psnr(picture, images).cpu().numpy() for name, picture in pictures.items()}
    return scores | {f"{name}: SSIM": ssim(decoded, images).cpu().numpy() for name, decoded in raw.items()}


def oracle(images: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Keep the true lightness and only the mean chroma of each cell of 8x8 px.

    Args:
        images: (B, 3, H, W) float, [0, 1], H and W multiples of 8.
        gray: (B, 1, H, W) float, [0, 1], their lightness as gray.

    Returns:
        (B, 3, H, W), [0, 1].
    """
    ab = F.avg_pool2d(rgb_to_lab(images)[:, 1:], CELL_PX)
    ab = F.interpolate(ab, scale_factor=CELL_PX, mode="bilinear", align_corners=False)
    lightness = gray_to_lightness(gray)
    return lab_to_rgb(torch.cat([lightness, fit_chroma_to_gamut(lightness, ab)], dim=1))


def _decode(vae: Any, latents: torch.Tensor, taps: Any) -> torch.Tensor:
    """Decode to (B, 3, H, W) float32 in [0, 1] on the CPU."""
    return (decode_with_taps(vae, latents, taps).float().cpu().clamp(-1.0, 1.0) + 1.0) / 2.0
