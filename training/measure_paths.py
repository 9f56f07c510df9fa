"""How a classifier's answers change with the way a face reaches it.

`python -m training.measure_paths MODEL --data DIR [--limit N]`

On FERPlus Valid (majority), with the data set's own 48 x 48 crop as the reference:

- served: the enlarged photo in a scene, detected, aligned, cut out (`training.measure_template`, path 2);
- mirrored: left and right swapped;
- tinted: a warm light and a cold one, as a colour picture;
- darker: half of the brightness;
- rescaled: shrunk to half of the side and back.

For each: the accuracy, and the share of faces whose label stays what it is on the reference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.data.ferplus import load_ferplus
from training.data.locate import locate
from training.evaluation import LogitsSource, crops_of, hard_targets, open_classifier
from training.measure_template import find_landmarks, served_crops

UInt8 = NDArray[np.uint8]

WARM = np.array([1.0, 0.85, 0.6])
COLD = np.array([0.65, 0.85, 1.0])


def tinted(crops: UInt8, gains: NDArray[np.float64]) -> UInt8:
    """Colour gray crops (N, H, W) by the light's gains a channel: uint8, (N, H, W, 3), RGB."""
    return (crops[..., None] * gains).round().astype(np.uint8)


def rescaled(crops: UInt8) -> UInt8:
    """Shrink crops (N, H, W) to half of the side, and enlarge them again."""
    height, width = crops.shape[1:]
    small = [cv2.resize(crop, (width // 2, height // 2), interpolation=cv2.INTER_AREA) for crop in crops]
    large = [cv2.resize(crop, (width, height), interpolation=cv2.INTER_LINEAR) for crop in small]
    return np.stack(large).astype(np.uint8)


def variants(crops: UInt8) -> Iterator[tuple[str, UInt8]]:
    """Give each change of gray crops (N, H, W) with its name."""
    yield "mirrored", crops[:, :, ::-1]
    yield "tinted, warm light", tinted(crops, WARM)
    yield "tinted, cold light", tinted(crops, COLD)
    yield "darker", crops // 2
    yield "rescaled", rescaled(crops)


def report(classifier: LogitsSource, crops: UInt8, targets: NDArray[np.int64]) -> Iterator[str]:
    """Lines of the whole measurement, for gray crops (N, 48, 48) and their classes (N,)."""
    reference = classifier.logits(crops).argmax(axis=1)
    found = find_landmarks(crops)
    kept = found.kept
    served = served_crops(found)[0] if len(kept) else found.crops
    yield f"{'':24}{'faces':>7}{'accuracy':>10}{'same label':>12}"
    yield _row("the data set's crop", reference, reference, targets)
    yield _row("  those that were found", reference[kept], reference[kept], targets[kept])
    yield _row("served", classifier.logits(served).argmax(axis=1), reference[kept], targets[kept])
    for name, changed in variants(crops):
        yield _row(name, classifier.logits(changed).argmax(axis=1), reference, targets)


def _row(name: str, labels: NDArray[np.int64], reference: NDArray[np.int64], targets: NDArray[np.int64]) -> str:
    if not len(labels):
        return f"{name:24}{0:>7}{'-':>10}{'-':>12}"
    accuracy, same = 100 * (labels == targets).mean(), 100 * (labels == reference).mean()
    return f"{name:24}{len(labels):>7}{accuracy:>10.2f}{same:>12.2f}"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m training.measure_paths", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a .safetensors checkpoint or an .onnx file")
    parser.add_argument("--data", type=Path, required=True, help="FERPlus folder or archive")
    parser.add_argument("--limit", type=int, help="look at this many faces (all)")
    arguments = parser.parse_args()
    faces = load_ferplus(locate([arguments.data]).need_ferplus(), "valid")
    crops, targets = crops_of(faces)[: arguments.limit], hard_targets(faces)[: arguments.limit]
    classifier = open_classifier(arguments.model)
    sys.stdout.writelines(f"{line}\n" for line in report(classifier, crops, targets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
