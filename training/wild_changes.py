"""Changes of a picture that should not change the expression that is read in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from training.wild_scenes import as_jpeg

UInt8 = npt.NDArray[np.uint8]

_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


class Change(NamedTuple):
    """One change.

    Attributes:
        name: what the report calls it.
        apply: takes uint8, (H, W, 3), RGB, and returns such.
        bounded: whether the check's bound on changed labels holds for it.
    """

    name: str
    apply: Callable[[UInt8], UInt8]
    bounded: bool


def lit(*gains: float) -> Callable[[UInt8], UInt8]:
    """Return a light that multiplies R, G and B."""
    return lambda image: np.asarray((image * np.array(gains)).round().clip(0, 255), np.uint8)


def sepia(image: UInt8) -> UInt8:
    """Brown as old photos are."""
    return np.asarray((image @ _SEPIA.T).round().clip(0, 255), np.uint8)


def gray(image: UInt8) -> UInt8:
    """Without its colour, in three equal channels."""
    return np.repeat(np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)[..., None], 3, axis=2)


def mirrored(image: UInt8) -> UInt8:
    """Left and right swapped."""
    return np.ascontiguousarray(image[:, ::-1])


def resized(factor: float) -> Callable[[UInt8], UInt8]:
    """Return what scales both sides."""
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return lambda image: np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=how), np.uint8)


COLOURS: Final = (
    Change("warm light", lit(1.0, 0.85, 0.6), True),
    Change("cold light", lit(0.65, 0.85, 1.0), True),
    Change("sepia", sepia, True),
    Change("gray", gray, True),
)
MIRRORED: Final = Change("mirrored", mirrored, False)
OTHERS: Final = (
    Change("half as bright", lit(0.5, 0.5, 0.5), False),
    Change("brighter by 0.4", lit(1.4, 1.4, 1.4), False),
    Change("JPEG 40", lambda image: as_jpeg(image, 40), False),
    MIRRORED,
)


def crop_changes(side: int) -> tuple[Change, ...]:
    """Return the changes of a face crop of `side` px; the sizes are those that it is shown in instead."""
    sizes = [(40, True), (64, True), (96, True), (200, True), (24, False)]
    return (
        *COLOURS,
        *(Change(f"shown at {size} px", resized(size / side), bounded) for size, bounded in sizes),
        *OTHERS,
    )


def picture_changes() -> tuple[Change, ...]:
    """Return the changes of a whole picture."""
    return (*COLOURS, Change("half size", resized(0.5), True), Change("double size", resized(2), True), *OTHERS)
