"""Cameras and network streams: always the newest picture, never a queue, and new attempts when the source goes away."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType

import av
import cv2
import numpy as np
import numpy.typing as npt

from fer_app.errors import InputError, VideoOpenError
from fer_app.quiet_decoders import quiet_opencv
from fer_app.video.colour import Orientation, RgbConverter, square_pixel_size
from fer_app.video.container import video_stream
from fer_app.video.frame import VideoFrame, VideoInfo
from fer_app.video.live_names import camera_number, is_live, shown_name

_FIRST_WAIT_S = 0.5
_POLL_S = 0.05
# MP4 cannot show one picture for longer than 2^31 units, and an outage may last: so these are 24 days.
_TIME_BASE = Fraction(1, 1000)

# A picture that was received and not yet made RGB: most of them never are, because a newer one came.
Pending = Callable[[], npt.NDArray[np.uint8]]


def open_live(
    source: str | Path,
    *,
    max_side_px: int | None = None,
    timeout_s: float = 10,
    longest_wait_s: float = 30,
    on_away: Callable[[str], None] = lambda _: None,
    on_back: Callable[[float], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> LiveReader:
    """Connect to a camera or stream and begin to receive.

    Args:
        source: a number or `/dev/videoN` for a camera; an address that begins with `rtsp://`, `http://` or the like.
        max_side_px: scale a stream's pictures down until no side is longer.
        timeout_s: for how long a stream may stay silent before it is taken for gone.
        longest_wait_s: between two attempts to reconnect; the first comes after half a second, and each wait is twice
            the one before.
        on_away: called, in the thread that receives, with the reason when the source goes away.
        on_back: likewise, with the seconds that it was away, when it sends pictures again.
        stop: asked while the first picture is waited for; when it says yes, that is given up.

    Raises:
        VideoOpenError: nothing answers, or it sends no video, or `stop` said yes. Later interruptions raise nothing:
            they are retried.
        InputError: the source is neither a camera nor a stream.
    """
    if not is_live(source):
        raise InputError(f"{source}: is no camera (0, /dev/video0) and no stream (rtsp://, http://); open it as a file")
    return LiveReader(str(source), max_side_px, timeout_s, longest_wait_s, on_away, on_back, stop)


class LiveReader:
    """Receives in a thread of its own and keeps the newest picture alone; made by `open_live`.

    The times of its pictures are those of their arrival, in milliseconds from the first, because a source's own clock
    starts again after an interruption. Their index counts what arrived; what was not fetched in time is missing. All
    have the size of the first one: another is scaled to fit, with black beside it.

    Attributes:
        name: the source without user name and password, as `shown_name` gives it.
        info: size and time base of the pictures, for a `VideoWriter`; nothing else is known of a live source.
        begun_at: when the first picture arrived, seconds of the epoch.
        arrived: how many pictures came so far.
        connected: whether it is being received right now.
        reconnections: how often it came back.
        last_problem: why it was away the last time; empty before that.
    """

    def __init__(
        self,
        source: str,
        max_side_px: int | None,
        timeout_s: float,
        longest_wait_s: float,
        on_away: Callable[[str], None],
        on_back: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None:
        self.name = shown_name(source)
        self.connected, self.reconnections, self.last_problem = True, 0, ""
        self._source, self._max_side_px, self._timeout_s = source, max_side_px, timeout_s
        self._longest_wait_s, self._on_away, self._on_back = longest_wait_s, on_away, on_back
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._newest: tuple[Pending, int, int] | None = None
        self.arrived = 0
        self._given = -1  # when the last one that was fetched had arrived
        self._away_s, self._away_since_s = 0.0, 0.0
        pictures, first = self._first_picture(stop)
        self.begun_at, self._begin = time.time(), time.monotonic()
        height, width, _ = first().shape
        self.info = VideoInfo(
            source=self.name,
            width=width,
            height=height,
            rotation=0,
            mirrored=False,
            sample_aspect_ratio=Fraction(1),
            codec="",
            average_fps=None,
            time_base=_TIME_BASE,
            duration_s=None,
            frame_count=None,
            is_variable_rate=True,
            audio_codec=None,
            origin_s=Fraction(0),
        )
        self._receive(first)
        self._thread = threading.Thread(target=self._run, args=(pictures,), name="fer-live", daemon=True)
        self._thread.start()

    @property
    def clock_s(self) -> float:
        """What time it is now in that of the pictures, seconds."""
        return time.monotonic() - self._begin

    @property
    def away_s(self) -> float:
        """For how long the source was away so far, in all, seconds."""
        return self._away_s + (0.0 if self.connected else self.clock_s - self._away_since_s)

    def latest(self, timeout_s: float | None = None) -> VideoFrame | None:
        """Wait for a picture newer than the last one given, and give the newest.

        Args:
            timeout_s: None to wait until one comes or `stop` is called.

        Returns:
            None when the time is over or after `stop`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._stopping.is_set(), timeout_s)
            newest, self._newest = self._newest, None
            self._given = self._given if newest is None else newest[2]
        if newest is None or self._stopping.is_set():
            return None
        pending, index, arrival = newest
        return VideoFrame(_fitted(pending(), self.info.width, self.info.height), index, arrival, _TIME_BASE)

    def __iter__(self) -> Iterator[VideoFrame]:
        """Give the newest picture again and again until `stop`."""
        while (frame := self.latest()) is not None:
            yield frame

    def __enter__(self) -> LiveReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Receive no more; may be called from any thread. A silent source is let go after its timeout."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=1)

    def _receive(self, pending: Pending) -> None:
        arrival = int(self.clock_s / _TIME_BASE)
        with self._changed:
            # Several may come within one millisecond, after a pause of the network.
            self._newest = pending, self.arrived, max(arrival, self._given + 1)
            self.arrived += 1
            self._changed.notify_all()

    def _run(self, pictures: Iterator[Pending]) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._stopping.is_set():
            try:
                for pending in pictures:
                    if self._stopping.is_set():
                        return
                    if not self.connected:
                        wait_s = _FIRST_WAIT_S
                        self._note_back()
                    self._receive(pending)
                self.last_problem = f"{self.name}: the source ended"
            except InputError as error:
                self.last_problem = str(error)
            if self.connected and not self._stopping.is_set():
                self._away_since_s, self.connected = self.clock_s, False
                self._on_away(self.last_problem.removeprefix(f"{self.name}: "))
            if self._stopping.wait(wait_s):
                return
            wait_s = min(2 * wait_s, self._longest_wait_s)
            pictures = self._connect()

    def _note_back(self) -> None:
        away_s = self.clock_s - self._away_since_s
        self._away_s += away_s
        self.connected, self.reconnections = True, self.reconnections + 1
        self._on_back(away_s)

    def _first_picture(self, stop: Callable[[], bool]) -> tuple[Iterator[Pending], Pending]:
        # In a thread that can be left alone: nothing interrupts a connection that is being made.
        answer: queue.Queue[tuple[Iterator[Pending], Pending] | BaseException] = queue.Queue()

        def connect() -> None:
            pictures = self._connect()
            try:
                answer.put((pictures, next(pictures)))
            except StopIteration:
                answer.put(VideoOpenError(f"{self.name}: answers, but sends no picture"))
            except BaseException as error:
                answer.put(error)

        threading.Thread(target=connect, name="fer-connect", daemon=True).start()
        while not stop():
            with contextlib.suppress(queue.Empty):
                found = answer.get(timeout=_POLL_S)
                if isinstance(found, BaseException):
                    raise found
                return found
        raise VideoOpenError(f"{self.name}: stopped before it sent a picture")

    def _connect(self) -> Iterator[Pending]:
        number = camera_number(self._source)
        if number is not None:
            return _camera(number)
        return _stream(self._source, self.name, self._max_side_px, self._timeout_s)


