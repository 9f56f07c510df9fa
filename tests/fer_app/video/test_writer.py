from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import corners, draw, read_number, tone

from fer_app.errors import InputError, VideoOpenError, VideoWriteError
from fer_app.video import VideoFrame, VideoInfo, VideoReader, VideoWriter, partial_path, recover, remux

Clip = Callable[..., Path]
VARIABLE = (0, 3, 4, 9, 10, 11, 25, 26, 40, 41, 42, 43, 60, 61, 75)


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


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("constant.mp4", {}),
        ("ntsc.mp4", {"time_base": Fraction(1001, 30000)}),
        ("ntsc.mkv", {"time_base": Fraction(1001, 30000)}),
        ("ntsc.avi", {"time_base": Fraction(1001, 30000), "codec": "mpeg4"}),
        ("variable.mp4", {"times": [3003 * time for time in VARIABLE], "time_base": Fraction(1, 90000)}),
        (
            "variable.webm",
            {"times": [33 * time for time in VARIABLE], "time_base": Fraction(1, 1000), "codec": "libvpx"},
        ),
        ("late.mp4", {"times": [10 + time for time in range(20)], "container_options": {"movie_timescale": "1000"}}),
        ("odd_late.ts", {"times": [37 + 3003 * time for time in range(20)], "time_base": Fraction(1, 90000)}),
    ],
)
@pytest.mark.parametrize("sounds", [[], [{"codec": "aac"}], [{"codec": "libmp3lame", "rate": 44100}]])
def test_every_time_is_kept_exactly(clip: Clip, tmp_path: Path, name: str, what: dict, sounds: list) -> None:
    if name.endswith("webm"):
        sounds = [{"codec": "libopus"} for _ in sounds]
    source, target = clip(name, sounds=sounds, **what), tmp_path / "out.mp4"
    writer = copy(source, target)
    frames = pictures(target)
    assert [frame.pts * frame.time_base for frame in frames] == times(source)
    assert [read_number(frame.image) for frame in frames] == list(range(len(frames)))
    assert (writer.frames_written, writer.frames_dropped) == (len(frames), 0)
    with VideoReader(source) as before, VideoReader(target) as after:
        assert len(list(before)) == len(list(after))
        assert after.end_s == pytest.approx(before.end_s, abs=1e-6)
    assert not partial_path(target).exists()


def test_it_is_a_fast_start_h264_with_declared_colours(clip: Clip, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    copy(clip("a.mp4", sounds=[{"codec": "aac"}]), target)
    names = atoms(target)
    assert names.index("moov") < names.index("mdat")
    assert "moof" not in names
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.codec.canonical_name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.color_range, context.colorspace, context.color_primaries, context.color_trc) == (1, 6, 6, 6)
        assert "comment" not in container.metadata  # the source's path is nobody's business


@pytest.mark.parametrize("size", [(64, 48), (64, 720)])
def test_colours_survive(tmp_path: Path, astronaut: np.ndarray, size: tuple[int, int]) -> None:
    import cv2

    photo = cv2.resize(astronaut, size, interpolation=cv2.INTER_AREA)
    with VideoWriter(tmp_path / "out.mp4", description(*size), crf=1) as writer:
        for number in range(5):
            writer.write(VideoFrame(photo, number, number, Fraction(1, 25)))
    difference = pictures(tmp_path / "out.mp4")[2].image.astype(float) - photo
    assert np.abs(difference.mean(axis=(0, 1))).max() < 2.5  # no cast, not washed out
    assert np.abs(difference).mean() < 5
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.colorspace == (1 if size[1] >= 720 else 6)


def test_quality_and_size_follow_the_options(clip: Clip, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(20)]
    sizes = []
    for options in ({"crf": 10}, {"crf": 40}, {"bit_rate": 50_000}):
        target = tmp_path / "out.mp4"
        with VideoWriter(target, description(), preset="ultrafast", **options) as writer:
            for number, image in enumerate(images):
                writer.write(VideoFrame(image, number, number, Fraction(1, 25)))
        sizes.append(target.stat().st_size)
    assert sizes[0] > 3 * sizes[1]
    assert sizes[0] > 3 * sizes[2]


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


