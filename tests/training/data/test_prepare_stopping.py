"""`fer data prepare`: that it can be stopped at any moment, and goes on as it would have."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from fer_app.errors import DatasetError
from tests.training.data.prepare_runs import files, run, write_photos
from training.data.locate import locate
from training.data.prepare import prepare
from training.data.prepare_faces import FaceCutter, Settings
from training.data.prepare_source import list_pictures
from training.report import Report
from training.run_lock import locked

SILENT = Report(None)


@pytest.fixture
def photos(tmp_path, astronaut):
    return write_photos(tmp_path / "photos", astronaut, 6)


def test_any_number_of_workers_writes_the_same_bytes(photos, tmp_path):
    source = list_pictures(photos, all_faces=True)
    settings = Settings(img_size=40, all_faces=True)
    before = dict(os.environ)
    for workers in (1, 2):
        prepare(source, tmp_path / str(workers), settings, shard_size=1, workers=workers, report=SILENT)
    assert files(tmp_path / "1") == files(tmp_path / "2")
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == [
        *(f"faces-{i:06d}.tar" for i in (1, 2, 3, 5)),  # two pictures have no face
        "missing.csv",
        "prepared.json",
    ]
    assert dict(os.environ) == before  # workers alone have one thread


def start(*arguments):
    """Start `fer data prepare` as a process group of its own."""
    command = [sys.executable, "-c", "from fer_app.cli import main; main()", "data", "prepare", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shard(out, process, more_than=0):
    end = time.monotonic() + 60
    while len(list(out.glob("reports/*.json"))) <= more_than:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)


def group_is_alive(group):
    """Whether a process of the group runs; one that has ended and was not waited for does not."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            return True
    return False


def spawned(parent):
    """How many workers of the process have been started, whether or not they can work yet."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            started = b"spawn_main" in (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        count += started and int(fields[1]) == parent
    return count


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_and_interrupted_runs_go_on_where_they_stopped(tmp_path, astronaut):
    source, out = write_photos(tmp_path / "many", astronaut, 24), tmp_path / "out"
    arguments = (source, "-o", out, "--all-faces", "--img-size", 32, "--shard-size", 1, "--workers", 2)
    killed = start(*arguments)
    wait_for_shard(out, killed, 2)
    killed.kill()
    killed.wait()  # not for the end of its stderr, which workers hold too
    end = time.monotonic() + 20
    while group_is_alive(killed.pid) and time.monotonic() < end:
        time.sleep(0.05)
    outlived = group_is_alive(killed.pid)
    if outlived:
        os.killpg(killed.pid, signal.SIGKILL)
    killed.stderr.close()
    assert not outlived, "workers outlive their parent"
    assert not (out / "prepared.json").exists()
    with pytest.raises(DatasetError, match="run it again with --resume"):
        locate([out])
    whole = files(out)
    shards = [name for name in whole if name.endswith(".tar")]
    for name in shards:
        with tarfile.open(fileobj=io.BytesIO(whole[name])) as archive:
            assert archive.getnames()

    stopped = start(*arguments, "--resume")
    wait_for_shard(out, stopped, sum(name.startswith("reports/") for name in whole) + 1)
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does
    told = stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 130
    assert "stopped by SIGINT" in told
    assert "--resume" in told
    assert "Traceback" not in told
    assert not list(out.glob(".fer-*"))

    result = run(*arguments, "--resume")
    assert "shards are there already" in result.stderr
    uninterrupted = tmp_path / "uninterrupted"
    prepare(
        list_pictures(source, all_faces=True),
        uninterrupted,
        Settings(img_size=32, all_faces=True),
        shard_size=1,
        report=SILENT,
    )
    assert files(out) == files(uninterrupted)
    assert "complete already" in run(*arguments, "--resume").stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_ctrl_c_while_workers_load_their_libraries_is_told_in_a_line(tmp_path, astronaut):
    source, out = write_photos(tmp_path / "many", astronaut, 4), tmp_path / "out"
    process = start(source, "-o", out, "--all-faces", "--img-size", 32, "--shard-size", 1, "--workers", 2)
    end = time.monotonic() + 60
    while spawned(process.pid) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "stopped by SIGINT" in told
    assert "Traceback" not in told


def test_sigterm_ends_it_in_one_process_too(photos, tmp_path, monkeypatch):
    out = tmp_path / "out"
    cut, seen = FaceCutter.cut, []

    def cut_and_terminate(self, image, box=None):
        seen.append(image)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return cut(self, image, box)

    monkeypatch.setattr(FaceCutter, "cut", cut_and_terminate)
    arguments = (photos, "-o", out, "--all-faces", "--workers", 1, "--shard-size", 2)
    assert "stopped by SIGTERM" in run(*arguments, status=143).stderr
    assert len(seen) == 4
    assert sorted(path.name for path in out.iterdir()) == ["faces-000000.tar", "preparing.json", "reports"]
    run(*arguments, "--resume")
    assert len(seen) == 4 + 4  # the second shard anew, and the third


def test_another_source_or_other_settings_are_refused(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, "-o", out, "--all-faces", "--workers", 1)
    before = files(out)
    with pytest.raises(DatasetError, match=r"is not empty.*pass --resume"):
        run(photos, "-o", out, "--all-faces")
    with pytest.raises(DatasetError, match=r"begun otherwise \(img_size was 48, is 40\)"):
        run(photos, "-o", out, "--all-faces", "--resume", "--img-size", 40)
    (photos / "photo.00.png").rename(photos / "other.png")
    with pytest.raises(DatasetError, match=r"begun otherwise.*pictures_sha256"):
        run(photos, "-o", out, "--all-faces", "--resume")
    assert files(out) == before
    with pytest.raises(DatasetError, match="nothing to resume"):
        run(photos, "-o", tmp_path / "new", "--all-faces", "--resume")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(DatasetError, match=r"not empty \(mine.txt\): give another folder"):
        run(photos, "-o", tmp_path / "full", "--all-faces")


def test_one_process_a_folder(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, "-o", out, "--all-faces", "--workers", 1)
    with locked(out), pytest.raises(DatasetError, match="pass another -o"):
        run(photos, "-o", out, "--all-faces", "--resume")
