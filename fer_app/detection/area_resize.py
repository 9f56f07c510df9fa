"""Averaging resize with integer bins, exactly as PyTorch's `interpolate(mode="area")` does it.

Output pixel i of n over a length L is the mean of the input from `floor(i L / n)` up to, not including,
`ceil((i + 1) L / n)`: bins are whole pixels and neighbours may share one. facenet-pytorch feeds MTCNN's networks with
this resize, and OpenCV's `INTER_AREA` (fractional bins) moves their boxes by pixels. An integral image gives any bin's
sum from four of its values, so the pyramid and every crop of a picture share one pass over it.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]


def integral_image(image: UInt8) -> Int32:
    """Sums over all pixels above and left of each corner.

    Args:
        image: uint8, (H, W, 3).

    Returns:
        int32, (H + 1, W + 1, 3). Above 8.4 megapixels the sums wrap around; differences between them, which are all
        that is used, are right as long as one bin is smaller than that.
    """
    return np.asarray(cv2.integral(np.ascontiguousarray(image), sdepth=cv2.CV_32S), np.int32)


def bin_edges(length: Index, bins: int) -> tuple[Index, Index]:
    """First and one-past-last input index of each bin.

    Args:
        length: intp, (...), numbers of input pixels, at least 1.
        bins: number of output pixels n.

    Returns:
        Two intp arrays, (..., n).
    """
    i = np.arange(bins)
    total = np.asarray(length)[..., None]
    return i * total // bins, -((i + 1) * total // -bins)


def area_resize(integral: Int32, size: tuple[int, int]) -> Float32:
    """Resize a whole picture.

    Args:
        integral: int32, (H + 1, W + 1, 3), from `integral_image`.
        size: (height, width) of the result in px.

    Returns:
        float32, (3, height, width), 0..255.
    """
    height, width = integral.shape[0] - 1, integral.shape[1] - 1
    top, bottom = bin_edges(np.asarray(height), size[0])
    left, right = bin_edges(np.asarray(width), size[1])
    rows = integral.take(bottom, axis=0)
    rows -= integral.take(top, axis=0)
    sums = rows.take(right, axis=1)
    sums -= rows.take(left, axis=1)
    counts = ((bottom - top)[:, None] * (right - left)).astype(np.float32)
    return np.asarray(sums.transpose(2, 0, 1).astype(np.float32, order="C") / counts, np.float32)


def area_crops(integral: Int32, rectangles: Index, side: int) -> Float32:
    """Cut N rectangles out of one picture and resize each to a square, all at once.

    Args:
        integral: int32, (H + 1, W + 1, 3), from `integral_image`.
        rectangles: intp, (N, 4), x0 y0 x1 y1 in px, x1 and y1 not included; inside the picture and not empty.
        side: side of the results in px.

    Returns:
        float32, (N, 3, side, side), 0..255.
    """
    x0, y0, x1, y1 = rectangles.T
    left, right = bin_edges(x1 - x0, side)
    top, bottom = bin_edges(y1 - y0, side)
    counts = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).astype(np.float32)
    stride = integral.shape[1]
    corners = integral.reshape(-1, 3)
    above, below = (top + y0[:, None])[:, :, None] * stride, (bottom + y0[:, None])[:, :, None] * stride
    before, after = (left + x0[:, None])[:, None, :], (right + x0[:, None])[:, None, :]
    sums = corners.take(below + after, axis=0)
    sums -= corners.take(below + before, axis=0)
    sums -= corners.take(above + after, axis=0)
    sums += corners.take(above + before, axis=0)
    return np.asarray(sums.transpose(0, 3, 1, 2).astype(np.float32, order="C") / counts[:, None], np.float32)
