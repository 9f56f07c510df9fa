from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_speed.py"


@pytest.mark.parametrize("faces", [1, 8, 32])
def test_a_scene_holds_the_faces_that_it_says(faces):
    benchmark = runpy.run_path(str(SCRIPT))
    picture = benchmark["scene"](faces)
    assert picture.shape == (720, 1280, 3)
    for min_face_px in (20, 40):
        assert benchmark["our_detector"](min_face_px, 1)(picture) == faces


def test_a_side_reports_its_times(tmp_path):
    for faces in (1, 8, 32):
        np.save(tmp_path / f"{faces}.npy", np.zeros((60, 80, 3), np.uint8))
    command = [sys.executable, str(SCRIPT), "--side", "fer_app", "--folder", str(tmp_path), "--repeats", "2"]
    done = subprocess.run(
        [*command, "--min-face", "30"], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"}
    )
    results = json.loads(done.stdout)
    assert [(one["faces"], one["min_face"], one["found"]) for one in results] == [(1, 30, 0), (8, 30, 0), (32, 30, 0)]
    assert all(len(one["times"]) == 2 and min(one["times"]) > 0 for one in results)


def test_a_rival_that_is_not_there_is_named():
    command = [sys.executable, str(SCRIPT), "--rival-python", "/bin/false", "--repeats", "1", "--min-face", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "facenet-pytorch failed in /bin/false" in done.stderr
    assert done.stdout == ""
