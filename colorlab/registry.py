"""The models there are: those in the data folder, and the published ones that can be converted."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from colorlab.data import MODEL_INDEX, data_folder, model_names
from colorlab.errors import ColorlabError, UnknownModelError, WeightsError

__all__ = ["REWIRED", "ModelEntry", "ModelTable", "find_model", "method_of", "models"]


@dataclass(frozen=True)
class ModelEntry:
    """One line of `colorlab.models()`.

    Args:
        name: what `colorlab.load` takes.
        method: which paper's method it is.
        size_bytes: of the weight files; None where they are not here.
        licence: of the weights.
        source: where they come from.
        is_ready: whether `load` works now.
        how: how to get it; "" when it is ready.
    """

    name: str
    method: str
    size_bytes: int | None
    licence: str
    source: str
    is_ready: bool
    how: str = ""


# Published weights. They can be had from their authors only, under their authors' licences.
PUBLISHED = (
    ModelEntry(
        name="sd/colorizediffusion",
        method="colorizediffusion",
        size_bytes=None,
        licence="CC BY-NC-SA 4.0",
        source="https://github.com/tellurion-kanata/colorizeDiffusion",
        is_ready=False,
        how="fetch a `mult` checkpoint (version 1) from github.com/tellurion-kanata/colorizeDiffusion, run colorlab "
        "convert, and pass weights=FOLDER to load",
    ),
    ModelEntry(
        name="sd/ctrlcolor",
        method="ctrlcolor",
        size_bytes=None,
        licence="not stated; code: S-Lab License 1.0, non-commercial",
        source="https://github.com/ZhexinLiang/Control-Color",
        is_ready=False,
        how="fetch the checkpoints from github.com/ZhexinLiang/Control-Color, run colorlab convert, and pass "
        "weights=FOLDER to load",
    ),
    ModelEntry(
        name="sd/lcad",
        method="lcad",
        size_bytes=None,
        licence="CC BY-NC 4.0",
        source="https://github.com/changzheng123/L-CAD",
        is_ready=False,
        how="fetch a checkpoint from github.com/changzheng123/L-CAD, run colorlab convert, and pass "
        "weights=FOLDER to load",
    ),
)


# Models that have no weights of their own: another model's networks, wired by another method.
REWIRED = {"mini/diffcolor": ("mini/prior", "diffcolor")}

# Models of the family that this project trains, listed whether or not their weights are in the data folder.
_TRAINED = (
    "the weights of this model are not in the data folder; train them (colorlab train colorizediffusion-sketch, then "
    "colorlab train {recipe}) and name their folder"
)
FAMILY = tuple(
    ModelEntry(
        name=f"mini/{recipe}",
        method="colorizediffusion",
        size_bytes=None,
        licence="Apache-2.0",
        source="this project",
        is_ready=False,
        how=_TRAINED.format(recipe=recipe),
    )
    for recipe in ("colorizediffusion", "colorizediffusion-cls")
)


class ModelTable(tuple[ModelEntry, ...]):
    """Model entries, shown as a table."""

    def __new__(cls, entries: Iterable[ModelEntry]) -> "ModelTable":
        """Make a table of entries."""
        return super().__new__(cls, entries)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table as text: a header, then one row for each model."""
        header = ("name", "method", "size", "licence", "ready")
        return [
            header,
            *(
                (model.name, model.method, _size(model), model.licence, "yes" if model.is_ready else model.how)
                for model in self
            ),
        ]

    def __repr__(self) -> str:
        rows = self.rows()
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        return "\n".join(
            "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
        )

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        header, *rows = self.rows()
        left = "style='text-align:left'"  # JupyterLab aligns cells to the right
        head = "".join(f"<th {left}>{text}</th>" for text in header)
        body = "".join("<tr>" + "".join(f"<td {left}>{text}</td>" for text in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def models() -> ModelTable:
    """Return the table of all models: name, method, size, licence, and whether it is ready or how to get it."""
    try:
        names = model_names()
    except WeightsError:
        names = ()
    shipped = [entry for name in names if (entry := _shipped(name)) is not None]
    rewired = [
        replace(entry, name=name, method=method)
        for name, (origin, method) in REWIRED.items()
        for entry in shipped
        if entry.name == origin
    ]
    absent = [entry for entry in FAMILY if entry.name not in names]
    return ModelTable([*sorted([*shipped, *rewired], key=lambda entry: entry.name), *absent, *PUBLISHED])


def find_model(name: str, weights: str | Path | None = None) -> Path:
    """Return the folder of a model.

    Args:
        name: in `models()`, or a model folder.
        weights: folder of converted weights, for the published models.

    Raises:
        UnknownModelError: there is no such model; the message lists those that exist.
        WeightsError: its weights are not here, or were not given for a published model; or it is unknown because there
            is no data folder.
    """
    if weights is not None:
        return Path(weights).expanduser()
    table = models()
    entry = next((entry for entry in table if entry.name == name), None)
    if entry is not None and entry.is_ready:
        return data_folder() / REWIRED.get(name, (name,))[0]
    if entry in FAMILY:
        raise WeightsError(f"{name} cannot be loaded: {entry.how}.")
    if entry is not None:
        raise WeightsError(
            f"{name} needs weights that do not come with colorlab ({entry.licence}, {entry.source}): {entry.how}."
        )
    folder = Path(name).expanduser()
    if (folder / MODEL_INDEX).is_file():
        return folder
    data_folder()  # a name cannot be known without the data folder: its error says why there is none
    names = ", ".join(entry.name for entry in table)
    raise UnknownModelError(f"There is no model {name!r}, nor a model folder of this name; there are: {names}.")


def method_of(name: str) -> str | None:
    """Return the method that a model is wired by where it is not its folder's own."""
    return REWIRED[name][1] if name in REWIRED else None


def _shipped(name: str) -> ModelEntry | None:
    """Describe a model of the data folder; None if it is not one of colorlab's own."""
    folder = data_folder() / name
    try:
        index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
        if index.get("_class_name") != "Colorizer":
            return None
        card = index.get("card", {})
        files = [folder / file for file in index["sha256"]]
        missing = [file for file in files if not file.is_file()]
        return ModelEntry(
            name=name,
            method=str(index["method"]),
            size_bytes=None if missing else sum(file.stat().st_size for file in files),
            licence=str(card.get("licence", "Apache-2.0")),
            source=str(card.get("source", "this project")),
            is_ready=not missing,
            how=f"{missing[0].name} is missing; install colorlab again" if missing else "",
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ColorlabError):
        return ModelEntry(name, "?", None, "?", "?", is_ready=False, how="its model_index.json is damaged")


def _size(model: ModelEntry) -> str:
    """Write a size as people do."""
    return "-" if model.size_bytes is None else f"{model.size_bytes / 2**20:.1f} MiB"
