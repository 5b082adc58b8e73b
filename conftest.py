"""Test session: one thread, reproducible, and only the cheap tests unless others are asked for."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

OPT_IN = ("gpu", "slow", "soak")


def pytest_configure(config: pytest.Config) -> None:
    """Take one thread: tiny models are far slower on two busy cores."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def _fixed_random_state() -> None:
    """Start each test from the same global random state, whatever ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests behind an opt-in marker, unless the marker is named by -m."""
    chosen = config.getoption("markexpr") or ""
    for item in items:
        for marker in OPT_IN:
            if item.get_closest_marker(marker) and marker not in chosen:
                item.add_marker(pytest.mark.skip(reason=f"opt in with -m {marker}"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
