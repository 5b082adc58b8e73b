"""Edits: what a branch changes inside the networks, as values; and how one prediction collects what is to be changed.

The order is one for all predictions: latents first (each edit gets what the one before returned), then the patches of
the mechanisms in the order of the method, then those of the edits in the order of the branch. All patches go through
one installer, `colorlab.networks.patching.patched`, which restores the network whatever happens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import RangeError
from colorlab.mechanisms.base import UpcomingCall
from colorlab.methods.base import Method
from colorlab.networks.patching import Patch
from colorlab.runs.tree import Tree
from colorlab.settings import Settings

__all__ = ["Edit", "EditCall", "check_edits", "edit_tuple", "entering_latents", "step_patches"]


@dataclass(frozen=True, eq=False)
class EditCall(UpcomingCall):
    """The prediction of a step that is about to be made, as edits see it.

    Args:
        method: the loaded model; its lock is held.
        conditioning: what the user gave.
    """

    method: Method
    conditioning: Conditioning

    @classmethod
    def of(
        cls,
        method: Method,
        conditioning: Conditioning,
        settings: Settings,
        prepared: Any,
        step_index: int,
        *,
        timesteps: Sequence[float],
        before: tuple[torch.Tensor, float] | None = None,
    ) -> "EditCall":
        """Put together the call of one step; of several timesteps with the guidance passes of all of them."""
        passes = (name for timestep in timesteps for name in method.guidance_passes(settings, timestep))
        return cls(
            network=method.unet,
            settings=settings,
            prepared=prepared,
            guidance_passes=tuple(dict.fromkeys(passes)),
            latent_shape=prepared.latent_shape,
            step_index=step_index,
            timestep=timesteps[0] if len(timesteps) == 1 else None,
            before=before,
            method=method,
            conditioning=conditioning,
        )

    def predict(self, latents: torch.Tensor, timestep: float) -> Mapping[str, torch.Tensor]:
        """Ask the method, nothing of this step installed."""
        return self.method.predict(self.prepared, latents, timestep, self.settings)


@runtime_checkable
class Edit(Protocol):
    """A user's intervention on the inside of the networks, carried by a branch; `colorlab.edits` holds those there are.

    An edit is a frozen value. Its fields are plain values (text, numbers, flags, None, ranges, tuples of these), arrays
    or tensors, and runs of the same tree, so that it can be written to a file.
    """

    def check(self, call: EditCall, tree: Tree) -> None:
        """Raise when the edit cannot act on this branch; asked when the branch is made, before anything is sampled."""
        ...

    def enter(self, latents: torch.Tensor, call: EditCall) -> torch.Tensor:
        """Return the latents (B, C, h, w) that enter the step: both the prediction and the solver start from them."""
        ...

    def patches(self, call: EditCall) -> Sequence[Patch]:
        """Return how the denoising network is changed inside for one prediction; none where the edit does not act.

        May ask the networks (another run's step, say): nothing of this prediction is installed yet.
        """
        ...


def edit_tuple(edits: object) -> tuple[Edit, ...]:
    """Return edits that came as a list or tuple.

    Raises:
        RangeError: they came as something else.
    """
    if isinstance(edits, list | tuple):
        return tuple(edits)
    raise RangeError(
        f"edits is {edits!r}, but a list is expected, such as edits=[colorlab.edits.Reweight('red', 2.0)]; [] for none."
    )


def check_edits(edits: Sequence[Edit], call: EditCall, tree: Tree) -> None:
    """Check that edits can act on a branch.

    Raises:
        RangeError: one is no edit, or what it names does not exist.
        StateError: what it needs is not there yet.
    """
    for edit in edits:
        if not isinstance(edit, Edit):
            raise RangeError(
                f"edits hold {edit!r}, but objects such as colorlab.edits.Reweight('red', 2.0) are expected."
            )
        edit.check(call, tree)


def entering_latents(edits: Sequence[Edit], latents: torch.Tensor, call: EditCall) -> torch.Tensor:
    """Return the latents that enter a step, after every edit; without edits the very same tensor."""
    for edit in edits:
        latents = edit.enter(latents, call)
    return latents


def step_patches(edits: Sequence[Edit], call: EditCall) -> list[Patch]:
    """Return the patches of one prediction: those of the mechanisms, then those of the edits."""
    patches = [
        patch
        for mechanism in call.method.mechanisms
        if mechanism.phase == "predict" and mechanism.is_on(call.settings)
        for patch in mechanism.patches(call)
    ]
    return patches + [patch for edit in edits for patch in edit.patches(call)]
