"""The published file of VGG19's convolutions, which comes without a configuration."""

from pathlib import Path

import torch

from colorlab.checkpoints.reading import read_weights
from colorlab.errors import WeightsError
from colorlab.networks.vgg19 import NUM_CONVS, Vgg19Features

__all__ = ["read_vgg19"]


def read_vgg19(path: str | Path) -> Vgg19Features:
    """Read VGG19 from a file of its convolutions; nothing in the file is run.

    Args:
        path: a weight file with the names of `vgg19_conv.pth`, which
            `zhangmozhe/Deep-Exemplar-based-Video-Colorization` publishes. torchvision's does not serve: it wants other
            pixels.

    Raises:
        WeightsError: the file is missing or damaged, or holds another network.
    """
    weights = read_weights(path, dtype=torch.float32)
    try:
        widths = [len(weights[f"conv{level}_1.weight"]) for level in range(1, len(NUM_CONVS) + 1)]
        with torch.device("meta"):
            network = Vgg19Features(widths)
        network.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold VGG19's convolutions as conv1_1.weight to conv5_4.bias; give vgg19_conv.pth of "
            "Deep-Exemplar-based-Video-Colorization."
        ) from error
    return network
