"""`fer annotate` on folders, and on several videos at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from tests.fer_app.video.conftest import make_clip
from typer.testing import CliRunner

from fer_app.cli import app


@pytest.fixture
def folder(tmp_path, astronaut):
    """Videos in a folder and below it, and what is none."""
    face = [astronaut[:300, 80:380]] * 8
    for name, frames in (("b10.mp4", 8), ("b2.mkv", 5), ("below/b2.mkv", 3), ("below/.hidden.mp4", 3)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_clip(path, times=range(frames), size=(300, 300), pictures=face)
    (tmp_path / "in" / "notes.txt").write_text("no video")
    (tmp_path / "in" / "broken.mov").write_bytes(b"no video either")
    return tmp_path / "in"


def arguments(tiny_model: Path, *more: object) -> list[str]:
    return [str(one) for one in ["annotate", *more, "--model", tiny_model, "--device", "cpu", "--no-video"]]


def annotate(tiny_model: Path, *more: object, status: int = 0):
    result = CliRunner().invoke(app, arguments(tiny_model, *more))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.stderr
    return result


def test_a_folder_means_its_videos_in_natural_order(folder, tiny_model, tmp_path):
    (folder / "broken.mov").unlink()
    result = annotate(tiny_model, folder, "-o", tmp_path / "out")
    table = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in table] == ["video", str(folder / "b2.mkv"), str(folder / "b10.mp4"), "2"]
    assert table[-1] == ["2", "videos", "13", "0.5", "13", "2"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b10.csv", "b10.json", "b2.csv", "b2.json"]


def test_recursive_and_a_pattern(folder, tiny_model, tmp_path):
    (folder / "broken.mov").unlink()
    annotate(tiny_model, folder, "--recursive", "-o", folder / "out")
    names = ["b10.csv", "b10.json", "b2.csv", "b2.json", "b2_2.csv", "b2_2.json"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == names
    assert json.loads((folder / "out" / "b2_2.json").read_text())["frames"] == 3
    # What was written there is no further video.
    make_clip(folder / "out" / "drawn.mp4", times=range(2), size=(120, 90))
    assert "3 videos" in annotate(tiny_model, folder, "--recursive", "--resume", "-o", folder / "out").stdout
    assert "b10.mp4" in annotate(tiny_model, f"{folder}/b1*", "-o", tmp_path / "one").stdout


def test_folders_without_videos_and_results_among_videos_are_refused(folder, tiny_model, tmp_path):
    (tmp_path / "empty").mkdir()
    error = annotate(tiny_model, tmp_path / "empty", "-o", tmp_path / "out", status=1).stderr
    assert "holds no video (--recursive looks into subfolders)" in error
    error = annotate(tiny_model, f"{tmp_path}/empty/*.mp4", "-o", tmp_path / "out", status=1).stderr
    assert "matches no video" in error
    assert "is the folder of the videos" in annotate(tiny_model, folder, "-o", folder, status=1).stderr
    assert not (tmp_path / "out").exists()


def test_two_at_once_give_what_one_after_the_other_gives(folder, tiny_model, tmp_path):
    one = annotate(tiny_model, folder, "--recursive", "-o", tmp_path / "one", status=1)
    two = annotate(tiny_model, folder, "--recursive", "-o", tmp_path / "two", "--jobs", 2, status=1)
    assert two.stdout == one.stdout
    assert two.stdout.splitlines()[-1].split()[:3] == ["4", "videos", "16"]
    assert "broken.mov: " in two.stderr
    assert "fer: 1 of 4 videos are not complete" in two.stderr
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == files
    for name in files:
        if name.endswith(".csv"):
            assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    again = annotate(tiny_model, folder, "--recursive", "-o", tmp_path / "two", "--jobs", 2, "--resume", status=1)
    assert again.stdout.count("complete before") == 3


def test_live_sources_do_not_share_the_machine(tiny_model, tmp_path):
    error = annotate(tiny_model, "0", "a.mp4", "--duration", 1, "--jobs", 2, "-o", tmp_path, status=2).stderr
    assert "--jobs" in error


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_signal_to_all_processes_leaves_finished_files(tiny_model, tmp_path, astronaut):
    clips = [
        make_clip(
            tmp_path / f"{name}.mp4", times=range(1500), size=(300, 300), pictures=[astronaut[:300, 80:380]] * 1500
        )
        for name in "abc"
    ]
    out = tmp_path / "out"
    program = [sys.executable, "-c", "from fer_app.cli import main; main()"]
    command = [*program, *arguments(tiny_model, *clips, "-o", out, "--jobs", 2)]
    command.remove("--no-video")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 60
        while not all((out / f"{name}.partial.csv").exists() for name in "ab"):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert [line.rsplit(maxsplit=1)[1] for line in stdout.splitlines()[1:3]] == ["stopped", "stopped"]
    assert sorted(path.name for path in out.iterdir()) == [
        f"{n}.{kind}" for n in "ab" for kind in ("csv", "json", "mp4")
    ]
    for name in "ab":
        with av.open(str(out / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == json.loads((out / f"{name}.json").read_text())["frames"]
