from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image
from tests.fer_app.video.conftest import make_clip
from typer.testing import CliRunner

from fer_app.cli import app

RUNNER = CliRunner()


@pytest.fixture
def clips(tmp_path, astronaut):
    """One with a face, one cut off in the middle, one without a face."""
    pictures = [np.roll(astronaut[:300, 80:380], i, axis=1) for i in range(12)]
    good = make_clip(tmp_path / "good.mp4", times=range(12), size=(300, 300), pictures=pictures)
    what = {"times": range(0, 60, 5), "size": (300, 300), "pictures": pictures, "options": {"g": "1"}}
    bad = make_clip(tmp_path / "bad.mkv", **what)
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    return [good, bad, make_clip(tmp_path / "empty.mp4", times=range(5), size=(120, 90))]


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_damaged_is_told_and_the_next_goes_on(annotate, clips, tmp_path):
    good, bad, empty = clips
    result = annotate(good, tmp_path / "nothing.mp4", bad, empty, status=1)
    table = result.stdout.splitlines()
    assert table[0].split() == ["video", "frames", "seconds", "faces", "tracks", "expressions"]
    assert [line.split()[0] for line in table[1:-1]] == [
        str(path) for path in (good, tmp_path / "nothing.mp4", bad, empty)
    ]
    assert table[1].split()[1:5] == ["12", "0.5", "12", "1"]
    assert "%" in table[1]
    assert table[2].endswith("failed")
    assert table[3].endswith("damaged")
    assert "no face" in table[4]
    assert table[5].split()[:3] == ["4", "videos", str(12 + 5 + len(rows(tmp_path / "out" / "bad.csv")))]
    assert "nothing.mp4: no such file" in result.stderr
    assert "bad.mkv: is damaged or cut off" in result.stderr
    assert "fer: 2 of 4 videos are not complete" in result.stderr
    assert len(rows(tmp_path / "out" / "good.csv")) == 12
    assert [row["face"] for row in rows(tmp_path / "out" / "empty.csv")] == [""] * 5
    assert 0 < len(rows(tmp_path / "out" / "bad.csv")) < 12
    assert not (tmp_path / "out" / "good.jsonl").exists()


def test_nothing_is_overwritten_unless_asked(annotate, clips, tmp_path):
    good, _, empty = clips
    annotate(good, "--no-video")
    first = (tmp_path / "out" / "good.csv").stat().st_mtime_ns
    error = annotate(empty, good, "--no-video", status=1).stderr
    assert "good.csv" in error
    assert "--overwrite" in error
    assert not (tmp_path / "out" / "empty.csv").exists()
    annotate(good, "--no-video", "--overwrite", "--jsonl")
    assert (tmp_path / "out" / "good.csv").stat().st_mtime_ns > first
    assert (tmp_path / "out" / "good.jsonl").exists()


def test_resume_leaves_out_what_is_complete_and_makes_the_rest_again(annotate, clips, tmp_path):
    good, _, empty = clips
    annotate(good, empty)
    out = tmp_path / "out"
    summary = json.loads((out / "empty.json").read_text())
    (out / "empty.json").write_text(json.dumps(summary | {"complete": False}))
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    result = annotate(good, empty, "--resume")
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"empty.csv", "empty.json", "empty.mp4"}
    assert result.stdout.splitlines()[1].endswith("complete before")
    (out / "good.mp4").unlink()
    annotate(good, empty, "--resume")
    assert (out / "good.mp4").exists()


def test_a_threshold_of_ones_own(annotate, clips, tmp_path):
    good, _, empty = clips
    for below, expected in (("1", "true"), ("0", "false")):
        asked = ("--no-video", "--uncertain-below", below)
        annotate(good, empty, *asked, "--jobs", "2", "--overwrite")
        assert {row["uncertain"] for row in rows(tmp_path / "out" / "good.csv")} == {expected}
        summary = json.loads((tmp_path / "out" / "good.json").read_text())
        assert summary["settings"]["uncertain_below"] == float(below)
        annotate(good, *asked, "--resume")
        assert "another uncertain_below" in annotate(good, "--no-video", "--resume", status=1).stderr
    annotate(good, "--no-video", "--uncertain-below", "1", "--overwrite")
    assert {row["uncertain"] for row in rows(tmp_path / "out" / "good.csv")} == {"true"}


def test_resume_with_other_settings_is_refused(annotate, clips):
    good, *_ = clips
    annotate(good, "--no-video")
    error = annotate(good, "--no-video", "--every", "2", "--resume", status=1).stderr
    assert "another every" in error


