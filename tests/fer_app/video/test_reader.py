from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import audio_packets, corners, draw, read_number

from fer_app.errors import VideoDecodeError, VideoOpenError
from fer_app.video import VideoReader

Clip = Callable[..., Path]
VARIABLE = (0, 3, 4, 9, 10, 11, 25, 26, 40, 41, 42, 43, 60, 61, 75)


def read(path: Path, **options: object) -> tuple[VideoReader, list[int], list[Fraction]]:
    """The reader, the numbers in its pictures, and their exact times."""
    with VideoReader(path, **options) as reader:
        frames = list(reader)
    return reader, [read_number(frame.image) for frame in frames], [frame.pts * frame.time_base for frame in frames]


def read_to_the_damage(path: Path) -> tuple[list[int], VideoDecodeError]:
    """The numbers in the pictures that come before the error, all of one size, and the error."""
    images = []
    with VideoReader(path) as reader:
        frames = iter(reader)
        while True:
            try:
                images.append(next(frames).image)
            except VideoDecodeError as error:
                assert {image.shape for image in images} == {(reader.info.height, reader.info.width, 3)}
                return [read_number(image) for image in images], error


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("h264.mp4", "libx264", "yuv420p"),
        ("h264.mov", "libx264", "yuv444p"),
        ("h264.mkv", "libx264", "yuv420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("vp8.webm", "libvpx", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("mjpeg.avi", "mjpeg", "yuvj420p"),
        ("h264.avi", "libx264", "yuv420p"),
        ("h264.ts", "libx264", "yuv420p"),
        ("hevc.mp4", "libx265", "yuv420p10le"),
    ],
)
def test_pictures_come_in_order_with_their_times(clip: Clip, name: str, codec: str, pix_fmt: str) -> None:
    quiet = {"x265-params": "log-level=none:pools=1"} if codec == "libx265" else {}
    path = clip(name, codec=codec, pix_fmt=pix_fmt, options={"g": "10", **quiet})
    reader, numbers, times = read(path)
    assert numbers == list(range(20))
    assert times == [Fraction(number, 25) for number in range(20)]
    assert (reader.info.width, reader.info.height, reader.info.rotation) == (64, 48, 0)
    assert reader.info.average_fps == pytest.approx(25, rel=0.06)  # MKV and WebM count milliseconds
    assert not reader.info.is_variable_rate
    assert not reader.info.has_audio
    assert (reader.frames_read, reader.end_s) == (20, pytest.approx(0.8, abs=0.001))


def test_frames_tell_number_time_and_length(clip: Clip) -> None:
    with VideoReader(clip("a.mp4")) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(20))
    assert frames[3].time_s == 0.12
    assert {frame.duration * frame.time_base for frame in frames} == {Fraction(1, 25)}
    assert frames[0].image.dtype == np.uint8
    assert frames[0].image.shape == (48, 64, 3)
    assert len({frame.image.ctypes.data for frame in frames}) == 20  # the receiver's own, not one buffer


def test_variable_rate_is_exact_with_b_frames(clip: Clip) -> None:
    unit = Fraction(1, 90000)
    path = clip("vfr.mp4", times=[3003 * time for time in VARIABLE], time_base=unit, options={"bf": "3"})
    reader, numbers, times = read(path)
    assert numbers == list(range(len(VARIABLE)))
    assert times == [3003 * time * unit for time in VARIABLE]
    assert reader.info.is_variable_rate


def test_ntsc_rate_is_exact(clip: Clip) -> None:
    reader, _, times = read(clip("ntsc.mp4", time_base=Fraction(1001, 30000)))
    assert times == [Fraction(1001 * number, 30000) for number in range(20)]
    assert reader.info.average_fps == pytest.approx(29.97, abs=0.001)
    assert not reader.info.is_variable_rate


