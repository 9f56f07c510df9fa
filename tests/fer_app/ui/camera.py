"""A clip for the browser's fake camera: the portrait, moving to and fro in 640 x 480 px."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 640, 480


def film_portrait(portrait: Path, clip: Path, *, frames: int = 60, nobody: bool = False) -> Path:
    """Write a clip in the format that Chromium takes: JPEG files one after the other.

    Args:
        portrait: the picture in examples/.
        clip: a path that ends in `.mjpeg`.
        frames: how many pictures, shown again and again, 30 a second.
        nobody: film an empty wall instead.
    """
    with Image.open(portrait) as picture:
        person = np.asarray(picture.convert("RGB").resize((460, 460)))
    parts = []
    for number in range(frames):
        scene = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        if not nobody:
            left = 90 + round(60 * math.sin(2 * math.pi * number / frames))
            scene[10:470, left : left + 460] = person
        buffer = io.BytesIO()
        Image.fromarray(scene).save(buffer, "JPEG", quality=85)
        parts.append(buffer.getvalue())
    clip.write_bytes(b"".join(parts))
    return clip
