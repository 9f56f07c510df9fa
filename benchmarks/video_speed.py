"""Time the analysis of whole videos against the package `fer` (PyPI): data alone, and with an annotated video.

    python benchmarks/video_speed.py --rival-python PATH [--frames 60] [--faces 2] [--clip PATH] [--rounds 5]
    python benchmarks/video_speed.py --rival-python PATH --set detect_every=1 --set fps=10 smooth_s=0

Ours is `annotate_video`, theirs `Video.analyze` with their MTCNN. Both look for faces from 20 px on, theirs by its
default and ours by `--min-face`, on the same clip: that of annotate_speed.py, or any other. Each `--set` adds a way of
ours beside the default one, with other fields of `fer_app.video_faces.Settings`.

Every turn has a process of its own, and the ways take turns, so that whatever else the machine does meets all. It is
timed from its start to the first result (`first result`), which warms it up; then the whole clip is analysed (`frames
a second`), start-up left out. The peak is that of resident memory. Theirs writes MPEG-4 Part 2 without sound, and tells
of no frame without a face; ours writes H.264 with the source's sound, and a row for each frame.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import av
import cv2
from annotate_speed import make_clip
from package_fer_video import peak_mb

from fer_app.video import VideoInfo, VideoReader
from fer_app.video_faces import Settings, Wanted, annotate_video, name_outputs

RIVAL = Path(__file__).with_name("package_fer_video.py")


class Way(NamedTuple):
    """Who analyses, what is written, and how.

    Attributes:
        ours: or the rival.
        video: with an annotated video.
        settings: fields of ours that differ from the default.
    """

    ours: bool
    video: bool
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """As the table says it."""
        changed = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        side = f"fer_app{' ' + changed if changed else ''}" if self.ours else "package fer"
        return f"{side}, {'annotated video' if self.video else 'data alone'}"


class Turn(NamedTuple):
    """What one process took.

    Attributes:
        first_s: from its start to its first result, seconds.
        seconds: for the clip.
        faces: found in all of its frames.
        peak_mb: most memory resident.
        versions: of what it runs on.
    """

    first_s: float
    seconds: float
    faces: int
    peak_mb: float
    versions: dict[str, str]


def read_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` as fields of `Settings`, each of its type; `none` is None.

    Raises:
        ValueError: there is no such field, or the value is none of its type.
    """
    types = typing.get_type_hints(Settings)
    settings: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in types:
            near = difflib.get_close_matches(name, types, 1)
            raise ValueError(f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        settings[name] = _of_type(name, value, typing.get_args(types[name]) or (types[name],))
    return settings


def _of_type(name: str, text: str, types: tuple[type, ...]) -> Any:
    if NoneType in types and text.lower() == "none":
        return None
    if bool in types and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float, str):
        if kind in types:
            try:
                return kind(text)
            except ValueError:
                continue
    raise ValueError(f"{name}={text}: must be {' or '.join('none' if k is NoneType else k.__name__ for k in types)}")


