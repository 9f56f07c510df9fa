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
    x0, y0, x1, y1 = boxes[rank].T
    extra = np.float32(extra_px)
    areas = (x1 - x0 + extra) * (y1 - y0 + extra)
    alive = np.arange(len(rank))
    kept: list[int] = []
    while alive.size:
        first, rest = alive[0], alive[1:]
        kept.append(int(first))
        width = np.minimum(x1[first], x1[rest]) - np.maximum(x0[first], x0[rest]) + extra
        height = np.minimum(y1[first], y1[rest]) - np.maximum(y0[first], y0[rest]) + extra
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        if overlap == "smaller":
            whole = np.minimum(areas[first], areas[rest])
        else:
            whole = areas[first] + areas[rest] - intersection
        # A product instead of a quotient: boxes without area overlap nothing and divide nothing.
        alive = rest[intersection <= threshold * whole]
    return np.asarray(rank[kept], np.intp)


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
