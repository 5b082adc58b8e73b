"""Autosave: a folder that grows with a tree, one small file for each change, so that a killed process loses nothing.

| file | what it holds |
| --- | --- |
| `base.colorlab` | a run file of the whole tree; `through` is the number of the last entry that it covers |
| `step-00000012.safetensors` | what changed since the entry before: a step, a branch, a rewind; laid out alike |

An entry appears under its name when all of it is written, so that the end of a process, at any moment, leaves whole
entries. The next step may begin while an entry is being written, but not end: at most the last step is lost. Entries
do not wait for the disk; after a power failure the last ones may be missing or damaged, and what is before is read.
The base is written atomically and waits for the disk. Saving the run writes a new base and then removes the entries it
covers; should that be cut short, they are known by their numbers and not read again.
"""

import os
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colorlab.atomic import PART_SUFFIX
from colorlab.errors import ColorlabError, RunFileError
from colorlab.methods.base import users_stacklevel
from colorlab.runs.encoding import Encoder
from colorlab.runs.run_file import SUFFIX, TABLES, Archive, RunFileWarning, merge, read_archive, write_archive

if TYPE_CHECKING:
    from colorlab.runs.run import Run
    from colorlab.runs.tree import Tree

__all__ = ["Journal", "JournalPosition", "is_journal", "read_journal", "start_journal"]