def serve(clip: str, folder: Path, threads: int, *, video: bool, settings: Settings) -> None:
    """Take our turn in this process: a line after the first result, and one of JSON after the clip."""
    import onnxruntime

    from fer_app.recognizer import Recognizer

    cv2.setNumThreads(threads)
    recognizer = Recognizer(
        device="cpu", min_face_px=settings.min_face_px, max_faces=settings.max_faces, threads=threads
    )
    (paths,) = name_outputs([clip], folder, Wanted(video=video))
    (unseen,) = name_outputs([clip], folder, Wanted(video=False))
    seen = False

    def tell(*_: VideoInfo | object) -> None:
        nonlocal seen
        if not seen:
            print("first result", flush=True)
        seen = True

    annotate_video(recognizer, clip, unseen, settings, stop=lambda: seen, on_frame=tell)
    begin = time.perf_counter()
    summary = annotate_video(recognizer, clip, paths, settings)
    spent = time.perf_counter() - begin
    versions = {"Python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
    versions |= {"PyAV": av.__version__, "opencv": cv2.__version__}
    turn = {"seconds": spent, "faces": summary["faces"], "peak_mb": peak_mb(), "versions": versions}
    print(json.dumps(turn), flush=True)


def take_turn(way: Way, clip: Path, folder: Path, arguments: argparse.Namespace) -> Turn:
    """Start a process that analyses the clip once.

    Raises:
        SystemExit: it failed.
    """
    python, script = (sys.executable, Path(__file__)) if way.ours else (arguments.rival_python, RIVAL)
    command = [python, str(script), "--clip", str(clip), "--folder", str(folder), "--threads", str(arguments.threads)]
    command += ["--video"] * way.video
    if way.ours:
        settings = {"min_face_px": arguments.min_face} | way.settings
        command += ["--side", "--set", *(f"{name}={value}" for name, value in settings.items())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONWARNINGS": "ignore"}
    if not way.ours:  # it has packages of its own, and TensorFlow tells much about itself
        environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile("w+") as told:
        begin = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=told, text=True) as child:
            assert child.stdout is not None
            child.stdout.readline()
            first_s = time.perf_counter() - begin
            rest = child.stdout.read()
        if child.returncode or not rest:
            told.seek(0)
            sys.stderr.write(told.read())
            raise SystemExit(f"{way.name} failed in {python} with exit status {child.returncode}; see above")
    return Turn(first_s, **json.loads(rest))


def frames_of(clip: Path) -> int:
    with VideoReader(str(clip)) as reader:
        return sum(1 for _ in reader)


def compare(arguments: argparse.Namespace, ours: list[dict[str, Any]]) -> None:
    sides = [(True, settings) for settings in ours] + ([(False, {})] if arguments.rival_python else [])
    ways = [Way(side, video, settings) for video in (False, True) for side, settings in sides]
    turns: list[list[Turn]] = [[] for _ in ways]
    load = [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = arguments.clip
        if clip is None:
            clip = folder / "source.mp4"
            make_clip(clip, arguments.frames, arguments.faces)
        frames = frames_of(clip)
        (folder / "out").mkdir()
        for _ in range(arguments.rounds):
            for way, taken in zip(ways, turns, strict=True):
                taken.append(take_turn(way, clip.resolve(), folder / "out", arguments))
    if load:
        load.append(os.getloadavg()[0])
    print(
        f"{clip.name}, {frames} frames; {arguments.threads} thread(s), medians of {arguments.rounds} rounds; ", end=""
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {' before, '.join(f'{one:.1f}' for one in load)} after"
        if load
        else ""
    )
    for side in dict.fromkeys(way.ours for way in ways):
        versions = next(taken[0].versions for way, taken in zip(ways, turns, strict=True) if way.ours == side)
        print(f"{'fer_app' if side else 'package fer'}: {', '.join(f'{k} {v}' for k, v in versions.items())}")
    print_table(ways, turns, frames)


def print_table(ways: Sequence[Way], turns: Sequence[Sequence[Turn]], frames: int) -> None:
    """Print a line a way; a ratio is the median of those of the rounds, to the rival's turn of the same kind."""
    columns = ("", "frames a second", "ratio (range)", "first result, s", "peak memory, MB", "faces a frame")
    print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for way, taken in zip(ways, turns, strict=True):
        theirs = [t for other, t in zip(ways, turns, strict=True) if not other.ours and other.video == way.video]
        ratio = ""
        if way.ours and theirs:
            ratios = [their.seconds / our.seconds for our, their in zip(taken, theirs[0], strict=True)]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        rate, first_s, peak, faces = (
            statistics.median(values)
            for values in zip(
                *((frames / t.seconds, t.first_s, t.peak_mb, t.faces / frames) for t in taken), strict=True
            )
        )
        print(f"| {way.name} | {rate:.1f} | {ratio} | {first_s:.1f} | {peak:.0f} | {faces:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rival-python", metavar="PATH", help="a Python that has the package fer; without it ours alone"
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--faces", type=int, default=2)
    parser.add_argument("--clip", type=Path, help="a video instead of a made one")
    parser.add_argument("--rounds", type=int, default=5, help="how often the ways take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of either side")
    parser.add_argument("--min-face", type=int, default=20, metavar="PX", help="of ours; theirs is fixed at 20")
    parser.add_argument(
        "--set", nargs="+", action="append", default=[], metavar="FIELD=VALUE", help="a further way of ours"
    )
    parser.add_argument("--side", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--video", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        ours = [read_settings(texts) for texts in arguments.set]
    except ValueError as error:
        parser.error(str(error))
    if arguments.side:
        settings = dataclasses.replace(Settings(), **ours[0])
        serve(str(arguments.clip), arguments.folder, arguments.threads, video=arguments.video, settings=settings)
    else:
        compare(arguments, [{}, *ours])


if __name__ == "__main__":
    main()
