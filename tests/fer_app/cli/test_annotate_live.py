"""Cameras and streams through the command line, with servers on this machine and a camera that is made up."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import av
import cv2
import numpy as np
import pytest
from tests.fer_app.video.conftest import make_clip
from tests.fer_app.video.rtsp_server import RtspServer
from tests.fer_app.video.streaming import JpegStream, StreamServer, TransportStream
from tests.fer_app.video_faces.made_faces import made_faces, showing
from typer.testing import CliRunner

from fer_app.cli import app, progress_line
from fer_app.cli.live_input import LiveProgress
from fer_app.video import live

RUNNER = CliRunner()
STAMP = r"20\d\d-\d\d-\d\dT\d\d-\d\d-\d\d"


@pytest.fixture
def face(astronaut):
    return np.ascontiguousarray(astronaut[:300, 80:380])


@pytest.fixture
def camera(monkeypatch, face):
    """Number 0 shows a face, 25 times a second; there is no other."""

    class Device:
        def __init__(self, number):
            self.number = number

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return self.number == 0

        def read(self):
            time.sleep(0.04)
            return True, face[:, :, ::-1]

        def release(self):
            pass

    monkeypatch.setattr(live.cv2, "VideoCapture", Device)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def only(folder, suffix):
    (found,) = (path for path in folder.iterdir() if path.name.endswith(suffix))
    return found


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_camera_for_a_while(annotate, camera, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_line, "_LOG_S", 0.0)
    result = annotate("0", "--duration", "1.2", "--jsonl")
    out = tmp_path / "out"
    names = sorted(path.name for path in out.iterdir())
    assert [re.sub(STAMP, "T", name) for name in names] == [
        f"camera-0 T.{end}" for end in ("csv", "json", "jsonl", "mp4")
    ]
    summary = json.loads(only(out, ".json").read_text())
    assert (summary["source"], summary["complete"]) == ("camera 0", True)
    assert summary["seconds"] == pytest.approx(1.2, abs=0.02)  # the clock of a busy machine
    assert summary["settings"]["duration_s"] == 1.2
    found = rows(only(out, ".csv"))
    assert len(found) == summary["frames"] == len(frames_of(only(out, ".mp4"))) > 3
    assert {row["source"] for row in found} == {"camera 0"}
    assert {row["face"] for row in found} == {"0"}
    assert result.stdout.splitlines()[1].startswith("camera 0 ")
    lines = result.stderr.splitlines()
    assert len(lines) == summary["frames"]
    for line in lines:
        assert re.fullmatch(r"camera 0: 0:00:0[01] recorded, \d+\.\d a second, \d+ faces, \d+\.\d\d s behind", line)


def test_one_after_another_with_a_duration_and_a_second_recording_beside_the_first(annotate, camera, face, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", times=range(50), size=(300, 300), pictures=[face] * 50)
    result = annotate("0", clip, "--duration", "0.5", "--no-video")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:-1]] == ["camera", str(clip)]
    time.sleep(1.1)
    annotate("/dev/video0", "--duration", "0.5", "--no-video")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert len(set(names)) == 6
    assert [re.sub(STAMP, "T", name) for name in names] == [
        "camera-0 T.csv",
        "camera-0 T.json",
        "camera-0 T.csv",
        "camera-0 T.json",
        "clip.csv",
        "clip.json",
    ]


def test_the_first_seconds_of_a_file(annotate, face, tmp_path):
    clip = make_clip(
        tmp_path / "clip.mp4",
        times=range(50),
        size=(300, 300),
        pictures=[face] * 50,
        sounds=[{"codec": "aac", "seconds": 2.0}],
    )
    annotate(clip, "--duration", "0.5")
    out = tmp_path / "out"
    assert [row["frame_index"] for row in rows(out / "clip.csv")] == [str(i) for i in range(13)]
    summary = json.loads((out / "clip.json").read_text())
    assert (summary["complete"], summary["seconds"]) == (True, 0.5)
    with av.open(str(out / "clip.mp4")) as container:
        assert container.duration == pytest.approx(500_000, abs=30_000)
    assert annotate(clip, "--duration", "0.5", "--resume").stdout.splitlines()[1].endswith("complete before")
    assert "another duration_s" in annotate(clip, "--resume", status=1).stderr
    # Longer than it is.
    annotate(clip, "--duration", "9", "--overwrite")
    assert len(rows(out / "clip.csv")) == 50


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["0", "clip.mp4"], "name it alone, or give --duration"),
        (["rtsp://user:secret@host/x", "0"], "rtsp://host/x goes on"),
        (["rtsp://user:secret@host/x", "--every", "2"], "give --fps"),
        (["0", "--resume"], "is live"),
        (["clip.mp4", "--duration", "0"], "no number of seconds"),
        (["clip.mp4", "--duration", "nan"], "no number of seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_makes_no_sense_is_refused(arguments, said, tmp_path):
    result = RUNNER.invoke(app, ["annotate", *arguments, "-o", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_name_is_a_number_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for year in ("2023", "2024"):
        (tmp_path / year).mkdir()
    result = RUNNER.invoke(app, ["annotate", "2023", "2024", "--jobs", "2", "-o", "out"])
    assert result.exit_code == 1
    assert "2023: holds no video (--recursive looks into subfolders)" in result.stderr


def test_a_camera_that_speaks_rtsp_and_wants_a_login(annotate, face, tmp_path):
    with RtspServer([face] * 20, 25, "user:secret") as server:
        refused = annotate(f"rtsp://user:geheim@127.0.0.1:{server.port}/x", status=1).stderr
        assert "cannot be reached: Server returned 401 Unauthorized" in refused
        assert "geheim" not in refused
        result = annotate(f"rtsp://user:secret@127.0.0.1:{server.port}/x", "--duration", "1")
    summary = json.loads(only(tmp_path / "out", ".json").read_text())
    assert (summary["source"], summary["complete"]) == (f"rtsp://127.0.0.1:{server.port}/x", True)
    assert summary["frames"] == summary["faces"] == len(frames_of(only(tmp_path / "out", ".mp4"))) > 3
    assert only(tmp_path / "out", ".csv").name.startswith(f"127.0.0.1-{server.port}-x 20")
    assert "secret" not in result.stdout + result.stderr


def test_nothing_there_is_told_without_the_password(annotate, camera, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://user:secret@127.0.0.1:{port}/x?token=secret"
    result = annotate(address, status=1)
    assert f"fer: http://127.0.0.1:{port}/x?...: cannot be reached: " in result.stderr
    assert "secret" not in result.stderr + result.stdout
    assert "failed" in result.stdout
    assert list((tmp_path / "out").iterdir()) == []


def test_a_camera_that_is_not_there_is_told_in_one_line(repository, tmp_path):
    command = [
        sys.executable,
        "-c",
        "from fer_app.cli import main; main()",
        "annotate",
        "/dev/video77",
        "-o",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    told = ended.stderr.splitlines()
    assert "fer: camera 77: cannot be opened; is it there, and used by no other program?" in told
    assert not [line for line in told if not line.startswith("fer: ")], told


def test_other_lines_do_not_garble_the_one_that_is_written_over(monkeypatch, capsys):
    monkeypatch.setattr(progress_line, "_TERMINAL_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = LiveProgress("camera 0")
    progress.tell_away("no power")
    progress.advance(None, made_faces(0.0, [1], [showing("fear")]))
    progress.tell_back(4.2)
    progress.clear()
    away, line = capsys.readouterr().err.split("\n", 1)
    assert away == "fer: camera 0: away (no power); trying again"
    assert line.startswith("\r\033[Kcamera 0: 0:00:00 recorded, ")
    assert line.endswith("1 faces, 0.00 s behind\r\033[Kfer: camera 0: back after 4.2 s\n\r\033[K")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_recording_well_even_after_an_outage(number, status, tiny_model, tmp_path, face):
    out, errors = tmp_path / "out", tmp_path / "errors"
    first = StreamServer(TransportStream([face] * 50, 25), 25)
    address = first.address("clip.ts?token=secret", "user:secret@")
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", address]
    options = ["-o", str(out), "--model", str(tiny_model), "--device", "cpu"]
    with errors.open("w") as file:
        process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=file, text=True)

    def wait_for(done):
        until = time.monotonic() + 60
        while not done():
            assert time.monotonic() < until, errors.read_text()
            assert process.poll() is None, errors.read_text()
            time.sleep(0.05)

    try:
        # Rows come to the disk once a second.
        wait_for(lambda: out.exists() and any(path.stat().st_size for path in out.glob("*.partial.csv")))
        first.die()
        wait_for(lambda: "away" in errors.read_text())
        # What comes back has another size and another kind.
        small = cv2.resize(face, (240, 240), interpolation=cv2.INTER_AREA)
        with StreamServer(JpegStream([small]), 25, port=first.port):
            wait_for(lambda: "back" in errors.read_text())
            time.sleep(1)
            process.send_signal(number)
            stdout, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        first.die()
    stderr = errors.read_text()
    assert process.returncode == status, stderr
    name = f"http://127.0.0.1:{first.port}/clip.ts?..."
    away, back = (re.escape(f"fer: {name}: ") + end for end in (r"away \(.+\); trying again", r"back after \d+\.\d s"))
    assert re.fullmatch(f"{away}\n{back}\n", stderr), stderr
    assert stdout.splitlines()[1].startswith(name)
    assert "stopped" not in stdout

    prefix = rf"127\.0\.0\.1-{first.port}-clip\.ts {STAMP}"
    files = sorted(path.name for path in out.iterdir())
    assert len(files) == 3
    assert all(re.fullmatch(rf"{prefix}\.(csv|json|mp4)", file) for file in files)
    text = only(out, ".json").read_text()
    summary = json.loads(text)
    assert (summary["complete"], summary["problem"]) == (True, None)
    assert summary["live"]["reconnections"] == 1
    assert summary["live"]["away_s"] > 0
    found = rows(only(out, ".csv"))
    assert len(found) == summary["frames"] == len(frames_of(only(out, ".mp4")))
    assert {row["face"] for row in found} == {"0"}
    assert max(np.diff([float(row["time_s"]) for row in found])) >= summary["live"]["away_s"] - 0.1
    assert "secret" not in stdout + stderr + text + only(out, ".csv").read_text()
    assert b"secret" not in only(out, ".mp4").read_bytes()
