"""Between a decoder's YUV and RGB: the right matrix, the right range, and upright pictures with square pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer, Type
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

# From this height on, video without a word about it is taken for BT.709, below for BT.601, as browsers do.
HD_HEIGHT = 720
_UNSPECIFIED = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED
_CAREFUL = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


def matrix_of(height: int) -> Colorspace:
    """Which matrix video of this height, px, has when it does not say, and which one is written."""
    return Colorspace.ITU709 if height >= HD_HEIGHT else Colorspace.ITU601


@dataclass(frozen=True)
class Orientation:
    """How stored pictures become upright: turned clockwise by `rotation` degrees, then flipped left to right."""

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Orientation:
        """Read the display matrix that comes with a frame; angles between quarter turns go to the nearest."""
        try:
            matrix = cast(SideDataContainer, frame.side_data)[Type.DISPLAYMATRIX]  # PyAV's types say less
        except KeyError:
            return cls()
        # Nine 32-bit numbers, row by row: (x, y) goes to (a x + c y, b x + d y), with y pointing down.
        a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
        mirrored = a * d - b * c < 0
        if mirrored:
            # The picture is turned first and flipped then, so that the flip negates what becomes x.
            a, c = -a, -c
        quarters = round(float(np.arctan2(b, a)) / (np.pi / 2)) % 4
        return cls(90 * quarters, mirrored)

    @property
    def swaps_sides(self) -> bool:
        """Whether width becomes height."""
        return self.rotation % 180 == 90

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Turn uint8, (H, W, 3) upright."""
        turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
        if self.rotation:
            image = cv2.rotate(image, turns[self.rotation]).astype(np.uint8, copy=False)
        return cv2.flip(image, 1).astype(np.uint8, copy=False) if self.mirrored else image


def square_pixel_size(
    width: int, height: int, sample_aspect_ratio: Fraction, max_side_px: int | None
) -> tuple[int, int]:
    """Give the width and height, px, that stored pictures are scaled to before they are turned.

    The side that is too short for square pixels is stretched, so that no detail is lost; then both are scaled down
    together until neither is longer than `max_side_px`.
    """
    wide, high = Fraction(width), Fraction(height)
    if sample_aspect_ratio > 1:
        wide *= sample_aspect_ratio
    else:
        high /= sample_aspect_ratio
    longest = max(wide, high)
    if max_side_px is not None and longest > max_side_px:
        wide, high = wide * max_side_px / longest, high * max_side_px / longest
    return max(1, round(wide)), max(1, round(high))


class RgbConverter:
    """Makes upright RGB pictures of one size from decoded frames.

    Args:
        width: before turning, px.
        height: before turning, px.
        orientation: how they become upright.
    """

    def __init__(self, width: int, height: int, orientation: Orientation) -> None:
        self._width, self._height, self._orientation = width, height, orientation
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
        """Give uint8, (H, W, 3)."""
        scaled = (frame.width, frame.height) != (self._width, self._height)
        rgb = self._reformatter.reformat(
            frame,
            width=self._width,
            height=self._height,
            format="rgb24",
            src_colorspace=matrix_of(frame.height) if frame.colorspace == _UNSPECIFIED else None,
            dst_color_range=ColorRange.JPEG,
            # Without scaling swscale has a special way, ten times faster and one level of 255 darker on average.
            interpolation=_CAREFUL if scaled else Interpolation.BILINEAR,
            threads=1,
        )
        return self._orientation.apply(np.asarray(rgb.to_ndarray(), np.uint8))


class YuvConverter:
    """Makes yuv420p frames of limited range from RGB pictures, with even sides."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, image: npt.NDArray[np.uint8]) -> av.VideoFrame:
        """Convert uint8, (H, W, 3); an odd side gets its last row or column once more."""
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE).astype(np.uint8)
        return self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), "rgb24"),
            format="yuv420p",
            dst_colorspace=matrix_of(height),
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BILINEAR,
            threads=1,
        )
