"""Tree: all runs of one piece of work, and how each came from another."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from colorlab.color import delta_e, rgb_to_lab
from colorlab.errors import RangeError, ShapeError, StateError
from colorlab.exhibits import Exhibit
from colorlab.images import load_image

if TYPE_CHECKING:
    from colorlab.runs.journal import Journal, JournalPosition
    from colorlab.runs.run import Run

__all__ = ["Fork", "Tree", "compare"]


@dataclass(frozen=True)
class Fork:
    """Where a run left its parent.

    Args:
        parent: the run it came from.
        step_index: first step that is its own.
    """

    parent: "Run"
    step_index: int


class Tree:
    """The runs of one piece of work in the order they were made; a forest if several were started.

    Looked up by name (`tree["run-1"]`) or by position (`tree[1]`). Safe to use from several threads.

    Attributes:
        num_made: how many runs were ever added; automatic names count on from it.
        journal: what keeps every change on disk; None where nobody asked for it, see `Run.autosave`.
        opened_from: the journal that the tree was read from, as it was then; None for others.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._forks: dict[Run, Fork | None] = {}
        self._lock = threading.RLock()
        self.num_made = 0
        self.journal: Journal | None = None
        self.opened_from: JournalPosition | None = None

    def add(self, run: "Run", *, parent: "Run | None" = None, step_index: int = 0, name: str | None = None) -> None:
        """Take in a run.

        Args:
            run: not in this tree yet.
            parent: the run it was branched from; None for a fresh start.
            step_index: where it left the parent.
            name: how it is called; "run-0", "run-1" ... by default.

        Raises:
            StateError: the run is in the tree already, or its parent is not.
            RangeError: the name is taken.
        """
        with self._lock:
            if run in self._forks:
                raise StateError(f"{run.name!r} is in this tree already; branch it to get another run.")
            if parent is not None:
                self._require(parent)
            wanted = name if name is not None else self._free_name()
            self._check_name(wanted)
            self.num_made += 1
            self._runs[wanted] = run
            self._forks[run] = Fork(parent, step_index) if parent is not None else None
        self.changed()

    def prune(self, run: "Run") -> tuple["Run", ...]:
        """Take a run and everything branched from it out of the tree.

        Returns:
            The runs taken out; they stay usable, and steps that others share with them stay theirs.
        """
        with self._lock:
            self._require(run)
            pruned = (run, *self.descendants(run))
            for gone in pruned:
                del self._runs[self.name_of(gone)], self._forks[gone]
        self.changed()
        return pruned

    def name(self, run: "Run", name: str) -> None:
        """Give a run another name; its place in the order stays.

        Raises:
            RangeError: the name is empty or taken.
        """
        with self._lock:
            old = self.name_of(run)
            if name != old:
                self._check_name(name)
                self._runs = {name if key == old else key: value for key, value in self._runs.items()}
        self.changed()

    def changed(self) -> None:
        """Tell the journal that there is something new to keep; called after every change, with no lock held."""
        journal = self.journal
        if journal is not None:
            journal.note()

    def snapshot(self) -> dict["Run", tuple[str, Fork | None]]:
        """Return name and fork of every run as one moment saw them, oldest first."""
        with self._lock:
            return {run: (name, self._forks[run]) for name, run in self._runs.items()}

    def name_of(self, run: "Run") -> str:
        """Return the name of a run."""
        with self._lock:
            self._require(run)
            return next(name for name, other in self._runs.items() if other is run)

    @property
    def runs(self) -> tuple["Run", ...]:
        """All runs, oldest first."""
        with self._lock:
            return tuple(self._runs.values())

    def fork(self, run: "Run") -> Fork | None:
        """Return where a run left its parent; None for a fresh start."""
        with self._lock:
            self._require(run)
            return self._forks[run]

    def parent(self, run: "Run") -> "Run | None":
        """Return the run this one was branched from."""
        fork = self.fork(run)
        return fork.parent if fork else None

    def children(self, run: "Run") -> tuple["Run", ...]:
        """Return the runs branched from this one, oldest first."""
        return tuple(other for other, fork in list(self._forks.items()) if fork is not None and fork.parent is run)

    def descendants(self, run: "Run") -> tuple["Run", ...]:
        """Return the children, their children, and so on."""
        return tuple(below for child in self.children(run) for below in (child, *self.descendants(child)))

    def compare(self, run: "Run", other: "Run") -> Exhibit:
        """Return `compare(run, other)` for two runs of this tree."""
        self._require(run)
        self._require(other)
        return compare(run, other)

    def __getitem__(self, key: str | int) -> "Run":
        if isinstance(key, int):
            return self.runs[key]
        if key not in self._runs:
            raise RangeError(f"No run is called {key!r}; there are {', '.join(self._runs)}.")
        return self._runs[key]

    def __iter__(self) -> Iterator["Run"]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run: object) -> bool:
        return run in self._forks

    def __repr__(self) -> str:
        roots = [run for run in self.runs if self.parent(run) is None]
        return "\n".join(line for root in roots for line in self._lines(root)) or "Tree without runs"

    def _lines(self, run: "Run") -> list[str]:
        """Draw a run and its descendants, one line each."""
        lines, children = [_told(run, self.fork(run))], self.children(run)
        for child in children:
            elbow, indent = ("└─ ", "   ") if child is children[-1] else ("├─ ", "│  ")
            first, *below = self._lines(child)
            lines += [elbow + first, *(indent + line for line in below)]
        return lines

    def _require(self, run: "Run") -> None:
        """Raise unless the run is in this tree."""
        if run not in self._forks:
            raise StateError(
                "This run is not in the tree (it was pruned, or belongs to another one); use its own tree."
            )

    def _check_name(self, name: str) -> None:
        """Raise unless a run can be called so."""
        if not name:
            raise RangeError("A run needs a name of at least one character.")
        if name in self._runs:
            raise RangeError(f"{name!r} is the name of another run of this tree; choose a free one.")

    def _free_name(self) -> str:
        """Return the next automatic name."""
        number = self.num_made
        while f"run-{number}" in self._runs:
            number += 1
        return f"run-{number}"


