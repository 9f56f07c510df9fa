"""Time `fer annotate` on a 720p video: with and without a written video, its stages in threads or one at a time.

    python benchmarks/annotate_speed.py [--frames 120] [--rounds 3] [--faces 2] [--clip PATH] [--memory]

Without `--clip` the video is made first: copies of the portrait in examples/ that move over a plain 1280 x 720 px, 30
frames a second. The ways take turns. Processor time is that of all threads; frames a second are only worth something on
a machine that does nothing else. `--memory` runs through the video once instead and prints the memory that is resident.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from fer_app.video import VideoFrame, VideoInfo, VideoWriter
from fer_app.video_faces import Settings, Wanted, annotate_video, name_outputs, run

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
SIZE = (1280, 720)
TIME_BASE = Fraction(1, 30)


class InTurn:
    """Stands for the pipeline: every stage runs where its items are read."""

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> InTurn:
        return self

    def __exit__(self, *_: object) -> None: ...

    def thread(self, items: Iterable[object]) -> Iterator[object]:
        """Give the items as they come."""
        return iter(items)


def made(count: int, faces: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Copies of the portrait on their ways, uint8 (720, 1280, 3), RGB."""
    portrait = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)[20:240, 140:340]
    columns = int(np.ceil(np.sqrt(faces * 16 / 9)))
    rows = -(-faces // columns)
    side = min(SIZE[0] // columns, SIZE[1] // rows, 380) - 60
    small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    for number in range(count):
        image = np.full((SIZE[1], SIZE[0], 3), (85, 102, 119), np.uint8)
        for face in range(faces):
            x = (face % columns) * (SIZE[0] // columns) + 30 + int(28 * np.sin(number / 20 + face))
            y = (face // columns) * (SIZE[1] // rows) + 30 + int(28 * np.cos(number / 31 + 2 * face))
            image[y : y + side, x : x + side] = small
        yield image


def make_clip(path: Path, count: int, faces: int) -> None:
    info = VideoInfo(
        source=str(path),
        width=SIZE[0],
        height=SIZE[1],
        rotation=0,
        mirrored=False,
        sample_aspect_ratio=Fraction(1),
        codec="h264",
        average_fps=30.0,
        time_base=TIME_BASE,
        duration_s=None,
        frame_count=None,
        is_variable_rate=False,
        audio_codec=None,
        origin_s=Fraction(0),
    )
    with VideoWriter(path, info) as writer:
        for number, image in enumerate(made(count, faces)):
            writer.write(VideoFrame(image, number, number, TIME_BASE, 1))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def annotated(recognizer: Recognizer, clip: Path, folder: Path, *, video: bool, on_frame: Callable[..., None]) -> int:
    (paths,) = name_outputs([str(clip)], folder, Wanted(video=video))
    return int(annotate_video(recognizer, str(clip), paths, Settings(), on_frame=on_frame)["frames"])


def measure_memory(recognizer: Recognizer, clip: Path, folder: Path) -> None:
    def tell(_: VideoInfo, faces: Faces) -> None:
        done = (faces.frame_index or 0) + 1
        if done % 100 == 0:
            print(f"frame {done}: {resident_mb():.0f} MB", flush=True)

    annotated(recognizer, clip, folder, video=True, on_frame=tell)


def measure(recognizer: Recognizer, clip: Path, folder: Path, rounds: int) -> None:
    ways = [(video, threads) for video in (False, True) for threads in (False, True)]
    spent: dict[tuple[bool, bool], list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for video, threads in ways:
            with ExitStack() as changed:
                if not threads:
                    changed.enter_context(mock.patch.object(run, "Pipeline", InTurn))
                begin = time.process_time(), time.perf_counter()
                count = annotated(recognizer, clip, folder, video=video, on_frame=lambda *_: None)
                passed = time.process_time() - begin[0], time.perf_counter() - begin[1]
            if number:  # the first round warms up
                spent[video, threads].append((1000 * passed[0] / count, count / passed[1]))
    print(f"load {os.getloadavg()[0]:.1f}, medians of {rounds} rounds\n")
    print("| | processor, ms a frame | frames a second |\n|---|---|---|")
    for video, threads in ways:
        name = f"{'annotated video' if video else 'rows alone'}, {'threads' if threads else 'one stage at a time'}"
        processor, rate = (statistics.median(values) for values in zip(*spent[video, threads], strict=True))
        print(f"| {name} | {processor:.1f} | {rate:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faces", type=int, default=2)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    recognizer = Recognizer(device="cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = arguments.clip
        if clip is None:
            clip = folder / "source.mp4"
            make_clip(clip, arguments.frames, arguments.faces)
        (folder / "out").mkdir()
        if arguments.memory:
            measure_memory(recognizer, clip, folder / "out")
        else:
            measure(recognizer, clip, folder / "out", arguments.rounds)


if __name__ == "__main__":
    main()
