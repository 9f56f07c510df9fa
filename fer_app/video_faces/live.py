"""A camera or stream as the source of a run: the newest picture whenever one can be worked on, and how far behind."""

from __future__ import annotations

import datetime
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

from fer_app.video import VideoFrame, open_live, shown_name

# Pictures that are worked on at a time: one is found and read while the other is drawn and written. More would keep
# more threads busy and make every row later.
_AT_ONCE = 2
# So often it is asked whether to stop.
_POLL_S = 0.05
# What is shown while the source is away, or the machine stands still, is not known.
_LONGEST_S = 2.0


class LiveSource:
    """A camera or stream that is being received; `fer_app.video_faces.sources.Source` says what a run asks of it.

    A picture is taken only when fewer than two are being worked on, and then it is the newest. So what is behind the
    camera stays behind by the time that two pictures need, however slow the machine is.

    Attributes:
        lag_s: between the arrival of the last written picture and its rows, seconds.
    """

    sound: str | None = None
    whole: bool = True
    batch_frames: int | None = 1
    longest_s: float = _LONGEST_S

    def __init__(
        self,
        address: str,
        *,
        fps: float | None = None,
        duration_s: float | None = None,
        on_away: Callable[[str], None] = lambda _: None,
        on_back: Callable[[float], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Connect.

        Args:
            address: as `open_live` takes it.
            fps: take at most so many pictures a second: one in each interval of 1/fps seconds.
            duration_s: end so many seconds after the first picture; None to go on until it should stop.
            on_away: as `open_live` takes it.
            on_back: likewise.
            stop: likewise.

        Raises:
            VideoOpenError: nothing answers, or it sends no video, or `stop` said yes.
        """
        self._reader = open_live(address, on_away=on_away, on_back=on_back, stop=stop)
        self.name = self.title = self._reader.name
        self.info = self._reader.info
        self._fps = None if fps is None else Fraction(fps).limit_denominator(1_000_000)
        self.has_end, self.all_given = duration_s is not None, False
        self._duration_s = float("inf") if duration_s is None else duration_s
        self._free = threading.Semaphore(_AT_ONCE)
        self._ended = threading.Event()
        self._end_s = 0.0
        self._arrived: int | None = None
        self._taken = 0
        self._lags_ms: Counter[int] = Counter()
        self.lag_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        self._reader.stop()

    @property
    def clock_s(self) -> float:
        """What time it is now in that of the pictures, seconds."""
        return self._reader.clock_s

    @property
    def end_s(self) -> float:
        """When the recording ended, seconds; while it goes on, when the last picture arrived."""
        return self._end_s

    def frames(self, stop: Callable[[], bool]) -> Iterator[VideoFrame]:
        """Give the newest picture whenever it can be worked on, until it should stop or the time is over."""

        def over() -> bool:
            return self._ended.is_set() or stop() or self.clock_s >= self._duration_s

        next_s = Fraction(-1)  # earlier pictures are not taken
        while not over():
            if not self._free.acquire(timeout=_POLL_S):
                continue
            frame = None
            while frame is None and not over():
                self._ended.wait(min(_POLL_S, max(0.0, float(next_s) - self.clock_s)))
                if self.clock_s >= next_s:
                    frame = self._reader.latest(_POLL_S)
                if frame is not None and not next_s <= frame.pts * frame.time_base < self._duration_s:
                    frame = None
            if frame is not None:
                self._taken += 1
                self._end_s = frame.time_s
                next_s = self._next_s(frame.pts * frame.time_base)
                yield frame
        self.all_given = self.clock_s >= self._duration_s
        self._arrived = self._reader.arrived
        self._end_s = max(self._end_s, min(self.clock_s, self._duration_s))

    def _next_s(self, taken_s: Fraction) -> Fraction:
        """Give from when on the next picture is wanted: two have not the same time."""
        if self._fps is None:
            return taken_s + self.info.time_base
        return (taken_s * self._fps // 1 + 1) / self._fps

    def written(self, frame: VideoFrame) -> None:
        """Note how long the picture took, and let the next one come."""
        self.lag_s = self.clock_s - frame.time_s
        self._lags_ms[round(1000 * self.lag_s)] += 1
        self._free.release()

    def end(self) -> None:
        """Give no more pictures."""
        self._ended.set()

    def record(self) -> dict[str, Any]:
        """Give what the summary says of this source."""
        arrived = self._reader.arrived if self._arrived is None else self._arrived
        begun = datetime.datetime.fromtimestamp(self._reader.begun_at).astimezone()
        live = {
            "begun_at": begun.isoformat(timespec="milliseconds"),
            "frames_arrived": arrived,
            "frames_dropped": arrived - self._taken,
            "reconnections": self._reader.reconnections,
            "away_s": round(self._reader.away_s, 3),
            "lag_p50_ms": self._lag_ms(0.5),
            "lag_p95_ms": self._lag_ms(0.95),
            "lag_max_ms": self._lag_ms(1.0),
        }
        return {"source": self.name, "source_bytes": None, "live": live}

    def _lag_ms(self, share: float) -> int | None:
        """Give the least lag that this share of the pictures did not exceed; None without a picture."""
        wanted, seen = share * self._lags_ms.total(), 0
        for lag_ms, count in sorted(self._lags_ms.items()):
            seen += count
            if seen >= wanted:
                return lag_ms
        return None


def recording_name(source: str, now: datetime.datetime) -> str:
    """Give the name of a recording's files, without a suffix: `camera-0 2026-11-27T18-03-12`.

    Args:
        source: the camera or stream.
        now: the local time.
    """
    place = shown_name(source).rpartition("://")[2]
    plain = re.sub(r"[^\w.]+", "-", place, flags=re.ASCII).strip("-.")[:100] or "stream"
    return f"{plain} {now:%Y-%m-%dT%H-%M-%S}"
