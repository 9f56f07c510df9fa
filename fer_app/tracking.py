"""Who is who from frame to frame: numbers for the faces of a video that stay through short occlusion.

Boxes are matched with where each track should be by now if it went on as it did; the pairs are taken greedily, the best
one first. Like SORT (Bewley et al. 2016, arXiv:1602.00763), with these differences.

Differs:
    Time is in seconds, not in frames, because videos have variable rates and frames are left out.
    Greedy instead of the Hungarian assignment, and a mean of velocities instead of a Kalman filter: with the few,
    rarely overlapping faces of a video they decide alike, and need NumPy alone. Packages for tracking (Roboflow's
    `trackers`) bring SciPy, Matplotlib and more, some 150 MB, into an install that does without.
    A face that moved further than its own size between two frames is taken up by its distance.
    Nothing is known of how a face looks: who comes back after a longer time, or after a cut, is somebody new.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.boxes import pairwise_iou
from fer_app.results import Detections

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# How much of a track's velocity comes from the last of so many seconds: less follows the jitter of the boxes, more
# misses that somebody turned round.
_VELOCITY_HALF_LIFE_S = 0.1
# A face whose place is not predicted well enough to overlap may be so far off, in units of its size, a second after
# the track was seen, but ...
_REACH_PER_S = 6.0
_LONGEST_REACH = 1.0
# ... then its size must agree.
_LARGEST_SIZE_RATIO = 1.6
# Speed is lost while nobody is seen: who goes behind something rarely comes out far beyond it.
_COASTING_HALF_LIFE_S = 0.5

# Of 255, for the mean change of a pixel of the thumbnail: less is motion. And a cut changes far more than the frames
# before it did, which tells it from a camera that turns fast.
_CUT_CHANGE = 20.0
_CUT_RATIO = 3.0
_THUMBNAIL_WH = (48, 27)
_HALVED_FROM = 8


@dataclass
class _Track:
    """Centre x, y, width and height of one face, all in px, and how its centre moves.

    The size is not expected to go on changing: a face that disappears behind something seems to shrink.
    """

    number: int
    state: Float64  # (4,)
    velocity: Float64  # (2,), px a second
    seen_s: float
    sightings: int = 1

    def at(self, time_s: float) -> Float64:
        """Where the face should be, (4,): the velocity fades."""
        rate = np.log(2) / _COASTING_HALF_LIFE_S
        moved = self.velocity * (1 - np.exp(-rate * (time_s - self.seen_s))) / rate
        return np.concatenate([self.state[:2] + moved, self.state[2:]])

    def take(self, state: Float64, time_s: float) -> None:
        """Note where the face was seen."""
        elapsed_s = time_s - self.seen_s
        if elapsed_s > 0:
            observed = (state[:2] - self.state[:2]) / elapsed_s
            share = 1 - 0.5 ** (elapsed_s / _VELOCITY_HALF_LIFE_S) if self.sightings > 1 else 1.0
            self.velocity = self.velocity + share * (observed - self.velocity)
        self.state, self.seen_s, self.sightings = state, time_s, self.sightings + 1


class FaceTracker:
    """Gives the faces of successive frames numbers from 1 on; a number is never given twice."""

    def __init__(self, *, min_iou: float = 0.15, max_gap_s: float = 1.0) -> None:
        """Begin without tracks.

        Args:
            min_iou: least overlap of a box with where the track should be.
            max_gap_s: a face not seen for longer has gone, and is somebody new when it returns. Frames further apart
                than that are compared each with the one before.
        """
        self.min_iou, self.max_gap_s = min_iou, max_gap_s
        self._tracks: list[_Track] = []
        self._last_number = 0
        self._last_s: float | None = None

    def reset(self) -> None:
        """End all tracks, as after a cut."""
        self._tracks = []

    def update(self, detections: Detections, time_s: float) -> npt.NDArray[np.int64]:
        """Number the faces of the next frame.

        Args:
            detections: N faces.
            time_s: when the frame is shown, seconds; later than the one before.

        Returns:
            int64, (N,), all different.
        """
        before_s = time_s if self._last_s is None else self._last_s
        self._last_s = time_s
        oldest_s = min(before_s, time_s - self.max_gap_s)
        self._tracks = [track for track in self._tracks if track.seen_s >= oldest_s]
        states = _states_of(detections.boxes)
        numbers = np.zeros(len(states), np.int64)
        for row, column in self._pairs(states, time_s):
            self._tracks[row].take(states[column], time_s)
            numbers[column] = self._tracks[row].number
        for column in np.flatnonzero(numbers == 0).tolist():
            self._last_number += 1
            self._tracks.append(_Track(self._last_number, states[column], np.zeros(2), time_s))
            numbers[column] = self._last_number
        return numbers

    def expected(self, time_s: float) -> Float32:
        """Where the faces of the last frame should be by now: float32, (M, 4), boxes."""
        states = [track.at(time_s) for track in self._tracks if track.seen_s == self._last_s]
        return _boxes_of(np.reshape(states, (-1, 4)))

    def unseen(self, time_s: float) -> Float32:
        """Where the faces should be that were there before and are not in this frame: float32, (M, 4), boxes."""
        states = [track.at(time_s) for track in self._tracks if track.seen_s < time_s]
        return _boxes_of(np.reshape(states, (-1, 4)))

    def _pairs(self, states: Float64, time_s: float) -> list[tuple[int, int]]:
        """Pair tracks with faces, the best pair first: by overlap, then what is left by distance."""
        if not self._tracks or not len(states):
            return []
        expected = np.stack([track.at(time_s) for track in self._tracks])
        overlap = pairwise_iou(_boxes_of(expected), _boxes_of(states)).astype(np.float64)
        side = np.sqrt(expected[:, None, 2:].prod(axis=2) * states[None, :, 2:].prod(axis=2)) ** 0.5
        distance = np.linalg.norm(expected[:, None, :2] - states[None, :, :2], axis=2) / side
        ratio = np.exp(np.abs(np.log(expected[:, None, 2:].prod(axis=2) / states[None, :, 2:].prod(axis=2)))) ** 0.5
        elapsed_s = np.array([time_s - track.seen_s for track in self._tracks])
        reach = np.minimum(_REACH_PER_S * elapsed_s, _LONGEST_REACH)[:, None]
        near = np.where((distance <= reach) & (ratio <= _LARGEST_SIZE_RATIO), -distance, -np.inf)
        # Any overlap that counts is better than the smallest distance, which is at most 0.
        return _greedy(np.where(overlap >= self.min_iou, 1 + overlap, near))


class CutDetector:
    """Tells where a video changes from one shot to another, by small copies of its frames."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        self._thumbnail: npt.NDArray[np.int16] | None = None
        self._change = 0.0

    def is_cut(self, image: npt.NDArray[np.uint8]) -> bool:
        """Take the next frame; tell whether a shot begins with it. The first frame is no cut.

        Args:
            image: uint8, (H, W, 3), RGB.
        """
        # Halves first: OpenCV means two by two pixels many times faster than it means by other factors.
        small = image
        while min(small.shape[1] // _THUMBNAIL_WH[0], small.shape[0] // _THUMBNAIL_WH[1]) >= _HALVED_FROM:
            half = small.shape[1] // 2, small.shape[0] // 2
            small = np.asarray(cv2.resize(small, half, interpolation=cv2.INTER_AREA), np.uint8)
        small = np.asarray(cv2.resize(small, _THUMBNAIL_WH, interpolation=cv2.INTER_AREA), np.uint8)
        before, self._thumbnail = self._thumbnail, small.astype(np.int16)
        if before is None:
            return False
        last_change, self._change = self._change, float(np.abs(self._thumbnail - before).mean())
        return self._change > _CUT_CHANGE and self._change > _CUT_RATIO * last_change


def _greedy(value: Float64) -> list[tuple[int, int]]:
    """Take the cell of the largest value, strike out its row and column, and so on; -inf is never taken."""
    value = value.copy()
    pairs: list[tuple[int, int]] = []
    while value.size:
        row, column = divmod(int(value.argmax()), value.shape[1])
        if not np.isfinite(value[row, column]):
            break
        pairs.append((row, column))
        value[row], value[:, column] = -np.inf, -np.inf
    return pairs


def _states_of(boxes: Float32) -> Float64:
    wide = boxes.astype(np.float64)
    return np.concatenate([(wide[:, :2] + wide[:, 2:]) / 2, wide[:, 2:] - wide[:, :2]], axis=1)


def _boxes_of(states: Float64) -> Float32:
    half = states[:, 2:] / 2
    return np.concatenate([states[:, :2] - half, states[:, :2] + half], axis=1).astype(np.float32)
