"""What colorlab knows about the pipelines of diffusers: their batch, their words, their clean pictures."""

import inspect
import threading
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from colorlab.errors import RangeError, StateError
from colorlab.methods.text import EncodedText

__all__ = [
    "PromptReader",
    "check_passes_known",
    "clean_latents",
    "decode_latents",
    "guidance_passes_of",
    "lock_of",
    "prediction_unit",
]

# Their batch is all negative prompts, then all prompts; without guidance the prompts alone.
_GUIDED = tuple(
    f"StableDiffusion{size}{control}{task}Pipeline"
    for size in ("", "XL")
    for control in ("", "ControlNet")
    for task in ("", "Img2Img", "Inpaint")
)
_CLEAN_FIELDS = ("pred_original_sample", "denoised")

_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def lock_of(network: nn.Module) -> Any:
    """Return the one lock of a network that colorlab did not load itself; reentrant."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(network, threading.RLock())


def check_passes_known(pipe: Any) -> None:
    """Check that the make-up of a pipeline's batch is known.

    Raises:
        RangeError: it is not.
    """
    if not any(parent.__name__ in _GUIDED for parent in type(pipe).__mro__):
        raise RangeError(
            f"How {type(pipe).__name__} makes up its batch is not known; name its parts in batch order, for instance "
            "colorlab.record(pipe, guidance_passes=('uncond', 'cond'))."
        )


def guidance_passes_of(pipe: Any) -> tuple[str, ...]:
    """Return the names of the parts of the batch in the present call of a known pipeline, in order."""
    return ("uncond", "cond") if pipe.do_classifier_free_guidance else ("cond",)


@dataclass(frozen=True, eq=False)
class PromptReader:
    """Reads words as one call of a pipeline did.

    Args:
        pipe: the pipeline.
        arguments: what its `encode_prompt` was called with, tensors left out; empty if it was not called.
    """

    pipe: Any
    arguments: Mapping[str, Any]

    @property
    def components(self) -> dict[str, Any]:
        """The tokenizer and text encoder that decide where a word stands; none where the call got no one text."""
        if self._problem():
            return {}
        for suffix in ("", "_2"):
            parts = {name: getattr(self.pipe, name + suffix, None) for name in ("tokenizer", "text_encoder")}
            if all(part is not None for part in parts.values()):
                return parts
        return {}

    @property
    def num_more_tokens(self) -> int:
        """Images of an IP-Adapter have keys of their own, so that there are none."""
        return 0

    def encode(self, text: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode a text alone, as the pipeline does.

        Returns:
            Tokens (1, N, D), and the pooled vector (1, D) where the pipeline has one, else None.
        """
        changed = {
            "prompt": text,
            "prompt_2": None,
            "negative_prompt": None,
            "negative_prompt_2": None,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
        }
        known = inspect.signature(self.pipe.encode_prompt).parameters
        arguments = {**self.arguments, **{name: value for name, value in changed.items() if name in known}}
        encoded = self.pipe.encode_prompt(**arguments)
        return encoded[0], encoded[2] if len(encoded) > 2 else None

    def encode_prompt(self, text: str) -> EncodedText:
        """Encode a text; without notes."""
        return EncodedText(self.encode(text)[0])

    def text(self, guidance_pass: str, row: int) -> str:
        """Return the text of a picture in a pass: the negative prompt in the pass `uncond`, the prompt in all others.

        Raises:
            StateError: the call got embeddings instead of words, or two prompts that differ.
        """
        if self._problem() or not self.components:
            reason = self._problem() or f"{type(self.pipe).__name__} has no text encoder"
            raise StateError(f"This call has no words: {reason}; ask about a pixel or a region instead.")
        first = self._text("negative_prompt" if guidance_pass == "uncond" else "prompt", row)
        # Where a word of textual inversion stands for several tokens, they are spelt out.
        convert = getattr(self.pipe, "maybe_convert_prompt", None)
        converted: str = convert(first, self.components["tokenizer"]) if convert else first
        return converted

    def _problem(self) -> str:
        """Say why words have no place; "" if they have one. The tokenizers of SDXL agree on the places in one text."""
        if self.arguments.get("prompt") is None:
            return "the pipeline was given embeddings, not prompt=..."
        for name in ("prompt", "negative_prompt"):
            if self.arguments.get(f"{name}_2") not in (None, "", self.arguments.get(name)):
                return f"its two text encoders read different texts, because of {name}_2"
        return ""

    def _text(self, name: str, row: int) -> str:
        """Return one of the texts that the pipeline was called with; "" where there is none."""
        texts = self.arguments.get(name) or ""
        if isinstance(texts, str):
            return texts
        text: str = texts[row // max(1, self.arguments.get("num_images_per_prompt") or 1)]
        return text


def prediction_unit(scheduler: Any) -> str:
    """Return the unit of what the network predicts."""
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    return "noise standard deviations" if kind == "epsilon" else f"units of {kind}"


def clean_latents(scheduler: Any, output: Any, arguments: Mapping[str, Any]) -> tuple[torch.Tensor | None, str]:
    """Find the clean latents that a scheduler had in mind after a step.

    Args:
        scheduler: after its `step`.
        output: what `step` returned.
        arguments: what `step` was given; `model_output`, `timestep` and `sample` are read.

    Returns:
        The latents, or None; and where they come from, or why there are none.
    """
    name = type(scheduler).__name__
    if isinstance(output, tuple):
        named = dict(zip(_output_fields(type(scheduler)), output, strict=False))
    else:
        named = dict(vars(output))
    for field in _CLEAN_FIELDS:
        if isinstance(named.get(field), torch.Tensor):
            return named[field], f"as {name} tells them"
    config = scheduler.config
    algorithm = str(getattr(config, "algorithm_type", ""))
    if getattr(config, "predict_x0", False) or algorithm in ("dpmsolver++", "sde-dpmsolver++"):
        kept = getattr(scheduler, "model_outputs", None) or [None]
        if isinstance(kept[-1], torch.Tensor):
            return kept[-1], f"as {name} remembers them"
    clean, kind = _clean_from_prediction(scheduler, arguments)
    if clean is not None:
        return clean, f"from the {kind} that {name} was given"
    return None, f"{name} does not tell what clean picture it has in mind; use DDIM, Euler or DPM-Solver++"


def _clean_from_prediction(scheduler: Any, arguments: Mapping[str, Any]) -> tuple[torch.Tensor | None, str]:
    """Solve for the clean latents where the latents are variance preserving; else None. And what was predicted."""
    kind = str(getattr(scheduler.config, "prediction_type", ""))
    timestep = float(arguments.get("timestep", -1))
    preserves_variance = float(getattr(scheduler, "init_noise_sigma", 0)) == 1.0
    if not hasattr(scheduler, "alphas_cumprod") or not preserves_variance or timestep < 0 or timestep % 1:
        return None, kind
    x, predicted = arguments["sample"].float(), arguments["model_output"].float()
    abar = scheduler.alphas_cumprod[int(timestep)].to(x)
    # x = sqrt(abar) x0 + sqrt(1 - abar) noise
    if kind == "epsilon":
        return (x - (1 - abar).sqrt() * predicted) / abar.sqrt(), kind
    if kind == "v_prediction":
        return abar.sqrt() * x - (1 - abar).sqrt() * predicted, kind
    return (predicted if kind == "sample" else None), kind


def decode_latents(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode clean latents (1, C, h, w) of a pipeline to a picture (1, 3, H, W), [0, 1], float32 on the CPU.

    Raises:
        StateError: the pipeline has no autoencoder.
    """
    vae: Any = getattr(pipe, "vae", None)
    if vae is None:
        raise StateError(f"{type(pipe).__name__} has no autoencoder, so it shows no picture; ask for the latents.")
    config, dtype = vae.config, vae.dtype
    # The published SDXL autoencoder overflows in float16; its pipeline decodes in float32 as well.
    is_lifted = dtype == torch.float16 and bool(getattr(config, "force_upcast", False))
    if is_lifted:
        vae.to(torch.float32)
    try:
        with torch.no_grad():
            scaled = latents.to(vae.device, vae.dtype) / config.scaling_factor
            mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
            if mean is not None and std is not None:
                mean, std = (torch.tensor(part).view(1, -1, 1, 1).to(scaled) for part in (mean, std))
                scaled = scaled * std + mean
            decoded: torch.Tensor = vae.decode(scaled).sample
    finally:
        if is_lifted:
            vae.to(dtype)
    return (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()


def _output_fields(scheduler_class: type) -> tuple[str, ...]:
    """Return the names of what `step` of a scheduler returns, from its annotation; () where that says nothing."""
    try:
        returned = typing.get_type_hints(scheduler_class.step)["return"]  # type: ignore[attr-defined]
    except (KeyError, NameError, TypeError, AttributeError):
        return ()
    for part in (returned, *typing.get_args(returned)):
        if isinstance(part, type) and is_dataclass(part):
            return tuple(field.name for field in fields(part))
    return ()
