"""Facial-expression recognition for photos and videos, without a deep-learning framework.

    from fer_app import Recognizer
    faces = Recognizer().predict("photo.jpg")

Importing the package loads nothing else; its names load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_app.errors import FerError
    from fer_app.recognizer import Prediction, Recognizer
    from fer_app.results import Detections, Faces

    __version__: str

__all__ = ["Detections", "Faces", "FerError", "Prediction", "Recognizer", "__version__"]

_HOMES = {
    "Detections": "fer_app.results",
    "Faces": "fer_app.results",
    "FerError": "fer_app.errors",
    "Prediction": "fer_app.recognizer",
    "Recognizer": "fer_app.recognizer",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("fer-mimic")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
