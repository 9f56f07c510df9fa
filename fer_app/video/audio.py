"""The sound of a source for an MP4 that browsers play: copied packet for packet where they can, else made AAC."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.filter import Graph

from fer_app.video.container import audio_stream, open_file

# What the current Chrome, Firefox and Safari all play inside MP4. They differ in MP2 and AC-3; Vorbis and PCM have no
# common place in MP4.
COPIED = {"aac", "mp3", "opus", "flac"}
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
_BITS_PER_CHANNEL = 96_000


def audio_action(source: Path | None) -> str:
    """Say what will be done with the sound of a file: `none`, `copied (aac)`, `transcoded (vorbis to aac)`.

    Raises:
        VideoOpenError: the file cannot be opened.
    """
    if source is None:
        return "none"
    with open_file(source) as container:
        stream = audio_stream(container)
        return "none" if stream is None else _action(stream)


def _action(stream: AudioStream) -> str:
    codec = _codec(stream)
    return f"copied ({codec})" if codec in COPIED else f"transcoded ({codec} to aac)"


def _codec(stream: AudioStream) -> str:
    return str(stream.codec_context.codec.canonical_name)


class AudioTrack:
    """Brings the sound of a file into an output, as far as it is asked to.

    Args:
        source: a file with sound.
        output: where it goes; its streams must not have been written to yet.
        origin_s: the source's time that is zero in the output, seconds.
        transcode: make it AAC even if it could be copied.
    """

    def __init__(self, source: Path, output: OutputContainer, origin_s: Fraction, *, transcode: bool = False) -> None:
        self._container = open_file(source)
        stream = audio_stream(self._container)
        self._pending: av.Packet[AudioStream] | None = None
        self._packets: Iterator[av.Packet[AudioStream]] = iter(())
        if stream is None:
            return
        if _codec(stream) in COPIED and not transcode:
            self._out = output.add_stream_from_template(stream, opaque=True)
            self._packets = self._copied(stream, origin_s)
        else:
            # More than two channels become stereo: that is what every browser plays.
            layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            rate = stream.codec_context.sample_rate
            self._out = output.add_stream("aac", rate=rate if rate in AAC_RATES else 48000, layout=layout)
            self._out.codec_context.bit_rate = _BITS_PER_CHANNEL * (1 if layout == "mono" else 2)
            self._packets = self._transcoded(stream, origin_s)
        self._output = output

    def write_until(self, time_s: Fraction | None) -> None:
        """Write all packets that begin before this time of the output; None for all that are left."""
        while True:
            packet = self._pending or next(self._packets, None)
            self._pending = None
            if packet is None:
                return
            if time_s is not None and (packet.pts or 0) * Fraction(packet.time_base) >= time_s:
                self._pending = packet
                return
            self._output.mux(packet)

    def close(self) -> None:
        """Let go of the source."""
        self._container.close()

    def _demuxed(self, stream: AudioStream) -> Iterator[av.Packet[AudioStream]]:
        """Give the packets up to the first damage: what follows it would be out of step."""
        try:
            for packet in self._container.demux(stream):
                if packet.is_corrupt:
                    return
                yield packet
        except (av.FFmpegError, IndexError):  # the latter when a further stream began midway
            return

    def _copied(self, stream: AudioStream, origin_s: Fraction) -> Iterator[av.Packet[AudioStream]]:
        next_pts = last_pts = None
        for packet in self._demuxed(stream):
            shift = round(origin_s / Fraction(packet.time_base))
            pts = packet.pts if packet.pts is not None else next_pts if next_pts is not None else shift
            if not packet.size or (last_pts is not None and pts <= last_pts):
                continue
            last_pts, next_pts = pts, pts + (packet.duration or 1)
            packet.pts = packet.dts = pts - shift
            packet.stream = self._out
            yield packet

    def _transcoded(self, stream: AudioStream, origin_s: Fraction) -> Iterator[av.Packet[AudioStream]]:
        encoder = self._out.codec_context
        shift = round(origin_s * encoder.sample_rate)
        for frame in self._resampled(stream):
            for packet in self._out.encode(frame):
                packet.pts = packet.dts = (packet.pts or 0) - shift
                yield packet
        for packet in self._out.encode(None):
            packet.pts = packet.dts = (packet.pts or 0) - shift
            yield packet

    def _resampled(self, stream: AudioStream) -> Iterator[av.AudioFrame]:
        """Decode, and fill gaps in the source's times with silence, because the encoder counts samples."""
        encoder = self._out.codec_context
        graph: Graph | None = None
        for packet in self._demuxed(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                if graph is None:
                    graph = _gap_filler(frame, encoder.sample_rate, encoder.layout.name)
                graph.push(frame)
                yield from _pulled(graph)
        if graph is not None:
            graph.push(None)
            yield from _pulled(graph)


def _gap_filler(frame: av.AudioFrame, sample_rate: int, layout: str) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(
        sample_rate=frame.sample_rate,
        format=frame.format.name,
        layout=frame.layout.name,
        time_base=frame.time_base,
    )
    fill = graph.add("aresample", f"{sample_rate}:async=1:min_hard_comp=0.05")
    shape = graph.add("aformat", f"sample_fmts=fltp:sample_rates={sample_rate}:channel_layouts={layout}")
    sink = graph.add("abuffersink")
    source.link_to(fill)
    fill.link_to(shape)
    shape.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: Graph) -> Iterator[av.AudioFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        if isinstance(frame, av.AudioFrame):
            yield frame
