"""CallRecorder: listens to one call of a diffusers pipeline, and changes nothing about it.

| listened to | what is kept |
| --- | --- |
| `pipe.encode_prompt` | the words and options it was called with |
| the control network | its arguments; what it returns is computed again by a replay |
| the UNet | its arguments, its output by guidance pass, its environment |
| `scheduler.step` | the clean latents it had in mind, and the last latents |

A tensor is kept once however often it comes: text tokens and a control picture once for all steps, latents once for
all passes of a step. Residuals of a control network are kept only where they do not go straight into the UNet.
"""

import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from colorlab.errors import StateError
from colorlab.inspection.kept import BudgetError, Kept, KeptTensors, map_leaves
from colorlab.inspection.pipelines import PromptReader, clean_latents, guidance_passes_of
from colorlab.networks.environment import Environment, environment_of
from colorlab.networks.sites import uncompiled

__all__ = ["CallRecorder", "FromControl", "NetworkCall", "RecordedStep"]


@dataclass(frozen=True)
class FromControl:
    """Stands for a tensor that a control network returned.

    Args:
        call: which of the step's calls of control networks.
        leaf: which of the tensors it returned.
    """

    call: int
    leaf: int


@dataclass(frozen=True, eq=False)
class NetworkCall:
    """A call of a network, with `Kept` and `FromControl` in place of tensors."""

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """One call of the UNet; a `Predicted`.

    Args:
        step_index: number of the call.
        timestep: at which the network was asked.
        predictions: (B, C, h, w) output by guidance pass, as the network gave it.
        environment: in which it was asked.
        call: how it was called.
        controls: the calls of control networks before it.
        clean: clean latents (B, C, h, w) of the scheduler after the step; None where it does not tell them.
        clean_source: where they come from, or why there are none.
    """

    step_index: int
    timestep: float
    predictions: Mapping[str, torch.Tensor]
    environment: Environment
    call: NetworkCall
    controls: tuple[NetworkCall, ...]
    clean: torch.Tensor | None = None
    clean_source: str = "no step of the scheduler followed"

    @property
    def num_samples(self) -> int:
        """Pictures of each pass."""
        return len(next(iter(self.predictions.values())))


@dataclass(eq=False)
class _Pending:
    """What is known of a step before the UNet has answered."""

    passes: tuple[str, ...]
    environment: Environment
    call: NetworkCall
    timestep: float
    mark: tuple[int, int]


