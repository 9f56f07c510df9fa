from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fer_app.video.conftest import make_clip

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = FOLDER / "following.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parent)}


@pytest.mark.parametrize("side", ["following", "every frame"])
def test_a_side_answers_with_its_time_and_faces(side, tmp_path):
    np.save(tmp_path / "1.npy", np.zeros((3, 60, 80, 3), np.uint8))
    command = [sys.executable, str(SCRIPT), "--side", side, "--folder", str(tmp_path), "--threads", "1"]
    done = subprocess.run(command, input="1\n", capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    seconds, found = json.loads(done.stdout)
    assert 0 < seconds < 10
    assert found == 0


def test_agreement_counts_what_is_missing(tmp_path, astronaut):
    """A face that comes between two searches, too small a change for a cut, is missed until the next one."""
    empty = np.full((360, 640, 3), 90, np.uint8)
    face = empty.copy()
    face[100:260, 200:360] = cv2.resize(astronaut[:320, 90:410], (160, 160), interpolation=cv2.INTER_AREA)
    clip = make_clip(
        tmp_path / "clip.mp4",
        times=range(10),
        time_base=Fraction(1, 30),
        size=(640, 360),
        pictures=[empty] * 2 + [face] * 8,
    )
    command = [sys.executable, str(SCRIPT), "--min-face", "20", "--detect-every", "4", "--clips", str(clip)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    row = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert row[:5] == ["clip.mp4", "10", "3", "8", "75.0 %"]
    assert float(row[5]) > 0.9
    assert row[-2:] == ["0", "1, 1"]
