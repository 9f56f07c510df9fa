from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def test_every_rate_has_a_row_with_and_without_a_video():
    command = [sys.executable, str(FOLDER / "live_lag.py"), "--seconds", "0.7", "--fps", "20", "5"]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[-4:]]
    assert [row[:2] for row in rows] == [[fps, kind] for kind in ("rows", "rows and video") for fps in ("20", "5")]
    for _, _, rate, *lags in rows:
        assert float(rate) > 0
        assert all(lag.endswith(" ms") for lag in lags)
        p50, p95, longest = (int(lag.removesuffix(" ms")) for lag in lags)
        assert 0 <= p50 <= p95 <= longest
