"""MTCNN's first stage: P-Net over the pyramids of all frames, a strip of rows at a time.

P-Net's maps are many times as large as what comes out of them. So a strip is resized, run and thresholded in one go,
while it is in the cache of the core that works on it, and only the few cells above the threshold are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.boxes import overlaps, undominated
from fer_app.detection.area_resize import Frame

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.intp]
# Runs one network on float32 (n, 3, h, w), 0..255. Along axis 1 of the result: the logit of a face, four box offsets,
# and (O-Net) five x and five y of landmarks.
Network = Callable[[Float32], Float32]

PYRAMID_FACTOR = 0.709
WINDOW_PX = 12
STRIDE_PX = 2
# Neighbours of a cell that can overlap its box by a half, each pair once. Three cells away it is at most 7/17: boxes
# are 11 a px wide and cells 2 a px apart with a >= 1, either rounded by less than one.
_NEIGHBOURS = np.array([(0, 1), (0, 2), *((row, column) for row in (1, 2) for column in range(-2, 3))])


class Stage(NamedTuple):
    """One network and how much of its input it gets at once.

    Attributes:
        network: runs it.
        portion: pixels of shrunken pictures for P-Net, crops for R- and O-Net. On a CPU a portion's feature maps
            should fit into a core's own cache.
    """

    network: Network
    portion: int


class Crew:
    """The caller and some helping threads, who share work."""

    def __init__(self, size: int = 1) -> None:
        """Hire helpers; they end when nobody holds the crew any more.

        Args:
            size: how many work, the caller included.
        """
        self.size = max(1, size)
        self._helpers = ThreadPoolExecutor(size - 1, "detection") if size > 1 else None

    def each(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """Results of a function for all items, in their order.

        Everybody takes the next item when done with the last. The caller never waits for a helper to begin: on a busy
        machine that may take longer than the work.
        """
        results: list[Any] = [None] * len(items)
        left = iter(range(len(items)))

        def work() -> None:
            for i in left:
                results[i] = function(items[i])

        helpers = min(self.size, len(items)) - 1
        joined = [self._helpers.submit(work) for _ in range(helpers)] if self._helpers else []
        try:
            work()
        finally:
            for helper in joined:
                if not helper.cancel():
                    helper.result()
        return results


ALONE = Crew()


class Level(NamedTuple):
    """One scale of the frames of one size.

    Attributes:
        scale: of the shrunken picture.
        size: its height and width in px.
        frames: intp, (F,), numbers of the frames.
        first_cell: where this level's cells start in a row of all levels' cells.
    """

    scale: float
    size: tuple[int, int]
    frames: Index
    first_cell: int

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells of one frame, with at least two empty ones at the end of each."""
        return self.size[0] // STRIDE_PX, self.size[1] // STRIDE_PX


class Strip(NamedTuple):
    """Rows `start` to `stop` of some frames at one level, numbers into `Level.frames`."""

    level: Level
    members: range
    start: int
    stop: int


class Proposals(NamedTuple):
    """N windows that P-Net takes for faces.

    Attributes:
        boxes: float32, (N, 4), x0 y0 x1 y1 in px of their frame.
        probs: float32, (N,).
        frames: intp, (N,), number of the frame.
        offsets: float32, (N, 4), box offsets.
        cells: intp, (N,), place of the window among the cells of all levels.
        strides: intp, (N,), cells in a row of the window's level.
    """

    boxes: Float32
    probs: Float32
    frames: Index
    offsets: Float32
    cells: Index
    strides: Index

    def take(self, index: npt.NDArray[Any]) -> Proposals:
        """Return some of the proposals."""
        return Proposals(*(column[index] for column in self))


def face_probability(logits: Float32) -> Float32:
    """Probability of a face, as softmax over (no face, face) gives it: float32, of the shape of `logits`."""
    return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)), np.float32)


def pyramid_scales(height: int, width: int, min_face_px: float) -> list[float]:
    """Scales at which P-Net's 12 px window sees faces from `min_face_px` up to the picture's shorter side."""
    scale = WINDOW_PX / min_face_px
    shortest = min(height, width) * scale
    scales = []
    while shortest >= WINDOW_PX:
        scales.append(scale)
        scale *= PYRAMID_FACTOR
        shortest *= PYRAMID_FACTOR
    return scales


def find_proposals(
    pnet: Stage, frames: Sequence[Frame], min_face_px: float, threshold: float, crew: Crew = ALONE
) -> Proposals:
    """Run P-Net over the pyramids of all frames.

    Args:
        pnet: the network.
        frames: the pictures; those of one size are run together.
        min_face_px: side of the smallest face looked for.
        threshold: least probability.
        crew: shares the strips.

    Returns:
        What is left after suppression, frame by frame, the most probable first.
    """
    levels = _levels(frames, min_face_px)
    sizes: dict[int, list[tuple[int, int]]] = {}
    for level in levels:
        for number in level.frames.tolist():
            sizes.setdefault(number, []).append(level.size)
    crew.each(lambda number: frames[number].prepare(sizes[number]), list(sizes))
    strips = [strip for level in levels for strip in _strips(level, pnet.portion)]
    # A little below the threshold; the comparison that counts is between probabilities.
    least = _logit(threshold) - 1e-3
    parts = crew.each(lambda strip: _cells_above(pnet.network, frames, strip, least), strips)
    for frame in frames:
        frame.forget_levels()
    found = _windows(strips, parts)
    found = found.take(found.probs >= np.float32(threshold))
    # Boxes of one level are compared here. Those of different levels are too unequal to overlap by the 0.7 at which
    # facenet-pytorch suppresses across levels: the larger side is at least 1.41 times the smaller, both rounded.
    rank = np.argsort(-found.probs, kind="stable")
    kept = rank[undominated(len(rank), *_overlapping_neighbours(found, rank))[rank]]
    kept = kept[np.argsort(found.frames[kept], kind="stable")]
    return found.take(kept)


