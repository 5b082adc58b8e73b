"""A quirk of the released L-CAD: every second step attends by the scores of the step before."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch

from colorlab.exhibits import Exhibit
from colorlab.mechanisms.base import NO_PROBE, Call, Mechanism, Phase, UpcomingCall
from colorlab.networks.kept_scores import keep_scores, put_scores
from colorlab.networks.patching import Patch
from colorlab.settings import Settings

__all__ = ["StaleAttention"]


class StaleAttention(Mechanism):
    """Attend by the scores of the step before at every second step; with `as_published` and DDIM alone.

    The released attention layers keep their scores, self and cross, for a second guided call, and use them up in the
    next call, whichever that is. Where a step makes one call, that is the call of the next step.

    Source: `changzheng123/L-CAD@3e1d8d6`; the paper, arXiv 2305.15217, has nothing of it.
    Deviation: the step before is asked once more instead of keeping its scores, so that a step follows from its state,
        which remembers the latents before it; what a run leaves behind never reaches the next picture.
    """

    name = "stale_attention"
    phase: ClassVar[Phase] = "predict"

    def remembers(self, settings: Settings) -> bool:
        """Return whether states have to remember the latents before them."""
        return settings.as_published and self.is_on(settings) and settings.solver == "ddim"

    def patches(self, call: UpcomingCall) -> Sequence[Patch]:
        """Ask about the step before and return its scores as patches; nothing at the first step and every second."""
        if call.before is None or call.step_index % 2 == 0:
            return ()
        latents, timestep = call.before
        with keep_scores(call.network, latents.shape, call.guidance_passes) as kept:
            call.predict(latents, timestep)
        return put_scores(kept)

    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show nothing: compare a run with one in which it is off."""
        return {}
