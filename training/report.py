"""What a run tells its user while it goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

_LIVE_S = 1.0
_PLAIN_S = 300.0


class Report:
    """Lines on a stream and, where that is a terminal, one live line below them that is written over.

    Args:
        stream: where to; None keeps silent.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._live = ""
        self._is_terminal = stream is not None and stream.isatty()
        self._told = time.monotonic()

    def line(self, text: str) -> None:
        """Write a line that stays."""
        if self._stream is not None:
            print(f"{self._erase()}{text}", file=self._stream, flush=True)
            self._live = ""

    def live(self, text: str) -> None:
        """Write over the live line; nothing where the stream is no terminal."""
        if self._stream is not None and self._is_terminal:
            text = text[: _columns(self._stream) - 1]  # what wraps could not be written over
            print(f"{self._erase()}{text}", end="", file=self._stream, flush=True)
            self._live = text

    def progress(self, text: Callable[[], str]) -> None:
        """Tell how far a run is: the live line once a second, or where there is no terminal a line every five minutes.

        Args:
            text: is called only then, as it may take time.
        """
        now = time.monotonic()
        if self._stream is None or now - self._told < (_LIVE_S if self._is_terminal else _PLAIN_S):
            return
        self._told = now
        (self.live if self._is_terminal else self.line)(text())

    def _erase(self) -> str:
        return f"\r{' ' * len(self._live)}\r" if self._live else ""


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _columns(stream: TextIO) -> int:
    """Return the width of a terminal; 80 where it does not tell."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80
