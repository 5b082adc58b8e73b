"""Settings: how to sample, as a frozen value that is checked once and travels as JSON."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from colorlab.errors import RangeError

__all__ = ["MAX_INFERENCE_STEPS", "SOLVER_NAMES", "TIMESTEP_SPACINGS", "Settings"]

SOLVER_NAMES = ("ddim", "euler", "dpmpp_2m")
"""The solvers that exist; `colorlab.sampling.SOLVERS` holds the functions under the same names."""

TIMESTEP_SPACINGS = ("leading", "linspace", "trailing")
"""How the training timesteps are thinned out, as in diffusers."""

MAX_INFERENCE_STEPS = 1000
"""Most inference steps: one for each training timestep."""

Value = bool | int | float | str | tuple[float, ...]


@dataclass(frozen=True)
class Settings:
    """How to sample. Checked when it is made; change a copy with `replace`.

    Args:
        num_inference_steps: steps from noise to picture, 1 to 1000.
        guidance_scale: classifier-free guidance, 1 to 100; 1 means off.
        solver: one of `SOLVER_NAMES`.
        timestep_spacing: one of `TIMESTEP_SPACINGS`.
        eta: DDIM stochasticity, [0, 1]; 0 draws no noise after the first.
        strength: how far to re-noise a base image, [0, 1]; 1 starts from pure noise.
        seed: integer from 0 to 2**63 - 1; the same seed gives the same noise on every device.
        mechanisms: parameters of mechanisms by name, `{"luminance_guidance": {"is_on": False}}`; what is not named
            keeps its default. Values are numbers, booleans, texts, or sequences of numbers.
        as_published: follow the quirks of the released code.

    Raises:
        RangeError: a value is out of range, of another type, or not among those that exist; the message lists them.

    Example:
        >>> Settings(num_inference_steps=8).replace(seed=3).seed
        3
    """

    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    solver: str = "ddim"
    timestep_spacing: str = "leading"
    eta: float = 0.0
    strength: float = 1.0
    seed: int = 0
    mechanisms: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    as_published: bool = False

    def __post_init__(self) -> None:
        _check_integer(self.num_inference_steps, 1, MAX_INFERENCE_STEPS, "num_inference_steps")
        _check_integer(self.seed, 0, 2**63 - 1, "seed")
        for name, low, high in (("guidance_scale", 1.0, 100.0), ("eta", 0.0, 1.0), ("strength", 0.0, 1.0)):
            object.__setattr__(self, name, _check_number(getattr(self, name), low, high, name))
        _check_choice(self.solver, SOLVER_NAMES, "solver")
        _check_choice(self.timestep_spacing, TIMESTEP_SPACINGS, "timestep_spacing")
        if not isinstance(self.as_published, bool):
            raise RangeError(f"as_published is {self.as_published!r}, but True or False is expected.")
        object.__setattr__(self, "mechanisms", _freeze_mechanisms(self.mechanisms))

    def __hash__(self) -> int:
        # Of the values, not of their JSON: 1 and 1.0 are equal but written differently.
        mechanisms = tuple((name, *values.items()) for name, values in self.mechanisms.items())
        return hash(tuple({**self.__dict__, "mechanisms": mechanisms}.values()))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the mechanisms as plain dictionaries."""
        return self.to_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the read-only views that pickling drops."""
        self.__dict__.update(state)
        self.__post_init__()

    def replace(self, **changes: Any) -> "Settings":
        """Return a copy with some fields changed; `mechanisms` replaces all of them.

        Raises:
            RangeError: a field that does not exist, or a value as in the constructor.
        """
        return Settings(**_check_names({**self.__dict__, **changes}))

    def with_mechanism(self, name: str, **parameters: Value) -> "Settings":
        """Return a copy in which these parameters of one mechanism are set and all others are kept."""
        ours = {**self.mechanisms.get(name, {}), **parameters}
        return self.replace(mechanisms={**self.mechanisms, name: ours})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as `json` writes them."""
        return {**self.__dict__, "mechanisms": {name: dict(values) for name, values in self.mechanisms.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """Make settings from plain values; the inverse of `to_dict`. Missing fields take their defaults."""
        return cls(**_check_names(values))

    def to_json(self) -> str:
        """Write the settings as one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote.

        Raises:
            RangeError: no JSON object, an unknown field, or a value as in the constructor.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise RangeError(f"The settings are no JSON ({error}); give what Settings.to_json wrote.") from error
        if not isinstance(values, dict):
            raise RangeError(f"The settings are a JSON {type(values).__name__}, but an object is expected.")
        return cls.from_dict(values)


def _check_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse fields that do not exist."""
    known = [entry.name for entry in fields(Settings)]
    for name in values:
        if name not in known:
            raise RangeError(f"Settings have no field {name!r}; there are: {', '.join(known)}.")
    return dict(values)


def _check_integer(value: Any, low: int, high: int, name: str) -> None:
    """Refuse what is no integer in [low, high]; True and False are no integers here."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RangeError(f"{name} is {value!r}, but an integer from {low} to {high} is expected.")


def _check_number(value: Any, low: float, high: float, name: str) -> float:
    """Return the number as float; refuse what is none, NaN, or outside [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RangeError(f"{name} is {value!r}, but a number from {low:g} to {high:g} is expected.")
    return float(value)


def _check_choice(value: Any, choices: tuple[str, ...], name: str) -> None:
    """Refuse what is not among the choices."""
    if value not in choices:
        raise RangeError(f"{name} is {value!r}, but there are only: {', '.join(choices)}.")


def _freeze_mechanisms(mechanisms: Any) -> Mapping[str, Mapping[str, Value]]:
    """Check the parameters of all mechanisms; return them read-only, in alphabetical order."""
    if not isinstance(mechanisms, Mapping):
        raise RangeError(f"mechanisms is {mechanisms!r}, but a mapping from name to parameters is expected.")
    frozen: dict[str, Mapping[str, Value]] = {}
    for name in sorted(mechanisms, key=str):
        parameters = mechanisms[name]
        if not isinstance(name, str) or not isinstance(parameters, Mapping):
            raise RangeError(
                f"mechanisms[{name!r}] is {parameters!r}, but a mapping from parameter to value is expected."
            )
        checked = {str(key): _check_value(parameters[key], f"{name}.{key}") for key in sorted(parameters, key=str)}
        frozen[name] = MappingProxyType(checked)
    return MappingProxyType(frozen)


def _check_value(value: Any, name: str) -> Value:
    """Return one parameter: a finite number, a boolean, a text, or a tuple of finite numbers."""
    if isinstance(value, bool | str) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple) and all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        return tuple(value)
    raise RangeError(
        f"{name} is {value!r}, but a finite number, True, False, a text or numbers in a list are expected."
    )
