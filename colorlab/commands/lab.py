"""`colorlab lab`: JupyterLab, opened on the tour."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import colorlab
from colorlab.errors import MissingExtraError

TOUR = "notebooks/00_tour.ipynb"


def open_lab(arguments: Sequence[str]) -> int:
    """Run JupyterLab until it is closed.

    Args:
        arguments: options for JupyterLab.

    Returns:
        Its exit code, where it runs as a process of its own (Windows).

    Raises:
        MissingExtraError: JupyterLab is not installed.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtraError("JupyterLab is not installed; install it with: pip install 'colorlab[lab]'.")
    root, opening = find_notebooks()
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={root}", *opening, *arguments]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in arguments:
        command.append("--allow-root")  # in a container root is the only user; JupyterLab would refuse to start
    if os.name == "posix":
        # JupyterLab takes the place of this process: Ctrl-C, which it asks about, and any other signal reach it alone.
        os.execv(sys.executable, command)
    return subprocess.run(command, check=False).returncode


def find_notebooks() -> tuple[Path, list[str]]:
    """Find the folder to show, and the option that opens the tour: the checkout's, else the current folder and none.

    An address rather than a file name: the address that JupyterLab prints leads to the tour too, on a remote machine.
    """
    checkout = Path(colorlab.__file__).resolve().parent.parent
    for root in (Path.cwd(), checkout):
        if (root / TOUR).is_file():
            return root, [f"--LabApp.default_url=/lab/tree/{TOUR}"]
    return Path.cwd(), []
