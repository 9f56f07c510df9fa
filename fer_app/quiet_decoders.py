"""Decoders that keep to themselves what they have to say of a file or a camera."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import cv2

# Its name up to OpenCV 4.10, then the one since; both return the level that was set before.
_set_log_level: Callable[[int], int] = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel


class QuietOpenCv:
    """While any thread is inside, OpenCV writes nothing to stderr.

    It talks about files and cameras that an exception of ours will tell of. The setting is global, so the threads
    inside are counted: the first switches it, the last puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._level = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._level = _set_log_level(0)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _set_log_level(self._level)


class QuietDecoders:
    """The same, and Pillow's warnings of metadata that is not looked at are ignored: for moments, not for waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        quiet_opencv.__enter__()
        with self._lock:
            if self._inside == 0:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._warnings.__exit__(None, None, None)
        quiet_opencv.__exit__()


quiet_opencv = QuietOpenCv()
quiet_decoders = QuietDecoders()
