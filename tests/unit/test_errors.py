import pickle

import pytest

from colorlab import errors


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ShapeError", ValueError),
        ("RangeError", ValueError),
        ("ImageError", ValueError),
        ("RunFileError", ValueError),
        ("StateError", RuntimeError),
        ("WeightsError", RuntimeError),
        ("MissingExtraError", ImportError),
        ("UnknownModelError", LookupError),
    ],
)
def test_each_error_is_a_colorlab_error_and_the_builtin_one(name: str, base: type) -> None:
    error = getattr(errors, name)("one sentence.")
    assert isinstance(error, errors.ColorlabError)
    assert isinstance(error, base)
    assert str(error) == "one sentence."
    assert str(pickle.loads(pickle.dumps(error))) == "one sentence."


def test_all_lists_every_error() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__)