@dataclass(eq=False)
class CallRecorder:
    """Listens while it is attached; a second call of the pipeline starts over.

    Args:
        pipe: a diffusers pipeline with a UNet and a scheduler.
        named_passes: what the user says about the batch; None for what is known about the pipeline.
        max_bytes: of all tensors kept; the step that does not fit, and all after it, are left out.
    """

    pipe: Any
    named_passes: Sequence[str] | None
    max_bytes: int
    is_full: bool = False
    steps: list[RecordedStep] = field(default_factory=list)
    last_latents: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.network: nn.Module = self.pipe.unet
        self._names = tuple(inspect.signature(uncompiled(self.network).forward).parameters)
        self._start_over({})

    def _start_over(self, arguments: Mapping[str, Any]) -> None:
        """Forget everything; a call of the pipeline begins."""
        self.tensors = KeptTensors(self.max_bytes)
        self.reader = PromptReader(self.pipe, dict(arguments))
        self.steps, self.is_full, self.last_latents = [], False, None
        self._pending: _Pending | None = None
        self._controls: list[NetworkCall] = []
        # What the control networks of this step returned: the tensor by its id, and what stands for it.
        self._returned: dict[int, tuple[weakref.ref[torch.Tensor], FromControl]] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen within; every hook is gone afterwards, whatever happens."""
        with ExitStack() as stack:
            stack.enter_context(_calls_watched(self.network, self._before_unet, self._after_unet))
            control = getattr(self.pipe, "controlnet", None)
            if isinstance(control, nn.Module):
                before = functools.partial(self._before_control, control)
                stack.enter_context(_calls_watched(control, before, self._after_control))
            if hasattr(self.pipe, "encode_prompt"):
                stack.enter_context(_method_watched(self.pipe, "encode_prompt", before=self._before_words))
            stack.enter_context(_method_watched(self.pipe.scheduler, "step", after=self._after_step))
            yield

    # What is heard, in the order of a call.

    def _before_words(self, arguments: Mapping[str, Any]) -> None:
        """The pipeline encodes its prompts, which it does once, first of all."""
        self._start_over({name: value for name, value in arguments.items() if not _has_tensors(value)})

    def _before_control(self, control: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A control network is called."""
        if self.is_full:
            return
        with self._within_budget():
            self._keep_sample(args[0] if args else kwargs["sample"])
            self._controls.append(NetworkCall(control, self._pack(args), self._pack(kwargs)))

    def _after_control(self, output: Any) -> None:
        """A control network has returned its residuals."""
        for leaf, tensor in enumerate(tensors_of(output)):
            stands_for = FromControl(len(self._controls) - 1, leaf)
            self._returned[id(tensor)] = (weakref.ref(tensor), stands_for)

    def _before_unet(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The UNet is called."""
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        sample, timestep = arguments["sample"], arguments["timestep"]
        passes = self._passes()
        if len(sample) % len(passes):
            raise StateError(
                f"The UNet was called with {len(sample)} rows, which are not {' + '.join(passes)}; name the parts of "
                "the batch in their order: colorlab.record(pipe, guidance_passes=(...))."
            )
        self._pending = None
        if self.is_full:
            return
        with self._within_budget() as mark:
            self._keep_sample(sample)
            call = NetworkCall(self.network, (), self._pack(arguments))
            when = float(timestep.flatten()[0]) if isinstance(timestep, torch.Tensor) else float(timestep)
            self._pending = _Pending(passes, environment_of(self.network), call, when, mark)

    def _after_unet(self, output: Any) -> None:
        """The UNet has answered."""
        pending, self._pending = self._pending, None
        controls, self._controls, self._returned = tuple(self._controls), [], {}
        if pending is None:
            return
        with self._within_budget(pending.mark):
            parts = [self.tensors.copy(part) for part in tensors_of(output)[0].chunk(len(pending.passes))]
            predictions = dict(zip(pending.passes, parts, strict=True))
            step = RecordedStep(
                len(self.steps), pending.timestep, predictions, pending.environment, pending.call, controls
            )
            self.steps.append(step)

    def _after_step(self, arguments: Mapping[str, Any], output: Any) -> None:
        """The scheduler has taken a step."""
        if self.is_full or not self.steps:
            return
        clean, source = clean_latents(self.pipe.scheduler, output, arguments)
        latents = output[0] if isinstance(output, tuple) else output.prev_sample
        self.steps[-1] = replace(self.steps[-1], clean_source="max_bytes was used up")
        with self._within_budget():
            kept = None if clean is None else self.tensors.copy(clean)
            self.steps[-1] = replace(self.steps[-1], clean=kept, clean_source=source)
            # The last ones take the place of those before them, so that they count once.
            is_first = self.last_latents is None
            self.last_latents = self.tensors.copy(latents) if is_first else latents.detach().to("cpu", copy=True)

    # Inside.

    @contextmanager
    def _within_budget(self, mark: tuple[int, int] | None = None) -> Iterator[tuple[int, int]]:
        """Leave the body where the budget is used up, and forget what was kept since the mark."""
        mark = mark or self.tensors.mark()
        try:
            yield mark
        except BudgetError:
            self.tensors.forget_after(mark)
            self.is_full = True

    def _passes(self) -> tuple[str, ...]:
        """Name the parts of the present batch; callbacks may change them in the middle of a call."""
        return tuple(self.named_passes) if self.named_passes is not None else guidance_passes_of(self.pipe)

    def _keep_sample(self, sample: torch.Tensor) -> None:
        """Keep the latents of a call once for all passes that got the same; the arguments then find them kept."""
        parts = sample.chunk(len(self._passes()))
        is_repeated = all(part.shape == parts[0].shape and torch.equal(part, parts[0]) for part in parts[1:])
        self.tensors.keep(sample, num_repeats=len(parts) if is_repeated else 1)

    def _pack(self, value: Any) -> Any:
        """Put what stands for them in place of tensors."""
        return map_leaves(value, torch.Tensor, self._stand_in)

    def _stand_in(self, tensor: torch.Tensor) -> Kept | FromControl:
        """Return what stands for a tensor."""
        reference, stands_for = self._returned.get(id(tensor), (None, None))
        if reference is not None and stands_for is not None and reference() is tensor:
            return stands_for
        return self.tensors.keep(tensor)


def tensors_of(output: Any) -> list[torch.Tensor]:
    """Return the tensors of what a network returned, in order."""
    found: list[torch.Tensor] = []
    map_leaves(output, torch.Tensor, found.append)
    return found


def _has_tensors(value: Any) -> bool:
    """Return whether an argument holds a tensor."""
    return bool(tensors_of(value))


@contextmanager
def _calls_watched(
    network: nn.Module, before: Callable[[tuple[Any, ...], dict[str, Any]], None], after: Callable[[Any], None]
) -> Iterator[None]:
    """Hear of the calls of a network within."""
    compiled = getattr(network, "_compiled_call_impl", None)
    if compiled is not None:
        # `nn.Module.compile` keeps the compiled call here, which runs past hooks.
        def call(*args: Any, **kwargs: Any) -> Any:
            before(args, kwargs)
            output = compiled(*args, **kwargs)
            after(output)
            return output

        with _replaced(network, "_compiled_call_impl", call):
            yield
        return
    with ExitStack() as stack:
        first = network.register_forward_pre_hook(lambda module, args, kwargs: before(args, kwargs), with_kwargs=True)
        stack.callback(first.remove)
        last = network.register_forward_hook(lambda module, args, output: after(output))
        stack.callback(last.remove)
        yield


def _method_watched(
    owner: Any,
    name: str,
    *,
    before: Callable[[Mapping[str, Any]], None] | None = None,
    after: Callable[[Mapping[str, Any], Any], None] | None = None,
) -> AbstractContextManager[None]:
    """Hear of the calls of a method within: its arguments by name, and what it returned."""
    original = getattr(owner, name)
    signature = inspect.signature(original)

    # Pipelines look at the signature of `step` to see what it takes; `wraps` shows them the original one.
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        if before is not None:
            before(arguments)
        output = original(*args, **kwargs)
        if after is not None:
            after(arguments, output)
        return output

    return _replaced(owner, name, call)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of one object within; what it had of its own comes back, else what its class has."""
    had_own, own = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own) if had_own else delattr(owner, name)
