"""Where the faces of a video are: every frame searched as a whole, or some, with the faces followed in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fer_app.boxes import pairwise_iou
from fer_app.recognizer import Recognizer
from fer_app.results import Detections
from fer_app.tracking import CutDetector, FaceTracker
from fer_app.video import VideoFrame

# So long a new face may go unseen, unless something else makes a search of the whole frame necessary.
LONGEST_FOLLOWING_S = 0.2
# Less overlap with where it should be is another face, or none.
_LEAST_IOU = 0.3
# Finer than any video's clock: a frame that is due by its time must not miss it by a rounding.
_CLOCK_S = 1e-6


class FoundFaces(NamedTuple):
    """Where the N faces of a frame are.

    Attributes:
        frame: the frame.
        detections: the N faces.
        track_ids: int64, (N,).
        unseen: float32, (M, 4), boxes where faces were a moment ago that are not found now; for anonymising.
    """

    frame: VideoFrame
    detections: Detections
    track_ids: npt.NDArray[np.int64]
    unseen: npt.NDArray[np.float32]


class FaceFinder(Protocol):
    """Finds and numbers the faces of one video, which is given in order and once; it may remember what it saw.

    Attributes:
        searched: how many frames were searched as a whole so far.
    """

    searched: int

    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        """Return the faces of the next frames, one result a frame.

        Raises:
            ModelError: the device failed.
        """
        ...


def choose_finder(recognizer: Recognizer, detect_every: int | None, *, has_cuts: bool = True) -> FaceFinder:
    """Return what finds the faces of the next video.

    Args:
        recognizer: whose detector is used.
        detect_every: as `FollowingFinder` takes it; 1 searches every frame.
        has_cuts: False for a camera, where uneven pauses between pictures would be taken for cuts.
    """
    if detect_every == 1:
        return EveryFrameFinder(recognizer, has_cuts=has_cuts)
    return FollowingFinder(recognizer, detect_every, has_cuts=has_cuts)


class EveryFrameFinder:
    """Searches the whole of every frame, and numbers what it finds by place and motion.

    Attributes:
        searched: see `FaceFinder`.
    """

    def __init__(self, recognizer: Recognizer, *, has_cuts: bool = True) -> None:
        """Begin a video.

        Args:
            recognizer: whose detector is used.
            has_cuts: whether shots are told apart.
        """
        self.searched = 0
        self._recognizer = recognizer
        self._tracker, self._cuts = FaceTracker(), CutDetector() if has_cuts else None

    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        """See `FaceFinder`: the frames are searched together."""
        self.searched += len(frames)
        numbered = []
        for frame, detections in zip(frames, self._recognizer.detect([f.image for f in frames]), strict=True):
            if self._cuts is not None and self._cuts.is_cut(frame.image):
                self._tracker.reset()
            numbered.append(_numbered(self._tracker, frame, detections))
        return numbered


class FollowingFinder:
    """Searches the whole of some frames; in between it looks for each face only where it should be by now.

    A frame is searched as a whole when that is due, when a shot begins, and when a face is not found again. So a face
    that goes is noticed at once, and only one that comes may be noticed later. Where there is no face, nothing is
    looked for until a search is due.

    Attributes:
        searched: see `FaceFinder`.
    """

    def __init__(self, recognizer: Recognizer, detect_every: int | None = None, *, has_cuts: bool = True) -> None:
        """Begin a video.

        Args:
            recognizer: whose detector is used.
            detect_every: a search is due so many frames after the last one; None is `LONGEST_FOLLOWING_S` after it.
            has_cuts: whether shots are told apart.
        """
        self.searched = 0
        self._recognizer, self._detect_every = recognizer, detect_every
        self._tracker, self._cuts = FaceTracker(), CutDetector() if has_cuts else None
        self._frames_since = 0
        self._searched_s: float | None = None

    def find(self, frames: Sequence[VideoFrame]) -> list[FoundFaces]:
        """See `FaceFinder`: one frame leads to the next."""
        return [_numbered(self._tracker, frame, self._faces_of(frame)) for frame in frames]

    def _faces_of(self, frame: VideoFrame) -> Detections:
        self._frames_since += 1
        if self._cuts is not None and self._cuts.is_cut(frame.image):
            self._tracker.reset()
        elif not self._due(frame.time_s):
            followed = self._followed(frame)
            if followed is not None:
                return followed
        self.searched += 1
        self._frames_since, self._searched_s = 0, frame.time_s
        (found,) = self._recognizer.detect([frame.image])
        return found

    def _due(self, time_s: float) -> bool:
        if self._searched_s is None:
            return True
        if self._detect_every is not None:
            return self._frames_since >= self._detect_every
        return time_s - self._searched_s >= LONGEST_FOLLOWING_S - _CLOCK_S

    def _followed(self, frame: VideoFrame) -> Detections | None:
        """Return the faces of the frame before where they are now; None when one of them is not found."""
        expected = self._tracker.expected(frame.time_s)
        if not len(expected):
            return Detections.empty()
        found = self._recognizer.follow(frame.image, expected)
        if len(found) < len(expected) or pairwise_iou(expected, found.boxes).max(axis=1).min() < _LEAST_IOU:
            return None
        return found


def _numbered(tracker: FaceTracker, frame: VideoFrame, detections: Detections) -> FoundFaces:
    track_ids = tracker.update(detections, frame.time_s)
    return FoundFaces(frame, detections, track_ids, tracker.unseen(frame.time_s))
