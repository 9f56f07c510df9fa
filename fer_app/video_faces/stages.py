"""What is done with the frames of a video, each step a generator over batches; `run` puts every one in a thread."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fer_app.annotate import draw_faces
from fer_app.anonymise import anonymised
from fer_app.label_layout import SteadyLooks
from fer_app.recognizer import Recognizer
from fer_app.results import Faces
from fer_app.smoothing import TrackSmoother
from fer_app.video import VideoFrame
from fer_app.video_faces.finders import FaceFinder, FoundFaces

# Frames that are searched together. More of them gain nothing on a CPU, and all are in memory at once in every stage:
# 4 Mpx are 12 MB, and ten times that while faces are searched.
_BATCH_FRAMES = 4
_BATCH_PIXELS = 4_000_000


class ReadFaces(NamedTuple):
    """A frame whose faces are read.

    Attributes:
        frame: the frame.
        faces: with track numbers, and smoothed where that is on.
        unseen: as in `FoundFaces`.
    """

    frame: VideoFrame
    faces: Faces
    unseen: npt.NDArray[np.float32]


class DrawnFaces(NamedTuple):
    """A frame that is ready to be written.

    Attributes:
        frame: the frame.
        faces: as in `ReadFaces`.
        picture: uint8, (H, W, 3), RGB, with the faces drawn in; None when nothing is drawn.
        unseen: as in `FoundFaces`.
    """

    frame: VideoFrame
    faces: Faces
    picture: npt.NDArray[np.uint8] | None
    unseen: npt.NDArray[np.float32]


def in_batches(
    frames: Iterable[VideoFrame], stop: Callable[[], bool], most_frames: int | None = None
) -> Iterator[list[VideoFrame]]:
    """Put successive frames together, as many as are searched at once.

    Args:
        frames: of one size.
        stop: asked after each frame; when it says yes, the frames read so far are the last.
        most_frames: wait for no more frames than that; None for as many as are good for speed.
    """
    batch: list[VideoFrame] = []
    try:
        for frame in frames:
            batch.append(frame)
            most = min(most_frames or _BATCH_FRAMES, _BATCH_PIXELS // (frame.image.shape[0] * frame.image.shape[1]))
            if len(batch) >= most:
                yield batch
                batch = []
            if stop():
                break
    except Exception:
        # A damaged video says so at its end; what was read before is not lost.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def find_faces(batches: Iterable[Sequence[VideoFrame]], finder: FaceFinder) -> Iterator[list[FoundFaces]]:
    """Find the faces of every frame."""
    for batch in batches:
        yield finder.find(batch)


def classify_faces(
    batches: Iterable[Sequence[FoundFaces]], recognizer: Recognizer, source: str, smooth_s: float
) -> Iterator[list[ReadFaces]]:
    """Read the expressions of all faces of a batch at once, and smooth them over time.

    Args:
        batches: where the faces are.
        recognizer: reads them.
        source: what the results call the video.
        smooth_s: half-life in seconds; 0 smooths nothing.
    """
    smoother = TrackSmoother(smooth_s)
    for batch in batches:
        images, found = [one.frame.image for one in batch], [one.detections for one in batch]
        results = recognizer.classify(images, found, [source] * len(batch))
        yield [_placed_in_time(*pair, smoother) for pair in zip(batch, results, strict=True)]


def _placed_in_time(found: FoundFaces, faces: Faces, smoother: TrackSmoother) -> ReadFaces:
    time_s = found.frame.time_s
    faces = dataclasses.replace(
        faces,
        frame_index=found.frame.index,
        # A microsecond is finer than any video's clock; more digits would be those of a binary fraction.
        time_s=round(time_s, 6),
        track_ids=found.track_ids,
        smoothed_probs=smoother.update(found.track_ids, faces.probs, time_s) if smoother.half_life_s else None,
    )
    return ReadFaces(found.frame, faces, found.unseen)


def draw_pictures(
    batches: Iterable[Sequence[ReadFaces]], uncertain_below: float, *, blur: bool
) -> Iterator[list[DrawnFaces]]:
    """Draw what was read: smoothed where that is on.

    Args:
        batches: frames with their faces.
        uncertain_below: the recognizer's threshold.
        blur: make the faces unrecognisable first.
    """
    steady = SteadyLooks()
    for batch in batches:
        yield [
            DrawnFaces(read.frame, read.faces, _picture(read, uncertain_below, blur, steady), read.unseen)
            for read in batch
        ]


def without_pictures(batches: Iterable[Sequence[ReadFaces]]) -> Iterator[list[DrawnFaces]]:
    """Draw nothing."""
    for batch in batches:
        yield [DrawnFaces(read.frame, read.faces, None, read.unseen) for read in batch]


def _picture(read: ReadFaces, uncertain_below: float, blur: bool, steady: SteadyLooks) -> npt.NDArray[np.uint8]:
    image, faces = read.frame.image, read.faces
    if blur:
        image = anonymised(image, np.concatenate([faces.detections.boxes, read.unseen]))
    if faces.smoothed_probs is not None:
        probs = faces.smoothed_probs
        faces = dataclasses.replace(faces, probs=probs, uncertain=probs.max(axis=1, initial=0.0) < uncertain_below)
    return draw_faces(image, faces, steady)
