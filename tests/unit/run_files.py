"""What the tests of run files and journals share: when two runs are the same, and a disk that is full."""

import signal
from contextlib import contextmanager

import torch

from colorlab.inspection.replay import moment_of, replay_step, run_sites


def same_tensors(mine, its):
    """Return whether two tensors are equal bit for bit, type included."""
    return mine.dtype == its.dtype and torch.equal(mine, its)


def assert_same_run(run, other):
    """Check that two runs are the same in everything that a file is to keep."""
    assert (run.name, run.sample_index, run.num_shared) == (other.name, other.sample_index, other.num_shared)
    assert [s.first_step for s in run.segments] == [s.first_step for s in other.segments]
    for mine, its in zip(run.segments, other.segments, strict=True):
        assert (mine.conditioning, mine.settings) == (its.conditioning, its.settings)
    assert len(run.states) == len(other.states)
    assert all(mine.equals(its) for mine, its in zip(run.states, other.states, strict=True))
    for mine, its in zip(run.records, other.records, strict=True):
        assert (mine.step_index, mine.timestep, mine.environment) == (its.step_index, its.timestep, its.environment)
        assert list(mine.predictions) == list(its.predictions)
        assert all(same_tensors(mine.predictions[name], its.predictions[name]) for name in its.predictions)
        assert set(mine.network_inputs) == set(its.network_inputs)
        assert all(same_tensors(mine.network_inputs[name], its.network_inputs[name]) for name in its.network_inputs)
        assert same_tensors(mine.noise_pred, its.noise_pred)
        assert same_tensors(mine.pred_original_sample, its.pred_original_sample)


def assert_same_tree(run, other):
    assert repr(run.tree) == repr(other.tree)
    assert run.tree.num_made == other.tree.num_made
    for mine, its in zip(run.tree, other.tree, strict=True):
        assert_same_run(mine, its)
        fork, its_fork = run.tree.fork(mine), other.tree.fork(its)
        assert (fork and (fork.parent.name, fork.step_index)) == (its_fork and (its_fork.parent.name, fork.step_index))


def verdicts(run):
    return [replay_step(moment_of(run, step), run_sites(run)).verdict.name for step in range(run.step_index)]


@contextmanager
def small_files(num_bytes):
    """Make every write beyond a file size fail, as a full disk does."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
