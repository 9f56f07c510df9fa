"""Averaging resize with integer bins, exactly as PyTorch's `interpolate(mode="area")` does it.

Output pixel i of n over a length L is the mean of the input from `floor(i L / n)` up to, not including,
`ceil((i + 1) L / n)`: bins are whole pixels and neighbours may share one. facenet-pytorch feeds MTCNN's networks with
this resize, and OpenCV's `INTER_AREA` (fractional bins) moves their boxes by pixels. An integral image gives any bin's
sum from four of its values, so the pyramid and every crop of a picture share one pass over it. It is more than five
times as large as the picture, though, so that of a large picture is only ever made for a part: the sums are the same.

Sums have a fourth, unused channel: NumPy gathers items of 16 bytes two to three times as fast as items of 12.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

# Up to here a picture keeps its whole integral image, of 67 MB then; beyond, it is made anew for every part.
WHOLE_PIXELS = 2**22
# One band of rows of a large picture; its integral image takes 17 MB.
BAND_PIXELS = 2**20


class Frame:
    """One picture, ready to be shrunk as a whole and in parts.

    Attributes:
        height: of the picture, in px.
        width: of the picture, in px.
    """

    def __init__(self, image: UInt8, *, whole: bool = True) -> None:
        """Sum up the picture, unless it is large.

        Args:
            image: uint8, (H, W, 3).
            whole: False when only few crops will be asked for: then what lies around them is summed up.
        """
        self.height, self.width = image.shape[:2]
        self._image = image
        self._integral = integral_image(image) if whole and self.height * self.width <= WHOLE_PIXELS else None
        self._levels: dict[tuple[int, int], Float32] = {}

    def prepare(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Announce the (height, width) that `strip` will be asked for: a large picture is read once for all."""
        if self._integral is None:
            self._levels = dict(zip(sizes, banded_pyramid(self._image, sizes), strict=True))

    def strip(self, size: tuple[int, int], start: int, stop: int) -> Float32:
        """Rows `start` to `stop` of the picture at one of the prepared sizes.

        Returns:
            float32, (3, stop - start, width), 0..255.
        """
        if self._integral is None:
            return self._levels[size][:, start:stop]
        return area_resize(self._integral, size, start, stop)

    def forget_levels(self) -> None:
        """Free what `prepare` has made."""
        self._levels.clear()

    def crops(self, rectangles: Index, side: int) -> Float32:
        """Cut out rectangles and resize each to a square; arguments and result are those of `area_crops`."""
        if self._integral is not None:
            return area_crops(self._integral, rectangles, side)
        if len(rectangles) == 0:
            return np.empty((0, 3, side, side), np.float32)
        (x0, y0), (x1, y1) = rectangles[:, :2].min(axis=0).tolist(), rectangles[:, 2:].max(axis=0).tolist()
        part = self._image[y0:y1, x0:x1]
        # One integral image around all of them where they are near each other.
        if part.shape[0] * part.shape[1] <= BAND_PIXELS:
            return area_crops(integral_image(part), rectangles - np.array([x0, y0, x0, y0]), side)
        if len(rectangles) == 1:
            return np.stack(banded_pyramid(part, [(side, side)]))
        half = len(rectangles) // 2
        return np.concatenate([self.crops(rectangles[:half], side), self.crops(rectangles[half:], side)])


def integral_image(image: UInt8) -> Int32:
    """Sums over all pixels above and left of each corner.

    Args:
        image: uint8, (H, W, 3).

    Returns:
        int32, (H + 1, W + 1, 4), the last channel unused. Above 8.4 megapixels the sums wrap around; differences
        between them, which are all that is used, are right as long as one bin is smaller than that.
    """
    four = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2RGBA)
    return np.asarray(cv2.integral(four, sdepth=cv2.CV_32S), np.int32)


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


