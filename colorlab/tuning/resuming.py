"""From a file back to a tuning that goes on."""

from pathlib import Path

from colorlab.errors import RangeError
from colorlab.methods.diffcolor import DiffColor
from colorlab.tuning.files import read_tuning
from colorlab.tuning.tuning import Tuning

__all__ = ["resume"]


def resume(method: DiffColor, path: str | Path) -> Tuning:
    """Return the tuning of a file, at the state it was written in; gone on with, it does what it would have done.

    Raises:
        RunFileError: the file is missing, damaged, or no tuning.
        RangeError: it is of other weights.
    """
    stored = read_tuning(path)
    if stored.base != method.base_hash:
        raise RangeError(
            f"{str(path)!r} is a tuning of {stored.model!r} with other weights ({stored.base[:12] or 'unknown'}) than "
            f"those of {method.model_name!r} ({method.base_hash[:12] or 'unknown'}); load the model it was made with."
        )
    if method.adaptation is not None:
        raise RangeError("This model carries an adaptation; resume with the plain model.")
    tuning = Tuning(method, stored.conditioning, stored.settings, stored.plan, nouns=stored.nouns)
    return tuning.restored(stored.state, stored.checkpoints)
