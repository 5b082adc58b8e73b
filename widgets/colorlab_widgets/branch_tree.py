"""BranchTree: the history of all runs: click to go there, name, prune."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import traitlets

from colorlab.conditioning import Conditioning, Manipulation
from colorlab.runs.run import Run
from colorlab.settings import Settings
from colorlab_widgets.page import PageView
from colorlab_widgets.pictures import encode_png, small
from colorlab_widgets.view import View
from colorlab_widgets.view_model import LOOK_AHEAD, ViewModel

__all__ = ["BranchTree"]

_THUMBNAIL_PX = 76


class TreePage(PageView):
    """The history in the page; events go_to, rename (with new_name) and prune, each with the name of a run."""

    script = "branch_tree"
    rows = traitlets.List(help="name, depth, parent, progress, change, subject and is_current of each run").tag(
        sync=True
    )
    thumbnails = traitlets.List(help="PNG of each run; empty where nothing is finished").tag(sync=True)


class BranchTree(View):
    """All runs of the work, each under the one it was branched from, with what was changed.

    Args:
        model: the view-model.
    """

    def __init__(self, model: ViewModel) -> None:
        super().__init__(model)
        tree = model.tree
        self.page = TreePage(
            {
                "go_to": lambda name: model.go_to(tree[name]),
                "rename": lambda name, new_name: model.rename(tree[name], new_name),
                "prune": lambda name: model.prune(tree[name]),
            }
        )
        self._thumbnails: dict[Run, bytes] = {}
        self.children = [self.page]
        self.follow(("tree_version", "run"), self._update)
        self.follow(("is_running", "run"), self._ask_thumbnails)

    def _update(self) -> None:
        """Show the runs in the order of the tree."""
        taken = self.model.tree.snapshot()
        ordered = _depth_first(taken)
        places = {run: index for index, (run, _) in enumerate(ordered)}
        rows = []
        fresh: Run | None = None
        for run, depth in ordered:
            name, fork = taken[run]
            parent = fork.parent if fork is not None and fork.parent in places else None
            rows.append(
                {
                    "name": name,
                    "depth": depth,
                    "parent": places[parent] if parent is not None else -1,
                    "progress": "" if run.is_finished else run.progress,
                    "change": _told_fresh(fresh, run)
                    if parent is None or fork is None
                    else f"from step {fork.step_index}: {_change(parent, run)}",
                    "subject": run.subject,
                    "is_current": run is self.model.run,
                }
            )
            fresh = run if parent is None else fresh
        self._thumbnails = {run: png for run, png in self._thumbnails.items() if run in taken}
        with self.page.hold_sync():
            self.page.thumbnails = [self._thumbnails.get(run, b"") for run, _ in ordered]
            self.page.rows = rows

    def _ask_thumbnails(self) -> None:
        """Have the pictures of finished runs made that have none."""
        missing = [run for run in self.model.tree.runs if run.is_finished and run not in self._thumbnails]
        if missing and not self.model.is_running:

            def make() -> dict[Run, bytes]:
                return {run: encode_png(small(run.image, _THUMBNAIL_PX)) for run in missing}

            self.model.ask("history", make, self._show_thumbnails, urgency=LOOK_AHEAD)

    def _show_thumbnails(self, made: dict[Run, bytes]) -> None:
        """Show them."""
        self._thumbnails |= made
        self._update()

    def close(self) -> None:
        """Stop following the model, and let the runs go."""
        self._thumbnails.clear()
        super().close()


def _depth_first(taken: dict[Run, Any]) -> list[tuple[Run, int]]:
    """Return every run with its depth, each right below the runs branched from its parent before."""
    children: dict[Run | None, list[Run]] = {}
    for run, (_, fork) in taken.items():
        parent = fork.parent if fork is not None and fork.parent in taken else None
        children.setdefault(parent, []).append(run)
    found: list[tuple[Run, int]] = []
    waiting = [(run, 0) for run in reversed(children.get(None, []))]
    while waiting:
        run, depth = waiting.pop()
        found.append((run, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(run, []))]
    return found


def _told_fresh(before: Run | None, run: Run) -> str:
    """Say what a run was given that begins at noise, and which settings the fresh run before it did not have."""
    if before is None:
        return run.subject
    edits = _retold(before.conditioning.manipulations, run.conditioning.manipulations)
    return ", ".join([run.subject, *edits, *_set(before.settings.replace(seed=run.settings.seed), run.settings)])


def _retold(old: Sequence[Manipulation], new: Sequence[Manipulation]) -> list[str]:
    """Say of text edits that have the same texts as others what else of them differs."""
    if [one.target_text for one in old] != [one.target_text for one in new]:
        return []
    return [
        f"{field.name.replace('_', ' ')} {getattr(after, field.name)!r}"
        for before, after in zip(old, new, strict=True)
        for field in fields(Manipulation)
        if getattr(before, field.name) != getattr(after, field.name)
    ]


def _change(parent: Run, run: Run) -> str:
    """Say in a few words how a run differs from its parent."""
    parts = [*_given(parent.conditioning, run.conditioning), *_set(parent.settings, run.settings)]
    if [repr(edit) for edit in run.segments[-1].edits] != [repr(edit) for edit in parent.segments[-1].edits]:
        parts += [repr(edit) for edit in run.segments[-1].edits] or ["no edits"]
    return ", ".join(parts) or "nothing changed"


def _given(old: Conditioning, new: Conditioning) -> list[str]:
    """Name the fields of a conditioning that differ."""
    words = []
    for field in fields(Conditioning):
        if old.content_hash(field.name) != new.content_hash(field.name):
            value = getattr(new, field.name)
            if isinstance(value, str):
                words.append(f"{field.name.replace('_', ' ')} {value!r}")
            elif field.name in ("strokes", "masks", "manipulations"):
                words.append(new.in_words(field.name))
            else:
                words.append(f"{'no' if value is None else 'another'} {field.name.replace('_', ' ')}")
    return words + _retold(old.manipulations, new.manipulations)


def _set(old: Settings, new: Settings) -> list[str]:
    """Name the settings that differ."""
    before, after = old.to_dict(), new.to_dict()
    words = [
        f"{name.replace('_', ' ')} {after[name]}"
        for name in after
        if name != "mechanisms" and before[name] != after[name]
    ]
    for name in {**before["mechanisms"], **after["mechanisms"]}:
        was, now = before["mechanisms"].get(name, {}), after["mechanisms"].get(name, {})
        changed = [
            f"{key.replace('_', ' ')} {now.get(key, 'as published')}"
            for key in {**was, **now}
            if was.get(key) != now.get(key)
        ]
        if changed:
            words.append(
                f"{name.replace('_', ' ')}: {', '.join(changed)}".replace("is on True", "on").replace(
                    "is on False", "off"
                )
            )
    return words
