from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "ui_load.py"


def test_quantiles_and_the_row() -> None:
    spec = importlib.util.spec_from_file_location("ui_load", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    ui_load = importlib.util.module_from_spec(spec)
    sys.modules["ui_load"] = ui_load  # where dataclasses look for annotations
    spec.loader.exec_module(ui_load)
    assert ui_load.quantile([0.3, 0.1, 0.2], 0.5) == 0.2
    assert ui_load.quantile(range(100), 0.95) == 95
    seen = ui_load.Load([10.0, 12.0], [0.05] * 90 + [0.2] * 10, [100.0, 100.0, 110.0, 120.0], 0.5, ["x"])
    assert seen.row == "| 2 | 10.0 to 12.0 | 22.0 | 50 | 200 | 100, 120 | 50.0 % | 1 |"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory as Linux tells it")
def test_clients_are_served_without_an_error() -> None:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "--clients", "1", "3", "--seconds", "3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 1 ", "| 3 "))]
    assert len(rows) == 2
    for row in rows:
        assert row.endswith("| 100.0 % | 0 |")
