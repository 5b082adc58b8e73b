"""What `colorlab tune --set NAME=VALUE` changes: the plan of a preset, and parameters of two mechanisms."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

from colorlab.commands.problems import BadUsageError, as_bad_usage
from colorlab.mechanisms.base import Parameter
from colorlab.methods.diffcolor import DiffColor
from colorlab.tuning import PRESETS, STAGES, TuningPlan

__all__ = ["ChosenPlan", "read_plan"]

_FIELDS = {field.name: field.default for field in fields(TuningPlan) if isinstance(field.default, int | float | str)}
_PARAMETERS: Mapping[str, tuple[str, Parameter]] = MappingProxyType(
    {
        parameter.name: (mechanism.name, parameter)
        for mechanism in (DiffColor.tuning, DiffColor.alignment)
        for parameter in mechanism.parameters
    }
)


class ChosenPlan(NamedTuple):
    """How to tune: plan, parameters of mechanisms for `Settings.mechanisms`, and whether the user said any of it."""

    plan: TuningPlan
    mechanisms: dict[str, dict[str, Any]]
    is_given: bool


def read_plan(preset: str | None, changes: Sequence[str] = ()) -> ChosenPlan:
    """Read a preset and what is changed of it.

    Args:
        preset: in `PRESETS`; None for `notebook`.
        changes: NAME=VALUE each, where the name is a stage (its steps), a number or choice of `TuningPlan`, or a
            parameter of `contrastive_tuning` or `spatial_alignment`.

    Raises:
        BadUsageError: there is no such preset or name, or the value is not possible.
    """
    is_given = preset is not None or bool(changes)
    preset = "notebook" if preset is None else preset
    if preset not in PRESETS:
        raise BadUsageError(f'--preset is "{preset}"; expected one of {", ".join(PRESETS)}.')
    plan, mechanisms = PRESETS[preset], dict[str, dict[str, Any]]()
    for change in changes:
        name, _, text = (part.strip() for part in change.partition("="))
        with as_bad_usage():
            if name in STAGES:
                plan = plan.replace(num_steps={**plan.num_steps, name: _read(text, 0, name)})
            elif name in _FIELDS:
                plan = plan.replace(**{name: _read(text, _FIELDS[name], name)})
            elif name in _PARAMETERS:
                owner, parameter = _PARAMETERS[name]
                value = parameter.check(_read(text, parameter.default, name), owner)
                mechanisms.setdefault(owner, {})[name] = value
            else:
                known = ", ".join((*STAGES, *_FIELDS, *_PARAMETERS))
                raise BadUsageError(f'--set is "{change}"; expected NAME=VALUE, where NAME is one of {known}.')
    return ChosenPlan(plan, mechanisms, is_given)


def _read(text: str, default: Any, name: str) -> Any:
    """Read a value of the kind of its default."""
    try:
        return type(default)(text)
    except ValueError:
        kind = "an integer" if isinstance(default, int) else "a number"
        raise BadUsageError(f'--set {name} is "{text}"; expected {kind}.') from None
