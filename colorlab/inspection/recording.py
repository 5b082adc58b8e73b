"""Recording: one call of a diffusers UNet pipeline, which answers the same questions as a run.

    with colorlab.record(pipe) as recording:
        pipe("a red car", num_inference_steps=20)
    recording.attention(step=8, word="car")

While the pipeline works, only inputs and outputs of its networks are copied; a question repeats one call of the UNet
(and of the control network before it) with read-only hooks, and says how well the answer agrees.
"""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from types import TracebackType
from typing import Any

import numpy as np
from torch import nn

from colorlab.errors import RangeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import to_uint8
from colorlab.inspection.image_tokens import image_attention
from colorlab.inspection.pipelines import check_passes_known
from colorlab.inspection.recorded import RecordedMoment, recorded_latents
from colorlab.inspection.recorder import CallRecorder, RecordedStep
from colorlab.networks.sites import find_sites
from colorlab.runs.queries import Queries
from colorlab.sampling.state import State

__all__ = ["Recording", "record"]


def record(pipe: Any, *, guidance_passes: Sequence[str] | None = None, max_bytes: int = 2**30) -> "Recording":
    """Record the call of a diffusers pipeline that is made within; see `docs/record.md` for what is supported.

    Args:
        pipe: a pipeline with a `UNet2DConditionModel`.
        guidance_passes: what the parts of its batch are, in order. None for pipelines that are known: Stable
            Diffusion and SDXL, from text or image, inpainting, with ControlNet or without; their batch is `uncond`,
            `cond`, or `cond` alone when guidance is off.
        max_bytes: of everything kept; the step that does not fit, and those after it, cannot be asked about.

    Returns:
        A context manager, and afterwards what the questions are put to.

    Raises:
        RangeError: the pipeline has no UNet that can be inspected, or its batch is not known.

    Example:
        >>> with colorlab.record(pipe) as recording:
        ...     pipe("a red car")  # doctest: +SKIP
        >>> recording.attention(step=8, word="car")  # doctest: +SKIP
    """
    return Recording(pipe, guidance_passes=guidance_passes, max_bytes=max_bytes)


