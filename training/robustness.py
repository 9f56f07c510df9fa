"""What a classifier's answers become when the same faces are noisy, blurred, dark, turned, covered, small or large.

Everything is done to crops as they lie in the data: no detector sees them, and turned faces are not turned back.
Every change is the same each time it is made: what is random comes from a seed and a face's place in the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from training.evaluation import LogitsSource

UInt8 = NDArray[np.uint8]

# Parts of the crop, as shares of its side from the top and from the left. Those of the face are about the landmarks of
# `fer_app.alignment`'s template.
_EYES = (0.28, 0.48, 0.15, 0.85)
_MOUTH = (0.68, 0.90, 0.22, 0.78)
_ONE_HALF = (0.0, 1.0, 0.0, 0.5)
_COVER = 128


class Robustness(NamedTuple):
    """What one change does to a classifier's answers.

    Attributes:
        change: its name.
        accuracy: share of the changed faces whose class is right.
        same: share of the faces whose label stays what it is on the plain crop.
    """

    change: str
    accuracy: float
    same: float


def noisy(crops: UInt8, sigma: float) -> UInt8:
    """Add Gaussian noise of a standard deviation, of 255, drawn from seed 0, to crops (N, H, W)."""
    rng = np.random.default_rng(0)
    changed = np.empty_like(crops)
    for crop, target in zip(crops, changed, strict=True):
        target[...] = (crop + rng.normal(0.0, sigma, crop.shape)).round().clip(0, 255)
    return changed


def blurred(crops: UInt8, share: float) -> UInt8:
    """Blur crops (N, H, W) by a Gaussian whose sigma is a share of their width."""
    return _each(crops, lambda crop: cv2.GaussianBlur(crop, (0, 0), share * crop.shape[1]))


def dimmed(crops: UInt8, gain: float) -> UInt8:
    """Multiply crops (N, H, W) by a gain; what would be brighter than white is white."""
    return (crops * np.float32(gain)).round().clip(0, 255).astype(np.uint8)


def turned(crops: UInt8, degrees: float) -> UInt8:
    """Turn crops (N, H, W) about their middle, every other one the other way; edges go on as a mirror shows them."""
    height, width = crops.shape[1:]
    middle = (width - 1) / 2, (height - 1) / 2
    ways = [cv2.getRotationMatrix2D(middle, angle, 1.0) for angle in (degrees, -degrees)]
    changed = [
        cv2.warpAffine(crop, ways[number % 2], (width, height), borderMode=cv2.BORDER_REFLECT_101)
        for number, crop in enumerate(crops)
    ]
    return np.stack(changed).astype(np.uint8)


def covered(crops: UInt8, part: tuple[float, float, float, float]) -> UInt8:
    """Lay a plain gray over a part of crops (N, H, W): from, to of the height, then of the width, as shares."""
    height, width = crops.shape[1:]
    top, bottom, left, right = (
        round(share * side) for share, side in zip(part, (height, height, width, width), strict=True)
    )
    changed = crops.copy()
    changed[:, top:bottom, left:right] = _COVER
    return changed


def spotted(crops: UInt8, share: float) -> UInt8:
    """Lay a gray square, its side a share of the width, over each of the crops (N, H, W), where seed 0 says."""
    rng = np.random.default_rng(0)
    side = round(share * crops.shape[2])
    changed = crops.copy()
    for crop in changed:
        top, left = (rng.integers(0, size - side + 1) for size in crop.shape)
        crop[top : top + side, left : left + side] = _COVER
    return changed


def resized(crops: UInt8, side_px: int) -> UInt8:
    """Scale crops (N, H, W) to another side; small ones are averaged, large ones interpolated."""
    how = cv2.INTER_AREA if side_px < crops.shape[1] else cv2.INTER_LINEAR
    return _each(crops, lambda crop: cv2.resize(crop, (side_px, side_px), interpolation=how))


CHANGES: Final[tuple[tuple[str, Callable[[UInt8], UInt8]], ...]] = (
    ("noise, sigma 10 of 255", partial(noisy, sigma=10)),
    ("noise, sigma 25", partial(noisy, sigma=25)),
    ("blur, sigma 2 % of the width", partial(blurred, share=0.02)),
    ("blur, sigma 4 %", partial(blurred, share=0.04)),
    ("half as bright", partial(dimmed, gain=0.5)),
    ("a fifth as bright", partial(dimmed, gain=0.2)),
    ("twice as bright", partial(dimmed, gain=2.0)),
    ("turned by 10 degrees", partial(turned, degrees=10)),
    ("turned by 20 degrees", partial(turned, degrees=20)),
    ("turned by 45 degrees", partial(turned, degrees=45)),
    ("eyes covered", partial(covered, part=_EYES)),
    ("mouth covered", partial(covered, part=_MOUTH)),
    ("one half covered", partial(covered, part=_ONE_HALF)),
    ("a third of the side covered, anywhere", partial(spotted, share=1 / 3)),
    ("24 px", partial(resized, side_px=24)),
    ("32 px", partial(resized, side_px=32)),
    ("40 px", partial(resized, side_px=40)),
    ("64 px", partial(resized, side_px=64)),
    ("96 px", partial(resized, side_px=96)),
    ("200 px", partial(resized, side_px=200)),
)
"""Every change by its name, milder ones first within each kind."""


def measure_robustness(classifier: LogitsSource, crops: UInt8, targets: NDArray[np.int64]) -> Iterator[Robustness]:
    """Score a classifier on the plain crops, then on every change of them.

    Args:
        classifier: a checkpoint or an ONNX file.
        crops: uint8, (N, H, W), gray; N at least 1.
        targets: (N,), the classes.
    """
    plain = classifier.logits(crops).argmax(axis=1)
    yield Robustness("none", float((plain == targets).mean()), 1.0)
    for name, change in CHANGES:
        labels = classifier.logits(change(crops)).argmax(axis=1)
        yield Robustness(name, float((labels == targets).mean()), float((labels == plain).mean()))


def _each(crops: UInt8, change: Callable[[UInt8], object]) -> UInt8:
    return np.stack([np.asarray(change(crop), np.uint8) for crop in crops])
