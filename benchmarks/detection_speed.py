"""Time face detection against facenet-pytorch's MTCNN, on the same pictures, in the same run.

    python benchmarks/detection_speed.py [--rival-python PATH] [--threads N]

Each side runs in a process of its own (two thread pools in one process hinder each other), and the sides take short
turns, so that whatever else the machine does meets both. What is timed are calls with decoded pictures, the median of
a turn's; loading the networks is not, nor is a turn's first call. The ratio is the median of the ratios of the rounds.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
CALLS_A_TURN = 3
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
# Faces in the scene: columns, rows and the part of the portrait in each place, x0 y0 x1 y1.
SCENES = {1: (1, 1, (0, 0, 512, 512)), 8: (4, 2, (90, 0, 390, 320)), 32: (8, 4, (110, 10, 340, 250))}

Detect = Callable[[list[np.ndarray]], list[np.ndarray]]


class Case(NamedTuple):
    """One line of the table."""

    size: str
    min_face: int
    faces: int
    batch: int


def scene(faces: int, size: str = "720p") -> np.ndarray:
    """Copies of the portrait on a gray ground: uint8, (height, width, 3), RGB."""
    width, height = SIZES[size]
    columns, rows, (x0, y0, x1, y1) = SCENES[faces]
    portrait = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)[y0:y1, x0:x1]
    place_w, place_h = width // columns, height // rows
    scale = min(place_w / portrait.shape[1], place_h / portrait.shape[0]) * 0.95
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    copy = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=interpolation)
    picture = np.full((height, width, 3), 128, np.uint8)
    for row in range(rows):
        for column in range(columns):
            x = column * place_w + (place_w - copy.shape[1]) // 2
            y = row * place_h + (place_h - copy.shape[0]) // 2
            picture[y : y + copy.shape[0], x : x + copy.shape[1]] = copy
    return picture


def our_detector(min_face_px: int, threads: int) -> Detect:
    from fer_app.detection import MtcnnDetector

    detector = MtcnnDetector(min_face_px=min_face_px, threads=threads)
    return lambda pictures: [found.boxes for found in detector.detect(pictures)]


def their_detector(min_face_px: int, threads: int) -> Detect:
    import torch
    from facenet_pytorch import MTCNN

    torch.set_num_threads(threads)
    detector = MTCNN(min_face_size=min_face_px, keep_all=True)

    def detect(pictures: list[np.ndarray]) -> list[np.ndarray]:
        # It takes several pictures of one size as a list, and answers one picture without one.
        boxes, *_ = detector.detect(pictures if len(pictures) > 1 else pictures[0], landmarks=True)
        per_picture = boxes if len(pictures) > 1 else [boxes]
        return [np.zeros((0, 4)) if one is None else np.asarray(one, float) for one in per_picture]

    return detect


SIDES = {"fer_app": our_detector, "facenet-pytorch": their_detector}


def serve(side: str, folder: Path, threads: int) -> None:
    """Answer each line of stdin, a case, with the seconds of a call and the boxes of its first picture."""
    cv2.setNumThreads(threads)
    answers, sys.stdout = sys.stdout, sys.stderr
    detectors: dict[int, Detect] = {}
    for line in sys.stdin:
        case = Case(*json.loads(line))
        if case.min_face not in detectors:
            detectors[case.min_face] = SIDES[side](case.min_face, threads)
        detect = detectors[case.min_face]
        pictures = [np.load(folder / f"{case.size}-{case.faces}.npy")] * case.batch
        boxes = detect(pictures)[0]
        times = []
        for _ in range(CALLS_A_TURN):
            start = time.perf_counter()
            detect(pictures)
            times.append(time.perf_counter() - start)
        print(json.dumps([statistics.median(times), boxes.tolist()]), file=answers, flush=True)


@contextmanager
def side_process(
    side: str, python: str, folder: Path, threads: int, script: str = __file__, more: Sequence[str] = ()
) -> Iterator[Callable[[Any], Any]]:
    """Start one side of a script that has `serve`; yields a function that gives it a turn with a case."""
    command = [python, script, "--side", side, "--folder", str(folder), "--threads", str(threads), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def ask(case: Any) -> Any:
            with suppress(BrokenPipeError):
                print(json.dumps(case), file=child.stdin, flush=True)
            answer = child.stdout.readline() if child.stdout else ""
            if not answer:
                raise SystemExit(f"{side} failed in {python} with exit status {child.wait()}; its message is above")
            return json.loads(answer)

        try:
            yield ask
        finally:
            child.kill()


def largest_difference(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Largest difference between a coordinate of our box and of the nearest of theirs, in px."""
    if not ours or not theirs:
        return 0.0
    difference = np.abs(np.array(ours)[:, None] - np.array(theirs)[None]).max(axis=2)
    return float(max(difference.min(axis=1).max(), difference.min(axis=0).max()))


def compare(arguments: argparse.Namespace) -> None:
    cases = [
        Case(size, min_face, faces, batch)
        for size in arguments.size
        for min_face in arguments.min_face
        for batch in arguments.batch
        for faces in SCENES
    ]
    answers: dict[Case, list[list[Any]]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in arguments.size:
            for faces in SCENES:
                np.save(folder / f"{size}-{faces}.npy", scene(faces, size))
        with (
            side_process("fer_app", sys.executable, folder, arguments.threads) as ask_us,
            side_process("facenet-pytorch", arguments.rival_python, folder, arguments.threads) as ask_them,
        ):
            for _ in range(arguments.rounds):
                for case in cases:
                    answers[case].append([ask_us(case), ask_them(case)])
    print(f"{arguments.threads} thread(s), medians of {arguments.rounds} rounds; {platform.machine()}, ", end="")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "")
    columns = ("picture", "smallest face, px", "pictures a call", "faces", "found: ours, theirs", "boxes differ by, px")
    print("\n| " + " | ".join([*columns, "fer_app, ms a picture", "facenet-pytorch, ms a picture", "ratio"]) + " |")
    print("|" + "---|" * 9)
    for case, rounds in answers.items():
        ours, theirs = (statistics.median(turns[i][0] for turns in rounds) / case.batch * 1e3 for i in (0, 1))
        ratio = statistics.median(their[0] / our[0] for our, their in rounds)
        boxes = [rounds[-1][i][1] for i in (0, 1)]
        cells: list[object] = [case.size, case.min_face, case.batch, case.faces, f"{len(boxes[0])}, {len(boxes[1])}"]
        cells += [f"{largest_difference(*boxes):.4f}", f"{ours:.1f}", f"{theirs:.1f}", f"{ratio:.2f}"]
        print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rival-python", default=sys.executable, metavar="PATH", help="a Python that has facenet-pytorch and OpenCV"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of either side")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["720p"])
    parser.add_argument("--min-face", type=int, nargs="+", default=[20, 40], metavar="PX")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="pictures a call")
    parser.add_argument("--rounds", type=int, default=9, help="how often the sides take turns")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.folder, arguments.threads)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