def test_a_late_start_is_kept_and_an_arbitrary_clock_is_not(clip: Clip) -> None:
    late = [10 + time for time in range(5)]
    sound = {"codec": "aac", "seconds": 0.4}
    _, _, times = read(clip("late.mp4", times=late, sounds=[sound], container_options={"movie_timescale": "1000"}))
    assert times == [Fraction(time, 25) for time in late]
    reader, _, times = read(clip("clock.ts", times=late))
    assert reader.info.origin_s == Fraction(10, 25)
    assert times == [Fraction(time, 25) for time in range(5)]
    # Sound that begins earlier is zero there, and the pictures keep their distance from it.
    reader, _, times = read(clip("clock2.ts", times=late, sounds=[sound]))
    assert times[0] == pytest.approx(0.4, abs=0.022)  # the encoder's run-in comes before
    assert np.diff([float(time) for time in times]) == pytest.approx(0.04)


@pytest.mark.parametrize(("rotation", "mirrored"), [(0, False), (90, False), (180, False), (-90, False), (0, True)])
def test_turned_clips_come_out_upright(clip: Clip, rotation: int, mirrored: bool) -> None:
    """The stored pictures are turned or flipped, and the metadata say how to undo it."""
    stored = [draw(number) for number in range(3)]
    if mirrored:
        stored = [image[:, ::-1] for image in stored]
    stored = [np.rot90(image, -rotation // 90) for image in stored]  # the metadata turn counter-clockwise
    size = stored[0].shape[1], stored[0].shape[0]
    path = clip("turned.mp4", times=range(3), pictures=stored, size=size, rotation=rotation, mirrored=mirrored)
    with VideoReader(path) as reader:
        images = [frame.image for frame in reader]
    assert (reader.info.width, reader.info.height) == (64, 48)
    assert (reader.info.rotation, reader.info.mirrored) == (-rotation % 360, mirrored)
    assert [corners(image) for image in images] == ["RGWB"] * 3
    assert [read_number(image) for image in images] == [0, 1, 2]
    assert all(image.shape == (48, 64, 3) for image in images)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_turned_and_mirrored_agrees_with_the_matrix(clip: Clip, rotation: int) -> None:
    path = clip("both.mp4", times=range(1), rotation=rotation, mirrored=True)
    with VideoReader(path) as reader:
        image = next(iter(reader)).image
    expected = "".join(_through_the_matrix(path))
    assert corners(image) == expected


def _through_the_matrix(path: Path) -> list[str]:
    """Where the corners go, straight from the definition: x' = a x + c y, y' = b x + d y, y pointing down."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        numbers = np.frombuffer(bytes(frame.side_data[0]), np.int32)
    a, b, _, c, d = np.sign(numbers[:5]) * (np.abs(numbers[:5]) > 1000)
    places = {"R": (-1, -1), "G": (1, -1), "W": (1, 1), "B": (-1, 1)}
    moved = {(a * x + c * y, b * x + d * y): name for name, (x, y) in places.items()}
    return [moved[place] for place in ((-1, -1), (1, -1), (1, 1), (-1, 1))]


def test_wide_pixels_become_square_and_no_detail_is_lost(clip: Clip) -> None:
    with VideoReader(clip("wide.mp4", sample_aspect_ratio=Fraction(3, 2))) as reader:
        assert (reader.info.width, reader.info.height) == (96, 48)
        assert next(iter(reader)).image.shape == (48, 96, 3)
    with VideoReader(clip("high.mp4", sample_aspect_ratio=Fraction(1, 2), rotation=90)) as reader:
        assert (reader.info.width, reader.info.height) == (96, 64)
        assert next(iter(reader)).image.shape == (64, 96, 3)


@pytest.mark.parametrize(("codec", "name"), [("libvpx-vp9", "odd.webm"), ("mjpeg", "odd.avi")])
def test_odd_sizes(clip: Clip, codec: str, name: str) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    reader, numbers, _ = read(clip(name, codec=codec, pix_fmt=pix_fmt, size=(65, 49)))
    assert (reader.info.width, reader.info.height) == (65, 49)
    assert numbers == list(range(20))


def test_longest_side_can_be_limited(clip: Clip) -> None:
    reader, numbers, _ = read(clip("large.mp4", size=(256, 128)), max_side_px=96)
    assert (reader.info.width, reader.info.height) == (96, 48)
    assert numbers == list(range(20))


@pytest.mark.parametrize("colorspace", [1, 5, 9])  # BT.709, BT.601, BT.2020
@pytest.mark.parametrize("color_range", [1, 2])  # limited, full
def test_declared_colours_are_obeyed(clip: Clip, colorspace: int, color_range: int) -> None:
    path = clip(
        "c.mp4", times=range(3), colour={"colorspace": colorspace, "color_range": color_range}, pix_fmt="yuv444p"
    )
    with VideoReader(path) as reader:
        difference = next(iter(reader)).image.astype(float) - draw(0)
    assert np.abs(difference).mean() < 2.5


@pytest.mark.parametrize(("size", "colorspace"), [((64, 48), 5), ((64, 720), 1)])
def test_undeclared_colours_are_guessed_by_height(clip: Clip, size: tuple[int, int], colorspace: int) -> None:
    path = clip(
        "c.avi",
        times=range(2),
        size=size,
        codec="mpeg4",
        options={"qmin": "1", "qmax": "1"},
        colour={"colorspace": colorspace},
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == 2  # not declared
    with VideoReader(path) as reader:
        image = next(iter(reader)).image
    difference = image.astype(float) - draw(0, *size)
    assert np.abs(difference).mean() < 3


def test_every_and_fps_choose_by_number_and_by_time(clip: Clip) -> None:
    path = clip("vfr.mp4", times=[3600 * time for time in VARIABLE], time_base=Fraction(1, 90000))
    with VideoReader(path, every=4) as reader:
        frames = list(reader)
    assert [frame.index for frame in frames] == [0, 4, 8, 12]
    assert [read_number(frame.image) for frame in frames] == [0, 4, 8, 12]
    assert reader.frames_read == len(VARIABLE)
    # 25 units a second: five a second means the first picture at or after 0, 5, 10, ... units.
    _, numbers, _ = read(path, fps=5)
    assert [VARIABLE[number] for number in numbers] == [0, 9, 10, 25, 40, 60, 75]
    _, numbers, _ = read(path, fps=1000)
    assert numbers == list(range(len(VARIABLE)))
    _, numbers, _ = read(path, fps=0.4)
    assert [VARIABLE[number] for number in numbers] == [0, 75]


def test_wrong_selection_is_refused(clip: Clip) -> None:
    path = clip("a.mp4", times=range(2))
    for options in ({"every": 0}, {"fps": 0}, {"fps": float("nan")}, {"every": 2, "fps": 3}):
        with pytest.raises(ValueError, match="every"):
            VideoReader(path, **options)


def test_info_of_a_clip_with_sound(clip: Clip) -> None:
    sounds = [{"codec": "aac", "default": False}, {"codec": "libmp3lame", "default": True}]
    with VideoReader(clip("a.mkv", sounds=sounds)) as reader:
        info = reader.info
    assert (info.has_audio, info.audio_codec, info.codec) == (True, "mp3", "h264")
    with VideoReader(clip("a.mp4", sounds=[{"codec": "aac", "seconds": 2}])) as reader:
        info = reader.info
    assert info.frame_count == 20
    assert info.duration_s == pytest.approx(2, abs=0.03)


def test_one_picture(clip: Clip) -> None:
    reader, numbers, times = read(clip("one.mp4", times=[0]))
    assert (numbers, times, reader.frames_read) == ([0], [Fraction(0)], 1)


def test_a_video_is_read_once(clip: Clip) -> None:
    with VideoReader(clip("a.mp4", times=range(2))) as reader:
        assert len(list(reader)) == 2
        with pytest.raises(ValueError, match="once"):
            iter(reader)


def test_closing_ends_the_iteration(clip: Clip) -> None:
    with VideoReader(clip("a.mp4")) as reader:
        frames = iter(reader)
        assert read_number(next(frames).image) == 0
    assert list(frames) == []


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.txt", b"A long text about videos.\n" * 100, "no video that can be read"),
        ("notes.mp4", b"A long text about videos.\n" * 100, "no video that can be read"),
        ("empty.mp4", b"", "the file is empty"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n", "no video that can be read"),
        ("list.txt", b"ffconcat version 1.0\nfile clip.ts\n", "no video that can be read"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, clip: Clip, name: str, content: bytes, said: str) -> None:
    clip("clip.ts")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoOpenError, match=said) as caught:
        VideoReader(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_photos_folders_and_missing_files_are_refused(tmp_path: Path, astronaut_path: Path) -> None:
    with pytest.raises(VideoOpenError, match="no video"):
        VideoReader(astronaut_path)
    with pytest.raises(VideoOpenError, match="is a folder"):
        VideoReader(tmp_path)
    with pytest.raises(VideoOpenError, match="no such file"):
        VideoReader(tmp_path / "nowhere.mp4")


def test_names_with_colons_and_blanks_are_files(clip: Clip, tmp_path: Path) -> None:
    path = clip("plain.mp4", times=range(2)).rename(tmp_path / "http: a 100% #1.mp4")
    assert read(path)[1] == [0, 1]


def test_sound_without_pictures_is_refused(tmp_path: Path, astronaut_path: Path) -> None:
    with av.open(str(tmp_path / "song.mp3"), "w") as output:
        stream = output.add_stream("libmp3lame", rate=44100)
        cover = output.add_stream("mjpeg", width=512, height=512, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(astronaut_path.read_bytes())
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 90000)
        output.mux([packet, *audio_packets(stream, seconds=1)])
    with pytest.raises(VideoOpenError, match="its only picture is a cover"):
        VideoReader(tmp_path / "song.mp3")
    with av.open(str(tmp_path / "tone.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        output.mux(audio_packets(stream, seconds=0.1))
    with pytest.raises(VideoOpenError, match="holds no video"):
        VideoReader(tmp_path / "tone.wav")


@pytest.mark.parametrize(
    ("name", "options"),
    [("cut.mp4", {"movflags": "+faststart"}), ("cut.mkv", {}), ("cut.avi", {}), ("cut.webm", {})],
)
@pytest.mark.parametrize("sounds", [[], [{"codec": "libopus", "seconds": 4}]])
def test_a_cut_off_file_gives_what_it_has_and_says_so(clip: Clip, name: str, options: dict, sounds: list) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264" if not name.endswith("avi") else "mpeg4"
    if name.endswith("avi"):
        sounds = [dict(sound, codec="libmp3lame") for sound in sounds]
    path = clip(
        name, times=range(100), codec=codec, options={"g": "10", "bf": "0"}, container_options=options, sounds=sounds
    )
    whole = path.read_bytes()
    assert read(path)[1] == list(range(100))
    path.write_bytes(whole[: len(whole) * 6 // 10])
    numbers, error = read_to_the_damage(path)
    assert 20 < len(numbers) < 90
    assert numbers[:-1] == list(range(len(numbers) - 1))  # the very last picture may be torn
    assert error.frames_read == len(numbers)
    assert error.time_s == pytest.approx(len(numbers) / 25, abs=0.05)
    assert str(error).startswith(f"{path}: is damaged or cut off (")


def test_a_file_without_its_index_cannot_be_opened(clip: Clip) -> None:
    path = clip("cut.mp4")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(VideoOpenError, match="index at their end"):
        VideoReader(path)


def test_damage_in_the_middle_is_passed_and_told(clip: Clip) -> None:
    path = clip(
        "bad.mp4", times=range(60), options={"g": "10", "bf": "0"}, container_options={"movflags": "+faststart"}
    )
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    numbers, error = read_to_the_damage(path)
    assert numbers[:10] == list(range(10))
    assert numbers[-10:] == list(range(50, 60))  # after the damage it goes on
    assert error.frames_read == len(numbers)


def test_size_changes_are_scaled_to_the_first_size(clip: Clip, tmp_path: Path) -> None:
    first = clip("a.ts", times=range(5), options={"g": "5"})
    second = clip("b.ts", times=range(100, 105), size=(128, 96), options={"g": "5"})
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    numbers, _ = read_to_the_damage(joined)  # the seam is one
    assert numbers == [*range(5), *range(5)]
