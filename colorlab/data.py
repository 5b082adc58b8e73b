"""Where the shipped models and samples lie: one answer for a checkout, an installed wheel and a user's own folder."""

import os
from pathlib import Path

from colorlab.errors import UnknownModelError, WeightsError

__all__ = ["DATA_VARIABLE", "MODEL_INDEX", "data_folder", "model_folder", "model_names"]

DATA_VARIABLE = "COLORLAB_DATA"
"""Environment variable that names another data folder."""

MODEL_INDEX = "model_index.json"
"""The file that makes a folder a model, as in diffusers."""

_PACKAGE = Path(__file__).resolve().parent


def data_folder() -> Path:
    """Return the folder that holds `mini/`.

    Looked for in this order: the folder that `COLORLAB_DATA` names, `data/` beside the package (a checkout),
    `colorlab/_data` (an installed wheel).

    Returns:
        An existing folder.

    Raises:
        WeightsError: `COLORLAB_DATA` names no folder or one too deep, or no data came with this installation.
    """
    named = os.environ.get(DATA_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise WeightsError(
                f"{DATA_VARIABLE} is {named!r}, but there is no such folder; set it to the folder that holds mini/, or "
                f"unset it to use the shipped data."
            )
        if not any(folder.glob(f"*/*/{MODEL_INDEX}")) and any(folder.glob(f"*/{MODEL_INDEX}")):
            raise WeightsError(
                f"{DATA_VARIABLE} is {named!r}, which holds models itself; set it to the folder above, "
                f"{str(folder.parent)!r}."
            )
        return folder
    # An installed package lies beside other packages: there, a folder called data belongs to somebody else.
    checkout = _PACKAGE.parent / "data"
    if (_PACKAGE.parent / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    shipped = _PACKAGE / "_data"
    if shipped.is_dir():
        return shipped
    raise WeightsError(
        f"No data came with this installation (looked for {str(checkout)!r} and {str(shipped)!r}); install colorlab "
        f"again, or set {DATA_VARIABLE} to the folder that holds mini/."
    )


def model_names() -> tuple[str, ...]:
    """Return the names of the models in the data folder, such as "mini/lcad", in alphabetical order.

    Raises:
        WeightsError: there is no data folder.
    """
    folder = data_folder()
    return tuple(sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob(f"*/*/{MODEL_INDEX}")))


def model_folder(name: str) -> Path:
    """Return the folder of a model in the data folder.

    Args:
        name: such as "mini/lcad".

    Returns:
        An existing folder with a `model_index.json`.

    Raises:
        UnknownModelError: no such model lies there; the message lists those that do.
        WeightsError: there is no data folder.
    """
    names = model_names()
    if name not in names:
        known = ", ".join(names) if names else "none"
        raise UnknownModelError(f"There is no model {name!r} in {str(data_folder())!r}; there are: {known}.")
    return data_folder() / name
