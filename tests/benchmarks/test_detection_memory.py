from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_memory.py"


@pytest.mark.skipif(os.name != "posix", reason="the peak of memory is asked for as POSIX has it")
def test_a_row_a_size():
    command = [sys.executable, str(SCRIPT), "--megapixels", "0.2", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["516 x 387", "816 x 612"]
    assert all(int(row[2]) >= 1 and 30 < float(row[3]) < 1000 for row in rows)
