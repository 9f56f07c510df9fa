from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import tone
from tests.fer_app.video.written import audio_packets, copy, decoded_sound, pictures

from fer_app.video import VideoReader, partial_path

Clip = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("a.mp4", {"codec": "aac"}),
        ("mono.mp4", {"codec": "aac", "layout": "mono", "rate": 44100}),
        ("mp3.mp4", {"codec": "libmp3lame"}),
        ("mp3.avi", {"codec": "libmp3lame"}),
        ("opus.mp4", {"codec": "libopus"}),
        ("opus.mkv", {"codec": "libopus"}),
        ("flac.mkv", {"codec": "flac"}),
        ("aac.mkv", {"codec": "aac", "start": 0.1}),
        ("late.mp4", {"codec": "aac", "start": 0.5}),
        ("longer.mp4", {"codec": "aac", "seconds": 3}),
        ("shorter.mp4", {"codec": "aac", "seconds": 0.1}),
        ("tiny.mp4", {"codec": "aac", "seconds": 0.001}),
    ],
)
def test_sound_is_copied_packet_for_packet(clip: Clip, tmp_path: Path, name: str, sound: dict) -> None:
    source = clip(name, sounds=[sound], codec="mpeg4" if name.endswith("avi") else "libx264")
    target = tmp_path / "out.mp4"
    writer = copy(source, target)
    assert writer.audio_action == f"copied ({sound['codec'].removeprefix('lib').removesuffix('lame')})"
    before, after = audio_packets(source), audio_packets(target)
    assert [data for data, _ in after] == [data for data, _ in before]
    assert len(before) > 0
    rate = sound.get("rate", 48000)
    # A time that the source counts in milliseconds need not be a whole number of samples.
    assert max(abs(a - b) for (_, a), (_, b) in zip(after, before, strict=True)) <= Fraction(1, 2 * rate)
    if name.endswith("mp4"):
        assert [time for _, time in after] == [time for _, time in before]
    with VideoReader(source) as old, VideoReader(target) as new:
        assert new.info.duration_s == pytest.approx(old.info.duration_s, abs=0.035)  # with or without run-in
    if sound.get("seconds", 1) > 0.01 and name.endswith("mp4"):
        heard, rate, start = decoded_sound(target)
        expected, _, expected_start = decoded_sound(source)
        assert start == pytest.approx(expected_start, abs=1 / rate)
        assert np.array_equal(heard, expected)


@pytest.mark.parametrize(
    ("name", "sound", "codec"),
    [
        ("a.mov", {"codec": "pcm_s16le"}, "pcm_s16le"),
        ("a.mkv", {"codec": "ac3", "layout": "5.1", "seconds": 1.0}, "ac3"),
        ("late.mkv", {"codec": "pcm_s16le", "start": 0.3, "layout": "mono", "rate": 16000}, "pcm_s16le"),
        ("high.mkv", {"codec": "pcm_s16le", "rate": 192000}, "pcm_s16le"),
        ("gap.mkv", {"codec": "pcm_s16le", "gap": (0.3, 0.4)}, "pcm_s16le"),
    ],
)
def test_other_sound_becomes_aac_in_step(clip: Clip, tmp_path: Path, name: str, sound: dict, codec: str) -> None:
    source, target = clip(name, sounds=[sound], times=range(30)), tmp_path / "out.mp4"
    assert copy(source, target).audio_action == f"transcoded ({codec} to aac)"
    with av.open(str(target)) as container:
        context = container.streams.audio[0].codec_context
        assert (context.codec.canonical_name, context.channels) == ("aac", 1 if sound.get("layout") == "mono" else 2)
    heard, rate, start = decoded_sound(target)
    begin, seconds = sound.get("start", 0.0), sound.get("seconds", 0.8)
    assert begin - 1024 / rate <= start <= begin + 0.002
    heard = heard[round((begin - start) * rate) :]  # before it there is the encoder's run-in, which is silent
    # What is heard is the tone, in phase: a shift of a millisecond would turn it by more than a third.
    gap_at, gap_s = sound.get("gap", (seconds, 0.0))
    inside = slice(int(0.1 * rate), int((gap_at - 0.05) * rate))
    expected = tone(seconds, rate)[inside]
    assert np.corrcoef(heard[inside], expected)[0, 1] > 0.97
    if gap_s:
        quiet = heard[int((gap_at + 0.05) * rate) : int((gap_at + gap_s - 0.05) * rate)]
        assert np.abs(quiet).max() < 0.02
        after = heard[int((gap_at + gap_s + 0.1) * rate) :][: int(0.2 * rate)]
        again = tone(seconds, rate)[int((gap_at + 0.1) * rate) :][: int(0.2 * rate)]
        assert np.corrcoef(after[: len(again)], again[: len(after)])[0, 1] > 0.97


