"""Pictures to measure with: copies of a portrait in several sizes and numbers, or somebody's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.errors import InputError
from fer_app.image_io import read_image
from fer_app.source_files import find_images

UInt8 = npt.NDArray[np.uint8]

# NASA's portrait of the astronaut Eileen Collins, cut out of examples/astronaut.jpg; in the public domain.
PORTRAIT = Path(__file__).with_name("portrait.jpg")
# Width, height, columns and rows of faces.
_GRIDS = ((640, 480, 1, 1), (1280, 720, 1, 1), (1280, 720, 4, 2), (1920, 1080, 8, 4))
_JPEG_QUALITY = 90
_MOST_PICTURES = 16


class Scene(NamedTuple):
    """A picture as a file holds it, and decoded.

    Attributes:
        name: what the report calls it, such as `1280 x 720`.
        file: its bytes.
        image: uint8, (H, W, 3), RGB.
    """

    name: str
    file: bytes
    image: UInt8


def made_scenes() -> list[Scene]:
    """Return pictures of four kinds, always the same: 1, 1, 8 and 32 copies of a portrait before a soft ground."""
    portrait = read_image(PORTRAIT)
    scenes = []
    for width, height, columns, rows in _GRIDS:
        image = _ground(width, height)
        place_w, place_h = width // columns, height // rows
        scale = 0.95 * min(place_w / portrait.shape[1], place_h / portrait.shape[0])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        copy = np.asarray(cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=how), np.uint8)
        for number in range(columns * rows):
            x = number % columns * place_w + (place_w - copy.shape[1]) // 2
            y = number // columns * place_h + (place_h - copy.shape[0]) // 2
            image[y : y + copy.shape[0], x : x + copy.shape[1]] = copy
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        file = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), options)[1].tobytes()
        scenes.append(Scene(f"{width} x {height}", file, read_image(file)))
    return scenes


def own_scenes(sources: Sequence[str]) -> list[Scene]:
    """Read pictures.

    Args:
        sources: files, folders and patterns.

    Raises:
        InputError: there is none, one cannot be read, or there are more than 16.
    """
    paths = find_images(sources)
    if not 1 <= len(paths) <= _MOST_PICTURES:
        raise InputError(f"{len(paths)} pictures to measure with; name 1 to {_MOST_PICTURES}")
    return [Scene(path.name, path.read_bytes(), read_image(path)) for path in paths]


def _ground(width: int, height: int) -> UInt8:
    coarse = np.random.default_rng(0).integers(90, 160, (height // 40, width // 40, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
