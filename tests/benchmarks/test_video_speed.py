from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = FOLDER / "video_speed.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
QUICK = ["--frames", "2", "--rounds", "1", "--threads", "1"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return runpy.run_path(str(SCRIPT))


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def test_each_way_of_ours_has_a_row():
    done = run("--set", "detect_every=1", "min_face_px=60")
    assert done.returncode == 0, done.stderr
    heading, versions, *_ = done.stdout.splitlines()
    assert heading.startswith("source.mp4, 2 frames; 1 thread(s), medians of 1 rounds; ")
    assert versions.startswith("fer_app: Python 3.")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[-4:]]
    changed = "fer_app detect_every=1, min_face_px=60.0"
    assert [row[0] for row in rows] == [
        f"{side}, {kind}" for kind in ("data alone", "annotated video") for side in ("fer_app", changed)
    ]
    for _, rate, ratio, first_s, peak, faces in rows:
        assert float(rate) > 0
        assert ratio == ""
        assert 0 < float(first_s) < 60
        assert 100 < float(peak) < 2000
        assert faces == "2.00"


def test_a_rival_that_is_not_there_is_named():
    done = run("--rival-python", "/bin/false")
    assert done.returncode == 1
    assert "package fer, data alone failed in /bin/false" in done.stderr
    assert done.stdout == ""


def test_settings_have_the_types_of_their_fields(benchmark):
    read = benchmark["read_settings"]
    texts = ["detect_every=3", "fps=none", "smooth_s=0", "blur=true", "model_sha256=12"]
    found = read(texts)
    assert found == {"detect_every": 3, "fps": None, "smooth_s": 0.0, "blur": True, "model_sha256": "12"}
    assert [type(value) for value in found.values()] == [int, type(None), float, bool, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("detect_evry=3", "did you mean 'detect_every'"),
        ("detect_every=2.5", "must be int or none"),
        ("detect_every", "must be int or none"),
        ("every=none", "must be int"),
        ("blur=1", "must be bool"),
        ("fps=fast", "must be float or none"),
    ],
)
def test_a_wrong_setting_is_refused(benchmark, text, message):
    with pytest.raises(ValueError, match=message):
        benchmark["read_settings"]([text])


def test_a_ratio_is_of_the_same_round_and_kind(benchmark, capsys):
    way, turn = benchmark["Way"], benchmark["Turn"]
    ways = [way(ours, video, {}) for video in (False, True) for ours in (True, False)]
    seconds = [(1, 2, 4), (10, 30, 4), (5, 5, 5), (10, 10, 10)]
    turns = [[turn(1.0, each, 20, 100.0, {}) for each in one] for one in seconds]
    benchmark["print_table"](ways, turns, 10)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [row[1] for row in rows] == ["5.0", "1.0", "2.0", "1.0"]
    assert rows[0][2] == "10.00 (1.00 to 15.00)"
    assert rows[2][2] == "2.00 (2.00 to 2.00)"
    assert rows[0][-1] == "2.00"