@functools.lru_cache(maxsize=256)
def _edges(length: int, bins: int) -> tuple[Index, Index]:
    """`bin_edges` of one length; the pictures of a video ask for the same again and again."""
    edges = bin_edges(np.asarray(length), bins)
    for edge in edges:
        edge.flags.writeable = False
    return edges


def area_resize(integral: Int32, size: tuple[int, int], start: int = 0, stop: int | None = None) -> Float32:
    """Resize a whole picture, or compute some rows of that.

    Args:
        integral: int32, (H + 1, W + 1, 4), from `integral_image`.
        size: (height, width) of the resized picture in px.
        start: first of its rows to return.
        stop: row after the last one; `None` is `height`.

    Returns:
        float32, (3, stop - start, width), 0..255.
    """
    top, bottom = (edge[start:stop] for edge in _edges(integral.shape[0] - 1, size[0]))
    left, right = _edges(integral.shape[1] - 1, size[1])
    rows = integral.take(bottom, axis=0)
    rows -= integral.take(top, axis=0)
    sums = rows.take(right, axis=1)
    sums -= rows.take(left, axis=1)
    return _means(np.asarray(sums, np.int32), bottom - top, right - left)


def banded_pyramid(image: UInt8, sizes: Sequence[tuple[int, int]]) -> list[Float32]:
    """Resize a whole picture to several sizes in one pass over it, without its whole integral image.

    The picture is summed up in bands of rows. A bin's sum is a difference of two rows of the whole integral image,
    each of which is a row of a band's plus all that lies above the band.

    Args:
        image: uint8, (H, W, 3).
        sizes: (height, width) of each result in px.

    Returns:
        What `area_resize` returns for each size.
    """
    height, width = image.shape[:2]
    vertical = [_edges(height, size[0]) for size in sizes]
    horizontal = [_edges(width, size[1]) for size in sizes]
    sums = [np.zeros((*size, 4), np.int32) for size in sizes]
    above = np.zeros((width + 1, 4), np.int32)
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
    return [
        _means(sums.pop(0), bottom - top, right - left)
        for (top, bottom), (left, right) in zip(vertical, horizontal, strict=True)
    ]


def _means(sums: Int32, heights: Index, widths: Index) -> Float32:
    """Divide the sums of bins, (h, w, 4), by the bins' pixels: float32, (3, h, w)."""
    means = sums[:, :, :3].transpose(2, 0, 1).astype(np.float32, order="C")
    means /= heights.astype(np.float32)[:, None] * widths.astype(np.float32)
    return means


def area_crops(integral: Int32, rectangles: Index, side: int) -> Float32:
    """Cut N rectangles out of one picture and resize each to a square, all at once.

    Args:
        integral: int32, (H + 1, W + 1, 4), from `integral_image`.
        rectangles: intp, (N, 4), x0 y0 x1 y1 in px, x1 and y1 not included; inside the picture and not empty.
        side: side of the results in px.

    Returns:
        float32, (N, 3, side, side), 0..255.
    """
    x0, y0, x1, y1 = rectangles.T
    left, right = bin_edges(x1 - x0, side)
    top, bottom = bin_edges(y1 - y0, side)
    counts = (bottom - top).astype(np.float32)[:, :, None] * (right - left).astype(np.float32)[:, None, :]
    # All edges of a crop at once: the upper ones and then the lower ones, the left ones and then the right ones.
    rows = (np.concatenate([top, bottom], axis=1) + y0[:, None]) * integral.shape[1]
    columns = np.concatenate([left, right], axis=1) + x0[:, None]
    corners = integral.reshape(-1, 4).take(rows[:, :, None] + columns[:, None, :], axis=0)
    strips = corners[:, side:]
    strips -= corners[:, :side]
    sums = strips[:, :, side:]
    sums -= strips[:, :, :side]
    means = sums[..., :3].transpose(0, 3, 1, 2).astype(np.float32, order="C")
    means /= counts[:, None]
    return np.asarray(means, np.float32)
