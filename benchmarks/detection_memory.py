"""Print the peak memory of a process that detects the faces of one large picture, three times.

    python benchmarks/detection_memory.py [--megapixels 12 32]

The picture is the portrait in examples/, repeated; each size has a process of its own. POSIX only.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"


def measure(megapixels: float) -> None:
    """Detect once in this process and print a row."""
    from fer_app.detection import MtcnnDetector

    portrait = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)
    width = int((megapixels * 1e6 * 4 / 3) ** 0.5)
    height = width * 3 // 4
    times = (height // portrait.shape[0] + 1, width // portrait.shape[1] + 1, 1)
    picture = np.tile(portrait, times)[:height, :width].copy()
    detector = MtcnnDetector(threads=1)
    for _ in range(3):  # the heap settles after the first
        (found,) = detector.detect([picture])
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(f"| {width} x {height} | {picture.nbytes / 1e6:.0f} | {len(found)} | {peak:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1, 12, 32], metavar="N")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments.megapixels[0])
        return
    print("| picture, px | its pixels, MB | faces | peak memory, MB |\n|---|---|---|---|", flush=True)
    for megapixels in arguments.megapixels:
        subprocess.run([sys.executable, __file__, "--here", "--megapixels", str(megapixels)], check=True)


if __name__ == "__main__":
    main()
