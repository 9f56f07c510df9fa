"""Decoders that keep to themselves what they have to say of a file or a camera."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import cv2

# Its name up to OpenCV 4.10, then the one since; both return the level that was set before.
_set_log_level: Callable[[int], int] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel


class Shared:
    """A context manager of global settings that several threads may be in: the first enters it, the last leaves it."""

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0
        self._entered: AbstractContextManager[None] = nullcontext()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered = self._context()
                self._entered.__enter__()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._entered.__exit__(None, None, None)


@contextmanager
def _opencv() -> Iterator[None]:
    """Let OpenCV write nothing to stderr of files and cameras: an exception of ours will tell."""
    level = _set_log_level(0)
    yield
    _set_log_level(level)


@contextmanager
def _opencv_and_pillow() -> Iterator[None]:
    """Ignore warnings too, which Pillow has of metadata that is not looked at: for moments, not for waiting."""
    with quiet_opencv, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


quiet_opencv = Shared(_opencv)
quiet_decoders = Shared(_opencv_and_pillow)
