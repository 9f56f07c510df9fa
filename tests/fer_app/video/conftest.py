"""Clips made by PyAV: pictures that tell their number and which way up they are, and sound."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (40, 40, 220), (235, 235, 235)


def draw(number: int, width: int = 64, height: int = 48) -> npt.NDArray[np.uint8]:
    """A picture with another colour in each corner and its number, below 256, as eight bars between them."""
    image = np.full((height, width, 3), 128, np.uint8)
    high, wide = height // 4, width // 4
    image[:high, :wide], image[:high, -wide:] = RED, GREEN
    image[-high:, :wide], image[-high:, -wide:] = BLUE, WHITE
    edges = np.linspace(0, width, 9).round().astype(int)
    for bit, (left, right) in enumerate(itertools.pairwise(edges)):
        image[high : height - high, left:right] = 230 if number >> bit & 1 else 20
    return image


def read_number(image: npt.NDArray[np.uint8]) -> int:
    """The number that `draw` put in."""
    height, width = image.shape[:2]
    row = image[3 * height // 8 : 5 * height // 8].mean(axis=(0, 2))
    edges = np.linspace(0, width, 9).round().astype(int)
    bars = [row[left + 2 : right - 2].mean() for left, right in itertools.pairwise(edges)]
    return sum(1 << bit for bit, bar in enumerate(bars) if bar > 128)


def corners(image: npt.NDArray[np.uint8]) -> str:
    """The colours of the four corners, clockwise from the top left: `RGWB` for an upright picture."""
    height, width = image.shape[:2]
    high, wide = height // 8, width // 8
    colours = np.array([RED, GREEN, BLUE, WHITE])
    found = ""
    for y, x in (
        (high, wide),
        (high, width - 1 - wide),
        (height - 1 - high, width - 1 - wide),
        (height - 1 - high, wide),
    ):
        patch = image[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).mean(axis=0)
        found += "RGBW"[int(np.abs(colours - patch).sum(axis=1).argmin())]
    return found


def tone(seconds: float, rate: int, start: float = 0.0) -> npt.NDArray[np.float32]:
    """A quiet 440 Hz tone, float32, (samples,)."""
    times = np.arange(int(seconds * rate)) / rate + start
    return (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


def audio_packets(
    stream: Any, seconds: float, start: float = 0.0, gap: tuple[float, float] = (float("inf"), 0.0)
) -> list[Any]:
    """An encoded tone; `gap` is where in it there is a pause, s, and how long that is, s."""
    rate = stream.codec_context.sample_rate
    layout = stream.codec_context.layout.name
    samples, packets = tone(seconds, rate), []
    for begin in range(0, len(samples), 960):
        data = np.stack([samples[begin : begin + 960]] * len(stream.codec_context.layout.channels))
        frame = av.AudioFrame.from_ndarray(data, "fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(rate * (start + (gap[1] if begin / rate >= gap[0] else 0)))
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def make_clip(
    path: Path,
    *,
    times: Sequence[int] = tuple(range(20)),
    time_base: Fraction = Fraction(1, 25),
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    pictures: Sequence[npt.NDArray[np.uint8]] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    sample_aspect_ratio: Fraction | None = None,
    colour: dict[str, int] | None = None,
    sounds: Sequence[dict[str, Any]] = (),
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Write a clip whose k-th picture shows the number k at `times[k] * time_base`.

    Each of `sounds` has `codec`, and may have `rate`, `layout`, `seconds`, `start`, `default`, `gap` (at, how long).
    """
    with av.open(str(path), "w", format=container_format, options=container_options or {}) as output:
        rate = (1 / time_base).limit_denominator(1001) if len(times) < 2 else 1 / (time_base * (times[1] - times[0]))
        # As good as lossless, so that a number read wrongly is no matter of compression.
        settings = {"crf": "8", "threads": "1"} if codec == "libx264" else {}
        stream = output.add_stream(
            codec, rate=Fraction(rate).limit_denominator(1001), options=settings | (options or {})
        )
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = time_base
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        for name, value in (colour or {}).items():
            setattr(stream.codec_context, name, value)
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        audio = []
        for sound in sounds:
            track = output.add_stream(
                sound["codec"],
                rate=sound.get("rate", 48000),
                layout=sound.get("layout", "stereo"),
                options={"strict": "-2"},
            )
            if "default" in sound:
                track.disposition = av.stream.Disposition.default if sound["default"] else 0
            audio.append((track, sound))
        packets: list[Any] = []
        for number, time in enumerate(times):
            image = draw(number, *size) if pictures is None else pictures[number]
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
                format=pix_fmt,
                dst_colorspace=(colour or {}).get("colorspace", 5),
                dst_color_range=(colour or {}).get("color_range", 1),
                interpolation="AREA",
            )
            frame.pts, frame.time_base = time, time_base
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for track, sound in audio:
            what = {name: sound[name] for name in ("start", "gap") if name in sound}
            packets += audio_packets(track, sound.get("seconds", 0.8), **what)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Callable[..., Path]:
    """Make a clip in the test's folder: `clip("name.mp4", times=..., sounds=...)`."""

    def make(name: str, **what: Any) -> Path:
        return make_clip(tmp_path / name, **what)

    return make
