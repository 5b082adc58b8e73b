"""How far a picture is from an exemplar's colors and from the input's gray: differentiable, features passed in.

| symbol | variable |
| --- | --- |
| X, Y | `features`, `reference`: of the picture and of the exemplar, by one network and layer |
| d_ij = 1 - cos(X_i - m, Y_j - m), m the mean of Y | `distance` |
| d~_ij = d_ij / (min_j d_ij + 1e-5) | `relative` |
| A_ij = softmax_j((1 - d~_ij) / h) | `affinity` |
| backward: -log mean_j max_i A_ij; forward: -log mean_i max_j A_ij | `contextual_loss` |

Source: CtrlColor, arXiv 2402.10855, names the losses; the released code lacks them. The contextual loss is that of the
library it refers to, `zhangmozhe/Deep-Exemplar-based-Video-Colorization@2c41bdf`, after arXiv 1803.02077 v4.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch.nn import functional

from colorlab.errors import RangeError, ShapeError
from colorlab.shapes import check_shape

__all__ = ["Direction", "contextual_loss", "exemplar_loss", "grayscale_loss"]

Direction = Literal["backward", "forward"]

_SMALL = 1e-5


def contextual_loss(
    features: torch.Tensor,
    reference: torch.Tensor,
    *,
    bandwidth: float = 0.1,
    centering: bool = True,
    direction: Direction = "backward",
) -> torch.Tensor:
    """Compare two sets of features without regard to where they are.

    Args:
        features: (B, C, h, w) float, X.
        reference: (B, C, H, W) float, Y.
        bandwidth: h, above 0; small values count the best match only.
        centering: subtract the reference's mean over its positions from both.
        direction: "backward" asks that every feature of the exemplar is found in the picture, "forward" the reverse.

    Returns:
        (B,), at least 0.

    Raises:
        ShapeError: the two differ in pictures or channels.
        RangeError: `bandwidth` or `direction` is not possible.
    """
    sizes = check_shape(features, "B C h w", "features")
    check_shape(reference, "B C H W", "reference", sizes={"B": sizes["B"], "C": sizes["C"]})
    if not bandwidth > 0 or direction not in ("backward", "forward"):
        raise RangeError(
            f"bandwidth is {bandwidth} and direction {direction!r}, but a number above 0 and 'backward' or 'forward' "
            "are expected."
        )
    mean = reference.mean(dim=(2, 3), keepdim=True) if centering else 0.0
    x, y = (functional.normalize(part - mean, dim=1).flatten(2) for part in (features, reference))
    distance = 1 - x.transpose(1, 2) @ y
    relative = distance / (distance.amin(dim=2, keepdim=True) + _SMALL)
    affinity = ((1 - relative) / bandwidth).softmax(dim=2)
    dim = 1 if direction == "backward" else 2
    return -affinity.amax(dim=dim).mean(dim=1).log()


def exemplar_loss(
    features: Mapping[str, torch.Tensor],
    reference: Mapping[str, torch.Tensor],
    weights: Mapping[str, float],
    *,
    bandwidth: float = 0.1,
) -> torch.Tensor:
    """Sum the backward contextual loss over layers.

    Args:
        features: (B, C, h, w) of the picture by layer.
        reference: of the exemplar, as `features`.
        weights: factor on each layer. The library's for VGG19: relu5_2 1.6, relu4_2 0.8, relu3_2 (every second
            position) 0.4.
        bandwidth: see `contextual_loss`.

    Returns:
        (B,).

    Raises:
        ShapeError: a layer is missing.
    """
    missing = [layer for layer in weights if layer not in features or layer not in reference]
    if missing or not weights:
        raise ShapeError(f"There are no features of {missing or 'any layer'}; name layers that both pictures have.")
    return torch.stack(
        [
            weight * contextual_loss(features[layer], reference[layer], bandwidth=bandwidth)
            for layer, weight in weights.items()
        ]
    ).sum(dim=0)


def grayscale_loss(image: torch.Tensor, gray: torch.Tensor) -> torch.Tensor:
    """Return how far the mean of red, green and blue is from a gray picture: root mean square over the pixels.

    Args:
        image: (B, 3, H, W) float.
        gray: (B, 1, H, W) or (1, 1, H, W), in the same range.

    Returns:
        (B,), at least 0; its gradient is 0 where the two agree everywhere.

    Deviation: the paper says that there is such a loss; this form of it is ours.
    """
    sizes = check_shape(image, "B 3 H W", "image")
    check_shape(gray, "_ 1 H W", "gray", sizes=sizes)
    squared = (image.mean(dim=1, keepdim=True) - gray).square().mean(dim=(1, 2, 3))
    is_zero = squared == 0
    return torch.where(is_zero, 0.0, torch.where(is_zero, 1.0, squared).sqrt())
