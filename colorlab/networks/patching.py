"""Patches: changes of a network's inside as values, and the one installer that applies and removes them.

| place | tensor that the function gets, the rows of one guidance pass | site |
| --- | --- | --- |
| `output` | (B, C, h, w) features that leave the block | resnet, transformer, block |
| `q` | (B, Q, heads * d) projected queries | attention |
| `k`, `v` | (B, K, heads * d) projected keys, values | attention |
| `scores` | (B, heads, Q, K) float32, scaled, before the softmax | attention |
| `probs` | (B, heads, Q, K) float32, after the softmax | attention |

`output`, `q`, `k` and `v` are changed in hooks; the kernels of the network stay, so a patch that changes nothing gives
the parent's bits on a CPU. `scores` and `probs` exist only when attention is computed by hand: the rows of the patched
pass are, by another order of summation, so a patch that changes nothing moves them by about 1e-6 of their size in
float32 (half formats: by one rounding). No layer mixes the rows of a batch, so the other passes keep their bits.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn

from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.networks.attention import MatrixChange, OpenAttention, check_plain_attention
from colorlab.networks.environment import eagerly, is_compiled
from colorlab.networks.passes import PassRows, check_passes, submodule
from colorlab.networks.sites import uncompiled

__all__ = ["PATCH_PLACES", "Patch", "PatchCall", "PatchFunction", "PatchPlace", "patched"]

PatchPlace = Literal["output", "q", "k", "v", "scores", "probs"]
PATCH_PLACES: tuple[PatchPlace, ...] = get_args(PatchPlace)

_MATRICES: tuple[PatchPlace, ...] = ("scores", "probs")
_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v"}


@dataclass(frozen=True)
class PatchCall:
    """Where a patch function is called.

    Args:
        site: path of the module.
        place: which of its tensors.
        guidance_pass: whose rows the tensor holds.
        step_index: step of the run.
    """

    site: str
    place: PatchPlace
    guidance_pass: str
    step_index: int


PatchFunction = Callable[[torch.Tensor, PatchCall], torch.Tensor | None]


@dataclass(frozen=True)
class Patch:
    """A change of one tensor inside a network.

    Args:
        site: path of the module, see `find_sites`.
        place: which of its tensors.
        function: gets the tensor of one pass and says where it is; returns the tensor that replaces it (same shape,
            not changed in place), or None to leave it alone.
        guidance_pass: in which pass; None for all.
        steps: at which steps; None for all.

    Raises:
        RangeError: there is no such place, or `steps` is no range.
    """

    site: str
    place: PatchPlace
    function: PatchFunction
    guidance_pass: str | None = None
    steps: range | None = None

    def __post_init__(self) -> None:
        if self.place not in PATCH_PLACES:
            raise RangeError(f"place is {self.place!r}, but one of {', '.join(PATCH_PLACES)} is expected.")
        if self.steps is not None and not isinstance(self.steps, range):
            raise RangeError(f"steps is {self.steps!r}, but a range such as range(4, 8), or None, is expected.")

    def is_active(self, step_index: int) -> bool:
        """Return whether the patch acts at a step."""
        return self.steps is None or step_index in self.steps


@contextmanager
def patched(
    network: nn.Module,
    patches: Sequence[Patch],
    *,
    guidance_passes: Sequence[str],
    step_index: int,
    num_samples: int = 1,
) -> Iterator[None]:
    """Apply patches in their order to the calls of a network within, and restore it on the way out, whatever happens.

    At one place a later patch gets what an earlier one returned. Contexts may be nested: the inner patches then come
    after the outer ones. Whoever shares the network with other threads holds its lock.

    Args:
        network: a UNet or control network; a compiled one is called eagerly within, since hooks of compiled modules
            are never called.
        patches: in order; those that are not active at this step do nothing.
        guidance_passes: of the step, in batch order.
        step_index: of the step.
        num_samples: pictures of each pass.

    Raises:
        RangeError: a site or pass does not exist, or a site does not have the place.
        StateError: an attention layer does not compute plain attention, or this torch is too old to call a compiled
            network eagerly.
        ShapeError: a patch function returned another shape (raised by the call of the network).
    """
    if is_compiled(network) and not hasattr(torch.compiler, "set_stance"):
        raise StateError("Patches need an uncompiled network, or torch 2.6; load the model without compiling it.")
    network = uncompiled(network)
    check_passes([patch.guidance_pass for patch in patches if patch.guidance_pass is not None], guidance_passes)
    targets = [(patch, _target(network, patch)) for patch in patches]
    active = [(patch, target) for patch, target in targets if patch.is_active(step_index)]
    with ExitStack() as stack:
        stack.enter_context(eagerly())
        rows = stack.enter_context(PassRows(network, guidance_passes, num_samples=num_samples))
        for patch, target in active:
            if patch.place not in _MATRICES:
                changed = target if patch.place == "output" else getattr(target, _PROJECTIONS[patch.place])
                handle = changed.register_forward_hook(partial(_change_output, patch=patch, rows=rows, step=step_index))
                stack.callback(handle.remove)
        for target in dict.fromkeys(target for patch, target in active if patch.place in _MATRICES):
            own = [patch for patch, other in active if other is target and patch.place in _MATRICES]
            stack.callback(target.set_processor, target.processor)
            target.set_processor(_open_attention(own, rows, step_index, target.processor))
        yield


def _target(network: nn.Module, patch: Patch) -> Any:
    """Return the module of a patch after checking that it has the place."""
    module = submodule(network, patch.site)
    is_attention = hasattr(module, "to_q") and hasattr(module, "heads")
    if is_attention == (patch.place == "output"):
        have = "q, k, v, scores and probs" if is_attention else "an output"
        raise RangeError(f"{patch.site!r} has {have}, but {patch.place!r} is to be patched; choose a fitting site.")
    if is_attention:
        check_plain_attention(module, patch.site, f"patching its {patch.place}")
    return module


def _apply(patch: Patch, tensor: torch.Tensor, call: PatchCall) -> torch.Tensor:
    """Call a patch function and check what it returns; None leaves the tensor itself."""
    changed = patch.function(tensor, call)
    if changed is None:
        return tensor
    if not isinstance(changed, torch.Tensor) or changed.shape != tensor.shape:
        came = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
        raise ShapeError(
            f"The patch of {call.place} at {call.site!r} returned {came}, but {tuple(tensor.shape)} is expected."
        )
    return changed.to(tensor)


def _change_output(module: nn.Module, args: Any, output: Any, *, patch: Patch, rows: PassRows, step: int) -> Any:
    """Replace the rows of a patch in what a module returned; a forward hook."""
    parts = output if isinstance(output, tuple) else (output,)
    tensor = changed = parts[0]
    for name, where in rows.slices():
        if patch.guidance_pass in (None, name):
            new = _apply(patch, tensor[where], PatchCall(patch.site, patch.place, name, step))
            changed = torch.cat([changed[: where.start], new, changed[where.stop :]])
    if not isinstance(output, tuple):
        return changed
    rest = parts[1:]
    if rest and isinstance(rest[0], tuple):
        # A down block also hands its features on as skip connections; its output is the last of them.
        skips = tuple(changed if skip is tensor else skip for skip in rest[0])
        rest = (skips, *rest[1:])
    return (changed, *rest)


def _open_attention(patches: Sequence[Patch], rows: PassRows, step: int, saved: Any) -> OpenAttention:
    """Return a processor that applies the matrix patches of one layer, after those already installed there."""
    before = saved.changes if isinstance(saved, OpenAttention) else None

    def changes() -> list[tuple[slice, Sequence[MatrixChange], Sequence[MatrixChange]]]:
        earlier = {(where.start, where.stop): (scores, probs) for where, scores, probs in (before() if before else ())}
        found: list[tuple[slice, Sequence[MatrixChange], Sequence[MatrixChange]]] = []
        for name, where in rows.slices():
            changes_by_place: dict[str, list[MatrixChange]] = {
                place: [
                    partial(_apply_matrix, patch=patch, call=PatchCall(patch.site, place, name, step))
                    for patch in patches
                    if patch.place == place and patch.guidance_pass in (None, name)
                ]
                for place in _MATRICES
            }
            of_scores, of_probs = changes_by_place.values()
            old_scores, old_probs = earlier.get((where.start, where.stop), ((), ()))
            if of_scores or of_probs or old_scores or old_probs:
                found.append((where, [*old_scores, *of_scores], [*old_probs, *of_probs]))
        return found

    return OpenAttention(changes)


def _apply_matrix(tensor: torch.Tensor, *, patch: Patch, call: PatchCall) -> torch.Tensor:
    """Apply one patch to scores or probabilities."""
    return _apply(patch, tensor, call)
