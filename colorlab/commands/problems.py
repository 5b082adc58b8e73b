"""The two ways a command ends early on purpose, each with its exit code."""

from collections.abc import Iterator
from contextlib import contextmanager

from colorlab.errors import ColorlabError


class BadUsageError(ColorlabError):
    """What was typed makes no sense; exit code 2."""


class InterruptedRunError(ColorlabError):
    """The user pressed Ctrl-C; the message says what was kept. Exit code 1."""


@contextmanager
def as_bad_usage() -> Iterator[None]:
    """Turn an error about a value that was typed into bad usage."""
    try:
        yield
    except BadUsageError:
        raise
    except ColorlabError as error:
        raise BadUsageError(str(error)) from error
