"""Check the name of a device before any work is done on it."""

import torch

from colorlab.commands.problems import BadUsageError


def check_device(name: str) -> str:
    """Check that torch knows a device and has it here.

    Args:
        name: "cpu", "cuda", "cuda:1", "mps"; "auto" takes the first GPU, else the CPU.

    Returns:
        The name, "auto" resolved.

    Raises:
        BadUsageError: the name means nothing, or the machine has no such device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadUsageError(f'"{name}" is no device; expected cpu, cuda, cuda:N, mps or auto.') from error
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    is_here = {
        "cpu": True,
        "cuda": (device.index or 0) < num_gpus,
        "mps": torch.backends.mps.is_available(),
    }.get(device.type, False)
    if not is_here:
        raise BadUsageError(f"This machine has no {name} that torch can use; colorlab doctor lists what it has.")
    return name