@pytest.mark.parametrize("options", [{"every": 7}, {"fps": 4}])
def test_left_out_pictures_change_no_time(clip: Clip, tmp_path: Path, options: dict) -> None:
    source, target = clip("a.mp4", times=range(50), sounds=[{"codec": "aac", "seconds": 2}]), tmp_path / "out.mp4"
    with VideoReader(source, **options) as reader:
        chosen = [frame.pts * frame.time_base for frame in reader]
    copy(source, target, **options)
    assert times(target) == chosen
    with VideoReader(target) as reader:
        durations = [frame.duration * frame.time_base for frame in reader]
    assert 1 < len(chosen) < 10
    assert durations[0] == chosen[1] - chosen[0]  # shown until the next one
    assert reader.end_s == pytest.approx(2)  # and the last one to the end
    assert audio_packets(target) == audio_packets(source)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_turned_clips_are_written_upright(clip: Clip, tmp_path: Path, rotation: int) -> None:
    stored = [np.rot90(draw(number), -rotation // 90) for number in range(3)]
    size = stored[0].shape[1], stored[0].shape[0]
    copy(clip("turned.mp4", times=range(3), pictures=stored, size=size, rotation=rotation), tmp_path / "out.mp4")
    with VideoReader(tmp_path / "out.mp4") as reader:
        images = [frame.image for frame in reader]
    assert (reader.info.rotation, reader.info.width, reader.info.height) == (0, 64, 48)
    assert [corners(image) for image in images] == ["RGWB"] * 3


def test_odd_sizes_are_padded(tmp_path: Path) -> None:
    image = draw(5, 65, 49)
    with VideoWriter(tmp_path / "out.mp4", description(65, 49)) as writer:
        for number in range(3):
            writer.write(VideoFrame(image, number, number, Fraction(1, 25)))
    written = pictures(tmp_path / "out.mp4")[0].image
    assert written.shape == (50, 66, 3)
    assert np.abs(written[:49, :65].astype(float) - image).mean() < 6
    assert np.abs(written[:, 65].astype(float) - written[:, 64]).mean() < 6


def test_an_image_can_take_the_place_of_the_frames(clip: Clip, tmp_path: Path) -> None:
    with VideoReader(clip("a.mp4")) as reader, VideoWriter(tmp_path / "out.mp4", reader.info) as writer:
        for frame in reader:
            writer.write(frame, draw(200))
    assert [read_number(frame.image) for frame in pictures(tmp_path / "out.mp4")] == [200] * 20


def test_one_picture_and_none(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "one.mp4", description()) as writer:
        writer.write(VideoFrame(draw(9), 0, 0, Fraction(1, 25), duration=1))
    assert [read_number(frame.image) for frame in pictures(tmp_path / "one.mp4")] == [9]
    with VideoReader(tmp_path / "one.mp4") as reader:
        assert reader.info.duration_s == pytest.approx(0.04, abs=0.001)
    with VideoWriter(tmp_path / "none.mp4", description()) as writer:
        assert writer.close() is None
        assert writer.close() is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4"]


def test_pictures_that_are_not_later_are_dropped_and_counted(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", description()) as writer:
        for number, pts in enumerate([0, 1, 1, 0, 2]):
            writer.write(VideoFrame(draw(number), number, pts, Fraction(1, 25)))
    assert (writer.frames_written, writer.frames_dropped) == (3, 2)
    assert [read_number(frame.image) for frame in pictures(tmp_path / "out.mp4")] == [0, 1, 4]


def test_wrong_use_is_refused(tmp_path: Path, clip: Clip) -> None:
    with pytest.raises(InputError, match=r"end in \.mp4"):
        VideoWriter(tmp_path / "out.avi", description())
    with pytest.raises(InputError, match="does not exist"):
        VideoWriter(tmp_path / "nowhere" / "out.mp4", description())
    with pytest.raises(VideoOpenError, match="no such file"):
        VideoWriter(tmp_path / "out.mp4", description(), source_audio=tmp_path / "gone.mp4")
    with VideoWriter(tmp_path / "out.mp4", description()) as writer:
        with pytest.raises(ValueError, match="uint8"):
            writer.write(VideoFrame(draw(0, 32, 32), 0, 0, Fraction(1, 25)))
        with pytest.raises(ValueError, match="time base"):
            writer.write(VideoFrame(draw(0), 0, 1, Fraction(1, 30)))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_a_video_with_as_much_sound(clip: Clip, tmp_path: Path) -> None:
    source, target = clip("a.mp4", times=range(100), sounds=[{"codec": "aac", "seconds": 4}]), tmp_path / "out.mp4"

    def run() -> None:
        with VideoReader(source) as reader, VideoWriter(target, reader.info, source_audio=source) as writer:
            for frame in reader:
                writer.write(frame)
                if frame.index == 49:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert times(target) == [Fraction(number, 25) for number in range(50)]
    sound = audio_packets(target)
    assert sound == audio_packets(source)[: len(sound)]
    assert float(sound[-1][1]) == pytest.approx(2, abs=0.025)
    assert atoms(target).index("moov") < atoms(target).index("mdat")
    assert not partial_path(target).exists()


def test_every_byte_of_a_partial_file_may_be_the_last(clip: Clip, tmp_path: Path) -> None:
    """What a kill leaves is a beginning of the fragments; whatever its length, whole pictures come out of it."""
    source, target = clip("a.mp4", times=range(150), sounds=[{"codec": "aac", "seconds": 6}]), tmp_path / "out.mp4"
    with VideoReader(source) as reader, VideoWriter(target, reader.info, source_audio=source, threads=1) as writer:
        for frame in reader:
            writer.write(frame)
        writer.write(dataclasses.replace(frame, pts=frame.pts + 1))
        growing = partial_path(target).read_bytes()
    assert len(pictures(target)) == 151
    counts = []
    for part in np.linspace(0.15, 1, 12):
        partial_path(target).write_bytes(growing[: int(part * len(growing))])
        target.unlink(missing_ok=True)
        try:
            assert recover(target) == target
        except VideoOpenError:
            assert not counts
            assert not partial_path(target).exists()
            continue
        frames = pictures(target)  # raises nothing: nothing in it is damaged
        assert [read_number(frame.image) for frame in frames] == list(range(len(frames)))
        assert times(target) == [Fraction(number, 25) for number in range(len(frames))]
        sound = audio_packets(target)
        assert sound == audio_packets(source)[: len(sound)]
        assert float(sound[-1][1]) == pytest.approx(float(times(target)[-1]), abs=0.1)
        counts.append(len(frames))
        assert not partial_path(target).exists()
    assert counts == sorted(counts)
    assert len(counts) > 8
    assert counts[-1] > 100


KILLED = """
import os, signal, sys, time
from fer_app.video import VideoReader, VideoWriter
source, target = sys.argv[1:]
with VideoReader(source) as reader, VideoWriter(target, reader.info, source_audio=source) as writer:
    for frame in reader:
        writer.write(frame)
        if frame.index == 240:
            print("now", flush=True)
            time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_loses_seconds_alone_and_can_be_finished(clip: Clip, tmp_path: Path, repository: Path) -> None:
    source = clip("a.mp4", times=range(250), options={"preset": "ultrafast"}, sounds=[{"codec": "aac", "seconds": 10}])
    target = tmp_path / "out.mp4"
    search = os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))
    environment = os.environ | ({"PYTHONPATH": search} if (repository / "fer_app").is_dir() else {})
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(source), str(target)], stdout=subprocess.PIPE, env=environment, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    process.kill()
    process.communicate()
    assert not target.exists()
    # The leftover itself can be played; it has no sound yet.
    left = pictures(partial_path(target))
    assert [read_number(frame.image) for frame in left] == list(range(len(left)))
    assert recover(target) == target
    frames = pictures(target)
    assert len(frames) >= 240 - 3 * 25
    assert times(target) == [frame.pts * frame.time_base for frame in left]
    sound = audio_packets(target)
    assert sound == audio_packets(source)[: len(sound)]
    assert len(sound) > 47 * 6
    with pytest.raises(VideoOpenError, match="nothing is left"):
        recover(target)


def test_recovery_without_the_source_has_no_sound(clip: Clip, tmp_path: Path) -> None:
    source, target = clip("a.mp4", times=range(100), sounds=[{"codec": "aac", "seconds": 4}]), tmp_path / "out.mp4"
    with VideoReader(source) as reader, VideoWriter(target, reader.info, source_audio=source) as writer:
        for frame in reader:
            writer.write(frame)
        growing = partial_path(target).read_bytes()
    target.unlink()
    source.unlink()
    partial_path(target).write_bytes(growing)
    recover(target)
    with VideoReader(target) as reader:
        assert not reader.info.has_audio
        assert len(list(reader)) > 30


LIMITED = """
import resource, sys
from fer_app.errors import VideoWriteError
from fer_app.video import VideoReader, VideoWriter, partial_path
import numpy as np
source, target, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
random = np.random.default_rng(0)
try:
    with VideoReader(source) as reader, VideoWriter(target, reader.info, crf=1) as writer:
        for frame in reader:
            writer.write(frame, random.integers(0, 255, frame.image.shape, np.uint8))
except VideoWriteError as error:
    print(error)
print(partial_path(target).exists())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_clear_error(clip: Clip, tmp_path: Path, repository: Path) -> None:
    source, target = clip("a.mp4", times=range(100)), tmp_path / "out.mp4"
    environment = os.environ | ({"PYTHONPATH": str(repository)} if (repository / "fer_app").is_dir() else {})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(source), str(target), "200000"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said, left = done.stdout.splitlines()
    assert said.startswith(f"{target}: cannot be written: File too large; what was written is in out.partial.mp4")
    assert left == "True"
    assert not target.exists()


def test_a_disk_that_fills_at_the_end_keeps_the_fragments(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = clip("a.mp4", sounds=[{"codec": "aac"}]), tmp_path / "out.mp4"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with VideoReader(source) as reader:
        writer = VideoWriter(target, reader.info, source_audio=source)
        for frame in reader:
            writer.write(frame)
        with monkeypatch.context() as patch:
            patch.setattr(remux, "_copy", full)
            with pytest.raises(VideoWriteError, match=r"No space left on device; what was written is in out\.partial"):
                writer.close()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.mp4", "out.partial.mp4"]
    recover(target)
    assert len(pictures(target)) == 20
