"""How far a video, or several, have come, in one line on stderr."""

from __future__ import annotations

import shutil
import sys
import threading
import time

from fer_app.results import Faces
from fer_app.video import VideoInfo

# Where nobody looks on, a line stays where it is written.
_TERMINAL_S, _LOG_S = 0.2, 30.0


class StatusLine:
    """A line on stderr that is written over itself again in a terminal, and now and then anew elsewhere."""

    def __init__(self) -> None:
        """Begin the clock."""
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._begun_s = self._written_s = time.monotonic()
        self._shown = False

    def say(self, text: str) -> None:
        """Write another line above this one; may be called from any thread."""
        with self._lock:
            start = "\r\033[K" if self._shown and self._terminal else ""
            print(f"{start}{text}\n", end="", file=sys.stderr, flush=True)  # noqa: T201

    def clear(self) -> None:
        """Take the line away from a terminal, so that others can be written."""
        with self._lock:
            if self._shown and self._terminal:
                print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201

    def _due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._written_s < (_TERMINAL_S if self._terminal else _LOG_S):
            return False
        self._written_s = now_s
        return True

    def _write(self, text: str) -> None:
        with self._lock:
            if self._terminal:
                width = shutil.get_terminal_size().columns - 1
                print(f"\r\033[K{text[:width]}", end="", file=sys.stderr, flush=True)  # noqa: T201
            else:
                print(text, file=sys.stderr, flush=True)  # noqa: T201
            self._shown = True


class ProgressLine(StatusLine):
    """Writes frames done and in all, frames a second, time left and faces."""

    def __init__(self, name: str, duration_s: float | None = None) -> None:
        """Begin the clock.

        Args:
            name: of the video.
            duration_s: how much of it is wanted, seconds; None for all.
        """
        super().__init__()
        self._name, self._duration_s = name, duration_s
        self._frames = self._faces = 0

    def advance(self, info: VideoInfo, faces: Faces) -> None:
        """Count a frame, and write when it is time."""
        self._frames += 1
        self._faces += len(faces)
        if self._due():
            self._write(self._text(info, (faces.frame_index or 0) + 1, self._written_s - self._begun_s))

    def _text(self, info: VideoInfo, done: int, elapsed_s: float) -> str:
        total = info.frame_count
        if total is None and info.duration_s and info.average_fps:
            total = round(info.duration_s * info.average_fps)
        if total and self._duration_s and info.duration_s and self._duration_s < info.duration_s:
            total = round(total * self._duration_s / info.duration_s)
        parts = [f"{self._name}: {done:,}" + (f" of {total:,} frames" if total else " frames")]
        parts.append(f"{self._frames / elapsed_s:.1f} a second")
        if total and total > done:
            left = round(elapsed_s * (total - done) / done)
            parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        return ", ".join([*parts, f"{self._faces:,} faces"])
