"""Pictures and a source's sound to an MP4 that browsers play, with the source's exact times."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace

from fer_app.errors import InputError, VideoWriteError
from fer_app.video.audio import audio_action
from fer_app.video.colour import YuvConverter, matrix_of
from fer_app.video.frame import VideoFrame, VideoInfo
from fer_app.video.remux import SoundSource, finish, partial_path, write_error

# A player can start at each of these, seconds apart, and a killed run loses no more than a fragment and what the
# encoder looks ahead.
_KEYFRAME_S = 2
_FRAGMENT_S = 1
# FFmpeg's numbers for primaries, transfer and matrix: BT.709, and SMPTE 170M, which is BT.601's.
_BT709, _SMPTE170M = 1, 6


class VideoWriter:
    """Writes one video: H.264 (yuv420p), the source's sound, and the exact time of every picture.

    Pictures are padded to even sides by their last row or column, never scaled. BT.709 from 720 px high on, BT.601
    below, limited range, and both declared. Each picture is shown until the next.

    While it runs, fragments go to `partial_path(path)`; `close` makes one file of them, which appears under its name
    when it is whole. After a kill, `recover(path)` does that. Fragments of an earlier run are overwritten.

    Args:
        path: the video, `.mp4`.
        info: of the video that is being read; its size is the pictures', its origin the sound's.
        source_audio: the file whose sound is taken: the stream marked as default, else the first. None for no sound.
        crf: x264's constant quality, 0 (lossless) to 51; less is better and larger.
        preset: x264's trade of time against size, `ultrafast` to `veryslow`.
        bit_rate: aim at so many bits a second instead of a constant quality.
        threads: encoding threads; None lets x264 choose.

    Attributes:
        audio_action: what becomes of the sound: `none`, `copied (aac)`, `transcoded (vorbis to aac)`; after `close`,
            what became of it, e.g. `transcoded (the source's is damaged)`.
        frames_written: pictures that were taken.
        frames_dropped: pictures that were not, because they are not later than the one before.

    Raises:
        InputError: the name does not end in `.mp4`, the folder does not exist, or the sound cannot be opened.
        VideoWriteError: the fragments cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        info: VideoInfo,
        *,
        source_audio: str | Path | None = None,
        crf: float = 20,
        preset: str = "veryfast",
        bit_rate: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise InputError(f"{path}: videos are written as MP4; let the name end in .mp4")
        if not self.path.parent.is_dir():
            raise InputError(f"{path}: the folder {self.path.parent} does not exist; make it first")
        sound = None if source_audio is None else Path(source_audio).absolute()
        self.audio_action = audio_action(sound)
        self._sound = None
        if sound is not None and self.audio_action != "none":
            self._sound = SoundSource(str(sound), str(info.origin_s))
        self._shape = (info.height, info.width, 3)
        self._time_base = info.time_base
        self.frames_written = 0
        self.frames_dropped = 0
        self._held: tuple[npt.NDArray[np.uint8], int, int | None] | None = None
        self._keyframe_pts: int | None = None
        self._to_yuv = YuvConverter()
        self._closed = False
        # No B-frames: then MP4 can say how long each picture is shown, a killed run loses nothing but its end, and
        # encoding takes a third less time. Files are larger by up to a half at the same quality.
        options = {"preset": preset, "bf": "0", "forced-idr": "1", "threads": str(threads or 0)}
        options |= {} if bit_rate else {"crf": str(crf)}
        try:
            self._open(info, options, bit_rate)
        except (OSError, av.FFmpegError) as error:
            raise write_error(self.path, error) from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(complete=kind is None)

    def write(self, frame: VideoFrame, image: npt.NDArray[np.uint8] | None = None) -> None:
        """Add one picture; its time must be later than the one before, or it is dropped and counted.

        Args:
            frame: the picture and its time.
            image: uint8, (H, W, 3), RGB, of the frame's size, in place of the frame's own. Not to be changed until
                the next picture was written.

        Raises:
            VideoWriteError: the disk is full, for instance. `close` then leaves the fragments as they are.
            ValueError: the picture has another size than the video.
        """
        picture = frame.image if image is None else image
        if picture.shape != self._shape or picture.dtype != np.uint8:
            raise ValueError(
                f"the video's pictures are uint8 {self._shape}, this one is {picture.dtype} {picture.shape}"
            )
        pts = frame.pts * frame.time_base / self._time_base
        if pts.denominator != 1:
            raise ValueError(f"the frame's time base {frame.time_base} is not the video's, {self._time_base}")
        if self._held is not None:
            if pts <= self._held[1]:
                self.frames_dropped += 1
                return
            self._encode(until=int(pts))
        self._held = picture, int(pts), frame.duration
        self.frames_written += 1

    def close(self, *, complete: bool = True, end_s: float | None = None) -> Path | None:
        """Make one file of the fragments.

        Args:
            complete: take the sound to its end. Otherwise it ends with the pictures, as when a run is interrupted.
            end_s: when the last picture stops being shown, seconds, e.g. `VideoReader.end_s`; else its own duration.

        Returns:
            The video; None when no picture was written, and then there is no file.

        Raises:
            VideoWriteError: the disk is full, for instance; the fragments stay.
        """
        if self._closed:
            return self.path if self.frames_written else None
        try:
            if self._held is not None:
                _, pts, duration = self._held
                end = pts + (duration or self._typical_duration)
                if end_s is not None:
                    end = max(pts + 1, round(end_s / self._time_base))
                self._encode(until=end)
                self._mux(None)
        except VideoWriteError:
            self._abandon()
            raise
        self._closed = True
        try:
            self._container.close()
        except (OSError, av.FFmpegError) as error:
            raise write_error(self.path, error) from error
        if not self.frames_written:
            partial_path(self.path).unlink(missing_ok=True)
            return None
        self.audio_action = finish(self.path, self._sound, until_pictures_end=not complete)
        return self.path

    def _open(self, info: VideoInfo, options: dict[str, str], bit_rate: int | None) -> None:
        self._container = av.open(
            f"file:{partial_path(self.path)}",
            "w",
            format="mp4",
            # The index waits for the first fragment: only then it is known when the pictures begin.
            options={
                "movflags": "+delay_moov",
                "frag_duration": str(_FRAGMENT_S * 1_000_000),
                "flush_packets": "1",
                "movie_timescale": str(self._time_base.denominator),
            },
        )
        if self._sound is not None:
            self._container.metadata["comment"] = self._sound.to_comment()
        rate = Fraction(info.average_fps or 30).limit_denominator(1001)
        self._typical_duration = max(1, round(1 / (rate * self._time_base)))
        height, width = (side + side % 2 for side in self._shape[:2])
        # The unit of MP4 is one over a whole number; where the source's is not, there are more of them.
        self._stream = self._container.add_stream(
            "libx264", rate=rate, options=options, width=width, height=height, pix_fmt="yuv420p"
        )
        context = self._stream.codec_context
        context.time_base = Fraction(1, self._time_base.denominator)
        context.flags |= Flags.frame_duration
        if bit_rate:
            context.bit_rate = bit_rate
        standard = _BT709 if matrix_of(self._shape[0]) == Colorspace.ITU709 else _SMPTE170M
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = standard

    def _encode(self, until: int) -> None:
        """Encode the picture that is held, to be shown until this time."""
        assert self._held is not None
        image, pts, _ = self._held
        self._held = None
        frame = self._to_yuv(image)
        units = self._time_base.numerator
        frame.pts, frame.time_base = pts * units, Fraction(1, self._time_base.denominator)
        frame.duration = (until - pts) * units
        if self._keyframe_pts is None or (pts - self._keyframe_pts) * self._time_base >= _KEYFRAME_S:
            self._keyframe_pts = pts
            frame.pict_type = PictureType.I
        self._mux(frame)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (OSError, av.FFmpegError) as error:
            self._abandon()
            raise write_error(self.path, error) from error

    def _abandon(self) -> None:
        """Let go of the fragments after a failed write; they stay for `recover`."""
        self._closed, self._held = True, None
        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()
