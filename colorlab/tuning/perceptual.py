"""LPIPS from what lies on this disk: nothing is ever downloaded, and where something is missing it says what."""

import warnings
from pathlib import Path
from typing import Any

import torch

from colorlab.errors import MissingExtraError
from colorlab.networks import libraries

__all__ = ["load_lpips", "lpips_between", "why_no_lpips"]

_LEAST_PX = 32
_TRUNKS = ("alexnet-owt-7be5be79.pth", "alexnet-owt-4df8aa71.pth")


def find_trunk() -> Path | None:
    """Return the file of AlexNet's weights where torchvision keeps it; None where it was never fetched."""
    folder = _trunk_folder()
    return next((folder / name for name in _TRUNKS if (folder / name).is_file()), None)


def why_no_lpips(size: tuple[int, int] | None = None) -> str:
    """Return why LPIPS is not measured here, of pictures of a (height, width), in one sentence; empty where it is."""
    try:
        libraries.LPIPS  # noqa: B018 - asking for it imports it
    except MissingExtraError as error:
        return str(error)
    if find_trunk() is None:
        return f"LPIPS is not measured: AlexNet's weights ({_TRUNKS[0]}) are not in {_shown(_trunk_folder())}."
    if size is not None and min(size) < _LEAST_PX:
        return f"LPIPS is not measured: the picture has {min(size)} px, and AlexNet needs {_LEAST_PX}."
    return ""


def load_lpips(size: tuple[int, int] | None = None) -> torch.nn.Module | None:
    """Load LPIPS on AlexNet; None where the library or AlexNet's weights are not here, see `why_no_lpips`.

    Args:
        size: (height, width) of the pictures that it is for; None for any that are large enough.

    Returns:
        A network of two pictures (B, 3, H, W) in [-1, 1]; its output is their distance, 0 for equal ones.

    Source: Zhang et al., arXiv 1801.03924; the linear layers are those of the library, version 0.1.
    """
    trunk = find_trunk()
    if trunk is None or why_no_lpips(size):
        return None
    # Made with a random trunk, which the library does not download, and given the weights of the file.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # The library asks torchvision in an old way.
        warnings.simplefilter("ignore", UserWarning)
        network: Any = libraries.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = torch.load(trunk, map_location="cpu", weights_only=True)
    for name, parameter in network.net.named_parameters():
        # "slice2.3.weight" of the library is "features.3.weight" of AlexNet.
        with torch.no_grad():
            parameter.copy_(weights[f"features.{name.partition('.')[2]}"])
    frozen: torch.nn.Module = network.eval().requires_grad_(False)
    return frozen


def lpips_between(network: torch.nn.Module, image: torch.Tensor, other: torch.Tensor) -> float:
    """Return the LPIPS of two pictures (1, 3, H, W) in [0, 1]; 0 for equal ones."""
    with torch.no_grad():
        return float(network(image * 2 - 1, other * 2 - 1))


def _trunk_folder() -> Path:
    """Return where torch keeps what it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _shown(folder: Path) -> str:
    """Write a folder as a user would, so that exhibits can be shared: `~` stands for the user's own."""
    home = Path.home()
    return f"~/{folder.relative_to(home)}" if folder.is_relative_to(home) else str(folder)