def test_resume_does_not_touch_what_another_video_of_the_name_gave(annotate, clips, tmp_path, monkeypatch):
    good, *_ = clips
    annotate(good, "--no-video")
    summary = tmp_path / "out" / "good.json"
    before = summary.read_bytes()
    for folder in ("moved", "other"):
        (tmp_path / folder).mkdir()
    shutil.copy(good, tmp_path / "moved" / "good.mp4")
    other = tmp_path / "other" / "good.mp4"
    make_clip(other, times=range(5), size=(120, 90))
    error = annotate(other, "--no-video", "--resume", status=1).stderr
    assert f"good.json: is of another video, {good} of {good.stat().st_size} bytes" in error
    # The same by relative names, and after the video itself was changed.
    for folder in ("moved", "other"):
        monkeypatch.chdir(tmp_path / folder)
        outcome = annotate("good.mp4", "--no-video", "--resume", status=int(folder == "other"))
        assert outcome.stdout.splitlines()[1].endswith("complete before" if folder == "moved" else "failed")
    assert summary.read_bytes() == before
    assert annotate("good.mp4", "--no-video", "--overwrite").stdout.splitlines()[1].split()[1] == "5"


def test_options_of_choosing_frames(annotate, clips, tmp_path):
    good, *_ = clips
    annotate(good, "--no-video", "--every", "5", "--smooth", "0")
    assert [row["frame_index"] for row in rows(tmp_path / "out" / "good.csv")] == ["0", "5", "10"]
    annotate(good, "--no-video", "--fps", "5", "--overwrite", "--max-faces", "1", "--min-face", "60")
    assert [row["frame_index"] for row in rows(tmp_path / "out" / "good.csv")] == ["0", "5", "10"]
    settings = json.loads((tmp_path / "out" / "good.json").read_text())["settings"]
    assert (settings["fps"], settings["max_faces"], settings["min_face_px"]) == (5, 1, 60)
    assert len(settings["model_sha256"]) == 64


