"""What a run tells its user while it goes on."""

from __future__ import annotations

from typing import TextIO


class Report:
    """Lines on a stream and, where that is a terminal, one live line below them that is written over.

    Args:
        stream: where to; None keeps silent.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._live = ""

    def line(self, text: str) -> None:
        """Write a line that stays."""
        if self._stream is not None:
            print(f"{self._erase()}{text}", file=self._stream, flush=True)
            self._live = ""

    def live(self, text: str) -> None:
        """Write over the live line; nothing where the stream is no terminal."""
        if self._stream is not None and self._stream.isatty():
            print(f"{self._erase()}{text}", end="", file=self._stream, flush=True)
            self._live = text

    def _erase(self) -> str:
        return f"\r{' ' * len(self._live)}\r" if self._live else ""
