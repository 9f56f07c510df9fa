"""Time reading and writing a 720p video, per picture, and print what the presets of x264 cost.

    python benchmarks/video_io.py [--frames 300] [--presets superfast veryfast faster] [--clip PATH]
    python benchmarks/video_io.py --frames 3600 --memory

Without `--clip` the video is made first: the portrait in examples/ moving behind a window of 1280 x 720 px, with a
little noise that changes from picture to picture, 30 a second. Processor time is that of all threads; wall time is only
worth something on a machine that does nothing else. PSNR is between what was given to the writer and what comes back.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.video import VideoFrame, VideoInfo, VideoReader, VideoWriter

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"
SIZE = (1280, 720)


def made(count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """The window on the portrait, uint8 (720, 1280, 3), RGB."""
    portrait = cv2.cvtColor(cv2.imread(str(PORTRAIT)), cv2.COLOR_BGR2RGB)
    large = cv2.resize(portrait, (1600, 1600), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng(0)
    noise = [random.integers(0, 9, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(7)]
    for number in range(count):
        x, y = int(150 + 120 * np.sin(number / 20)), int(120 + 100 * np.cos(number / 31))
        window = large[y : y + SIZE[1], x : x + SIZE[0]]
        yield cv2.subtract(cv2.add(window, noise[number % 7]), np.full_like(window, 4))


def timed(begin: tuple[float, float], count: int) -> str:
    """Milliseconds a picture since `begin`, of processor and of wall, as two cells."""
    spent, passed = time.process_time() - begin[0], time.perf_counter() - begin[1]
    return f"{1000 * spent / count:.1f} | {1000 * passed / count:.1f}"


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measure_reading(path: Path) -> None:
    with VideoReader(path) as reader:
        print(f"\n{reader.info.width} x {reader.info.height}, {reader.info.codec}\n")
        print("| | processor, ms a picture | wall, ms a picture |\n|---|---|---|")
        begin = now()
        for _ in reader:
            pass
        print(f"| decode and convert to RGB | {timed(begin, reader.frames_read)} |")
    with VideoReader(path, every=10**9) as reader:
        begin = now()
        for _ in reader:
            pass
        print(f"| decode alone | {timed(begin, reader.frames_read)} |", flush=True)


def psnr(target: Path, images: list[npt.NDArray[np.uint8]]) -> float:
    with VideoReader(target) as reader:
        errors = [np.square(frame.image.astype(np.float32) - images[frame.index]).mean() for frame in reader]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def measure_writing(path: Path, presets: list[str], crfs: list[float]) -> None:
    with VideoReader(path) as reader:
        frames = [frame for frame, _ in zip(reader, range(300), strict=False)]
    info, images = reader.info, [frame.image for frame in frames]
    seconds = float((frames[-1].pts - frames[0].pts) * info.time_base) + 1 / 30
    print("\n| preset | crf | processor, ms a picture | wall, ms a picture | close, ms | Mbit/s | PSNR, dB |")
    print("|---|---|---|---|---|---|---|")
    for preset in presets:
        for crf in crfs:
            target = path.with_name("written.mp4")
            begin = now()
            writer = VideoWriter(target, info, source_audio=path, preset=preset, crf=crf)
            for frame in frames:
                writer.write(frame)
            closing = time.perf_counter()
            writer.close()
            spent, closed = timed(begin, len(frames)), 1000 * (time.perf_counter() - closing)
            rate = target.stat().st_size * 8 / seconds / 1e6
            quality = psnr(target, images)
            print(f"| {preset} | {crf:g} | {spent} | {closed:.0f} | {rate:.2f} | {quality:.1f} |", flush=True)


def measure_memory(path: Path) -> None:
    """Print this process's memory while a video is read and written, every 600 pictures. Linux only."""
    print("\n| picture | memory, MB |\n|---|---|")
    with VideoReader(path) as reader, VideoWriter(path.with_name("written.mp4"), reader.info) as writer:
        for frame in reader:
            writer.write(frame)
            if frame.index % 600 == 599:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                print(f"| {frame.index + 1} | {pages * resource.getpagesize() / 1e6:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="pictures of the video that is made")
    parser.add_argument("--clip", type=Path, help="read this one instead; its first 300 pictures are written")
    parser.add_argument("--presets", nargs="+", default=["ultrafast", "superfast", "veryfast", "faster", "medium"])
    parser.add_argument("--crf", nargs="+", type=float, default=[20, 23])
    parser.add_argument("--memory", action="store_true", help="print the memory over the length of the video instead")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        if arguments.clip is not None:
            path.symlink_to(arguments.clip.resolve())
        else:
            info = VideoInfo(
                "", *SIZE, 0, False, Fraction(1), "h264", 30.0, Fraction(1, 30), None, None, False, None, Fraction(0)
            )
            with VideoWriter(path, info, crf=18) as writer:
                for number, image in enumerate(made(arguments.frames)):
                    writer.write(VideoFrame(image, number, number, Fraction(1, 30), 1))
        if arguments.memory:
            measure_memory(path)
            return
        measure_reading(path)
        measure_writing(path, arguments.presets, arguments.crf)
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6:.0f} MB, 300 pictures included"
    )


if __name__ == "__main__":
    main()
