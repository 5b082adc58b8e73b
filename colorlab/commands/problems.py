"""The two ways a command ends early on purpose, each with its exit code, and the sentence for any error."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from colorlab.errors import ColorlabError, UnknownModelError


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


def explain_error(error: BaseException) -> tuple[int, str]:
    """Find the exit code and the sentence for an error."""
    if isinstance(error, BadUsageError | UnknownModelError):
        return 2, _one_line(str(error))
    if isinstance(error, ColorlabError):
        return 1, _one_line(str(error))
    if hasattr(error, "format_message"):  # typer's own complaints about the command line
        return 2, f"{_one_line(error.format_message()).rstrip('.')} (colorlab --help shows the usage)."
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return 1, "Interrupted; nothing more was written."
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return 1, f"{error.strerror}{place}."
    return 1, f"{type(error).__name__}: {_one_line(str(error))} (--debug shows where)."


def _one_line(text: str) -> str:
    """Join the lines of a message."""
    return " ".join(text.split())
