"""Fixtures of the unit tests: one thread, and tiny models."""

import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_colorizer, tiny_diffcolor, tiny_lcad, tiny_picture

from colorlab.colorizer import Colorizer
from colorlab.methods.lcad import Lcad
from colorlab.tuning import Tuning, TuningWarning

torch.set_num_threads(1)


@pytest.fixture
def lcad() -> Lcad:
    """A tiny L-CAD of its own for each test."""
    return tiny_lcad()


@pytest.fixture
def colorizer() -> Colorizer:
    """A tiny Colorizer of its own for each test, with four steps."""
    return tiny_colorizer()


@pytest.fixture(scope="session")
def whole() -> Tuning:
    """A tuning of all stages on the tiny picture that nothing interrupted; for reading only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TuningWarning)
        tuning = tiny_colorizer(tiny_diffcolor()).tune(tiny_picture(), prompt="a photo of a cat", preset="smoke")
        return tuning.finish(progress=False)


@pytest.fixture
def picture() -> np.ndarray:
    """A gray picture (40, 56) uint8 that is larger than the tiny models work at."""
    return tiny_picture()
