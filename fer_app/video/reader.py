"""Video files to upright RGB pictures with their exact times."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
from av.stream import Stream

from fer_app.errors import VideoDecodeError, VideoOpenError
from fer_app.video.colour import Orientation, RgbConverter, square_pixel_size
from fer_app.video.container import audio_stream, open_file, origin_of, video_stream
from fer_app.video.frame import VideoFrame, VideoInfo

# How much earlier than the file declares its end everything in it may stop, seconds: some writers round up.
_MISSING_S = 0.5
# Formats whose declared length is exact; elsewhere it may be a guess from the bit rate.
_EXACT_LENGTH = {"matroska", "webm"}
# Formats without times of showing: they keep one for each stored picture, in the order of decoding.
_NO_SHOWING_TIMES = {"avi", "h264", "hevc", "m4v", "mpegvideo"}
_MICROSECONDS = 1_000_000


class VideoReader:
    """Reads the pictures of a video file once, from the first to the last.

    Rotation, mirroring and pixels that are not square are undone: pictures come out as a player shows them. Interlaced
    video is not deinterlaced and HDR is not tone-mapped. A picture whose size differs from the first one's (streams
    may change) is scaled to it.

    Args:
        source: MP4, MOV, MKV, WebM, AVI, MPEG-TS and others.
        every: give each N-th picture, beginning with the first.
        fps: give at most so many pictures a second, chosen by when they are shown: the first one in each interval of
            1/fps seconds, counted from the first picture. Never more than there are.
        max_side_px: scale pictures down until no side is longer.
        threads: decoding threads; None for as many as there are cores.

    Raises:
        VideoOpenError: the file cannot be opened, is no video, or not one picture of it can be decoded.
        ValueError: `every` and `fps` together, or not positive.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        every: int = 1,
        fps: float | None = None,
        max_side_px: int | None = None,
        threads: int | None = None,
    ) -> None:
        if every < 1 or (fps is not None and not 0 < fps < float("inf")):
            raise ValueError("every and fps must be positive")
        if every > 1 and fps is not None:
            raise ValueError("give every or fps, not both")
        self._every, self._fps = every, None if fps is None else Fraction(fps).limit_denominator(1_000_000)
        self._path = Path(source)
        self._container = open_file(self._path)
        self._started = self._closed = False
        self._damages = 0
        self._packets = 0
        self._stored_times: list[int] | None = None
        if self._container.format.name in _NO_SHOWING_TIMES:
            self._stored_times = []
        self._latest_packet_s = self._latest_picture_s = Fraction(0)
        self.frames_read = 0  # decoded so far, chosen or not
        self._end = Fraction(0)
        try:
            self._stream = video_stream(self._container, str(source))
            self._stream.thread_type = "AUTO"
            self._stream.thread_count = threads or 0
            self._time_base = Fraction(self._stream.time_base or Fraction(1, 1000))
            rate = self._stream.average_rate or self._stream.guessed_rate
            self._typical_duration = max(1, round(1 / (rate * self._time_base))) if rate else 1
            self._audio = audio_stream(self._container)
            self._origin = origin_of(self._container, self._stream, self._audio)
            self._decoded = self._decode()
            # The first picture is decoded now: only it tells the size, the rotation, and that there is something.
            self._first = next(self._decoded, None)
            if self._first is None:
                damaged = (
                    "not one of its pictures can be decoded"
                    if self._damages
                    else "holds no picture, or its index was cut off"
                )
                raise VideoOpenError(f"{source}: {damaged}")
            orientation = Orientation.of(self._first)
            ratio = Fraction(self._stream.sample_aspect_ratio or 1)
            width, height = square_pixel_size(self._first.width, self._first.height, ratio, max_side_px)
            self._to_rgb = RgbConverter(width, height, orientation)
            self.info = self._describe(str(source), (width, height), orientation, ratio)
        except BaseException:
            self._container.close()
            raise

    @property
    def end_s(self) -> float:
        """When the last picture read so far, chosen or not, stops being shown, seconds."""
        return float(self._end)

    def __iter__(self) -> Iterator[VideoFrame]:
        """Give the chosen pictures in the order in which they are shown.

        Raises:
            VideoDecodeError: after the last picture that could be read, if something was damaged or missing.
            ValueError: this was read before.
        """
        if self._started:
            raise ValueError("a video is read once; open it again")
        self._started = True
        return self._frames()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; an iteration that is still going on ends."""
        self._closed = True
        self._decoded.close()
        self._container.close()

    def _frames(self) -> Iterator[VideoFrame]:
        last_slot = -1
        first_pts: int | None = None
        for frame, pts, duration in self._timed():
            first_pts = pts if first_pts is None else first_pts
            index, self.frames_read = self.frames_read, self.frames_read + 1
            self._end = max(self._end, (pts + duration) * self._time_base)
            if self._fps is None:
                chosen = index % self._every == 0
            else:
                slot = (pts - first_pts) * self._time_base * self._fps // 1
                chosen, last_slot = slot > last_slot, max(slot, last_slot)
            if chosen:
                yield VideoFrame(self._to_rgb(frame), index, pts, self._time_base, duration)
        if not self._closed:  # a closed file's streams must not be touched
            self._complain()

    def _timed(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """Give every frame with its time and how long it is shown: until the next one, whatever the file says."""
        shift = self._origin / self._time_base
        frame, self._first = self._first, None
        pts = 0 if frame is None else self._pts_of(frame, shift, otherwise=0)
        while frame is not None:
            following = next(self._decoded, None)
            if self._closed:
                return
            length = frame.duration or self._typical_duration
            if following is None:
                yield frame, pts, self._last_length(pts + int(shift)) or length
                return
            next_pts = self._pts_of(following, shift, otherwise=pts + length)
            yield frame, pts, next_pts - pts if next_pts > pts else length
            frame, pts = following, next_pts

    def _pts_of(self, frame: av.VideoFrame, shift: Fraction, otherwise: int) -> int:
        """Give when a frame is shown; a broken file may leave that out, and then it is `otherwise`."""
        shown = heapq.heappop(self._stored_times) if self._stored_times else frame.pts
        return otherwise if shown is None else int(shown - shift)

    def _last_length(self, pts: int) -> int | None:
        """Give how long a whole MP4's last picture is shown: to the end of its track, which alone says so."""
        stream = self._stream
        if "mov" not in self._container.format.name or stream.duration is None or self._missing():
            return None
        end = (stream.start_time or 0) + stream.duration
        return end - pts if end > pts and stream.frames else None

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Decode all that can be decoded, counting what cannot."""
        # Sound is demultiplexed too, because the file's declared length may be the sound's.
        packets = self._container.demux(*(stream for stream in (self._stream, self._audio) if stream is not None))
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except IndexError:  # PyAV's, at the end of a file in which a further stream began midway
                break
            except av.FFmpegError:
                self._damages += 1
                break
            if packet.size and packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * Fraction(packet.time_base)
                self._latest_packet_s = max(self._latest_packet_s, end)
            if packet.stream_index != self._stream.index:
                continue
            self._latest_picture_s = self._latest_packet_s
            self._packets += bool(packet.size)
            if self._stored_times is not None and packet.size and packet.dts is not None:
                heapq.heappush(self._stored_times, packet.dts)
            self._damages += bool(packet.size and packet.is_corrupt)
            # An empty packet ends the file and brings out what the decoder still holds.
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: av.Packet[Stream] | None) -> Iterator[av.VideoFrame]:
        try:
            frames = self._stream.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            self._damages += 1
            if self._stored_times and packet is not None and packet.dts in self._stored_times:
                self._stored_times.remove(packet.dts)  # no picture will ask for it
                heapq.heapify(self._stored_times)
            return
        for frame in frames:
            self._damages += bool(frame.is_corrupt)
            yield frame

    def _missing(self) -> str:
        """Say what the file declares and does not hold; empty when it is whole."""
        names = set(self._container.format.name.split(","))
        if "mov" in names:
            indexed = len(self._stream.index_entries)
            return f"{indexed - self._packets} of {indexed} pictures are missing" if self._packets < indexed else ""
        if "avi" in names:
            gap = float(self._stream.frames * self._time_base - self._latest_picture_s)
            return f"its last {gap:.1f} s are missing" if gap > _MISSING_S else ""
        if names & _EXACT_LENGTH and self._container.duration is not None:
            start = Fraction(self._container.start_time or 0, _MICROSECONDS)
            gap = float(start + Fraction(self._container.duration, _MICROSECONDS) - self._latest_packet_s)
            return f"its last {gap:.1f} s are missing" if gap > _MISSING_S else ""
        return ""

    def _complain(self) -> None:
        missing = self._missing()
        if not (self._damages or missing):
            return
        reasons = [f"{self._damages} damaged places"] if self._damages else []
        what = " and ".join(reasons + ([missing] if missing else []))
        raise VideoDecodeError(
            f"{self._path}: is damaged or cut off ({what}); "
            f"{self.frames_read} pictures up to {self.end_s:.2f} s could be read",
            frames_read=self.frames_read,
            time_s=self.end_s,
        )

    def _describe(
        self, source: str, size: tuple[int, int], orientation: Orientation, sample_aspect_ratio: Fraction
    ) -> VideoInfo:
        stream, duration = self._stream, self._container.duration
        average, base = stream.average_rate, stream.base_rate
        width, height = size[::-1] if orientation.swaps_sides else size
        audio_codec = None
        if self._audio is not None:
            audio_codec = self._audio.codec_context.codec.canonical_name
        return VideoInfo(
            source=source,
            width=width,
            height=height,
            rotation=orientation.rotation,
            mirrored=orientation.mirrored,
            sample_aspect_ratio=sample_aspect_ratio,
            codec=stream.codec_context.codec.canonical_name,
            average_fps=float(average) if average else None,
            time_base=self._time_base,
            duration_s=None if duration is None else duration / _MICROSECONDS,
            frame_count=stream.frames or None,
            is_variable_rate=bool(average and base and abs(1 - average / base) > 0.001),
            audio_codec=audio_codec,
            origin_s=self._origin,
        )
