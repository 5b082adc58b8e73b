"""CLIP as a judge of one picture: how near it is to each of a few texts, differentiably."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from colorlab.errors import StateError
from colorlab.methods.base import Method
from colorlab.methods.text import encode_text_vector
from colorlab.networks.image_tokens import clip_pixels

__all__ = ["Judge", "random_crops"]

_SMALLEST_CROP = 0.7


class Judge:
    """Compares pictures with texts in CLIP's joint space.

    Args:
        method: with `projected_text_encoder` and `projected_image_encoder`.
        texts: what to compare with; encoded once.

    Raises:
        StateError: the model has no such encoders.
    """

    def __init__(self, method: Method, texts: Sequence[str]) -> None:
        missing = {"projected_text_encoder", "projected_image_encoder"} - set(method.components)
        if missing:
            raise StateError(
                f"{method.model_name!r} has no {' and no '.join(sorted(missing))}, which tuning compares colors with; "
                "add a CLIP with both towers to the model folder."
            )
        self.texts = tuple(texts)
        self._encoder: Any = method.components["projected_image_encoder"]
        tokenizer, text_encoder = method.components["tokenizer"], method.components["projected_text_encoder"]
        with method.lock, torch.no_grad():
            vectors = [encode_text_vector(text, tokenizer, text_encoder).tokens[:, 0] for text in self.texts]
        self.text_vectors = torch.cat(vectors).float()

    def image_vectors(self, images: torch.Tensor) -> torch.Tensor:
        """Encode (B, 3, H, W) in [0, 1] into unit vectors (B, D); differentiable."""
        weights = next(self._encoder.parameters())
        pixels = clip_pixels(images.to(weights.device, weights.dtype), self._encoder.config.image_size)
        return F.normalize(self._encoder(pixel_values=pixels).image_embeds.float(), dim=-1)

    def similarities(self, images: torch.Tensor) -> torch.Tensor:
        """Return the cosine (B, number of texts) of pictures (B, 3, H, W) in [0, 1] with every text; differentiable."""
        return self.image_vectors(images) @ self.text_vectors.T.to(images.device)

    def margin(self, image: torch.Tensor) -> float:
        """Return by how much a picture (1, 3, H, W) is nearer to the first text than to any other."""
        with torch.no_grad():
            similarities = self.similarities(image)[0]
        return float(similarities[0] - similarities[1:].max())


def random_crops(image: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Return a picture and crops of it, so that no texture that fits one grid of patches can win.

    Args:
        image: (1, 3, H, W) float.
        number: of crops beside the whole picture, each 0.7 to 1 of its sides.
        generator: on the CPU.

    Returns:
        (1 + number, 3, H, W); differentiable.
    """
    height, width = image.shape[-2:]
    crops = [image]
    for share, top, left in torch.rand(number, 3, generator=generator).tolist():
        side = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * share
        rows, columns = max(1, round(height * side)), max(1, round(width * side))
        y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        crop = image[..., y : y + rows, x : x + columns]
        crops.append(F.interpolate(crop, size=(height, width), mode="bilinear", antialias=True))
    return torch.cat(crops)
