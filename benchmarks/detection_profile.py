"""Where the time of face detection goes, stage by stage, beside the least that its arithmetic takes.

    python benchmarks/detection_profile.py [--min-face 20]

One thread, because then the stages follow each other and their times add up.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime import InferenceSession

from fer_app.detection import MtcnnDetector, area_resize, cascade, proposals

scene = runpy.run_path(str(Path(__file__).with_name("detection_speed.py")))["scene"]
# Multiplications and additions of facenet-pytorch's networks: a pixel of the pyramid, a crop, a crop.
FLOP = {"P-Net": 3.66e3, "R-Net": 3.06e6, "O-Net": 25.8e6}
STAGES = ("sums", "pyramid", "P-Net", "proposals", "crops", "R-Net", "O-Net", "suppression", "rest")


class Clock:
    """Adds up the time spent in functions, and the pixels or crops that networks were given."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.given = dict.fromkeys(FLOP, 0)
        self._inner = [0.0]

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time counts for a stage, without that of wrapped functions inside it."""

        def run(*args: Any, **named: Any) -> Any:
            if stage in FLOP:
                batch, _, height, width = args[0].shape
                self.given[stage] += batch * height * width if stage == "P-Net" else batch
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **named)
            spent = time.perf_counter() - start
            self.seconds[stage] += spent - self._inner.pop()
            self._inner[-1] += spent
            return result

        return run


def watch(detector: MtcnnDetector, clock: Clock) -> None:
    """Put the clock around every stage of a detector, and around the functions that all detectors share."""
    for attribute, stage in (("_pnet", "P-Net"), ("_rnet", "R-Net"), ("_onet", "O-Net")):
        network = getattr(detector, attribute)
        setattr(detector, attribute, network._replace(network=clock.timed(stage, network.network)))
    for module, name, stage in (
        (area_resize, "integral_image", "sums"),
        (area_resize, "area_resize", "pyramid"),
        (area_resize, "area_crops", "crops"),
        (cascade, "find_proposals", "proposals"),
        (cascade, "suppress", "suppression"),
        (proposals, "_overlapping_neighbours", "suppression"),
        (proposals, "undominated", "suppression"),
    ):
        setattr(module, name, clock.timed(stage, getattr(module, name)))


def peak_gflops() -> float:
    """ONNX Runtime's product of two float32 matrices of 2048 x 2048, one thread, best of nine, in GFLOP/s."""
    from onnx import TensorProto, helper

    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2048, 2048]) for name in "abc"]
    model = helper.make_model(
        helper.make_graph([node], "product", values[:2], values[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: np.ones((2048, 2048), np.float32) for name in "ab"}
    times = []
    for _ in range(9):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(times) / 1e9


def profile(detector: MtcnnDetector, clock: Clock, picture: np.ndarray, repeats: int) -> dict[str, float]:
    """Median milliseconds of each stage and in all, and the arithmetic of one picture in GFLOP."""
    detector.detect([picture])
    rows = []
    for _ in range(repeats):
        clock.seconds = dict.fromkeys(STAGES, 0.0)
        clock.given = dict.fromkeys(FLOP, 0)
        start = time.perf_counter()
        detector.detect([picture])
        total = time.perf_counter() - start
        clock.seconds["rest"] = max(0.0, total - sum(clock.seconds.values()))
        rows.append({**clock.seconds, "all": total})
    milliseconds = {stage: statistics.median(row[stage] for row in rows) * 1e3 for stage in rows[0]}
    return {**milliseconds, "GFLOP": sum(clock.given[name] * flop for name, flop in FLOP.items()) / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--min-face", type=int, default=20, metavar="PX")
    parser.add_argument("--size", default="720p", choices=["720p", "1080p"])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    clock = Clock()
    detector = MtcnnDetector(min_face_px=arguments.min_face, threads=1)
    watch(detector, clock)
    peak = peak_gflops()
    columns = {faces: profile(detector, clock, scene(faces, arguments.size), arguments.repeats) for faces in (1, 8, 32)}
    print(
        f"{arguments.size}, smallest face {arguments.min_face} px, one thread, medians of {arguments.repeats} calls, ms"
    )
    print("\n| stage | " + " | ".join(f"{faces} face(s)" for faces in columns) + " |\n|" + "---|" * 4)
    for stage in (*STAGES, "all"):
        print(f"| {stage} | " + " | ".join(f"{column[stage]:.1f}" for column in columns.values()) + " |")
    floor = " | ".join(f"{column['GFLOP'] / peak * 1e3:.1f}" for column in columns.values())
    print(f"| arithmetic alone, at {peak:.0f} GFLOP/s | {floor} |")


if __name__ == "__main__":
    main()
