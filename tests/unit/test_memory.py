"""What was freed goes back to the system."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from colorlab_widgets.memory import _find_trim, return_freed_memory


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(_find_trim() is None, reason="this C library keeps freed memory as it likes")
def test_freed_memory_below_what_lives_goes_back():
    # Too small to be mapped each on its own; what is kept lies over them.
    blocks = [np.ones(8_000) for _ in range(2_000)]
    kept = np.ones(8_000)
    full_mb = resident_mb()
    del blocks
    return_freed_memory()
    assert full_mb - resident_mb() > 100
    assert kept.sum() == 8_000


def test_where_there_is_no_such_call_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _find_trim() is None
    return_freed_memory()