@pytest.mark.parametrize(
    "options",
    [
        ["--every", "2", "--fps", "5"],
        ["--fps", "0"],
        ["--fps", "nan"],
        ["--smooth", "-1"],
        ["--smooth", "inf"],
        ["--no-video", "--blur"],
        ["--resume", "--overwrite"],
        ["--device", "gpu"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(options, tmp_path):
    result = RUNNER.invoke(app, ["annotate", "x.mp4", "-o", str(tmp_path / "out"), *options])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_the_output_is_a_folder(annotate, clips, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert "is a file" in annotate(clips[0], status=1).stderr


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_finished_files(number, status, tiny_model, tmp_path, astronaut):
    # Long enough that it cannot end before the signal.
    clip = make_clip(
        tmp_path / "long.mp4", times=range(1500), size=(300, 300), pictures=[astronaut[:300, 80:380]] * 1500
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", str(clip), str(clip)]
    process = subprocess.Popen(
        [*command, "-o", str(out), "--model", str(tiny_model), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 60
        # Rows come to the disk once a second.
        while not ((out / "long.partial.csv").exists() and (out / "long.partial.csv").stat().st_size):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    assert "long.mp4: stopped before the end" in stderr
    assert "stopped" in stdout.splitlines()[1]
    assert sorted(path.name for path in out.iterdir()) == ["long.csv", "long.json", "long.mp4"]
    summary = json.loads((out / "long.json").read_text())
    assert not summary["complete"]
    with av.open(str(out / "long.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert 0 < frames == summary["frames"] == len(rows(out / "long.csv")) < 1500


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_resume_after_a_kill(tiny_model, tmp_path, astronaut):
    pictures = [astronaut[:300, 80:380]] * 900
    clip = make_clip(tmp_path / "long.mp4", times=range(900), size=(300, 300), pictures=pictures)
    out = tmp_path / "out"
    fixed = ["-o", str(out), "--model", str(tiny_model), "--device", "cpu"]
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", str(clip), *fixed]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    partials = [out / "long.partial.csv", out / "long.partial.mp4"]
    until = time.monotonic() + 60
    while not all(partial.exists() and partial.stat().st_size for partial in partials):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert sorted(path.name for path in out.iterdir()) == ["long.partial.csv", "long.partial.mp4"]
    with av.open(str(partials[1])) as container:
        assert sum(1 for _ in container.decode(video=0)) > 3
    assert len(rows(partials[0])) > 3
    refused = RUNNER.invoke(app, ["annotate", str(clip), *fixed])
    assert refused.exit_code == 1
    assert "long.partial.mp4" in refused.stderr
    resumed = RUNNER.invoke(app, ["annotate", str(clip), *fixed, "--resume", "--every", "9"])
    assert resumed.exit_code == 0, resumed.stderr
    assert sorted(path.name for path in out.iterdir()) == ["long.csv", "long.json", "long.mp4"]
    assert len(rows(out / "long.csv")) == 100


@pytest.mark.parametrize(
    ("option", "module", "extra"), [("--parquet", "pyarrow", "parquet"), ("--timeline", "matplotlib", "plots")]
)
def test_a_missing_extra_is_told_before_anything_is_done(option, module, extra, annotate, clips, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    error = annotate(clips[0], option, status=1).stderr
    assert error.count("\n") == 1
    assert f'pip install "fer-mimic[{extra}]"' in error
    assert not (tmp_path / "out").exists()
    annotate(clips[0], "--storyboard", "--no-video")


def test_a_storyboard_takes_part_in_resume_and_overwrite(annotate, clips, tmp_path):
    good, out = clips[0], tmp_path / "out"
    annotate(good, "--no-video", "--storyboard")
    assert sorted(path.name for path in out.iterdir()) == ["good.csv", "good.json", "good.storyboard.jpg"]
    assert annotate(good, "--no-video", "--storyboard", "--resume").stdout.splitlines()[1].endswith("complete before")
    assert "another files" in annotate(good, "--no-video", "--resume", status=1).stderr
    (out / "good.storyboard.jpg").unlink()
    annotate(good, "--no-video", "--storyboard", "--resume")
    for name in ("good.csv", "good.json"):
        (out / name).unlink()
    assert "good.storyboard.jpg: there already" in annotate(good, "--no-video", "--storyboard", status=1).stderr
    annotate(good, "--no-video", "--storyboard", "--overwrite")


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_killed_run_leaves_parquet_without_its_end_and_resume_makes_it_again(tiny_model, tmp_path, astronaut):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra [parquet]")
    pictures = [astronaut[:300, 80:380]] * 900
    clip = make_clip(tmp_path / "long.mp4", times=range(900), size=(300, 300), pictures=pictures)
    out = tmp_path / "out"
    fixed = ["-o", str(out), "--model", str(tiny_model), "--device", "cpu", "--no-video", "--parquet", "--storyboard"]
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", str(clip), *fixed]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    partial = out / "long.partial.csv"
    until = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert sorted(path.name for path in out.iterdir()) == ["long.partial.csv", "long.partial.parquet"]
    with pytest.raises(Exception, match="Parquet"):
        pq.read_table(out / "long.partial.parquet")
    resumed = RUNNER.invoke(app, ["annotate", str(clip), *fixed, "--resume", "--every", "90"])
    assert resumed.exit_code == 0, resumed.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "long.csv",
        "long.json",
        "long.parquet",
        "long.storyboard.jpg",
    ]
    frames = pq.read_table(out / "long.parquet")["frame_index"].to_pylist()
    assert frames == [int(row["frame_index"]) for row in rows(out / "long.csv")] == list(range(0, 900, 90))


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_signal_leaves_readable_parquet_and_pictures(tiny_model, tmp_path, astronaut):
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with the extra [parquet]")
    pytest.importorskip("matplotlib", reason="matplotlib comes with the extra [plots]")
    pictures = [astronaut[:300, 80:380]] * 1500
    clip = make_clip(tmp_path / "long.mp4", times=range(1500), size=(300, 300), pictures=pictures)
    out = tmp_path / "out"
    fixed = ["-o", str(out), "--model", str(tiny_model), "--device", "cpu", "--no-video"]
    options = ["--parquet", "--timeline", "--storyboard"]
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "annotate", str(clip), *fixed, *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while not ((out / "long.partial.csv").exists() and (out / "long.partial.csv").stat().st_size):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    names = ["long.csv", "long.json", "long.parquet", "long.storyboard.jpg", "long.timeline.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert 0 < pq.read_table(out / "long.parquet").num_rows == len(rows(out / "long.csv")) < 1500
    for name in names[3:]:
        with Image.open(out / name) as picture:
            picture.load()


def test_progress_goes_to_the_log_now_and_then(annotate, clips, monkeypatch):
    from fer_app.cli import progress_line

    monkeypatch.setattr(progress_line, "_LOG_S", 0.0)
    lines = annotate(clips[0], "--no-video").stderr.splitlines()
    assert len(lines) == 12
    assert lines[5].startswith("good.mp4: 6 of 12 frames, ")
    assert "a second, 0:00:0" in lines[5]
    assert lines[-1].endswith("12 faces")
    assert "left" not in lines[-1]