class Recording(Queries):
    """One recorded call. A step is one call of the UNet: solvers that ask twice for a timestep have two.

    Questions are those of a `Run`: `attention`, `features`, `guidance`, `prediction`, `trajectory`, `settled`; besides
    `image_attention`. What needs edits or samples anew (`effect`, `study`) is for runs alone. Of several pictures made
    at once the first is shown; `of_picture` turns to another one. Made by `colorlab.record`; a second call within the
    context takes the place of the first. It holds the pipeline, and the answers are right as long as that is left as it
    was: another adapter, another scale, and the replay is refused.

    Args:
        pipe: see `record`.
        guidance_passes: see `record`.
        max_bytes: see `record`.
    """

    def __init__(self, pipe: Any, *, guidance_passes: Sequence[str] | None, max_bytes: int) -> None:
        if not isinstance(getattr(pipe, "unet", None), nn.Module):
            raise RangeError(f"{type(pipe).__name__} has no UNet; record takes diffusers pipelines that have one.")
        find_sites(pipe.unet, (8, 8))
        if guidance_passes is not None and (not guidance_passes or len(set(guidance_passes)) != len(guidance_passes)):
            raise RangeError(f"guidance_passes are {guidance_passes!r}, but different names are expected.")
        if guidance_passes is None:
            check_passes_known(pipe)
        self.pipe = pipe
        self.picture = 0
        self.is_finished = False
        self._recorder = CallRecorder(pipe, guidance_passes, max_bytes)
        self._attached = ExitStack()

    def __enter__(self) -> "Recording":
        self._attached.enter_context(self._recorder.attached())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()
        self.is_finished = error is None
        if self._recorder.is_full:
            warnings.warn(
                f"Only the first {self.num_steps} steps were kept: max_bytes = {self._recorder.max_bytes} was used up.",
                RuntimeWarning,
                stacklevel=2,
            )

    # What was recorded.

    @property
    def records(self) -> tuple[RecordedStep, ...]:
        """The calls of the UNet, with their predictions by guidance pass."""
        return tuple(self._recorder.steps)

    @property
    def origin(self) -> dict[str, Any]:
        """Where the pipeline was loaded from, or its class; its weights are not hashed."""
        return {"model": getattr(self.pipe.config, "_name_or_path", None) or type(self.pipe).__name__, "weights": ""}

    @property
    def num_steps(self) -> int:
        """Number of steps that can be asked about."""
        return len(self._recorder.steps)

    @property
    def num_bytes(self) -> int:
        """Bytes of everything kept."""
        return self._recorder.tensors.num_bytes

    @property
    def name(self) -> str:
        """What stands in captions and provenance."""
        return f"call of {type(self.pipe).__name__}"

    @property
    def states(self) -> tuple[State, ...]:
        """Latents before every step, variance preserving as the UNet gets them; at the end of the call, the last ones.

        Where latents are painted over after the last step of the scheduler (inpainting with a plain UNet), the last
        ones are those before.
        """
        recorder = self._recorder
        states = [State(step.step_index, step.timestep, recorded_latents(recorder, step)) for step in recorder.steps]
        if self.is_finished and not recorder.is_full and recorder.last_latents is not None:
            states.append(State(len(states), None, recorder.last_latents))
        return tuple(states)

    def __repr__(self) -> str:
        prompt = self._recorder.reader.arguments.get("prompt")
        return f"Recording: {self.name}, {self.num_steps} steps, {prompt!r}, {self.num_bytes / 2**20:.2f} MiB"

    def moment(self, step: int) -> RecordedMoment:
        """Return a step that was recorded.

        Raises:
            StateError: it was not.
        """
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < self.num_steps:
            have = f"holds steps 0 to {self.num_steps - 1}" if self.num_steps else "holds no step"
            hint = "raise max_bytes" if self._recorder.is_full else "call the pipeline within the context"
            raise StateError(f"step is {step!r}, but this recording {have}; {hint}.")
        return RecordedMoment(self._recorder, self._recorder.steps[step], self.picture)

    def of_picture(self, picture: int) -> "Recording":
        """Return this recording, turned to another picture of the same call.

        Raises:
            RangeError: there is none.
        """
        number = self._recorder.steps[0].num_samples if self._recorder.steps else 1
        if not 0 <= picture < number:
            raise RangeError(f"picture is {picture}, but this call made pictures 0 to {number - 1}.")
        other = copy(self)
        other.picture = picture
        return other

    # What only a recording shows; the rest is in `Queries`.

    def image_attention(
        self,
        step: int,
        *,
        token: int | Sequence[int] | None = None,
        pixel: tuple[float, float] | None = None,
        adapter: int = 0,
        site: str | None = None,
        head: int | None = None,
        guidance_pass: str | None = None,
        baseline: bool = False,
        max_bytes: int = 2**26,
    ) -> Exhibit:
        """Show attention to the pictures of an IP-Adapter (replay); see `colorlab.inspection.image_tokens`."""
        return image_attention(
            self,
            step,
            token=token,
            pixel=pixel,
            adapter=adapter,
            site=site,
            head=head,
            guidance_pass=guidance_pass,
            baseline=baseline,
            max_bytes=max_bytes,
        )

    def preview(self, step: int | None = None) -> np.ndarray:
        """Show the clean picture that the scheduler had in mind after a step.

        Args:
            step: the last one by default.

        Returns:
            (H, W, 3) uint8, decoded by the pipeline's autoencoder.

        Raises:
            StateError: the step was not recorded, the scheduler does not tell, or there is no autoencoder.
        """
        moment = self.moment(max(0, self.num_steps - 1) if step is None else step)
        return to_uint8(moment.picture(moment.clean))
