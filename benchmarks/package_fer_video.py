"""One turn of the package `fer` (PyPI, 25.10.3): the other side of video_speed.py, which starts it.

    RIVAL/bin/python benchmarks/package_fer_video.py --clip PATH --folder DIR [--video] [--threads N]

Needs that package alone, with `setuptools<81`, whose `pkg_resources` it imports. Its MTCNN is facenet-pytorch's, which
is imported first here: after TensorFlow, PyTorch 2.15 ends the process ("inconsistency in registered CommandLine
options"). Nothing of this repository is imported. On stdout come a line after the first result and one of JSON after
the clip.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import platform
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """The most memory that was resident so far."""
    status = Path("/proc/self/status")
    if status.exists():  # a child of a large process inherits the other figure
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource  # POSIX alone has it

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--video", action="store_true", help="with its annotated video")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    answers, sys.stdout = sys.stdout, sys.stderr
    # It tells about itself on stderr, a line a video and a bar.
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TQDM_DISABLE": "1"}

    import facenet_pytorch  # noqa: F401, TID251 - see above
    import torch
    from fer.classes import Video
    from fer.fer import FER

    logging.disable(logging.CRITICAL)
    import cv2

    cv2.setNumThreads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    detector = FER(mtcnn=True)

    def analyze(video: bool, **what: int) -> int:
        """Give the number of faces in all frames."""
        found = Video(arguments.clip, outdir=arguments.folder, first_face_only=False).analyze(
            detector,
            output="pandas",
            save_frames=False,
            zip_images=False,
            save_video=video,
            annotate_frames=video,
            **what,
        )
        found.to_csv(Path(arguments.folder) / "rival.csv")
        boxes = [name for name in found.columns if name.startswith("box")]
        return int(found[boxes].notna().sum().sum())

    analyze(video=False, max_results=1)
    print("first result", file=answers, flush=True)
    begin = time.perf_counter()
    faces = analyze(arguments.video)
    spent = time.perf_counter() - begin
    packages = ("fer", "tensorflow", "torch", "facenet-pytorch", "opencv-contrib-python")
    versions = {"Python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    turn = {"seconds": spent, "faces": faces, "peak_mb": peak_mb(), "versions": versions}
    print(json.dumps(turn), file=answers, flush=True)


if __name__ == "__main__":
    main()
