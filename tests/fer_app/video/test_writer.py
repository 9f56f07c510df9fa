from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tests.fer_app.video.conftest import corners, draw, read_number
from tests.fer_app.video.written import atoms, audio_packets, copy, description, pictures, times

from fer_app.errors import InputError, VideoOpenError
from fer_app.video import VideoFrame, VideoReader, VideoWriter, partial_path

Clip = Callable[..., Path]
VARIABLE = (0, 3, 4, 9, 10, 11, 25, 26, 40, 41, 42, 43, 60, 61, 75)


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
