"""How many faces a second files of one classifier read on this machine's CPU, timed in turns as `fer bench` does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fer_app.bench.machine import describe_machine
from fer_app.bench.turns import Case, take_turns
from fer_app.classifier import OnnxClassifier

BATCHES: Final = (1, 8, 32)


class Speed(NamedTuple):
    """What was measured.

    Attributes:
        machine: in words.
        faces_per_s: a row a file, a column each of `BATCHES`; medians.
    """

    machine: str
    faces_per_s: list[list[float]]


def measure_speed(files: Sequence[Path], crops: NDArray[np.uint8], seconds: float) -> Speed:
    """Time files from crops to probabilities, a thread a core.

    Args:
        files: ONNX classifiers.
        crops: uint8, (N, H, W) or (N, H, W, 3); taken over and over where there are fewer than a batch.
        seconds: for all of it.
    """
    about = describe_machine("cpu", None)
    rows = []
    for file in files:
        classifier = OnnxClassifier(file, device="cpu", batch_size=max(BATCHES))
        rows.append([Case(partial(classifier.probs, np.resize(crops, (n, *crops.shape[1:])))) for n in BATCHES])
    take_turns([case for row in rows for case in row], seconds)
    words = f"{about['cpu']}, {about['threads']} threads, ONNX Runtime {about['onnxruntime']}"
    if about["load_before"] is not None:
        words += f"; {about['load_before']:.1f} processes waited or ran when it began"
    return Speed(words, [[n / case.quantile_s(0.5) for n, case in zip(BATCHES, row, strict=True)] for row in rows])
