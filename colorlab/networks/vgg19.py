"""VGG19's features, by which the paper's library compares an exemplar with a picture, for users who have its weights.

| part | here |
| --- | --- |
| file | `vgg19_conv.pth`: `conv1_1.weight` to `conv5_4.bias`, without the classifier |
| input | sRGB in [0, 1], turned to blue, green, red, less their means, times 255 |
| compared | relu3_2 (every second position), relu4_2, relu5_2, weighted 0.4, 0.8, 1.6 |
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from colorlab.networks.libraries import ConfigMixin, ModelMixin, register_to_config
from colorlab.shapes import check_shape

__all__ = ["LAYER_WEIGHTS", "NUM_CONVS", "Vgg19Features"]

LAYER_WEIGHTS = {"relu3_2": 0.4, "relu4_2": 0.8, "relu5_2": 1.6}
"""How much each layer counts: 2, 4 and 8 in the library, times its 0.2."""

NUM_CONVS = (2, 2, 4, 4, 4)
"""Convolutions of each level."""
_WIDTHS = (64, 128, 256, 512, 512)
# Of blue, green and red, in [0, 1].
_MEANS = (0.40760392, 0.45795686, 0.48501961)
_BYTE_RANGE = 255.0


class Vgg19Features(ModelMixin, ConfigMixin):
    """The convolutions of VGG19 up to relu5_2; the two behind it are kept, so that published files fit whole.

    Args:
        widths: channels of the five levels.

    Source: arXiv 1409.1556 v6, Table 1, column E; layers and input as in
        `zhangmozhe/Deep-Exemplar-based-Video-Colorization@2c41bdf`, which CtrlColor's released code refers to.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = _WIDTHS) -> None:
        super().__init__()
        before = 3
        for level, (width, num_convs) in enumerate(zip(widths, NUM_CONVS, strict=True), start=1):
            for number in range(1, num_convs + 1):
                setattr(self, f"conv{level}_{number}", nn.Conv2d(before, width, 3, padding=1))
                before = width

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the compared features.

        Args:
            image: (B, 3, H, W) float, sRGB, [0, 1]; sides of at least 16 px.

        Returns:
            Layer name -> (B, C, h, w); differentiable.
        """
        check_shape(image, "B 3 H W", "image")
        means = image.new_tensor(_MEANS).view(1, 3, 1, 1)
        hidden = (image.flip(1) - means) * _BYTE_RANGE
        features: dict[str, torch.Tensor] = {}
        for level, num_convs in enumerate(NUM_CONVS, start=1):
            hidden = hidden if level == 1 else functional.max_pool2d(hidden, 2)
            for number in range(1, num_convs + 1):
                hidden = functional.relu(getattr(self, f"conv{level}_{number}")(hidden))
                if f"relu{level}_{number}" in LAYER_WEIGHTS:
                    features[f"relu{level}_{number}"] = hidden[..., ::2, ::2] if level == 3 else hidden
                if len(features) == len(LAYER_WEIGHTS):
                    return features
        return features
