"""Arguments that a question does not have are told with those that it has, as `start` does with fields."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from colorlab.errors import RangeError

__all__ = ["tells_arguments"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def tells_arguments(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a method answer a name that it does not know by RangeError, with the names that it knows; a decorator."""
    names = list(inspect.signature(method).parameters)[1:]

    @functools.wraps(method)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        for name in kwargs:
            if name not in names:
                raise RangeError(f"{method.__name__} has no argument {name!r}; it has: {', '.join(names)}.")
        return method(*args, **kwargs)

    return call
