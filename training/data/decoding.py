"""Encoded pictures -> pixels, many at a time, on a few threads (OpenCV decodes without holding Python's lock)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Literal, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 128  # pictures a task: long enough that queueing costs nothing beside the decoding


def decode_picture(data: bytes, color_mode: Literal["rgb", "gray"]) -> NDArray[np.uint8] | None:
    """Decode one picture.

    Args:
        data: a whole PNG, JPEG, ... file.
        color_mode: `rgb` or `gray`.

    Returns:
        uint8, (H, W, 3) RGB or (H, W, 1) gray; None when the data is no picture that OpenCV reads.
    """
    if not data:
        return None
    flag = cv2.IMREAD_GRAYSCALE if color_mode == "gray" else cv2.IMREAD_COLOR
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error:  # e.g. a header that announces more pixels than OpenCV's limit
        return None
    if pixels is None:
        return None
    if color_mode == "gray":
        return np.asarray(pixels.reshape(*pixels.shape[:2], 1), np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def squeeze(pixels: NDArray[np.uint8], img_size: int) -> NDArray[np.uint8]:
    """Scale uint8 (H, W, C) to the square as serving does: an axis that shrinks is averaged, one that grows is not."""
    height, width, channels = pixels.shape
    if (height, width) == (img_size, img_size):
        return pixels
    lesser = (min(width, img_size), min(height, img_size))
    # In float32, like serving, and rounded once.
    scaled = cv2.resize(pixels.astype(np.float32), lesser, interpolation=cv2.INTER_AREA)
    if lesser != (img_size, img_size):
        scaled = cv2.resize(scaled, (img_size, img_size), interpolation=cv2.INTER_LINEAR)
    return np.rint(scaled).astype(np.uint8).reshape(img_size, img_size, channels)


def map_in_threads(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None
) -> Generator[list[R], None, None]:
    """Yield lists of `work(item)` in the order of `items`, computed ahead on threads.

    Only a few chunks are ever in flight, so that reading a large archive never holds more than those in memory.

    Args:
        work: called on the threads.
        items: read on the caller's thread.
        threads: number of threads; None means one a core, eight at most.
    """
    workers = threads or min(8, os.cpu_count() or 1)
    source = iter(items)
    pending: deque[Future[list[R]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        while chunk := list(islice(source, _CHUNK)):
            pending.append(pool.submit(lambda part: [work(item) for item in part], chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