_BASE = f"base{SUFFIX}"
_ENTRY = re.compile(r"step-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class JournalPosition:
    """How far a journal had come; equal for the same folder in which nothing was written since.

    Args:
        folder: of the journal.
        base: what tells one base from another: file number, time of writing, size.
        numbers: of the entries in the folder.
        num_unread: how many of them, at the end, could not be read.
    """

    folder: Path
    base: tuple[int, int, int]
    numbers: tuple[int, ...]
    num_unread: int = 0


class Journal:
    """Keeps a tree on disk while it grows; see `Run.autosave`. A writer thread does the work.

    Args:
        tree: what is kept.
        current: the run that is returned when the folder is opened, until another one changes.
        folder: there is one, without a journal, or with the one at `position`.
        position: of the journal that the tree was read from and that goes on here.

    Raises:
        RunFileError: the folder cannot be written.
    """

    def __init__(self, tree: "Tree", current: "Run", folder: Path, position: JournalPosition | None = None) -> None:
        self.folder = folder
        self._tree = tree
        self._encoder = Encoder()
        self._order: list[str] = []
        self._number = max(position.numbers, default=0) if position else 0
        self._unread = set(position.numbers[len(position.numbers) - position.num_unread :]) if position else set()
        self._base = (0, 0, 0)
        self._failure = ""
        self._is_closed = False
        self._pending: Future[None] | None = None
        self._lock = threading.Lock()
        # The pool finishes what it was given when the interpreter ends.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="colorlab-autosave")
        self.compact(current)

    def note(self) -> None:
        """Have what changed written, after waiting for the change before; called by the tree, from any thread.

        Warns:
            RunFileWarning: the change before could not be written; it is tried again with this one.
        """
        with self._lock:
            if self._is_closed:
                return
            failure = self._settle()
            self._pending = self._writer.submit(self._append)
            is_new, self._failure = failure not in ("", self._failure), failure
        if is_new:
            message = f"{failure} Autosave tries again at every step; until then what is new is in memory alone."
            warnings.warn(message, RunFileWarning, stacklevel=users_stacklevel())

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            RunFileError: it cannot be written.
        """
        self._do(self._append)

    def compact(self, current: "Run") -> None:
        """Write the whole tree as a new base and remove the entries that it covers.

        Args:
            current: the run that is returned when the folder is opened.

        Raises:
            RunFileError: it cannot be written; the journal is as it was.
        """
        self._do(lambda: self._write_base(current))

    def close(self) -> None:
        """Write everything and stop; the folder stays and can be opened.

        Raises:
            RunFileError: something cannot be written.
        """
        try:
            self.flush()
        finally:
            self._is_closed = True
            self._writer.shutdown()
            if self._tree.journal is self:
                self._tree.journal = None
                self._tree.opened_from = _position(self.folder)

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"{self._number} changes written"
        return f"Journal {str(self.folder)!r}: {state}"

    def _do(self, work: Callable[[], None]) -> None:
        """Have the writer do something now and pass its error on."""
        with self._lock:
            if self._is_closed:
                raise RunFileError(f"The journal in {str(self.folder)!r} is closed; run.autosave(folder) opens one.")
            self._settle()
            self._writer.submit(work).result()
            self._failure = ""

    def _settle(self) -> str:
        """Wait for the change that is being written; return why it could not be, or ""."""
        pending = self._pending
        if pending is None:
            return ""
        try:
            pending.result()
        except ColorlabError as error:
            return str(error)
        return ""

    # In the writer thread.

    def _append(self) -> None:
        """Write what changed since the last entry as the next one."""
        encoder = self._encoder.copy()
        archive = encoder.changes(self._tree)
        if not any(archive.content[table] for table in TABLES) and archive.content["order"] == self._order:
            return
        if _signature(self.folder) != self._base:
            raise RunFileError(
                f"The journal in {str(self.folder)!r} was removed, or another process writes it now; "
                "run.autosave(another folder) keeps this work."
            )
        number = self._number + 1
        write_archive(self.folder / f"step-{number:08d}.safetensors", archive, is_durable=False)
        self._encoder, self._number, self._order = encoder, number, archive.content["order"]

    def _write_base(self, current: "Run") -> None:
        """Write a base and clear away what it covers."""
        encoder = Encoder()
        archive = encoder.changes(self._tree, current)
        archive.content["through"] = self._number
        write_archive(self.folder / _BASE, archive)
        self._encoder, self._order, self._base = encoder, archive.content["order"], _signature(self.folder)
        for number, path in _entries(self.folder).items():
            with suppress(OSError):
                if number in self._unread:
                    path.rename(path.with_suffix(".damaged"))
                elif number <= self._number:
                    path.unlink()
        self._unread = set()
        for part in self.folder.glob(f".*{PART_SUFFIX}"):
            with suppress(OSError):
                part.unlink()


def start_journal(tree: "Tree", current: "Run", folder: str | Path) -> Journal:
    """Have every change of a tree kept in a folder; the journal that it had elsewhere is closed.

    Raises:
        RunFileError: the folder cannot be written, or holds the journal of another work.
    """
    folder = Path(os.path.realpath(Path(folder).expanduser()))
    if tree.journal is not None and tree.journal.folder == folder:
        return tree.journal
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunFileError(f"No journal can be kept in {str(folder)!r} ({reason}); choose another folder.") from error
    position = None
    if is_journal(folder):
        position = tree.opened_from
        if position is None or _position(folder, position.num_unread) != position:
            raise RunFileError(
                f"{str(folder)!r} holds the journal of another work, or has grown since it was opened; "
                "colorlab.open(folder) goes on with it, another folder keeps both."
            )
    journal = Journal(tree, current, folder, position)
    if tree.journal is not None:
        tree.journal.close()
    tree.journal = journal
    return journal


def is_journal(folder: Path) -> bool:
    """Return whether a folder holds a journal."""
    return (folder / _BASE).is_file()


def read_journal(folder: Path) -> tuple[Archive, JournalPosition]:
    """Read a journal, up to the first entry that is damaged.

    Raises:
        RunFileError: there is none, or its base is damaged.

    Warns:
        RunFileWarning: entries at the end are damaged or missing.
    """
    folder = Path(os.path.realpath(folder))
    if not is_journal(folder):
        raise RunFileError(f"{str(folder)!r} is a folder without a journal; give a {SUFFIX} file.")
    archives = [read_archive(folder / _BASE)]
    through = archives[0].content.get("through", 0)
    entries = {number: path for number, path in _entries(folder).items() if number > through}
    reason = ""
    while not reason and (number := through + len(archives)) in entries:
        try:
            archives.append(read_archive(entries[number]))
        except RunFileError as error:
            reason = str(error)
    num_unread = len(entries) - len(archives) + 1
    if num_unread:
        reason = reason or f"Entry {through + len(archives)} is missing."
        warnings.warn(
            f"The last {num_unread} of {len(entries)} entries of the journal in {str(folder)!r} cannot be read, the "
            f"changes in them are lost: {reason}",
            RunFileWarning,
            stacklevel=users_stacklevel(),
        )
    return merge(archives), _position(folder, num_unread)


def _position(folder: Path, num_unread: int = 0) -> JournalPosition:
    """Return how far the journal in a folder has come."""
    return JournalPosition(folder, _signature(folder), tuple(_entries(folder)), num_unread)


def _signature(folder: Path) -> tuple[int, int, int]:
    """Return what tells the base of a journal from another; zeros where there is none."""
    try:
        found = (folder / _BASE).stat()
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_mtime_ns, found.st_size


def _entries(folder: Path) -> dict[int, Path]:
    """Return the entries in a folder by number, in order."""
    found = {int(match[1]): path for path in folder.iterdir() if (match := _ENTRY.fullmatch(path.name))}
    return dict(sorted(found.items()))
