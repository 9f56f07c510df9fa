"""A drawn picture, its files, and how far two pictures are apart."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def scene(height: int = 40, width: int = 64) -> npt.NDArray[np.uint8]:
    """A picture that differs from all its rotations and has smooth colours, so that JPEG hardly changes it."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / width, 255 * y / height
    blue = np.where((x < width / 2) & (y < height / 2), 200, 40)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def worst(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean(axis=(0, 1)).max())
