"""Journals: whatever ends the process, at most the last step is lost, and nothing is ever corrupt."""

import os
import random
import shutil
import signal
import time
import warnings
from contextlib import contextmanager

import pytest
from run_files import assert_same_run, assert_same_tree, small_files, verdicts
from tiny import tiny_colorizer, tiny_picture

import colorlab
from colorlab.errors import RunFileError
from colorlab.runs import journal as runs_journal
from colorlab.runs import run_file
from colorlab.runs.run_file import read_archive

STEP = "step-{:08d}.safetensors"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work"


def entries(folder):
    return sorted(path.name for path in folder.glob("step-*"))


def start(picture, **shortcuts):
    return tiny_colorizer().start(picture, prompt="a red car", **shortcuts)


def test_every_step_is_one_entry_and_all_comes_back(folder, picture):
    run = start(picture, solver="dpmpp_2m", timestep_spacing="trailing")
    journal = run.autosave(folder)
    assert [path.name for path in folder.iterdir()] == ["base.colorlab"]
    for number, _ in enumerate(run, start=1):
        journal.flush()
        assert entries(folder) == [STEP.format(step) for step in range(1, number + 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(folder, tiny_colorizer())
    assert_same_tree(opened, run)
    assert verdicts(opened) == ["exact"] * 4
    assert "4 changes written" in repr(journal)


def test_branches_rewinds_names_and_pruning_are_kept_too(folder, picture):
    run = start(picture).finish(progress=False)
    journal = run.autosave(folder)
    blue = run.branch(step=2, prompt="a blue car").finish(progress=False)
    pruned = run.branch(step=1)
    run.rewind(1)
    next(iter(run))
    run.tree.name(blue, "blue")
    run.tree.prune(pruned)
    blue.branch(step=3, prompt="a green car", name="green").step()
    journal.flush()
    opened = colorlab.open(folder, tiny_colorizer())
    assert_same_tree(opened, run)
    assert opened.name == "green"
    assert opened.records[0] is opened.tree["blue"].records[0]
    # The pictures, which did not change, are in the base alone.
    assert all(tensor.dtype.is_floating_point for name in entries(folder) for tensor in tensors(folder / name))
    journal.flush()
    assert len(entries(folder)) == len(os.listdir(folder)) - 1


def tensors(path):
    return read_archive(path).tensors.values()


def test_an_entry_holds_one_step_and_no_more(folder, picture):
    run = start(picture, num_inference_steps=8)
    journal = run.autosave(folder)
    run.finish(progress=False)
    journal.flush()
    latent_bytes = run.state.latents.nbytes
    assert [sum(each.nbytes for each in tensors(folder / name)) for name in entries(folder)] == [3 * latent_bytes] * 8
    sizes = [(folder / name).stat().st_size for name in entries(folder)]
    # The first one holds the fingerprint as well; they do not grow with the run.
    assert max(sizes[1:]) - min(sizes[1:]) < 20
    assert sizes[-1] < 3 * latent_bytes + 1500


def test_saving_compacts_the_journal_and_it_goes_on(folder, picture, tmp_path):
    run = start(picture)
    run.autosave(folder)
    run.step()
    run.step()
    run.save(tmp_path / "picture.colorlab")
    assert entries(folder) == []
    assert_same_tree(colorlab.open(folder, tiny_colorizer()), run)
    run.step()
    run.tree.journal.flush()
    assert entries(folder) == [STEP.format(3)]
    assert_same_tree(colorlab.open(folder, tiny_colorizer()), run)
    assert colorlab.open(tmp_path / "picture.colorlab", tiny_colorizer()).step_index == 2


def test_a_compaction_that_was_cut_short_is_told_by_the_numbers(folder, picture, tmp_path):
    run = start(picture)
    journal = run.autosave(folder)
    run.step()
    run.step()
    journal.flush()
    shutil.copytree(folder, tmp_path / "before")
    run.save(tmp_path / "picture.colorlab")
    for name in entries(tmp_path / "before"):
        shutil.copy(tmp_path / "before" / name, folder)
    (folder / ".step-00000003.safetensors-12ab.part").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(folder, tiny_colorizer())
    assert_same_tree(opened, run)
    opened.autosave(folder)
    assert os.listdir(folder) == ["base.colorlab"]


def test_an_opened_journal_goes_on_and_another_work_does_not_write_over_it(folder, picture, tmp_path):
    run = start(picture)
    run.autosave(folder)
    run.step()
    run.tree.journal.close()
    assert run.tree.journal is None
    run.step()
    with pytest.raises(RunFileError, match="holds the journal of another work"):
        start(picture).autosave(folder)
    opened = colorlab.open(folder, tiny_colorizer())
    assert opened.step_index == 1
    journal = opened.autosave(folder)
    assert opened.autosave(str(folder)) is journal
    opened.finish(progress=False)
    journal.flush()
    # Who opened the folder before that does not write over it, either.
    with pytest.raises(RunFileError, match="has grown since it was opened"):
        run.autosave(folder)
    again = colorlab.open(folder, tiny_colorizer())
    assert_same_tree(again, opened)
    again.autosave(tmp_path / "elsewhere")
    assert_same_tree(colorlab.open(tmp_path / "elsewhere", tiny_colorizer()), opened)
    colorlab.open(folder, tiny_colorizer()).autosave(folder)
    opened.rewind(2)
    with pytest.warns(colorlab.RunFileWarning, match="another process writes it now"):
        opened.finish(progress=False)


def test_a_journal_may_move_and_a_closed_one_says_so(folder, picture, tmp_path):
    run = start(picture)
    first = run.autosave(folder)
    run.step()
    second = run.autosave(tmp_path / "second")
    assert run.tree.journal is second
    with pytest.raises(RunFileError, match="is closed"):
        first.flush()
    run.finish(progress=False)
    second.flush()
    assert colorlab.open(folder, tiny_colorizer()).step_index == 1
    assert colorlab.open(tmp_path / "second", tiny_colorizer()).step_index == 4
    assert "closed" in repr(first)
    run.autosave(folder)
    assert colorlab.open(folder, tiny_colorizer()).step_index == 4


def test_bad_folders_are_refused(picture, tmp_path):
    run = start(picture)
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/journal"):
        with pytest.raises(RunFileError, match="No journal can be kept in"):
            run.autosave(folder)
    assert run.tree.journal is None
    run.step()


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_full_disk_is_told_once_and_loses_nothing(folder, picture):
    run = start(picture, num_inference_steps=6)
    journal = run.autosave(folder)
    run.step()
    journal.flush()
    with small_files(200), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(4):
            run.step()
        with pytest.raises(RunFileError, match="cannot be written"):
            journal.flush()
    assert [warning.category for warning in told] == [colorlab.RunFileWarning]
    assert "Autosave tries again at every step" in str(told[0].message)
    assert colorlab.open(folder, tiny_colorizer()).step_index == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step()
        journal.flush()
    assert_same_tree(colorlab.open(folder, tiny_colorizer()), run)
    assert len(entries(folder)) == 2


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX")
def test_a_failed_compaction_leaves_the_journal_as_it_was(folder, picture):
    run = start(picture)
    journal = run.autosave(folder)
    run.finish(progress=False)
    journal.flush()
    with small_files(200), pytest.raises(RunFileError, match="cannot be written"):
        journal.compact(run)
    assert_same_tree(colorlab.open(folder, tiny_colorizer()), run)


def test_the_folder_of_a_journal_may_vanish(folder, picture):
    run = start(picture)
    run.autosave(folder)
    shutil.rmtree(folder)
    with pytest.warns(colorlab.RunFileWarning, match="was removed"):
        run.finish(progress=False)
    assert run.is_finished


def test_a_damaged_entry_ends_the_journal_and_is_put_aside(folder, picture):
    run = start(picture, num_inference_steps=6)
    journal = run.autosave(folder)
    run.finish(progress=False)
    journal.close()
    damaged = folder / STEP.format(4)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.warns(colorlab.RunFileWarning, match=r"The last 3 of 6 entries .* is damaged"):
        opened = colorlab.open(folder, tiny_colorizer())
    assert opened.step_index == 3
    opened.autosave(folder)
    opened.finish(progress=False)
    assert opened.state.equals(run.state)
    opened.tree.journal.close()
    assert sorted(path.name for path in folder.glob("*.damaged")) == [f"step-0000000{n}.damaged" for n in (4, 5, 6)]
    assert_same_run(colorlab.open(folder, tiny_colorizer()), opened)
    (folder / STEP.format(8)).unlink()
    with pytest.warns(colorlab.RunFileWarning, match="Entry 8 is missing"):
        assert colorlab.open(folder, tiny_colorizer()).step_index == 4


def test_cut_at_fifty_random_bytes_at_most_the_last_step_is_lost(folder, picture, tmp_path):
    run = start(picture, num_inference_steps=10)
    journal = run.autosave(folder)
    run.finish(progress=False)
    journal.close()
    files = [folder / name for name in entries(folder)]
    assert len(files) == 10
    sizes = [path.stat().st_size for path in files]
    chance, colorizer = random.Random(0), tiny_colorizer()
    for case in range(50):
        # The bytes of all entries in a row, written up to here.
        offset = chance.randrange(sum(sizes) + 1)
        cut = tmp_path / f"cut-{case}"
        cut.mkdir()
        shutil.copy(folder / "base.colorlab", cut)
        num_whole, rest = 0, offset
        while num_whole < len(files) and rest >= sizes[num_whole]:
            shutil.copy(files[num_whole], cut)
            rest -= sizes[num_whole]
            num_whole += 1
        if rest:
            (cut / files[num_whole].name).write_bytes(files[num_whole].read_bytes()[:rest])
        with warnings.catch_warnings():
            warnings.simplefilter("error" if not rest else "ignore")
            opened = colorlab.open(cut, colorizer)
        assert opened.step_index == num_whole
        assert all(mine.equals(its) for mine, its in zip(opened.states, run.states, strict=False))
        if case % 10 == 0:
            opened.autosave(cut)
            assert opened.finish(progress=False).state.equals(run.state)


class DyingFile:
    """A file whose process is killed when so many bytes are written, over all such files."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        if len(data) >= self.left[0]:
            self.file.write(data[: self.left[0]])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        self.left[0] -= len(data)
        return self.file.write(data)


def work(colorizer, folder, path, report):
    """Sample with autosave, save in the middle and at the end, and report each step once it is taken."""
    run = colorizer.start(tiny_picture(16, 16), prompt="a red car", num_inference_steps=6)
    run.autosave(folder)
    for state in run:
        report(b".")
        if state.step_index in (3, 6):
            run.save(path)
    run.tree.journal.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_fifty_random_bytes_of_all_that_is_written(tmp_path, monkeypatch):
    """The process dies in the middle of a write: of an entry, of the base, of the run file, each by its size."""
    colorizer, chance, real = tiny_colorizer(), random.Random(1), run_file.atomic_file
    left = [10**12]

    @contextmanager
    def dying(path, **options):
        with real(path, **options) as file:
            yield DyingFile(file, left)

    monkeypatch.setattr(run_file, "atomic_file", dying)
    work(colorizer, tmp_path / "whole", tmp_path / "whole.colorlab", lambda sign: None)
    total = 10**12 - left[0]
    whole = colorlab.open(tmp_path / "whole.colorlab", colorizer)
    outcomes = set()
    for case in range(50):
        folder, path, reported = tmp_path / f"work-{case}", tmp_path / f"{case}.colorlab", tmp_path / f"{case}.txt"
        # The times in the files differ by a few bytes from one process to the next.
        left[0] = chance.randrange(1, total - 200)
        child = os.fork()
        if child == 0:
            try:
                with reported.open("wb", buffering=0) as report:
                    work(colorizer, folder, path, report.write)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), case
        num_taken = len(reported.read_bytes())
        outcomes.add((num_taken, path.exists()))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if not (folder / "base.colorlab").exists():
                assert num_taken == 0
                continue
            opened = colorlab.open(folder, colorizer)
            saved = colorlab.open(path, colorizer).step_index if path.exists() else 0
        assert num_taken - 1 <= opened.step_index <= num_taken + 1
        assert all(mine.equals(its) for mine, its in zip(opened.states, whole.states, strict=False))
        assert saved in ((0, 3) if num_taken < 6 else (3, 6))
    # It died at many different moments, before the first save and after it.
    assert len(outcomes) >= 6
    assert {has_file for _, has_file in outcomes} == {False, True}


def sample_until_killed(folder, path, report):
    """Sample with autosave and saves now and then, and report each step once it is taken."""
    run = start(tiny_picture(), num_inference_steps=400)
    run.autosave(folder)
    os.write(report, b"0")
    for state in run:
        os.write(report, b".")
        if state.step_index % 7 == 0:
            run.save(path)
            os.write(report, b"s")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("seed", range(8))
def test_killed_for_real_at_most_the_last_step_is_lost(tmp_path, seed):
    folder, path = tmp_path / "work", tmp_path / "picture.colorlab"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            sample_until_killed(folder, path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"0"
    time.sleep(random.Random(seed).uniform(0.0, 0.6))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    with os.fdopen(reading, "rb") as pipe:
        reported = pipe.read()
    num_taken, num_saved = reported.count(b"."), reported.count(b"s")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = colorlab.open(folder, tiny_colorizer())
    # The step after the last report may have been taken, and written, before the signal came.
    assert num_taken - 1 <= opened.step_index <= num_taken + 1
    fresh = start(tiny_picture(), num_inference_steps=400)
    for _ in range(opened.step_index):
        fresh.step()
    assert opened.state.equals(fresh.state)
    if num_saved:
        assert 7 * num_saved <= colorlab.open(path, tiny_colorizer()).step_index <= 7 * (num_saved + 1)


def test_steps_wait_for_the_entry_before_the_last(folder, picture, monkeypatch):
    run = start(picture)
    run.autosave(folder)
    written = []

    def slow(path, archive, **options):
        time.sleep(0.05)
        written.append(path.name)
        real(path, archive, **options)

    real = runs_journal.write_archive
    monkeypatch.setattr(runs_journal, "write_archive", slow)
    for state in run:
        assert len(written) >= state.step_index - 1
    run.tree.journal.flush()
    assert len(written) == 4
