"""Measure how far `fer annotate` is behind a camera: from the arrival of a picture to its rows.

    python benchmarks/live_lag.py [--seconds 20] [--fps 10 30 60] [--faces 2]

The camera is made up, in place of OpenCV's: it gives 1280 x 720 px with copies of the portrait in examples/ that move,
at its rate and whether or not anybody is ready. What the network or a real camera would add is not in the figures.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
from annotate_speed import made

from fer_app.recognizer import Recognizer
from fer_app.video import live
from fer_app.video_faces import LiveSource, OutputPaths, Settings, Wanted, annotate_video


class MadeUpCamera:
    """Stands for `cv2.VideoCapture`."""

    def __init__(self, pictures: Sequence[npt.NDArray[np.uint8]], fps: float) -> None:
        self._pictures, self._fps = itertools.cycle(pictures), fps
        self._due_s = time.monotonic()

    def isOpened(self) -> bool:  # noqa: D102, N802 - OpenCV's name
        return True

    def read(self) -> tuple[bool, npt.NDArray[np.uint8]]:
        """Wait for the next picture, uint8, (720, 1280, 3), BGR."""
        self._due_s += 1 / self._fps
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        return True, next(self._pictures)

    def release(self) -> None: ...  # noqa: D102


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--fps", type=float, nargs="+", default=[10, 30, 60])
    parser.add_argument("--faces", type=int, default=2)
    arguments = parser.parse_args()
    pictures = [np.ascontiguousarray(image[:, :, ::-1]) for image in made(60, arguments.faces)]
    pictures += pictures[::-1]  # back again: a jump would be a cut
    recognizer = Recognizer(device="cpu")
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print("| camera, a second | written | rows, a second | p50 | p95 | longest |\n|---|---|---|---|---|---|")
    for video, fps in itertools.product((False, True), arguments.fps):
        camera = MadeUpCamera(pictures, fps)
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(live.cv2, "VideoCapture", lambda _, camera=camera: camera),
            LiveSource("0", duration_s=arguments.seconds) as source,
        ):
            paths = OutputPaths(Path(folder), "out", Wanted(video=video))
            summary = annotate_video(recognizer, source, paths, Settings())
        lags = [summary["live"][f"lag_{name}_ms"] for name in ("p50", "p95", "max")]
        written = "rows and video" if video else "rows"
        rate = summary["frames"] / summary["seconds"]
        print(f"| {fps:g} | {written} | {rate:.1f} | " + " | ".join(f"{lag} ms" for lag in lags) + " |", flush=True)


if __name__ == "__main__":
    main()
