"""Environment: what, beside the inputs, decides the last bits of a prediction."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from colorlab.networks.sites import uncompiled

__all__ = ["Environment", "eagerly", "environment_of", "is_compiled", "weight_bytes"]


@dataclass(frozen=True)
class Environment:
    """The fingerprint of a network call: equal inputs under equal environments give equal bits.

    Args:
        torch: version.
        device: its kind and model, such as "cpu AVX2".
        dtype: number format of the weights, such as "float32".
        num_threads: threads of torch; 0 on devices that do not use them.
        memory_format: "contiguous" or "channels_last".
        attention: processors, and the fused kernels that may be chosen.
        matmul_precision: of float32, "highest" unless somebody lowered it.
        is_compiled: whether `torch.compile` rewrote the network.
    """

    torch: str
    device: str
    dtype: str
    num_threads: int
    memory_format: str
    attention: str
    matmul_precision: str
    is_compiled: bool = False

    def differences(self, other: "Environment") -> tuple[str, ...]:
        """Say in what another environment differs, field by field."""
        return tuple(
            f"{field.name} {getattr(self, field.name)!r} became {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        )

    @property
    def is_half(self) -> bool:
        """Whether the weights have 16 bits."""
        return self.dtype in ("float16", "bfloat16")


def environment_of(network: nn.Module) -> Environment:
    """Return the environment in which a network computes now; cheap enough for every step."""
    plain: Any = uncompiled(network)
    weight = _first_convolution(plain)
    is_channels_last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return Environment(
        torch=torch.__version__,
        device=_device_name(weight.device),
        dtype=str(weight.dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads() if weight.device.type == "cpu" else 0,
        memory_format="channels_last" if is_channels_last else "contiguous",
        attention=" ".join((*_processor_names(plain), *_fused_kernels())),
        matmul_precision=torch.get_float32_matmul_precision(),
        is_compiled=is_compiled(network),
    )


def weight_bytes(network: nn.Module) -> int:
    """Return the bytes of one number of a network."""
    return _first_convolution(uncompiled(network)).element_size()


def is_compiled(network: nn.Module) -> bool:
    """Return whether `torch.compile` rewrote a network."""
    plain = uncompiled(network)
    # A compiled call is kept under this name by nn.Module.compile, which wraps nothing.
    return plain is not network or getattr(plain, "_compiled_call_impl", None) is not None


@contextmanager
def eagerly() -> Iterator[None]:
    """Call compiled modules uncompiled within, since hooks of a compiled module are never called."""
    # Older torch has no switch; there the replay of a compiled network reads nothing, and says so.
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield


def _first_convolution(network: nn.Module) -> torch.Tensor:
    """Return the weights of the first convolution, whose memory format and dtype stand for all."""
    return next(weight for weight in network.parameters() if weight.ndim == 4)


# The layers of a network that attend; going through all its modules at every step would take longer than all else here.
_ATTENTION_LAYERS: WeakKeyDictionary[nn.Module, tuple[nn.Module, ...]] = WeakKeyDictionary()


def _processor_names(network: nn.Module) -> list[str]:
    """Name the attention processors in use; the layers are found once, processors may change at any time."""
    layers = _ATTENTION_LAYERS.get(network)
    if layers is None:
        layers = tuple(module for module in network.modules() if hasattr(module, "set_processor"))
        _ATTENTION_LAYERS[network] = layers
    return sorted({type(layer.processor).__name__ for layer in layers if hasattr(layer, "processor")})


def _fused_kernels() -> tuple[str, ...]:
    """Name the kernels of scaled dot product attention that are switched on."""
    switches = {
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "mem_efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math": torch.backends.cuda.math_sdp_enabled(),
    }
    return tuple(name for name, is_on in switches.items() if is_on)


@functools.cache
def _device_name(device: torch.device) -> str:
    """Name the model of a device: kernels differ between models."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
