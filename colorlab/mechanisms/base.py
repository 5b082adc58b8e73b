"""What a mechanism is: one idea of one paper, with a phase, parameters, a switch, and a way to explain itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal, get_args

import torch

from colorlab.errors import RangeError
from colorlab.exhibits import Exhibit
from colorlab.networks.patching import Patch
from colorlab.networks.sites import Site, SiteKind, find_sites
from colorlab.sampling.records import StepRecord
from colorlab.settings import Settings

__all__ = [
    "NO_PROBE",
    "PHASES",
    "SWITCH",
    "Call",
    "Mechanism",
    "MechanismInForce",
    "Parameter",
    "Phase",
    "UpcomingCall",
    "Value",
]

Phase = Literal["prepare", "predict", "guide", "decode", "train", "tune"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Value = bool | float | str | tuple[float, ...]

# Every mechanism has a switch of this name beside its own parameters.
SWITCH = "is_on"

# What a probe is when nothing was replayed: activations by site, none of them read.
NO_PROBE: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Parameter:
    """One number, choice, switch or list of numbers of a mechanism.

    Args:
        name: how `Settings.mechanisms` calls it.
        default: the paper's value; its type is the type of the parameter.
        unit: unit of the numbers, "" for none.
        low: smallest number, inclusive.
        high: largest number, inclusive.
        choices: the allowed values of a text parameter; empty for any.
        doc: one sentence for sliders and tables.
    """

    name: str
    default: Value
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()
    doc: str = ""

    def check(self, value: object, owner: str) -> Value:
        """Return `value` in the kind of this parameter, or raise a RangeError that says what was expected."""
        came = f"{owner}.{self.name} is {value!r}, but"
        if isinstance(self.default, bool):
            if isinstance(value, bool):
                return value
            raise RangeError(f"{came} True or False is expected.")
        if isinstance(self.default, str):
            if isinstance(value, str) and (not self.choices or value in self.choices):
                return value
            raise RangeError(f"{came} {'one of ' + ', '.join(self.choices) if self.choices else 'text'} is expected.")
        if isinstance(self.default, tuple):
            if isinstance(value, (list, tuple)) and all(self._is_in_range(number) for number in value):
                return tuple(float(number) for number in value)
            raise RangeError(f"{came} a list of numbers from {self.low:g} to {self.high:g} is expected.")
        if self._is_in_range(value):
            return float(value)  # type: ignore[arg-type]
        raise RangeError(f"{came} a number from {self.low:g} to {self.high:g} is expected.")

    def _is_in_range(self, value: object) -> bool:
        """Return whether a value is a number within the range; NaN, which compares false, is not."""
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]


@dataclass(frozen=True)
class Call:
    """One moment of a run as a mechanism sees it when it explains itself; all tensors are on the CPU.

    Args:
        settings: what was in force.
        prepared: the encoded conditioning by name (`Prepared.tensors()`).
        provenance: what an Exhibit has to say about its origin (run, step ...).
        latents: (B, C, h, w) float32, before the step, or the ones that are decoded.
        record: predictions of the step; None for the calls of a run that are not steps (prepare and decode).
        decode: latents and settings to image (B, 3, H, W) in [0, 1], one more call of the decoder; None within a step.
        read_decoder: latents to the decoder's inside by name, one more call of it; None within a step.
    """

    settings: Settings
    prepared: Mapping[str, torch.Tensor]
    provenance: Mapping[str, object]
    latents: torch.Tensor
    record: StepRecord | None = None
    decode: Callable[[torch.Tensor, Settings], torch.Tensor] | None = field(default=None, repr=False)
    read_decoder: Callable[[torch.Tensor], Mapping[str, torch.Tensor]] | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class UpcomingCall:
    """The prediction of a step that is about to be made, as those see it who may patch the denoising network for it.

    Args:
        network: the denoising network.
        settings: what is in force.
        prepared: the encoded conditioning, of the method's own class.
        guidance_passes: names of the passes, in batch order.
        latent_shape: (C, h, w).
        step_index: of the step.
        timestep: training timestep of the step; None for a call that stands for several.
        before: latents (B, C, h, w) and timestep of the step before, where the state remembers them.
    """

    network: torch.nn.Module
    settings: Settings
    prepared: Any
    guidance_passes: tuple[str, ...]
    latent_shape: tuple[int, int, int]
    step_index: int
    timestep: float | None
    before: tuple[torch.Tensor, float] | None

    def predict(self, latents: torch.Tensor, timestep: float) -> Mapping[str, torch.Tensor]:
        """Ask the networks, nothing of this step installed; for mechanisms that need another call first."""
        raise NotImplementedError

    def sites(self, glob: str = "*", kind: SiteKind | Sequence[SiteKind] | None = None) -> tuple[Site, ...]:
        """Return the sites of the network that fit; see `colorlab.networks.sites.find_sites`."""
        return find_sites(self.network, self.latent_shape, glob=glob, kind=kind)


@dataclass(frozen=True)
class MechanismInForce:
    """A mechanism as it stands under some settings.

    Args:
        phase: when it acts.
        is_on: whether it acts.
        parameters: its values in force.
        doc: what it does.
    """

    phase: Phase
    is_on: bool
    parameters: Mapping[str, Value]
    doc: str


class Mechanism(ABC):
    """One idea of one paper; stateless, so that one object serves every run.

    Its parameters are carried by `Settings.mechanisms[name]`; those that are not given there have their defaults.
    """

    name: ClassVar[str]
    phase: ClassVar[Phase]
    is_refinement: ClassVar[bool] = False
    """Whether it asks the networks once more in a step and changes little, so that quick previews leave it out."""
    parameters: tuple[Parameter, ...] = ()

    @property
    def doc(self) -> str:
        """Return the first paragraph of the class docstring, for tables and panels."""
        return (self.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")

    def in_force(self, settings: Settings) -> dict[str, Value]:
        """Return the value of every parameter under `settings`, the switch `is_on` first.

        Raises:
            RangeError: a parameter is unknown, of another kind or out of range.
        """
        given = settings.mechanisms.get(self.name, {})
        known = (Parameter(SWITCH, True), *self.parameters)
        unknown = sorted(set(given) - {parameter.name for parameter in known})
        if unknown:
            names = ", ".join(parameter.name for parameter in known)
            raise RangeError(f"{self.name} has no parameter {unknown[0]!r}; it has {names}.")
        return {
            parameter.name: parameter.check(given.get(parameter.name, parameter.default), self.name)
            for parameter in known
        }

    def is_on(self, settings: Settings) -> bool:
        """Return whether the switch is on."""
        return bool(self.in_force(settings)[SWITCH])

    def state(self, settings: Settings) -> MechanismInForce:
        """Return phase, switch, parameters and words for a panel."""
        return MechanismInForce(self.phase, self.is_on(settings), self.in_force(settings), self.doc)

    def patches(self, call: UpcomingCall) -> Sequence[Patch]:
        """Return how the denoising network is changed inside for one prediction; nothing by default.

        Only mechanisms of the phase `predict` that are on are asked. All patches of a prediction are installed
        together: those of the mechanisms in the order of the method, then those of a branch's edits.
        """
        return ()

    @abstractmethod
    def explain(self, call: Call, probe: Mapping[str, torch.Tensor] = NO_PROBE) -> dict[str, Exhibit]:
        """Show what this mechanism did in one call.

        Args:
            call: the recorded moment.
            probe: activations read by a replay of it, by site; empty when nothing was replayed.

        Returns:
            The exhibits by short name; empty when the call says nothing about this mechanism.
        """
