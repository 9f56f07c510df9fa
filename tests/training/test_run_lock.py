import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_app.errors import CheckpointError, DatasetError
from training.run_lock import LOCK_NAME, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")

HOLD = "import sys, time; from pathlib import Path; from training.run_lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(CheckpointError, match=rf"in use by another process \(pid {other.pid} on \S+\)"),
            locked(tmp_path),
        ):
            raise AssertionError
        os.kill(other.pid, signal.SIGKILL)
    assert (tmp_path / LOCK_NAME).is_file()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_refused_or_left_by_an_error_is_let_go(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(CheckpointError, match="in use"), locked(tmp_path):
        raise AssertionError
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    pictures = tmp_path / "pretrain" / "reconstructions"
    for folder in (tmp_path / "finetune", pictures):
        folder.mkdir(parents=True)
    old = [tmp_path / ".fer-0.tmp", tmp_path / "finetune" / ".fer-1.tmp", pictures / ".fer-3.tmp"]
    kept = [tmp_path / "mine.tmp", tmp_path / "finetune" / "state.pt", tmp_path / "finetune" / ".fer-2.tmp"]
    for path in (*old, *kept):
        path.write_text("")
    hour_ago, later = time.time() - 3600, time.time() + 3600
    for path in (*old, *kept[:2]):
        os.utime(path, (hour_ago, hour_ago))
    os.utime(kept[2], (later, later))  # somebody is writing it
    with locked(tmp_path):
        assert not any(path.exists() for path in old)
        assert all(path.exists() for path in kept)


def test_a_folder_that_is_not_writable_is_ours_to_tell(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write to"), locked(tmp_path / "missing"):
        raise AssertionError
    # Not every folder is a run's.
    with pytest.raises(DatasetError, match="cannot write to"), locked(tmp_path / "missing", error=DatasetError):
        raise AssertionError
