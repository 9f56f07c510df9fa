"""Axis-aligned boxes as columns: float32, (N, 4), x0 y0 x1 y1 in px of the picture.

MTCNN counts pixels inclusively in some of its steps: there a box from x0 to x1 is `x1 - x0 + 1` wide. `extra_px` is
that one pixel; 0 is plain geometry.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Overlap = Literal["union", "smaller"]

# Rows of the table of overlaps that `suppress` makes at once, so that it stays in the cache.
_SUPPRESSED_AT_ONCE = 64


def box_areas(boxes: Float32, *, extra_px: int = 0) -> Float32:
    """Area of each box.

    Args:
        boxes: float32, (N, 4).
        extra_px: 1 counts both end pixels as inside.

    Returns:
        float32, (N,), px².
    """
    size = boxes[:, 2:] - boxes[:, :2] + np.float32(extra_px)
    return np.asarray(size[:, 0] * size[:, 1], np.float32)


def pairwise_iou(a: Float32, b: Float32) -> Float32:
    """Intersection over union of every box in `a` with every box in `b`.

    Args:
        a: float32, (N, 4).
        b: float32, (M, 4).

    Returns:
        float32, (N, M), 0..1; two boxes without area have 0.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    union = box_areas(a)[:, None] + box_areas(b)[None] - intersection
    return np.asarray(intersection / np.maximum(union, np.finfo(np.float32).tiny), np.float32)


def suppress(
    boxes: Float32, confidence: Float32, threshold: float, *, overlap: Overlap = "union", extra_px: int = 0
) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: the most confident box stays, those that overlap it too much go, and so on.

    Args:
        boxes: float32, (N, 4).
        confidence: float32, (N,).
        threshold: a box goes when its overlap with a kept one is larger than this.
        overlap: intersection divided by the `union`, or by the area of the `smaller` box (which also removes a small
            box inside a large one).
        extra_px: see the module.

    Returns:
        intp, (M,), indices of the kept boxes, most confident first. Among equal confidences the earlier box comes
        first with `union` and the later one with `smaller`, as in torchvision and facenet-pytorch respectively.
    """
    rank = (
        np.argsort(confidence, kind="stable")[::-1] if overlap == "smaller" else np.argsort(-confidence, kind="stable")
    )
    columns = boxes[rank].T
    better, worse = [], []
    for start in range(0, len(rank), _SUPPRESSED_AT_ONCE):
        block = columns[:, start : start + _SUPPRESSED_AT_ONCE]
        near = overlaps(block[:, :, None], columns[:, None, start:], threshold, overlap=overlap, extra_px=extra_px)
        one, other = np.nonzero(np.triu(near, 1))
        better.append(one + start)
        worse.append(other + start)
    if len(better) == 0:
        return np.zeros(0, np.intp)
    return np.asarray(rank[undominated(len(rank), np.concatenate(better), np.concatenate(worse))], np.intp)


def overlaps(
    a: Float32, b: Float32, threshold: float, *, overlap: Overlap = "union", extra_px: int = 0
) -> npt.NDArray[np.bool_]:
    """Tell which boxes overlap by more than a threshold.

    Args:
        a: float32, (4, ...), the coordinates first.
        b: float32, (4, ...), of a shape that broadcasts with that of `a`.
        threshold: as `suppress` takes it, and so are the others.
        overlap: see `suppress`.
        extra_px: see the module.

    Returns:
        bool, of the shape that both have together, without its first axis.
    """
    extra = np.float32(extra_px)
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + extra
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + extra
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = ((box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b))
    whole = np.minimum(area_a, area_b) if overlap == "smaller" else area_a + area_b - intersection
    # A product instead of a quotient: boxes without area overlap nothing and divide nothing.
    return np.asarray(intersection > threshold * whole)


def undominated(count: int, better: npt.NDArray[np.intp], worse: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Decide who stays when each one that stays removes all that it is better than.

    Every round keeps those that nobody better is left for, and removes what they dominate; a few rounds settle it.

    Args:
        count: how many there are.
        better: intp, (P,), the better one of each pair; there must be no circle.
        worse: intp, (P,), the other one.

    Returns:
        bool, (count,), who stays.
    """
    stays = np.ones(count, bool)
    while better.size:
        safe = stays.copy()
        safe[worse] = False
        stays[worse[safe[better]]] = False
        open_ = stays[better] & stays[worse]
        better, worse = better[open_], worse[open_]
    return stays


def squared(boxes: Float32) -> Float32:
    """Grow the shorter side of each box about its centre until the box is a square.

    Args:
        boxes: float32, (N, 4).

    Returns:
        float32, (N, 4).
    """
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    half = np.float32(0.5)
    low = boxes[:, :2] + size * half - side * half
    return np.concatenate([low, low + side], axis=1)


def moved(boxes: Float32, offsets: Float32, *, extra_px: int = 0) -> Float32:
    """Move each edge of each box by a share of the box's own size (a detector's box regression).

    Args:
        boxes: float32, (N, 4).
        offsets: float32, (N, 4), shares of the width (x0, x1) and height (y0, y1).
        extra_px: see the module.

    Returns:
        float32, (N, 4).
    """
    size = boxes[:, 2:] - boxes[:, :2] + np.float32(extra_px)
    return np.asarray(boxes + offsets * np.concatenate([size, size], axis=1), np.float32)
