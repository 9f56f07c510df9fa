"""The error tree: what a caller may catch, and that the drawing at the top of the module is the tree."""

from __future__ import annotations

import inspect
import signal

import pytest

from fer_app import errors
from fer_app.errors import FerError, StoppedError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


@pytest.mark.parametrize("error", sorted(set(CLASSES) - {StoppedError}, key=str), ids=lambda error: error.__name__)
def test_every_error_is_a_fer_error_with_its_message(error: type[FerError]) -> None:
    assert issubclass(error, FerError)
    assert str(error("photo.jpg: no picture")) == "photo.jpg: no picture"
    assert error.__doc__


def test_what_a_signal_stopped_has_its_status() -> None:
    error = StoppedError(signal.SIGTERM, "; what is done is kept")
    assert str(error) == "stopped by SIGTERM; what is done is kept"
    assert error.exit_status == 143


@pytest.mark.parametrize("error", [errors.InputError, errors.ImageDecodeError, errors.ConfigError])
def test_wrong_input_is_a_value_error_too(error: type[FerError]) -> None:
    assert issubclass(error, ValueError)


def test_drawing_shows_the_tree() -> None:
    assert errors.__doc__ is not None
    above: list[str] = []
    drawn: dict[str, str] = {}
    for line in errors.__doc__.splitlines():
        marks, bar, rest = line.rpartition("|-")
        if bar:
            depth = marks.count("|") + 1
            name = rest.split()[0].split("(")[0]
            drawn[name] = above[depth - 1]
            above[depth:] = [name]
        elif line.strip().startswith("FerError("):
            above = ["FerError"]
    assert drawn == {error.__name__: error.__bases__[0].__name__ for error in CLASSES if error is not FerError}
