"""Time face detection against facenet-pytorch's MTCNN, on the same pictures, in the same run.

    python benchmarks/detection_speed.py [--rival-python PATH] [--threads N]

Each side runs in a process of its own (two thread pools in one process hinder each other), and the sides take turns.
What is timed is one call with one decoded picture of 1280 x 720 px; loading the networks is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
WIDTH, HEIGHT = 1280, 720
# Faces in the scene: columns, rows and the part of the portrait in each place, x0 y0 x1 y1.
SCENES = {1: (1, 1, (0, 0, 512, 512)), 8: (4, 2, (90, 0, 390, 320)), 32: (8, 4, (110, 10, 340, 250))}


def scene(faces: int) -> np.ndarray:
    """Copies of the portrait on a gray ground: uint8, (720, 1280, 3), RGB."""
    columns, rows, (x0, y0, x1, y1) = SCENES[faces]
    portrait = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)[y0:y1, x0:x1]
    place_w, place_h = WIDTH // columns, HEIGHT // rows
    scale = min(place_w / portrait.shape[1], place_h / portrait.shape[0]) * 0.95
    copy = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for row in range(rows):
        for column in range(columns):
            x = column * place_w + (place_w - copy.shape[1]) // 2
            y = row * place_h + (place_h - copy.shape[0]) // 2
            picture[y : y + copy.shape[0], x : x + copy.shape[1]] = copy
    return picture


def our_detector(min_face_px: int, threads: int) -> Callable[[np.ndarray], int]:
    from fer_app.detection import MtcnnDetector

    detector = MtcnnDetector(min_face_px=min_face_px, threads=threads)
    return lambda picture: len(detector.detect([picture])[0])


def their_detector(min_face_px: int, threads: int) -> Callable[[np.ndarray], int]:
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(threads)
    detector = MTCNN(min_face_size=min_face_px, keep_all=True)

    def detect(picture: np.ndarray) -> int:
        boxes, *_ = detector.detect(picture, landmarks=True)
        return 0 if boxes is None else len(boxes)

    return detect


SIDES = {"fer_app": our_detector, "facenet-pytorch": their_detector}


def measure(side: str, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one side on every scene; runs in that side's own process."""
    cv2.setNumThreads(arguments.threads)
    results = []
    for min_face_px in arguments.min_face:
        detect = SIDES[side](min_face_px, arguments.threads)
        for faces in SCENES:
            picture = np.load(folder / f"{faces}.npy")
            found = [detect(picture) for _ in range(2)][-1]  # the first calls allocate
            times = []
            for _ in range(arguments.repeats):
                start = time.perf_counter()
                detect(picture)
                times.append(time.perf_counter() - start)
            results.append({"faces": faces, "min_face": min_face_px, "found": found, "times": times})
    return results


def in_process(side: str, python: str, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    command = [python, __file__, "--side", side, "--folder", str(folder), "--repeats", str(arguments.repeats)]
    command += ["--threads", str(arguments.threads), "--min-face", *map(str, arguments.min_face)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed in {python} with exit status {done.returncode}; its message is above")
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def compare(arguments: argparse.Namespace) -> None:
    pythons = {"fer_app": sys.executable, "facenet-pytorch": arguments.rival_python}
    times: dict[tuple[str, int, int], list[float]] = {}
    found: dict[tuple[str, int, int], int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for faces in SCENES:
            np.save(folder / f"{faces}.npy", scene(faces))
        for _ in range(arguments.rounds):
            for side, python in pythons.items():
                for result in in_process(side, python, folder, arguments):
                    key = (side, result["min_face"], result["faces"])
                    times.setdefault(key, []).extend(result["times"])
                    found[key] = result["found"]
    calls = arguments.rounds * arguments.repeats
    print(
        f"{WIDTH} x {HEIGHT} px, {arguments.threads} thread(s), medians of {calls} calls; {platform.machine()}, ",
        end="",
    )
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    print("\n| smallest face, px | faces | found: ours, theirs | fer_app, ms | facenet-pytorch, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for min_face in arguments.min_face:
        for faces in SCENES:
            ours, theirs = (statistics.median(times[side, min_face, faces]) * 1e3 for side in SIDES)
            both = ", ".join(str(found[side, min_face, faces]) for side in SIDES)
            print(f"| {min_face} | {faces} | {both} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rival-python", default=sys.executable, metavar="PATH", help="a Python that has facenet-pytorch and OpenCV"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of either side")
    parser.add_argument("--min-face", type=int, nargs="+", default=[20, 40], metavar="PX")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls a round")
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.folder, arguments)))
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
