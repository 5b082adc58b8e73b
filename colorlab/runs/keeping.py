"""Keeping runs: `save` writes a run file (`run_file`), `autosave` keeps a journal (`journal`), `to_html` a page."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colorlab.errors import RangeError, RunFileError
from colorlab.runs.pictures import PictureShelf

if TYPE_CHECKING:
    from colorlab.runs.journal import Journal

__all__ = ["Keeping"]


class Keeping:
    """What a run can do to outlive its process."""

    tree: Any
    _pictures: PictureShelf

    def forget_pictures(self) -> None:
        """Give back the memory of all decoded pictures; asked for again, they are decoded again."""
        self._pictures.forget_from(0)

    def save(self, path: str | Path) -> Path:
        """Write the run file of this run and of all others of its tree; `colorlab.open` reads it back bit for bit.

        Conditionings with their pictures, settings, edits, states, predictions, and the fingerprint of every step are
        in it; the weights of the model are not. A file that is there is replaced at once or stays as it was. A journal
        of the tree is compacted too.

        Args:
            path: ends in ".colorlab"; its folder exists.

        Returns:
            The path.

        Raises:
            RunFileError: it cannot be written, or an edit holds what a file cannot keep.
        """
        path = Path(path).expanduser()
        run_file, encoding = (_module(name) for name in ("run_file", "encoding"))
        if path.suffix != run_file.SUFFIX:
            raise RunFileError(f"{str(path)!r} is no name of a run file; choose one that ends in {run_file.SUFFIX}.")
        if path.is_dir():
            raise RunFileError(f"{str(path)!r} is a folder; give the name of a file in it.")
        if not path.parent.is_dir():
            raise RunFileError(f"There is no folder {str(path.parent)!r} to save in; make it, or choose another one.")
        run_file.write_archive(path, encoding.Encoder().changes(self.tree, self))
        if self.tree.journal is not None:
            self.tree.journal.compact(self)
        return path

    def to_html(self, path: str | Path, *, max_bytes: int = 5_000_000) -> Path:
        """Write the run as one page that needs no kernel: a slider over its steps, and the maps of its words.

        Word maps are replayed (one network call for each step), so that the model has to be here.

        Args:
            path: ends in ".html"; its folder exists.
            max_bytes: largest size of the page; the pictures are made smaller until it fits.

        Returns:
            The path.

        Raises:
            StateError: the run has taken no step, or its model is not here.
            RangeError: another ending.
            ColorlabError: the page cannot be written, or does not fit.
        """
        path = Path(path).expanduser()
        if path.suffix != ".html":
            raise RangeError(f"{str(path)!r} is no name of a page; choose one that ends in .html.")
        written: Path = importlib.import_module("colorlab.plotting.page").write_page(self, path, max_bytes=max_bytes)
        return written

    def autosave(self, folder: str | Path) -> "Journal":
        """Keep this run and all others of its tree in a folder from now on, step by step.

        A writer thread writes every step, branch, rewind and name. However the process ends, `colorlab.open(folder)`
        gives back everything but at most the last step; then `autosave` to the same folder goes on with it.

        Args:
            folder: is made if it is not there; holds no journal of another work.

        Returns:
            The journal: `flush()` waits until all is written, `close()` ends it.

        Raises:
            RunFileError: the folder cannot be written, or holds the journal of another work.

        Warns:
            RunFileWarning: from the next step on, where a step could not be written (a full disk); it stays in memory
                and is tried again with every step.
        """
        journal: Journal = _module("journal").start_journal(self.tree, self, folder)
        return journal


def _module(name: str) -> Any:
    """Import a module that imports runs itself, when it is needed."""
    return importlib.import_module(f"colorlab.runs.{name}")
