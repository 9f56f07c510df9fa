"""MTCNN's cascade around its three networks (Zhang et al. 2016, arXiv:1604.02878), in NumPy.

Every step follows facenet-pytorch 2.5.3's `detect_face`, whose quirks are kept because the networks are used with
them: 1 px is added to sizes in some steps and not in others, crops start one pixel early, the last suppression divides
by the smaller box. A candidate whose crop would be empty is dropped (there it is an error).

Candidates of all frames travel together as columns, with the number of their frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.boxes import moved, squared, suppress
from fer_app.detection.area_resize import Frame
from fer_app.detection.proposals import ALONE, Crew, Stage, face_probability, find_proposals

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]

RNET_SIDE_PX = 24
ONET_SIDE_PX = 48
_NEARBY_PX = 64
# Where O-Net looks again, in sides of the face's box: the side of the square, how far right and down its middle lies.
# Larger squares make landmarks lie further apart: with these, faces come out as large as by the cascade's own.
_LOOKS = ((0.96, 0.06, 0.03), (0.96, -0.06, -0.03))


class Candidates(NamedTuple):
    """N boxes on the way through the cascade.

    Attributes:
        boxes: float32, (N, 4), x0 y0 x1 y1 in px of their frame, not clipped to it.
        probs: float32, (N,), the last network's probability of a face.
        frames: intp, (N,), number of the frame; rising.
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


def propose(
    pnet: Stage, frames: Sequence[Frame], min_face_px: float, threshold: float, crew: Crew = ALONE
) -> Candidates:
    """First stage: P-Net over the pyramids of all frames; returns square boxes around the proposals."""
    found = find_proposals(pnet, frames, min_face_px, threshold, crew)
    return Candidates(squared(moved(found.boxes, found.offsets)), found.probs, found.frames)


def refine(
    rnet: Stage, frames: Sequence[Frame], candidates: Candidates, threshold: float, crew: Crew = ALONE
) -> Candidates:
    """Second stage: R-Net on every candidate; returns square boxes around those that pass."""
    candidates, values = _run_on_crops(rnet, frames, candidates, RNET_SIDE_PX, threshold, crew)
    kept = candidates.suppressed(0.7)
    candidates = candidates.take(kept)
    return candidates._replace(boxes=squared(moved(candidates.boxes, values[kept, :4], extra_px=1)))


def finish(
    onet: Stage, frames: Sequence[Frame], candidates: Candidates, threshold: float, crew: Crew = ALONE
) -> tuple[Candidates, Float32]:
    """Third stage: O-Net on every candidate.

    Returns:
        The faces, and their landmarks: float32, (N, 5, 2), x y in px of the frame, in MTCNN's order.
    """
    candidates, values = _run_on_crops(onet, frames, candidates, ONET_SIDE_PX, threshold, crew)
    low = candidates.boxes[:, None, :2]
    size = candidates.boxes[:, None, 2:] - low + np.float32(1)
    landmarks = _places(values) * size + low - np.float32(1)
    candidates = candidates._replace(boxes=moved(candidates.boxes, values[:, :4], extra_px=1))
    kept = candidates.suppressed(0.7, overlap="smaller", extra_px=1)
    return candidates.take(kept), landmarks[kept]


def steadied(
    onet: Stage, frames: Sequence[Frame], faces: Candidates, landmarks: Float32, crew: Crew = ALONE
) -> Float32:
    """Name the landmarks of faces again: the mean of what O-Net says of two squares beside each.

    O-Net's answer depends on where its window lies, and that on little things: a picture in other colours, or half as
    large, moves the windows of the cascade, and the landmarks with them. The mean over several windows stays.

    At a picture's edge a window shows less than the whole square, drawn out to the network's size. What O-Net says is
    taken as places in what it saw; the cascade takes it as places in the square, far from the face. Neither is in the
    publication.

    Args:
        onet: the network.
        frames: the pictures.
        faces: as `finish` returns them.
        landmarks: float32, (N, 5, 2), likewise; they stay where no window shows a pixel of the picture.
        crew: who shares the work.

    Returns:
        float32, (N, 5, 2), in their order.
    """
    squares = squared(faces.boxes)
    side = squares[:, 2:3] - squares[:, :1]
    middle = (squares[:, :2] + squares[:, 2:]) / 2
    windows = []
    for scale, *shift in _LOOKS:
        at, half = middle + side * np.array(shift, np.float32), side * np.float32(scale / 2)
        windows.append(np.concatenate([at - half, at + half], axis=1))
    which = np.tile(np.arange(len(squares)), len(_LOOKS))
    looks = Candidates(np.concatenate(windows), faces.probs[which], faces.frames[which])
    visible, rectangles = _visible(frames, looks)
    values = _values_on_crops(onet, frames, looks.frames[visible], rectangles, ONET_SIDE_PX, crew)
    low, size = rectangles[:, None, :2], rectangles[:, None, 2:] - rectangles[:, None, :2]
    seen = _places(values[:, 1:]) * size + low
    total, count = np.zeros_like(landmarks), np.zeros((len(landmarks), 1, 1), np.float32)
    np.add.at(total, which[visible], seen)
    np.add.at(count, which[visible], 1)
    return np.where(count > 0, total / np.maximum(count, 1), landmarks)


