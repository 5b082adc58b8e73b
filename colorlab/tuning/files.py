"""A tuning in one file, with its checkpoints: written as a whole or not at all, every byte checked on reading.

The file is laid out as a run file, with one table `tuning` instead of those of a tree; tensors that states share are
in it once.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from colorlab.conditioning import Conditioning
from colorlab.errors import ColorlabError, RunFileError
from colorlab.methods.adaptation import SUFFIX as ADAPTATION_SUFFIX
from colorlab.methods.base import users_stacklevel
from colorlab.runs.run_file import TUNING_TABLE, Archive, read_archive, tensor_name, write_archive
from colorlab.settings import Settings
from colorlab.tuning.pictures import TuningWarning
from colorlab.tuning.plan import TuningPlan
from colorlab.tuning.state import TuningState, decode_state, encode_state

if TYPE_CHECKING:
    from colorlab.tuning.tuning import Tuning

__all__ = ["SUFFIX", "StoredTuning", "TuningFile", "read_tuning"]

SUFFIX = ".tuning"


@dataclass(frozen=True)
class StoredTuning:
    """What a file holds.

    Args:
        model: name of the model.
        base: hash of its weights.
        conditioning: picture and context.
        settings: in force.
        plan: how it goes.
        nouns: as they were given.
        state: the present one.
        checkpoints: oldest first.
    """

    model: str
    base: str
    conditioning: Conditioning
    settings: Settings
    plan: TuningPlan
    nouns: tuple[str, ...]
    state: TuningState
    checkpoints: tuple[TuningState, ...]


@dataclass
class TuningFile:
    """Where a tuning is kept.

    Args:
        path: ends in ".tuning"; its folder exists.
    """

    path: Path
    _failure: str = field(default="", repr=False)

    def write(self, tuning: "Tuning") -> Path:
        """Write a tuning as it stands.

        Raises:
            RunFileError: another ending, or it cannot be written.
        """
        path = self.path.expanduser()
        if path.suffix != SUFFIX:
            raise RunFileError(f"{str(path)!r} is no name of a tuning; choose one that ends in {SUFFIX}.")
        if not path.parent.is_dir():
            raise RunFileError(f"There is no folder {str(path.parent)!r} to save in; make it, or choose another one.")
        tensors: dict[str, torch.Tensor] = {}
        write_archive(path, Archive({TUNING_TABLE: _encode(tuning, _collector(tensors))}, tensors))
        self._failure = ""
        return path

    def try_to_write(self, tuning: "Tuning") -> None:
        """Write a tuning, or warn once that it is in memory alone."""
        try:
            self.write(tuning)
        except RunFileError as error:
            if str(error) != self._failure:
                message = f"{error} The tuning goes on in memory, and every checkpoint tries to write it again."
                warnings.warn(message, TuningWarning, stacklevel=users_stacklevel())
            self._failure = str(error)


def read_tuning(path: str | Path) -> StoredTuning:
    """Read a tuning.

    Raises:
        RunFileError: the file is missing, damaged, or no tuning.
    """
    path = Path(path).expanduser()
    if path.suffix == ADAPTATION_SUFFIX or not path.is_file():
        raise RunFileError(_why_none(path))
    archive = read_archive(path)
    values = archive.content.get(TUNING_TABLE)
    if not isinstance(values, dict):
        raise RunFileError(f"{str(path)!r} holds runs, but no tuning; open it with colorlab.open.")
    try:
        rows = tuple(values["rows"])
        states = [decode_state(state, archive.tensors, rows) for state in values["states"]]
        return StoredTuning(
            model=str(values["model"]),
            base=str(values["base"]),
            conditioning=Conditioning.from_json(json.dumps(values["conditioning"])),
            settings=Settings.from_dict(values["settings"]),
            plan=TuningPlan.from_dict(values["plan"]),
            nouns=tuple(values["nouns"]),
            state=states[-1],
            checkpoints=tuple(states[:-1]),
        )
    except ColorlabError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RunFileError(f"{str(path)!r} is damaged ({type(error).__name__}: {error}); use another copy.") from error


def _why_none(path: Path) -> str:
    """Say what to do where a path leads to no tuning: it may be over, and its result lie there or beside it."""
    made = path.with_suffix(ADAPTATION_SUFFIX) if path.name else path
    if made.is_file():
        return (
            f"There is no tuning {str(path)!r} to go on with: {str(made)!r} is what it made, so it is finished; color "
            "with that, by colorizer.with_adaptation(...) or colorlab colorize --adaptation."
        )
    return (
        f"There is no tuning {str(path)!r}; check the name (it ends in {SUFFIX}), or begin a tuning and keep it there."
    )


def _encode(tuning: "Tuning", tensor: Callable[[torch.Tensor], str]) -> dict[str, Any]:
    """Write a tuning as plain values."""
    # Any state's rows are a beginning of the longest ones, but for the last, which a stage's end may complete.
    states = [*tuning.checkpoints, tuning.state]
    longest = max(states, key=lambda state: state.number)
    return {
        "model": tuning.method.model_name,
        "base": tuning.method.base_hash,
        "conditioning": json.loads(tuning.conditioning.to_json()),
        "settings": tuning.settings.to_dict(),
        "plan": tuning.plan.to_dict(),
        "nouns": list(tuning.nouns),
        "rows": [dict(row) for row in longest.rows],
        "states": [encode_state(state, tensor) for state in states],
    }


def _collector(tensors: dict[str, torch.Tensor]) -> Callable[[torch.Tensor], str]:
    """Return a function that takes in a tensor, once, and returns its name."""

    def collect(tensor: torch.Tensor) -> str:
        name = tensor_name(tensor)
        tensors.setdefault(name, tensor.detach())
        return name

    return collect
