"""Writing copies of clips, and reading back what was written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from fer_app.video import VideoFrame, VideoInfo, VideoReader, VideoWriter


def copy(source: Path, target: Path, *, sound: bool = True, complete: bool = True, **options: object) -> VideoWriter:
    """Read a clip and write it again; returns the closed writer."""
    with (
        VideoReader(source, **options) as reader,
        VideoWriter(target, reader.info, source_audio=source if sound else None, threads=1) as writer,
    ):
        for frame in reader:
            writer.write(frame)
        assert writer.close(complete=complete, end_s=reader.end_s) == target
    return writer


def pictures(path: Path) -> list[VideoFrame]:
    with VideoReader(path) as reader:
        return list(reader)


def times(path: Path) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in pictures(path)]


def audio_packets(path: Path, stream: int = 0) -> list[tuple[bytes, Fraction]]:
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(audio=stream) if packet.size]
        return [(bytes(packet), packet.pts * packet.time_base) for packet in found]


def decoded_sound(path: Path) -> tuple[np.ndarray, int, float]:
    """The samples of the first channel, their rate, and the time of the first."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    samples = np.concatenate([np.atleast_2d(frame.to_ndarray())[0] for frame in frames])
    return samples, frames[0].sample_rate, float(frames[0].pts * frames[0].time_base)


def atoms(path: Path) -> list[str]:
    """The names of the outermost boxes of an MP4."""
    content, names, place = path.read_bytes(), [], 0
    while place < len(content):
        size, name = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8].decode()
        size = int.from_bytes(content[place + 8 : place + 16], "big") if size == 1 else size
        names.append(name)
        place += size
    assert place == len(content)
    return names


def description(width: int = 64, height: int = 48, time_base: Fraction = Fraction(1, 25)) -> VideoInfo:
    return VideoInfo(
        "", width, height, 0, False, Fraction(1), "h264", 25.0, time_base, None, None, False, None, Fraction(0)
    )
