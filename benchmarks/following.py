"""Following faces between searches of whole frames: how fast it is, and how near it stays to searching every frame.

    python benchmarks/following.py [--rival-python PATH] [--threads 2] [--rounds 5]
    python benchmarks/following.py --clips VIDEO...

Without `--clips` it times finding and numbering the faces of a second of made video: 1280 x 720 px, 30 frames, where
1, 8 or 32 copies of the portrait in examples/ move to and fro. The finder of `fer annotate`, the same with a search of
every frame, and facenet-pytorch's `MTCNN.detect` (of every fifth frame) have a process each and take turns.

With `--clips` it compares the two finders on real videos: which share of the faces of a search of every frame is there
(intersection over union at least 0.5), how well boxes agree, which share of those faces has the same label, and how
many faces there are besides.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from detection_speed import SCENES, scene, side_process, their_detector

FRAMES, FPS = 30, 30
# facenet-pytorch is given each so many-th frame: it remembers nothing, and takes long.
THEIR_STEP = 5
SIDES = ("following", "every frame", "facenet-pytorch")


def moving(faces: int) -> Iterator[np.ndarray]:
    """A second of video: uint8, (720, 1280, 3), RGB each."""
    still = scene(faces)
    for number in range(FRAMES):
        x, y = 20 * np.sin(2 * np.pi * number / FPS), 10 * np.cos(2 * np.pi * number / FPS)
        move = np.array([[1, 0, x], [0, 1, y]], np.float32)
        yield np.asarray(cv2.warpAffine(still, move, (1280, 720), borderValue=(128, 128, 128)), np.uint8)


def serve(side: str, folder: Path, threads: int, min_face: int) -> None:
    """Answer each line of stdin, a number of faces, with the seconds a frame and the faces found in the first."""
    cv2.setNumThreads(threads)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        pictures = list(np.load(folder / f"{json.loads(line)}.npy"))
        if side == "facenet-pytorch":
            detect = their_detector(min_face, threads)
            pictures = pictures[::THEIR_STEP]
            found = len(detect(pictures[:1])[0])
            begin = time.perf_counter()
            for picture in pictures:
                detect([picture])
        else:
            found, begin = _our_turn(side, pictures, threads, min_face)
        print(json.dumps([(time.perf_counter() - begin) / len(pictures), found]), file=answers, flush=True)


def _our_turn(side: str, pictures: Sequence[np.ndarray], threads: int, min_face: int) -> tuple[int, float]:
    from fer_app.recognizer import Recognizer
    from fer_app.video import VideoFrame
    from fer_app.video_faces.finders import choose_finder

    recognizer = Recognizer(device="cpu", min_face_px=min_face, threads=threads)
    frames = [VideoFrame(picture, i, i, Fraction(1, FPS), 1) for i, picture in enumerate(pictures)]
    found = len(recognizer.detect(pictures[:1])[0])
    finder = choose_finder(recognizer, 1 if side == "every frame" else None)
    begin = time.perf_counter()
    for first in range(0, len(frames), 4):
        finder.find(frames[first : first + 4])
    return found, begin


def time_sides(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as running:
        folder = Path(name)
        for faces in SCENES:
            np.save(folder / f"{faces}.npy", np.stack(list(moving(faces))))
        asks = []
        for side in SIDES:
            python = arguments.rival_python if side == "facenet-pytorch" else sys.executable
            more = ["--min-face", str(arguments.min_face)]
            process = side_process(side, python, folder, arguments.threads, script=__file__, more=more)
            asks.append(running.enter_context(process))
        rounds = [{faces: [ask(faces) for ask in asks] for faces in SCENES} for _ in range(arguments.rounds)]
    print(
        f"{arguments.threads} thread(s), smallest face {arguments.min_face} px, medians of {arguments.rounds} rounds, ",
        end="",
    )
    print(f"load {os.getloadavg()[0]:.1f}\n")
    columns = ("faces", "found", "following, ms a frame", "every frame", "facenet-pytorch")
    print("| " + " | ".join([*columns, "ratio, following", "ratio, every frame"]) + " |")
    print("|" + "---|" * 7)
    for faces in SCENES:
        turns = [answers[faces] for answers in rounds]
        medians = [1e3 * statistics.median(turn[i][0] for turn in turns) for i in range(3)]
        ratios = [statistics.median(turn[2][0] / turn[i][0] for turn in turns) for i in range(2)]
        found = ", ".join(str(turns[-1][i][1]) for i in range(3))
        print(
            f"| {faces} | {found} | {' | '.join(f'{ms:.1f}' for ms in medians)} | {ratios[0]:.1f} | {ratios[1]:.1f} |"
        )


class Agreement(NamedTuple):
    """One clip: what following found of what a search of every frame found."""

    frames: int
    searched: int
    faces: int
    kept: float
    iou: float
    iou_p5: float
    same_label: float
    besides: int
    numbers: tuple[int, int]

    @property
    def row(self) -> str:
        """A line of the table."""
        return (
            f"{self.frames} | {self.searched} | {self.faces} | {100 * self.kept:.1f} % | {self.iou:.3f} | "
            f"{self.iou_p5:.3f} | {100 * self.same_label:.1f} % | {self.besides} | {self.numbers[0]}, {self.numbers[1]}"
        )


def agreement(clip: str, min_face: int, detect_every: int | None = None) -> Agreement:
    """Run both finders over a video."""
    from fer_app.boxes import pairwise_iou
    from fer_app.recognizer import Recognizer
    from fer_app.video import VideoReader
    from fer_app.video_faces.finders import choose_finder

    recognizer = Recognizer(device="cpu", min_face_px=min_face)
    finders = [choose_finder(recognizer, every) for every in (1, detect_every)]
    frames = faces = besides = kept = same = 0
    ious: list[float] = []
    numbers: list[set[int]] = [set(), set()]
    with VideoReader(clip) as reader:
        for frame in reader:
            (searched,), (followed,) = (finder.find([frame]) for finder in finders)
            read = recognizer.classify([frame.image] * 2, [searched.detections, followed.detections], [clip] * 2)
            frames += 1
            faces += len(read[0])
            for seen, found in zip(numbers, (searched, followed), strict=True):
                seen.update(found.track_ids.tolist())
            if not len(read[0]) or not len(read[1]):
                besides += len(read[1])
                continue
            overlap = pairwise_iou(searched.detections.boxes, followed.detections.boxes)
            best, partner = overlap.max(axis=1), overlap.argmax(axis=1)
            near = best >= 0.5
            kept += int(near.sum())
            same += int((read[0].top[near] == read[1].top[partner[near]]).sum())
            besides += int((overlap.max(axis=0) < 0.5).sum())
            ious += best[near].tolist()
    return Agreement(
        frames=frames,
        searched=finders[1].searched,
        faces=faces,
        kept=kept / faces if faces else 1.0,
        iou=statistics.fmean(ious) if ious else 1.0,
        iou_p5=float(np.percentile(ious, 5)) if ious else 1.0,
        same_label=same / kept if kept else 1.0,
        besides=besides,
        numbers=(len(numbers[0]), len(numbers[1])),
    )


def compare_clips(arguments: argparse.Namespace) -> None:
    print(
        "| video | frames | searched as a whole | faces of every frame | of these found | mean IoU | 5th percentile | ",
        end="",
    )
    print("same label | besides | tracks: every frame, following |\n|" + "---|" * 10)
    for clip in arguments.clips:
        print(f"| {Path(clip).name} | {agreement(clip, arguments.min_face, arguments.detect_every).row} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", nargs="+", metavar="VIDEO", help="compare the results on these instead")
    parser.add_argument("--detect-every", type=int, metavar="N", help="with --clips: as `fer annotate` takes it")
    parser.add_argument(
        "--rival-python", default=sys.executable, metavar="PATH", help="a Python that has facenet-pytorch and OpenCV"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side")
    parser.add_argument("--min-face", type=int, default=40, metavar="PX")
    parser.add_argument("--rounds", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.folder, arguments.threads, arguments.min_face)
    elif arguments.clips:
        compare_clips(arguments)
    else:
        time_sides(arguments)


if __name__ == "__main__":
    main()
