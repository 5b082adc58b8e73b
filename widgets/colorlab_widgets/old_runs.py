"""What is forgotten of a long afternoon: the oldest runs that nobody named or branched."""

import re

from colorlab.runs.run import Run
from colorlab.runs.tree import Tree

__all__ = ["prune_oldest"]

_MAX_RUNS = 40
_AUTOMATIC_NAME = re.compile(r"run-\d+")


def prune_oldest(tree: Tree, current: Run) -> int:
    """Take the oldest runs out of a tree of more than 40, and return how many were taken.

    Args:
        tree: of all runs.
        current: the run looked at, which stays; so do those with a name of their own or a branch.
    """
    spare = [
        run
        for run in tree.runs
        if run is not current and _AUTOMATIC_NAME.fullmatch(run.name) and not tree.children(run)
    ]
    pruned = spare[: max(0, len(tree) - _MAX_RUNS)]
    for run in pruned:
        tree.prune(run)
    return len(pruned)