def cut_off(frames: Sequence[Frame], faces: Candidates) -> Index:
    """Return which faces have a square that reaches beyond their frame, intp (n,)."""
    ends = np.array([(frame.width, frame.height) for frame in frames], np.float32).reshape(-1, 2)[faces.frames]
    squares = squared(faces.boxes)
    return np.nonzero((squares[:, :2] < 0).any(axis=1) | (squares[:, 2:] > ends).any(axis=1))[0]


def _places(values: Float32) -> Float32:
    """Landmarks as shares of a crop's sides, (N, 5, 2), of what O-Net says beside its probability, (N, 14)."""
    return values[:, 4:].reshape(-1, 2, 5).transpose(0, 2, 1)


def crop_rectangles(boxes: Float32, heights: Index, widths: Index) -> Index:
    """Whole-pixel rectangles that the second and third network see of some boxes.

    Args:
        boxes: float32, (N, 4); truncated towards zero, they count pixels from 1 and include the last one.
        heights: intp, (N,), of each box's frame, in px.
        widths: intp, (N,), of each box's frame, in px.

    Returns:
        intp, (N, 4), x0 y0 x1 y1 with x1 and y1 not included, clipped to the frame; possibly empty.
    """
    whole = boxes.astype(np.intp)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], np.stack([widths, heights], axis=1))
    return np.concatenate([low, high], axis=1)


def _run_on_crops(
    stage: Stage, frames: Sequence[Frame], candidates: Candidates, side: int, threshold: float, crew: Crew
) -> tuple[Candidates, Float32]:
    """Run a network on the crops of all candidates; returns those above the threshold and their other values."""
    visible, rectangles = _visible(frames, candidates)
    candidates = candidates.take(visible)
    values = _values_on_crops(stage, frames, candidates.frames, rectangles, side, crew)
    probs = face_probability(values[:, 0])
    passed = probs > np.float32(threshold)
    return Candidates(candidates.boxes, probs, candidates.frames).take(passed), values[passed, 1:]


def _visible(frames: Sequence[Frame], candidates: Candidates) -> tuple[Index, Index]:
    """Return which candidates show a pixel of their frame, and those rectangles, (n, 4)."""
    sizes = np.array([(frame.height, frame.width) for frame in frames], np.intp).reshape(-1, 2)[candidates.frames]
    rectangles = crop_rectangles(candidates.boxes, sizes[:, 0], sizes[:, 1])
    (visible,) = np.nonzero(np.all(rectangles[:, 2:] > rectangles[:, :2], axis=1))
    return visible, rectangles[visible]


def _values_on_crops(
    stage: Stage, frames: Sequence[Frame], numbers: Index, rectangles: Index, side: int, crew: Crew
) -> Float32:
    """Run a network on rectangles, (N, 4), of the frames with these numbers, (N,); returns its values, (N, V)."""
    # Neighbours are cut out together: their sums are in the cache then.
    order = np.lexsort((rectangles[:, 0], rectangles[:, 1] // _NEARBY_PX, numbers))

    def run(chunk: slice) -> Float32:
        rows = order[chunk]
        return stage.network(_crops(frames, numbers[rows], rectangles[rows], side))

    # Chunks of about equal size, one for everybody at least. Without candidates one run still gives columns.
    count = len(rectangles)
    per_run = max(1, min(stage.portion, -(-count // crew.size)))
    runs = max(1, -(-count // per_run))
    chunks = [slice(i * count // runs, (i + 1) * count // runs) for i in range(runs)]
    ordered = np.concatenate(crew.each(run, chunks))
    values = np.empty_like(ordered)
    values[order] = ordered
    return values


def _crops(frames: Sequence[Frame], numbers: Index, rectangles: Index, side: int) -> Float32:
    """Crops of rectangles, intp (n, 4), out of the frames with these rising numbers, intp (n,)."""
    if len(numbers) == 0:
        return np.empty((0, 3, side, side), np.float32)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    parts = [
        frames[numbers[start]].crops(rectangles[start:stop], side)
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
