from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "false_faces.py"


@pytest.fixture
def data(tmp_path, astronaut):
    """Two cats of which one shows the portrait, food in an archive, and a class that nobody looks at."""
    small = cv2.resize(astronaut[40:200, 150:310, ::-1], (64, 64), interpolation=cv2.INTER_AREA)
    blank = np.full((64, 64, 3), 120, np.uint8)
    pictures = {"n02123045_1.png": small, "n02123045_2.png": blank, "n02123045_3.png": small, "n03770439_1.png": small}
    folder = tmp_path / "data"
    folder.mkdir()
    for name, picture in pictures.items():
        cv2.imwrite(str(folder / name), picture)
    cv2.imwrite(str(tmp_path / "n07753592_1.png"), blank)
    with tarfile.open(folder / "shard.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "n07753592_1.png", "some/n07753592_1.png")
    return folder


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_it_counts_and_shows(data, tmp_path):
    done = run("--data", data, "--per-class", 2, "--sheet", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    _, _, animals, food, face = done.stdout.splitlines()
    assert animals.startswith("| animals | 2 | 1 | 1 | 1 |")
    assert food.startswith("| food | 1 | 0 | 0 | 0 | 0 |")
    assert face.startswith("1: n02123045_1.png ")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert (sheet == (0, 0, 255)).all(axis=2).sum() > 100


def test_nothing_to_look_at():
    assert run().returncode == 2