def _told(run: "Run", fork: Fork | None) -> str:
    """Say in one line what a run is, and what it does otherwise than its parent."""
    parts = [run.name, run.progress]
    if fork is not None:
        parts.append(f"from step {fork.step_index}")
    parts.append(run.subject)
    if fork is not None and (changes := run.changes_from(fork.parent, fork.step_index)):
        parts.append(", ".join(changes))
    return "  ".join(parts)


def compare(run: "Run", other: "Run") -> Exhibit:
    """Compare the finished pictures of two runs, pixel by pixel; runs that are not finished are run to the end.

    Returns:
        An Exhibit whose array is the color difference (H, W) float32, Delta E (CIE 1976, the distance in CIELAB); mean,
        median, 95th percentile, maximum, and the share of pixels above 5, are in its provenance.

    Raises:
        ShapeError: the pictures differ in size.
    """
    images = [run.image, other.image]
    if images[0].shape != images[1].shape:
        sizes = [f"{image.shape[0]}x{image.shape[1]}" for image in images]
        raise ShapeError(f"The pictures are {sizes[0]} and {sizes[1]} pixels; compare runs of pictures of one size.")
    lab = [rgb_to_lab(load_image(image)) for image in images]
    difference = delta_e(*lab)[0].squeeze(0).numpy().astype(np.float32)
    numbers: dict[str, Any] = {
        "mean": float(difference.mean()),
        "median": float(np.median(difference)),
        "percentile_95": float(np.percentile(difference, 95)),
        "max": float(difference.max()),
        "share_above_5": float((difference > 5).mean()),
    }
    # Runs of two trees may have one name.
    names = [one.name if run.name != other.name else f"{one.name} ({one.subject})" for one in (run, other)]
    if names[0] == names[1]:
        names = [f"the first {names[0]}", f"the second {names[1]}"]
    return Exhibit(
        array=difference,
        axes=("H", "W"),
        unit="Delta E 1976",
        caption=(
            f"Color difference between {names[0]} and {names[1]}: mean {numbers['mean']:.2f}, "
            f"at most {numbers['max']:.2f}, above 5 on {numbers['share_above_5']:.0%} of the pixels."
        ),
        provenance={"query": "compare", "runs": names, **numbers},
    )
