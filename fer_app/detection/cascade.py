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
from fer_app.detection.area_resize import Int32, area_crops, area_resize

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
# One run of P-Net, in pixels of the shrunken pictures: bounds memory when many frames come at once.
PNET_PIXELS_PER_RUN = 2**21


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


def propose(pnet: Network, integrals: Sequence[Int32], min_face_px: float, threshold: float) -> Candidates:
    """First stage: P-Net over the pyramids of all frames.

    Args:
        pnet: the network.
        integrals: one `integral_image` a frame; frames of one size are run together.
        min_face_px: side of the smallest face looked for.
        threshold: least probability.

    Returns:
        Square boxes around the proposals.
    """
    shapes = [integral.shape for integral in integrals]
    found = []
    for shape in dict.fromkeys(shapes):
        frames = np.array([i for i, other in enumerate(shapes) if other == shape], np.intp)
        for scale in pyramid_scales(shape[0] - 1, shape[1] - 1, min_face_px):
            size = (int((shape[0] - 1) * scale + 1), int((shape[1] - 1) * scale + 1))
            per_run = max(1, PNET_PIXELS_PER_RUN // (size[0] * size[1]))
            for start in range(0, len(frames), per_run):
                chunk = frames[start : start + per_run]
                images = normalised(np.stack([area_resize(integrals[i], size) for i in chunk]))
                found.append(_proposals_at_scale(pnet(images), scale, chunk, threshold))
    if not found:
        return Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp))
    candidates = Candidates(*(np.concatenate(column) for column in zip(*(part[0] for part in found), strict=True)))
    offsets = np.concatenate([part[1] for part in found])
    kept = candidates.suppressed(0.7)
    candidates = candidates.take(kept)
    return candidates._replace(boxes=squared(moved(candidates.boxes, offsets[kept])))


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


def refine(rnet: Network, integrals: Sequence[Int32], candidates: Candidates, threshold: float) -> Candidates:
    """Second stage: R-Net on every candidate; returns square boxes around those that pass."""
    candidates, outputs = _run_on_crops(rnet, integrals, candidates, RNET_SIDE_PX, threshold)
    kept = candidates.suppressed(0.7)
    candidates = candidates.take(kept)
    return candidates._replace(boxes=squared(moved(candidates.boxes, outputs[0][kept], extra_px=1)))


def finish(
    onet: Network, integrals: Sequence[Int32], candidates: Candidates, threshold: float
) -> tuple[Candidates, Float32]:
    """Third stage: O-Net on every candidate.

    Returns:
        The faces, and their landmarks: float32, (N, 5, 2), x y in px of the frame, in MTCNN's order.
    """
    candidates, outputs = _run_on_crops(onet, integrals, candidates, ONET_SIDE_PX, threshold)
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
    network: Network, integrals: Sequence[Int32], candidates: Candidates, side: int, threshold: float
) -> tuple[Candidates, list[Float32]]:
    """Run a network on the crops of all candidates; returns those above the threshold and their other outputs."""
    rectangles = np.zeros((len(candidates.frames), 4), np.intp)
    for frame in np.unique(candidates.frames):
        rows = candidates.frames == frame
        height, width = integrals[frame].shape[0] - 1, integrals[frame].shape[1] - 1
        rectangles[rows] = crop_rectangles(candidates.boxes[rows], height, width)
    visible = np.all(rectangles[:, 2:] > rectangles[:, :2], axis=1)
    candidates, rectangles = candidates.take(visible), rectangles[visible]
    passed, columns = [], []
    # At least one run, so that no candidates give outputs of the right shape.
    for start in range(0, max(1, len(rectangles)), CROPS_PER_RUN):
        chunk = slice(start, start + CROPS_PER_RUN)
        frames = candidates.frames[chunk]
        crops = np.empty((len(frames), 3, side, side), np.float32)
        for frame in np.unique(frames):
            crops[frames == frame] = area_crops(integrals[frame], rectangles[chunk][frames == frame], side)
        probs, *others = network(normalised(crops))
        (rows,) = np.nonzero(probs > np.float32(threshold))
        passed.append(Candidates(candidates.boxes[chunk], probs, frames).take(rows))
        columns.append([other[rows] for other in others])
    merged = Candidates(*(np.concatenate(column) for column in zip(*passed, strict=True)))
    return merged, [np.concatenate(column) for column in zip(*columns, strict=True)]