def _fitted(picture: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    """Scale a picture of another size to this one, px, with black beside it where its shape is another."""
    high, wide = picture.shape[:2]
    if (wide, high) == (width, height):
        return picture
    scale = min(width / wide, height / high)
    size = min(width, max(1, round(wide * scale))), min(height, max(1, round(high * scale)))
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    fitted = np.zeros((height, width, 3), np.uint8)
    fitted[y : y + size[1], x : x + size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return fitted


def _camera(number: int) -> Iterator[Pending]:
    # OpenCV, because it knows the cameras of Linux, macOS and Windows by the same number.
    with quiet_opencv:  # it tells of every way that it tried
        capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise VideoOpenError(f"camera {number}: cannot be opened; is it there, and used by no other program?")
        while True:
            arrived, picture = capture.read()
            if not arrived:
                raise VideoOpenError(f"camera {number}: sends no more pictures")
            yield partial(_to_rgb, np.asarray(picture, np.uint8))
    finally:
        capture.release()


def _to_rgb(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _stream(source: str, name: str, max_side_px: int | None, timeout_s: float) -> Iterator[Pending]:
    try:
        container = av.open(
            source,
            # No `file`: a playlist from the network must not read the files of this machine.
            container_options={
                "protocol_whitelist": "http,https,tcp,tls,udp,rtp,rtsp,rtsps,rtmp,rtmps,hls,crypto",
                "rtsp_transport": "tcp",
            },
            timeout=timeout_s,
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError) as error:
        raise VideoOpenError(f"{name}: cannot be reached: {getattr(error, 'strerror', None) or error}") from error
    with container:
        stream = video_stream(container, name)
        # Threads over slices: threads over frames would hold back as many pictures as there are threads.
        stream.thread_type = "SLICE"
        ratio = Fraction(stream.sample_aspect_ratio or 1)
        convert, shape = None, (0, 0)
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.InvalidDataError:
                    continue  # a lossy network; the next key frame mends it
                for frame in frames:
                    if convert is None or shape != (frame.width, frame.height):
                        shape = frame.width, frame.height
                        convert = RgbConverter(*square_pixel_size(*shape, ratio, max_side_px), Orientation.of(frame))
                    yield partial(convert, frame)
        except (av.FFmpegError, OSError, IndexError) as error:  # the last when a further stream began midway
            raise VideoOpenError(f"{name}: broke off: {getattr(error, 'strerror', None) or error}") from error
