from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "detection_profile.py"


def test_the_stages_add_up():
    command = [sys.executable, str(SCRIPT), "--min-face", "100", "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line]
    table = {row[0]: [float(cell) for cell in row[1:]] for row in rows[3:]}
    *stages, everything, arithmetic = table.values()
    for column in range(3):
        total = everything[column]
        assert abs(sum(stage[column] for stage in stages) - total) < 0.05 * len(stages) + 0.02 * total
        assert 0 < arithmetic[column] < total
    for name in ("R-Net", "O-Net", "crops"):
        assert min(table[name]) > 0
