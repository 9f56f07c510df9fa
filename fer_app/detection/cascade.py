"""MTCNN's cascade around its three networks (Zhang et al. 2016, arXiv:1604.02878), in NumPy.

Every step follows facenet-pytorch 2.5.3's `detect_face`, whose quirks are kept because the networks are used with
them: 1 px is added to sizes in some steps and not in others, crops start one pixel early, the last suppression divides
by the smaller box. A candidate whose crop would be empty is dropped (there it is an error).

Candidates of all frames travel together as columns, with the number of their frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.boxes import moved, squared, suppress
from fer_app.detection.area_resize import Frame

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
# Runs one network on float32 (n, 3, h, w): probabilities first, then box offsets, then (O-Net) landmarks.
Network = Callable[[Float32], Sequence[npt.NDArray[Any]]]

PYRAMID_FACTOR = 0.709
PNET_WINDOW_PX = 12
PNET_STRIDE_PX = 2
RNET_SIDE_PX = 24
ONET_SIDE_PX = 48
# One run of R-Net or O-Net; larger batches fall out of the cache and are slower on a CPU.
CROPS_PER_RUN = 64
# One run of P-Net, in pixels of the shrunken pictures: bounds memory, which is some hundred bytes a pixel.
PNET_PIXELS_PER_RUN = 2**18


class Candidates(NamedTuple):
    """N boxes on the way through the cascade.

    Attributes:
        boxes: float32, (N, 4), x0 y0 x1 y1 in px of their frame, not clipped to it.
        probs: float32, (N,), the last network's probability of a face.
        frames: intp, (N,), number of the frame.
    """

    boxes: Float32
    probs: Float32
    frames: Index

    def take(self, index: npt.NDArray[Any]) -> Candidates:
        """Return some of the candidates."""
        return Candidates(*(column[index] for column in self))

    def suppressed(self, threshold: float, **how: Any) -> Index:
        """Indices that survive `fer_app.boxes.suppress` among the candidates of their own frame."""
        kept = []
        for frame in np.unique(self.frames):
            (rows,) = np.nonzero(self.frames == frame)
            kept.append(rows[suppress(self.boxes[rows], self.probs[rows], threshold, **how)])
        return np.concatenate(kept) if kept else np.zeros(0, np.intp)


def pyramid_scales(height: int, width: int, min_face_px: float) -> list[float]:
    """Scales at which P-Net's 12 px window sees faces from `min_face_px` up to the picture's shorter side."""
    scale = PNET_WINDOW_PX / min_face_px
    shortest = min(height, width) * scale
    scales = []
    while shortest >= PNET_WINDOW_PX:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
        shortest *= PYRAMID_FACTOR
    return scales


def normalised(pixels: Float32) -> Float32:
    """Map 0..255 to about -1..1, in place."""
    pixels -= np.float32(127.5)
    pixels *= np.float32(1 / 128)
    return pixels


def propose(pnet: Network, frames: Sequence[Frame], min_face_px: float, threshold: float) -> Candidates:
    """First stage: P-Net over the pyramids of all frames.

    Args:
        pnet: the network.
        frames: the pictures; those of one size are run together.
        min_face_px: side of the smallest face looked for.
        threshold: least probability.

    Returns:
        Square boxes around the proposals.
    """
    shapes = [(frame.height, frame.width) for frame in frames]
    found = []
    for height, width in dict.fromkeys(shapes):
        numbers = np.array([i for i, shape in enumerate(shapes) if shape == (height, width)], np.intp)
        scales = pyramid_scales(height, width, min_face_px)
        sizes = [(int(height * scale + 1), int(width * scale + 1)) for scale in scales]
        levels = zip(*(frames[i].pyramid(sizes) for i in numbers), strict=True)
        for scale, images in zip(scales, levels, strict=True):
            found.append(_proposals_at_scale(_run_pnet(pnet, images), scale, numbers, threshold))
    if not found:
        return Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp))
    candidates = Candidates(*(np.concatenate(column) for column in zip(*(part[0] for part in found), strict=True)))
    offsets = np.concatenate([part[1] for part in found])
    kept = candidates.suppressed(0.7)
    candidates = candidates.take(kept)
    return candidates._replace(boxes=squared(moved(candidates.boxes, offsets[kept])))


def _run_pnet(pnet: Network, images: Sequence[Float32]) -> list[Float32]:
    """Run P-Net on pictures of one size, float32 (3, h, w), some at a time, or a large one in strips of rows.

    Output row r sees the input rows 2 r to 2 r + 11 and no others, so strips that overlap by 10 rows change nothing.
    """
    height, width = images[0].shape[1:]
    frames_per_run = max(1, PNET_PIXELS_PER_RUN // (height * width))
    overlap = PNET_WINDOW_PX - PNET_STRIDE_PX
    new_rows = max(1, (PNET_PIXELS_PER_RUN // width - overlap) // PNET_STRIDE_PX) * PNET_STRIDE_PX
    runs = []
    for first in range(0, len(images), frames_per_run):
        chunk = images[first : first + frames_per_run]
        strips = []
        # The last strip has at least one row beyond the overlap, enough for a row of output: pooling rounds up.
        for start in range(0, max(1, height - overlap), new_rows):
            stop = min(height, start + new_rows + overlap)
            strips.append(pnet(normalised(np.stack([image[:, start:stop] for image in chunk]))))
        runs.append([np.concatenate(parts, axis=-2) for parts in zip(*strips, strict=True)])
    return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def _proposals_at_scale(
    outputs: Sequence[npt.NDArray[Any]], scale: float, frames: Index, threshold: float
) -> tuple[Candidates, Float32]:
    """Candidates of one scale, suppressed among themselves, and their box offsets, float32 (N, 4)."""
    probs, offsets = outputs
    image, row, column = np.nonzero(probs >= np.float32(threshold))
    cell = np.stack([column, row], axis=1).astype(np.float32) * PNET_STRIDE_PX
    low = np.floor((cell + 1) / np.float32(scale))
    high = np.floor((cell + PNET_WINDOW_PX) / np.float32(scale))
    candidates = Candidates(np.concatenate([low, high], axis=1), probs[image, row, column], frames[image])
    kept = candidates.suppressed(0.5)
    return candidates.take(kept), offsets[image, :, row, column][kept]


def refine(rnet: Network, frames: Sequence[Frame], candidates: Candidates, threshold: float) -> Candidates:
    """Second stage: R-Net on every candidate; returns square boxes around those that pass."""
    candidates, outputs = _run_on_crops(rnet, frames, candidates, RNET_SIDE_PX, threshold)
    kept = candidates.suppressed(0.7)
    candidates = candidates.take(kept)
    return candidates._replace(boxes=squared(moved(candidates.boxes, outputs[0][kept], extra_px=1)))


def finish(
    onet: Network, frames: Sequence[Frame], candidates: Candidates, threshold: float
) -> tuple[Candidates, Float32]:
    """Third stage: O-Net on every candidate.

    Returns:
        The faces, and their landmarks: float32, (N, 5, 2), x y in px of the frame, in MTCNN's order.
    """
    candidates, outputs = _run_on_crops(onet, frames, candidates, ONET_SIDE_PX, threshold)
    offsets, points = outputs
    low = candidates.boxes[:, None, :2]
    size = candidates.boxes[:, None, 2:] - low + np.float32(1)
    landmarks = points.reshape(-1, 2, 5).transpose(0, 2, 1) * size + low - np.float32(1)
    candidates = candidates._replace(boxes=moved(candidates.boxes, offsets, extra_px=1))
    kept = candidates.suppressed(0.7, overlap="smaller", extra_px=1)
    return candidates.take(kept), landmarks[kept]


def crop_rectangles(boxes: Float32, height: int, width: int) -> Index:
    """Whole-pixel rectangles that the second and third network see of some boxes of one frame.

    Args:
        boxes: float32, (N, 4); truncated towards zero, they count pixels from 1 and include the last one.
        height: of the frame, in px.
        width: of the frame, in px.

    Returns:
        intp, (N, 4), x0 y0 x1 y1 with x1 and y1 not included, clipped to the frame; possibly empty.
    """
    whole = boxes.astype(np.intp)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.array([width, height]))
    return np.concatenate([low, high], axis=1)


def _run_on_crops(
    network: Network, frames: Sequence[Frame], candidates: Candidates, side: int, threshold: float
) -> tuple[Candidates, list[Float32]]:
    """Run a network on the crops of all candidates; returns those above the threshold and their other outputs."""
    rectangles = np.zeros((len(candidates.frames), 4), np.intp)
    for number in np.unique(candidates.frames):
        rows = candidates.frames == number
        rectangles[rows] = crop_rectangles(candidates.boxes[rows], frames[number].height, frames[number].width)
    visible = np.all(rectangles[:, 2:] > rectangles[:, :2], axis=1)
    candidates, rectangles = candidates.take(visible), rectangles[visible]
    passed, columns = [], []
    # At least one run, so that no candidates give outputs of the right shape.
    for start in range(0, max(1, len(rectangles)), CROPS_PER_RUN):
        chunk = slice(start, start + CROPS_PER_RUN)
        numbers = candidates.frames[chunk]
        crops = np.empty((len(numbers), 3, side, side), np.float32)
        for number in np.unique(numbers):
            crops[numbers == number] = frames[number].crops(rectangles[chunk][numbers == number], side)
        probs, *others = network(normalised(crops))
        (rows,) = np.nonzero(probs > np.float32(threshold))
        passed.append(Candidates(candidates.boxes[chunk], probs, numbers).take(rows))
        columns.append([other[rows] for other in others])
    merged = Candidates(*(np.concatenate(column) for column in zip(*passed, strict=True)))
    return merged, [np.concatenate(column) for column in zip(*columns, strict=True)]
