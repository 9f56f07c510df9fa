"""From the fragments of a run to one MP4: pictures and sound side by side, its index first.

While a video is written, its pictures go as fragments to a file beside the target, which can be played at any moment.
The sound stays in the source until the end, so that nothing waits for it; the fragments say where it is.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer

from fer_app.atomic_file import replacing
from fer_app.errors import VideoOpenError, VideoWriteError
from fer_app.video.audio import AudioTrack, audio_action
from fer_app.video.container import audio_stream, open_file

_SUFFIX = ".partial.mp4"
# What FFmpeg's muxer says of packets that make no sense; a full disk and its like are other errors.
_DAMAGED = (av.InvalidDataError, av.ArgumentError, av.OverflowError)


@dataclass(frozen=True)
class SoundSource:
    """Where the sound of a video comes from.

    Attributes:
        path: the file, absolute.
        origin: the file's time that is zero in the video, seconds, as a fraction.
    """

    path: str
    origin: str

    def to_comment(self) -> str:
        """Give the text that fragments carry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_comment(cls, text: str) -> SoundSource | None:
        """Read what `to_comment` gave; None for any other text."""
        try:
            found = json.loads(text)
            return cls(str(found["path"]), str(Fraction(found["origin"])))
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            return None


def partial_path(target: str | Path) -> Path:
    """Give the file beside the target which holds the fragments while the target is being written."""
    path = Path(target)
    return path.with_name(path.stem + _SUFFIX)


def recover(target: str | Path) -> Path:
    """Finish the video that a killed run left behind: `target` appears, the fragments go.

    The sound is taken from the source, if that is still where it was; it ends with the pictures.

    Args:
        target: the video that was being written.

    Raises:
        VideoOpenError: there are no fragments, or not one picture in them. Empty ones are removed.
        VideoWriteError: the video cannot be written; the fragments stay.
    """
    path = Path(target)
    fragments = partial_path(path)
    if not fragments.exists():
        raise VideoOpenError(f"{fragments}: no such file; nothing is left of an interrupted run of {path.name}")
    try:
        _cut_torn_index(fragments)
        with av.open(f"file:{fragments}") as container:
            sound = SoundSource.from_comment(container.metadata.get("comment", ""))
            whole = any(packet.size and not packet.is_corrupt for packet in container.demux(video=0))
    except (av.FFmpegError, IndexError):  # not even the beginning
        whole = False
    if not whole:
        fragments.unlink()
        raise VideoOpenError(f"{fragments}: held no picture and was removed; start {path.name} again")
    if sound is not None and not Path(sound.path).is_file():
        sound = None
    finish(path, sound, until_pictures_end=True)
    return path


def finish(target: Path, sound: SoundSource | None, *, until_pictures_end: bool) -> str:
    """Make the target from its fragments, and remove them.

    Sound that cannot be copied because it is damaged is transcoded, and left out when that fails too: the pictures are
    worth more.

    Args:
        target: the video.
        sound: where its sound comes from; None for none.
        until_pictures_end: end the sound with the pictures, where it would otherwise go on to its own end.

    Returns:
        What became of the sound, in the words of `audio_action`.

    Raises:
        VideoOpenError: the source of the sound is gone; the fragments stay.
        VideoWriteError: the video cannot be written; the fragments stay.
    """
    action = audio_action(None if sound is None else Path(sound.path))
    try:
        try:
            _make(target, sound, until_pictures_end, transcode=False)
        except _DAMAGED:
            try:
                _make(target, sound, until_pictures_end, transcode=True)
                action = "transcoded (the source's is damaged)"
            except _DAMAGED:
                _make(target, None, until_pictures_end, transcode=False)
                action = "none (the source's is damaged)"
    except (OSError, av.FFmpegError) as error:
        raise write_error(target, error) from error
    partial_path(target).unlink()
    return action


def _make(target: Path, sound: SoundSource | None, until_pictures_end: bool, *, transcode: bool) -> None:
    fragments = partial_path(target)
    with replacing(target) as temporary, av.open(f"file:{fragments}") as pictures:
        scale = _movie_timescale(pictures, sound)
        # The index goes to the front, so that a browser need not fetch the end before it plays.
        options = {"movflags": "+faststart", "movie_timescale": str(scale)}
        with av.open(f"file:{temporary}", "w", format="mp4", options=options) as output:
            _copy(pictures, output, sound, until_pictures_end, transcode=transcode)


def _movie_timescale(pictures: InputContainer, sound: SoundSource | None) -> int:
    """Give the unit, 1/seconds, in which MP4 counts a late start: one that pictures and sound both fit, if there is.

    FFmpeg's own, milliseconds, would move every picture of a video that begins late.
    """
    scale = Fraction(pictures.streams.video[0].time_base or 1).denominator
    if sound is not None:
        with open_file(Path(sound.path)) as container:
            stream = audio_stream(container)
            both = math.lcm(scale, stream.codec_context.sample_rate) if stream is not None else scale
        scale = both if both < 2**31 else scale
    return scale


def _cut_torn_index(fragments: Path) -> None:
    """Cut off the index of a fragment (`moof`) that was being written: FFmpeg gives up where it meets a torn one.

    Torn pictures after a whole index may stay: they are told from whole ones.
    """
    size = fragments.stat().st_size
    with fragments.open("r+b") as file:
        place = 0
        while place < size:
            file.seek(place)
            head = file.read(8)
            length = int.from_bytes(head[:4], "big")
            if len(head) < 8 or (head[4:] == b"moof" and place + length > size):
                file.truncate(place)
                return
            if length < 8:  # to the end of the file, or with a long length, which fragments of a second never have
                return
            place += length


def write_error(target: Path, error: OSError | av.FFmpegError) -> VideoWriteError:
    """Say in one line why a video cannot be written and what is left of it."""
    fragments = partial_path(target)
    left = f"; what was written is in {fragments.name}" if fragments.exists() else ""
    return VideoWriteError(f"{target}: cannot be written: {error.strerror or error}{left}")


def _copy(
    pictures: InputContainer,
    output: OutputContainer,
    sound: SoundSource | None,
    until_pictures_end: bool,
    *,
    transcode: bool,
) -> None:
    stream = pictures.streams.video[0]
    out = output.add_stream_from_template(stream, opaque=True)
    track = None
    if sound is not None:
        track = AudioTrack(Path(sound.path), output, Fraction(sound.origin), transcode=transcode)
    end = Fraction(0)
    try:
        for packet in pictures.demux(stream):
            if not packet.size:
                continue
            if packet.is_corrupt or packet.pts is None or packet.dts is None:
                break  # the run was killed in the middle of this one
            unit = Fraction(packet.time_base)
            end = max(end, (packet.pts + (packet.duration or 0)) * unit)
            if track is not None:
                track.write_until(packet.dts * unit)
            packet.stream = out
            output.mux(packet)
        if track is not None:
            track.write_until(end if until_pictures_end else None)
    finally:
        if track is not None:
            track.close()