def _levels(frames: Sequence[Frame], min_face_px: float) -> list[Level]:
    shapes = [(frame.height, frame.width) for frame in frames]
    levels, cell = [], 0
    for height, width in dict.fromkeys(shapes):
        numbers = np.array([i for i, shape in enumerate(shapes) if shape == (height, width)], np.intp)
        for scale in pyramid_scales(height, width, min_face_px):
            level = Level(scale, (int(height * scale + 1), int(width * scale + 1)), numbers, cell)
            levels.append(level)
            cell += len(numbers) * math.prod(level.cells)
    return levels


def _strips(level: Level, portion: int) -> Iterator[Strip]:
    """Cut a level into runs of P-Net: several frames where it is small, strips of one frame where it is large.

    Output row r sees the input rows 2 r to 2 r + 11 and no others, so strips that overlap by 10 rows change nothing.
    """
    height, width = level.size
    overlap = WINDOW_PX - STRIDE_PX
    together = max(1, portion // (height * width))
    # Strips of about equal height. The last one has at least one row beyond the overlap, enough for a row of output:
    # pooling rounds up.
    most = max(1, (portion // width - overlap) // STRIDE_PX)
    rows = max(1, -(-(height - overlap) // STRIDE_PX))
    step = -(-rows // -(-rows // most)) * STRIDE_PX
    for first in range(0, len(level.frames), together):
        members = range(first, min(first + together, len(level.frames)))
        for start in range(0, max(1, height - overlap), step):
            yield Strip(level, members, start, min(height, start + step + overlap))


def _cells_above(network: Network, frames: Sequence[Frame], strip: Strip, least: float) -> tuple[Float32, Index]:
    """Shrink, run and threshold one strip.

    Args:
        network: P-Net.
        frames: all pictures.
        strip: which part of which of them.
        least: least logit.

    Returns:
        Of the n cells that reach it: P-Net's values, float32, (n, 5), and intp, (3, n): the frame as a number into
        `Level.frames`, and the row and column of the cell in its level.
    """
    members = strip.members
    pixels = [
        frames[number].strip(strip.level.size, strip.start, strip.stop)
        for number in strip.level.frames[members.start : members.stop].tolist()
    ]
    values = network(pixels[0][None] if len(pixels) == 1 else np.stack(pixels))
    channels, rows, columns = values.shape[1:]
    member, cell = np.divmod(np.flatnonzero(values[:, 0] >= least), rows * columns)
    places = (member * channels * rows * columns + cell)[:, None] + np.arange(channels) * (rows * columns)
    row, column = np.divmod(cell, columns)
    return values.ravel().take(places), np.stack([member + members.start, row + strip.start // STRIDE_PX, column])


def _windows(strips: Sequence[Strip], parts: Sequence[tuple[Float32, Index]]) -> Proposals:
    """The windows of picture that cells saw; `parts` are what `_cells_above` returns for the strips."""
    values = np.concatenate([np.zeros((0, 5), np.float32), *(part[0] for part in parts)])
    member, row, column = np.concatenate([np.zeros((3, 0), np.intp), *(part[1] for part in parts)], axis=1)
    counts = [len(part[0]) for part in parts]
    scales = np.repeat(np.array([strip.level.scale for strip in strips], np.float32), counts)[:, None]
    rows, strides, first_cells = np.repeat(
        np.array([(*strip.level.cells, strip.level.first_cell) for strip in strips], np.intp).reshape(-1, 3),
        counts,
        axis=0,
    ).T
    numbers = [strip.level.frames[part[1][0]] for strip, part in zip(strips, parts, strict=True)]
    cell = np.stack([column, row], axis=1).astype(np.float32) * STRIDE_PX
    boxes = np.concatenate([np.floor((cell + 1) / scales), np.floor((cell + WINDOW_PX) / scales)], axis=1)
    return Proposals(
        boxes,
        face_probability(values[:, 0]),
        np.concatenate([np.zeros(0, np.intp), *numbers]),
        values[:, 1:],
        first_cells + (member * rows + row) * strides + column,
        strides,
    )


def _logit(probability: float) -> float:
    """Inverse of `face_probability`; for 1, the logit from which on float32 knows no other probability."""
    return -math.inf if probability <= 0 else math.log(probability / max(1 - probability, 2**-24))


def _overlapping_neighbours(found: Proposals, rank: Index) -> tuple[Index, Index]:
    """Pairs of windows of one level and frame that overlap by more than a half.

    Args:
        found: the windows.
        rank: their numbers, the most probable first.

    Returns:
        Two intp arrays, numbers of the more and of the less probable one of each pair.
    """
    count = len(found.cells)
    places = found.cells[:, None] + _NEIGHBOURS[:, 0] * found.strides[:, None] + _NEIGHBOURS[:, 1]
    table = np.full(places.max(initial=0) + 1, -1, np.int32)
    table[found.cells] = np.arange(count, dtype=np.int32)
    neighbours = table[places]
    a, which = np.nonzero(neighbours >= 0)
    b = neighbours[a, which].astype(np.intp)
    near = overlaps(found.boxes[a].T, found.boxes[b].T, 0.5)
    a, b = a[near], b[near]
    position = np.empty(count, np.intp)
    position[rank] = np.arange(count)
    a_first = position[a] < position[b]
    return np.where(a_first, a, b), np.where(a_first, b, a)