def test_damaged_sound_is_saved_as_far_as_it_can_be(clip: Clip, tmp_path: Path) -> None:
    source, target = clip("a.ts", times=range(50), sounds=[{"codec": "aac", "seconds": 2}]), tmp_path / "out.mp4"
    content = source.read_bytes()
    heads = [place for place in range(len(content) // 2, len(content)) if content[place : place + 2] == b"\xff\xf1"]
    broken = bytearray(content)
    for place in heads[3:5]:
        broken[place : place + 4] = b"\x00\x13\x37\x00"
    source.write_bytes(broken)
    assert copy(source, target).audio_action == "transcoded (the source's is damaged)"
    assert len(pictures(target)) == 50
    heard, rate, _ = decoded_sound(target)
    assert np.abs(heard[: int(0.8 * rate)]).max() > 0.2
    assert np.abs(heard[int(1.6 * rate) : int(1.9 * rate)]).max() > 0.2  # it goes on afterwards
    assert not partial_path(target).exists()


def test_sound_and_pictures_of_an_arbitrary_clock_move_together(clip: Clip, tmp_path: Path) -> None:
    sounds = [{"codec": "aac", "start": 4.2}]
    source, target = clip("a.ts", times=range(100, 120), sounds=sounds), tmp_path / "out.mp4"
    assert copy(source, target).audio_action == "copied (aac)"
    with VideoReader(source) as reader:
        origin = reader.info.origin_s
    assert origin == 4
    before, after = audio_packets(source), audio_packets(target)
    assert [data for data, _ in after] == [data[7:] for data, _ in before]  # MPEG-TS puts a head before each
    assert max(abs(a - (b - origin)) for (_, a), (_, b) in zip(after, before, strict=True)) <= Fraction(1, 96000)


def test_the_default_sound_is_taken(clip: Clip, tmp_path: Path) -> None:
    sounds = [{"codec": "libopus", "default": False}, {"codec": "aac", "default": True}]
    source, target = clip("two.mkv", sounds=sounds), tmp_path / "out.mp4"
    assert copy(source, target).audio_action == "copied (aac)"
    with av.open(str(target)) as container:
        assert len(container.streams.audio) == 1
    assert [data for data, _ in audio_packets(target)] == [data for data, _ in audio_packets(source, 1)]


def test_sound_and_pictures_lie_side_by_side(clip: Clip, tmp_path: Path) -> None:
    """So that a browser that fetches from the front has both."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(100)]
    source = clip("long.mp4", times=range(100), pictures=images, sounds=[{"codec": "aac", "seconds": 4}])
    copy(source, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = [packet for packet in container.demux() if packet.size]
        places = sorted((packet.pos, packet.stream.type, float(packet.dts * packet.time_base)) for packet in packets)
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, time in places:
        latest[kind] = time
        assert abs(latest["video"] - latest["audio"]) < 1.1


def test_without_sound(clip: Clip, tmp_path: Path) -> None:
    source = clip("a.mp4", sounds=[{"codec": "aac"}])
    assert copy(source, tmp_path / "out.mp4", sound=False).audio_action == "none"
    assert copy(clip("silent.mp4"), tmp_path / "silent_out.mp4").audio_action == "none"
    for name in ("out.mp4", "silent_out.mp4"):
        with VideoReader(tmp_path / name) as reader:
            assert not reader.info.has_audio
