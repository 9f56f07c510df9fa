from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_speed.py"


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("faces", [1, 8, 32])
def test_a_scene_holds_the_faces_that_it_says(benchmark, faces):
    for size, (width, height) in {"720p": (1280, 720), "1080p": (1920, 1080)}.items():
        picture = benchmark["scene"](faces, size)
        assert picture.shape == (height, width, 3)
        (boxes,) = benchmark["our_detector"](40, 1)([picture])
        assert len(boxes) == faces


def test_a_side_answers_every_case_with_its_time_and_boxes(benchmark, tmp_path):
    np.save(tmp_path / "720p-1.npy", np.zeros((60, 80, 3), np.uint8))
    np.save(tmp_path / "720p-8.npy", benchmark["scene"](8))
    with benchmark["side_process"]("fer_app", sys.executable, tmp_path, 1) as ask:
        for faces, batch, found in ((1, 1, 0), (8, 1, 8), (1, 2, 0)):
            seconds, boxes = ask(benchmark["Case"]("720p", 60, faces, batch))
            assert 0 < seconds < 60
            assert len(boxes) == found


def test_the_largest_difference_counts_a_box_that_the_other_side_lacks(benchmark):
    difference = benchmark["largest_difference"]
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60]]
    assert difference(boxes, boxes[::-1]) == 0
    assert difference(boxes, [[0, 0, 10, 10.5], [50, 50, 60, 60]]) == 0.5
    assert difference(boxes, boxes[:1]) == 50
    assert difference(boxes[:1], boxes) == 50


def test_a_rival_that_is_not_there_is_named():
    command = [sys.executable, str(SCRIPT), "--rival-python", "/bin/false", "--rounds", "1", "--min-face", "200"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "facenet-pytorch failed in /bin/false" in done.stderr
    assert done.stdout == ""
