"""General pictures without labels, for pre-training: from folders, tar archives, or both."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fer_app.errors import DatasetError
from training.data.archives import ARCHIVE_SUFFIXES, read_tar
from training.data.decoding import decode_picture, map_in_threads
from training.data.image_set import ImageSet
from training.first_few import first_few

PICTURE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def load_images(
    sources: Iterable[Path],
    img_size: int,
    color_mode: Literal["rgb", "gray"],
    limit: int | None = None,
    *,
    fit: Literal["crop", "stretch"] = "crop",
    threads: int | None = None,
) -> ImageSet:
    """Read pictures into memory as squares.

    Args:
        sources: folders (read recursively, in the order of their paths) and tar archives (in their own order).
        img_size: side of the squares in px.
        color_mode: `rgb`, or `gray` for one channel of luma.
        limit: stop after this many pictures, in the order of the sources; None reads all.
        fit: `crop` scales the short side to `img_size` and keeps the centre; `stretch` scales both sides.
        threads: that decode; None means one a core, eight at most.

    Returns:
        images uint8, (N, 3 or 1, img_size, img_size); no targets; names are paths below their source.

    Raises:
        DatasetError: a source is missing or no archive, or not one picture could be read.
        ValueError: `img_size` or `limit` is below 1.

    Warns:
        UserWarning: once, when some pictures could not be read or decoded; they are left out.
    """
    if img_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"img_size ({img_size}) and limit ({limit}) must be at least 1")
    paths = [Path(source) for source in sources]

    def prepare(item: tuple[str, bytes | Path]) -> tuple[str, NDArray[np.uint8] | None]:
        name, content = item
        try:
            data = content if isinstance(content, bytes) else content.read_bytes()
        except OSError:  # counted like a picture that cannot be decoded
            return name, None
        pixels = decode_picture(data, color_mode)
        return name, None if pixels is None else square(pixels, img_size, fit)

    names: list[str] = []
    bad: list[str] = []
    blocks: list[NDArray[np.uint8]] = []
    items = islice(chain.from_iterable(_pictures_in(path) for path in paths), limit)
    for chunk in map_in_threads(prepare, items, threads):
        bad += [name for name, pixels in chunk if pixels is None]
        names += [name for name, pixels in chunk if pixels is not None]
        if readable := [pixels for _, pixels in chunk if pixels is not None]:
            blocks.append(np.stack(readable))
    first = first_few(bad)
    if not names:
        found = f"none of {len(bad)} pictures could be read: {first}" if bad else "no pictures found"
        raise DatasetError(f"{', '.join(map(str, paths)) or 'no sources'}: {found}")
    if bad:
        warnings.warn(f"{len(bad)} of {len(bad) + len(names)} pictures cannot be read: {first}", stacklevel=2)
    images = _join(blocks, (len(names), img_size, img_size, 1 if color_mode == "gray" else 3))
    return ImageSet(images=torch.from_numpy(images), targets=None, names=tuple(names), class_names=())


def square(pixels: NDArray[np.uint8], img_size: int, fit: Literal["crop", "stretch"]) -> NDArray[np.uint8]:
    """Bring one picture, uint8 (H, W, C), to uint8 (img_size, img_size, C); shrinking averages over areas."""
    height, width, channels = pixels.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
        height = width = side
    if (height, width) == (img_size, img_size):
        return pixels
    shrinks = height >= img_size and width >= img_size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (img_size, img_size), interpolation=interpolation)
    return np.asarray(resized.reshape(img_size, img_size, channels), np.uint8)


def _pictures_in(source: Path) -> Iterator[tuple[str, bytes | Path]]:
    """Yield names with files (of a folder) or with their bytes (of an archive, in one pass)."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                yield path.relative_to(source).as_posix(), path
    elif not source.exists():
        raise DatasetError(f"{source} does not exist")
    elif not source.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise DatasetError(f"{source} is neither a folder nor one of {', '.join(ARCHIVE_SUFFIXES)}")
    else:
        yield from read_tar(source, lambda name: name.lower().endswith(PICTURE_SUFFIXES))


def _join(blocks: list[NDArray[np.uint8]], shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Join (n, H, W, C) blocks to (N, C, H, W), freeing each as it is copied so that the peak stays near one copy."""
    count, height, width, channels = shape
    images = np.empty((count, channels, height, width), np.uint8)
    filled = 0
    for block in _emptying(blocks):
        images[filled : filled + len(block)] = block.transpose(0, 3, 1, 2)
        filled += len(block)
    return images


def _emptying(blocks: list[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    blocks.reverse()
    while blocks:
        yield blocks.pop()
