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

import numpy as np
import pytest
from tests.fer_app.video.conftest import read_number
from tests.fer_app.video.written import atoms, audio_packets, pictures, times

from fer_app.errors import VideoOpenError, VideoWriteError
from fer_app.video import VideoReader, VideoWriter, partial_path, recover, remux

Clip = Callable[..., Path]


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
