"""Averaging resize with integer bins, exactly as PyTorch's `interpolate(mode="area")` does it.

Output pixel i of n over a length L is the mean of the input from `floor(i L / n)` up to, not including,
`ceil((i + 1) L / n)`: bins are whole pixels and neighbours may share one. facenet-pytorch feeds MTCNN's networks with
this resize, and OpenCV's `INTER_AREA` (fractional bins) moves their boxes by pixels. An integral image gives any bin's
sum from four of its values, so the pyramid and every crop of a picture share one pass over it. It is four times as
large as the picture, though, so that of a large picture is only ever made for a part: the sums are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

# Up to here a picture keeps its whole integral image, of 50 MB then; beyond, it is made anew for every part.
WHOLE_PIXELS = 2**22
# One band of rows of a large picture; its integral image takes 12 MB.
BAND_PIXELS = 2**20


class Frame:
    """One picture, ready to be shrunk as a whole and in parts.

    Attributes:
        height: of the picture, in px.
        width: of the picture, in px.
    """

    def __init__(self, image: UInt8) -> None:
        """Sum up the picture, unless it is large.

        Args:
            image: uint8, (H, W, 3).
        """
        self.height, self.width = image.shape[:2]
        self._image = image
        self._integral = integral_image(image) if self.height * self.width <= WHOLE_PIXELS else None

    def pyramid(self, sizes: Sequence[tuple[int, int]]) -> Iterator[Float32]:
        """Yield the picture at each (height, width): float32, (3, height, width), 0..255."""
        if self._integral is None:
            yield from banded_pyramid(self._image, sizes)
        else:
            for size in sizes:
                yield area_resize(self._integral, size)

    def crops(self, rectangles: Index, side: int) -> Float32:
        """Cut out rectangles and resize each to a square; arguments and result are those of `area_crops`."""
        if self._integral is not None:
            return area_crops(self._integral, rectangles, side)
        crops = np.empty((len(rectangles), 3, side, side), np.float32)
        for crop, (x0, y0, x1, y1) in zip(crops, rectangles.tolist(), strict=True):
            (crop[...],) = Frame(self._image[y0:y1, x0:x1]).pyramid([(side, side)])
        return crops


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
    return _means(np.asarray(sums, np.int32), bottom - top, right - left)


def banded_pyramid(image: UInt8, sizes: Sequence[tuple[int, int]]) -> Iterator[Float32]:
    """Resize a whole picture to several sizes in one pass over it, without its whole integral image.

    The picture is summed up in bands of rows. A bin's sum is a difference of two rows of the whole integral image,
    each of which is a row of a band's plus all that lies above the band.

    Args:
        image: uint8, (H, W, 3).
        sizes: (height, width) of each result in px.

    Yields:
        What `area_resize` returns for each size.
    """
    height, width = image.shape[:2]
    vertical = [bin_edges(np.asarray(height), size[0]) for size in sizes]
    horizontal = [bin_edges(np.asarray(width), size[1]) for size in sizes]
    sums = [np.zeros((*size, 3), np.int32) for size in sizes]
    above = np.zeros((width + 1, 3), np.int32)
    rows = max(1, BAND_PIXELS // width)
    for start in range(0, height, rows):
        band = integral_image(image[start : start + rows])
        for total, (top, bottom), (left, right) in zip(sums, vertical, horizontal, strict=True):
            for edges, add in ((bottom, np.add), (top, np.subtract)):
                # Edges rise, so those in the band follow each other; the picture's upper edge adds nothing.
                first, last = np.searchsorted(edges, [start, start + len(band) - 1], side="right")
                lines = band.take(edges[first:last] - start, axis=0)
                lines += above
                part = lines.take(right, axis=1)
                part -= lines.take(left, axis=1)
                add(total[first:last], part, out=total[first:last])
        above += band[-1]
    for (top, bottom), (left, right) in zip(vertical, horizontal, strict=True):
        yield _means(sums.pop(0), bottom - top, right - left)


def _means(sums: Int32, heights: Index, widths: Index) -> Float32:
    """Divide the sums of bins, (h, w, 3), by the bins' pixels: float32, (3, h, w)."""
    means = sums.transpose(2, 0, 1).astype(np.float32, order="C")
    means /= (heights[:, None] * widths).astype(np.float32)
    return means


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
