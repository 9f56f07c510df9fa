from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = FOLDER / "training_speed.py"


def test_both_sides_take_their_steps(tmp_path):
    path = tmp_path / "speed.json"
    command = [sys.executable, str(SCRIPT), "--sizes", "smoke", "--rounds", "1", "--threads", "1", "--json", str(path)]
    command.append("--no-memory")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    assert [one["kind"] for one in results] == ["mae", "finetune"]
    for one in results:
        median = one["median"]
        assert min(median[key] for key in ("plain", "ours", "data", "ceiling")) > 0
        assert median["ratio"] == pytest.approx(median["ours"] / median["plain"])
        assert median["share"] < 1
    assert done.stdout.count("| smoke, ") == 2


def test_a_process_tells_its_peak():
    command = [sys.executable, str(SCRIPT), "--peak", "mae", "smoke", "checkpointing"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) > 1e7


def test_the_operations_of_a_known_network(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    benchmark = runpy.run_path(str(SCRIPT))
    flops, sizes = benchmark["flops_an_image"], benchmark["SIZES"]
    # ViT-B/16 at 224 px has 17.56 G multiplications forward (without norms and softmax); MAE's encoder sees a quarter.
    assert flops("finetune", sizes["base"]) == pytest.approx(6 * 17.56e9, rel=0.01)
    assert flops("mae", sizes["base"]) < 0.6 * flops("finetune", sizes["base"])
