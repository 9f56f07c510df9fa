"""Photo-like scenes with the faces of a data set in them: pasted, coloured, turned, in several sizes, as JPEG."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]

WIDTH, HEIGHT = 720, 448
# Side in px of the pasted crop, and the middle of its place in the scene. A detector's box is about as large.
SIZES: Final = (240, 160, 96, 64, 40)
_PLACES = ((204, 224), (545, 133), (492, 356), (630, 322), (622, 414))
MOST_TURNED_DEG = 25.0
QUALITIES = (40, 90)
# Beyond the crop's edge the picture goes on mirrored, and fades into the background: this share of the side.
_FADE = 0.12
_JITTER_PX = 3
_LUMA = np.array([0.299, 0.587, 0.114])


class Scene(NamedTuple):
    """A scene, and where its faces are.

    Attributes:
        image: uint8, (HEIGHT, WIDTH, 3), RGB, as decoded from JPEG.
        numbers: int64, (N,), which of the faces are in it.
        sizes: int64, (N,), side in px of each.
        turns: float64, (N,), degrees that each was turned counter-clockwise.
        placements: float64, (N, 2, 3), from px of the face's own crop to px of the scene.
    """

    image: UInt8
    numbers: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    turns: Float64
    placements: Float64


def scenes_of(crops: UInt8, backgrounds: UInt8 | None = None, *, seed: int = 0) -> Iterator[Scene]:
    """Render faces, one of each size a scene; always the same for the same arguments.

    Args:
        crops: uint8, (N, S, S), gray.
        backgrounds: uint8, (M, H, W, 3), RGB, general photos; None paints them.
        seed: of everything that is drawn at random.
    """
    for number, start in enumerate(range(0, len(crops), len(SIZES))):
        rng = np.random.default_rng([seed, number])
        numbers = np.arange(start, min(start + len(SIZES), len(crops)))
        image = _painted(rng) if backgrounds is None else _scaled(backgrounds[rng.integers(len(backgrounds))])
        slots = rng.permutation(len(SIZES))[: len(numbers)]
        turns = rng.uniform(-MOST_TURNED_DEG, MOST_TURNED_DEG, len(numbers))
        placements = []
        for face, slot, turn in zip(numbers, slots, turns, strict=True):
            middle = _PLACES[slot] + rng.uniform(-_JITTER_PX, _JITTER_PX, 2)
            placement = _placement(crops.shape[1], SIZES[slot], turn, middle)
            image = _pasted(image, colourised(crops[face], rng), placement, SIZES[slot])
            placements.append(placement)
        sizes = np.array(SIZES, np.int64)[slots]
        yield Scene(as_jpeg(image, int(rng.integers(*QUALITIES))), numbers, sizes, turns, np.stack(placements))


def colourised(crop: UInt8, rng: np.random.Generator) -> UInt8:
    """Give a gray crop (S, S) the hue of some skin in some light, of the same luma: uint8, (S, S, 3)."""
    hue = np.array([rng.uniform(1.1, 1.4), 1.0, rng.uniform(0.65, 0.9)])
    return np.asarray((crop[..., None] * (hue / (hue @ _LUMA))).round().clip(0, 255), np.uint8)


def as_jpeg(image: UInt8, quality: int) -> UInt8:
    """Encode a picture, (H, W) or (H, W, 3), and decode it again."""
    file = cv2.imencode(".jpg", image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_UNCHANGED), np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1] if image.ndim == 3 else decoded)


def _painted(rng: np.random.Generator) -> UInt8:
    """A soft ground with a few things before it."""
    coarse = rng.integers(40, 210, (6, 9, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for _ in range(6):
        corner = [int(rng.integers(WIDTH)), int(rng.integers(HEIGHT))]
        size = rng.integers(20, 160, 2)
        end = [int(corner[0] + size[0]), int(corner[1] + size[1])]
        cv2.rectangle(image, corner, end, rng.integers(0, 256, 3).tolist(), -1)
    noise = rng.normal(0, 4, image.shape)
    return np.asarray((cv2.GaussianBlur(image, (0, 0), 1.5) + noise).clip(0, 255), np.uint8)


def _scaled(photo: UInt8) -> UInt8:
    return np.asarray(cv2.resize(photo, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def _placement(side: int, size: int, turn_deg: float, middle: Float64) -> Float64:
    """The similarity transform from px of a crop of `side` px to the scene, in continuous coordinates."""
    turn = np.radians(turn_deg)
    linear = size / side * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.column_stack([linear, middle - linear @ [side / 2, side / 2]])


def _pasted(image: UInt8, crop: UInt8, placement: Float64, size: int) -> UInt8:
    """Draw a crop into the picture with a soft edge."""
    side = crop.shape[0]
    rim = round(side * _FADE)
    around = cv2.copyMakeBorder(crop, rim, rim, rim, rim, cv2.BORDER_REFLECT_101)
    ramp = np.minimum(1, (np.arange(side + 2 * rim) + 0.5) / rim)
    ramp = np.minimum(ramp, ramp[::-1])
    alpha = np.outer(ramp, ramp).astype(np.float32)
    matrix = np.column_stack([placement[:, :2], placement[:, 2] - placement[:, :2] @ [rim, rim]])
    if size < side:  # averaged first: one sample a pixel would alias
        scale = size / side
        smaller = (round(around.shape[1] * scale),) * 2
        matrix[:, :2] *= around.shape[1] / smaller[0]
        around = cv2.resize(around, smaller, interpolation=cv2.INTER_AREA)
        alpha = np.asarray(cv2.resize(alpha, smaller, interpolation=cv2.INTER_AREA), np.float32)
    middle = placement @ [side / 2, side / 2, 1]
    reach = size * (0.5 + _FADE) * np.sqrt(2) + 2
    x0, y0 = np.clip(middle - reach, 0, None).astype(int)
    x1, y1 = np.minimum(middle + reach, (WIDTH, HEIGHT)).astype(int)
    # OpenCV counts from the centres of pixels.
    matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5 - np.array([x0, y0])
    place = (x1 - x0, y1 - y0)
    drawn = cv2.warpAffine(around, matrix, place, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(alpha, matrix, place, flags=cv2.INTER_LINEAR)[..., None]
    whole = image.copy()
    under = whole[y0:y1, x0:x1]
    under[...] = (drawn * weight + under * (1 - weight)).round().clip(0, 255)
    return whole
