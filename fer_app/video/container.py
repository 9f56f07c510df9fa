"""Opening video files: which formats, which of their streams, and which of their times is zero."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.container
from av.audio.stream import AudioStream
from av.stream import Disposition
from av.video.stream import VideoStream

from fer_app.errors import VideoOpenError

# Containers of moving pictures. FFmpeg would also draw a text file as a terminal, show a photo as a film of one
# picture, and follow a playlist to other files.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,nut,ivf,mxf,h264,hevc,m4v,dv,rm,"
    "mp3,flac,wav,aac"  # sound, so that it is refused for what it is
)
# A flag of FFmpeg's formats (AVFMT_TS_DISCONT) which PyAV's types leave out: their clock starts anywhere.
_ARBITRARY_CLOCK = 0x200


def open_file(path: Path) -> av.container.InputContainer:
    """Open a file for reading; nothing is fetched and no other file is read, whatever it says inside.

    Raises:
        VideoOpenError: there is no such file, or it is no video.
    """
    if path.is_dir():
        raise VideoOpenError(f"{path}: is a folder; name a video file")
    if not path.exists():
        raise VideoOpenError(f"{path}: no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoOpenError(f"{path}: the file is empty")
    try:
        # The prefix, because a colon in a name would be read as a protocol.
        return av.open(
            f"file:{path}",
            container_options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except PermissionError as error:
        raise VideoOpenError(f"{path}: may not be read: {error.strerror}") from error
    except av.FFmpegError as error:
        hint = ""
        if path.suffix.lower() in {".mp4", ".mov", ".m4v"}:
            hint = " (MP4 and MOV cannot be read when the index at their end was cut off)"
        raise VideoOpenError(f"{path}: is no video that can be read, or is damaged at its beginning{hint}") from error


def video_stream(container: av.container.InputContainer, name: str) -> VideoStream:
    """Give the pictures of a file: the stream marked as default, else the first; never the cover of a sound file.

    Raises:
        VideoOpenError: there are none, or nothing here decodes them.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        cover = " (its only picture is a cover)" if container.streams.video else ""
        raise VideoOpenError(f"{name}: holds no video{cover}")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoOpenError(f"{name}: its video is of a kind that cannot be decoded here")
    return next((stream for stream in decodable if stream.disposition & Disposition.default), decodable[0])


def audio_stream(container: av.container.InputContainer) -> AudioStream | None:
    """Give the sound of a file: the stream marked as default, else the first that can be decoded; None without."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    marked = (stream for stream in streams if stream.disposition & Disposition.default)
    return next(marked, streams[0] if streams else None)


def origin_of(container: av.container.InputContainer, video: VideoStream, audio: AudioStream | None) -> Fraction:
    """Give the time in the file, seconds, that is called zero: a multiple of the video's time base.

    MP4, MOV, MKV, WebM and AVI count from zero themselves, and pictures that begin late begin late. MPEG-TS and its
    like count from any number: there the first picture or sound is zero. Pictures before zero move it to the first
    one, because a player would not show them; sound before zero does not (a decoder's run-in, which is not heard).
    """
    unit = Fraction(video.time_base or 1)
    first = Fraction(video.start_time or 0) * unit
    if container.format.flags & _ARBITRARY_CLOCK:
        if audio is not None and audio.start_time is not None and audio.time_base is not None:
            first = min(first, audio.start_time * Fraction(audio.time_base))
        return (first // unit) * unit
    return min(first, Fraction(0))
