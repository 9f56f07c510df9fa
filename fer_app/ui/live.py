"""Webcam pictures of one visitor: each read as a frame of a video that is just happening."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from fer_app.image_io import read_image
from fer_app.recognizer import Recognizer
from fer_app.smoothing import TrackSmoother
from fer_app.video import VideoFrame
from fer_app.video_faces.finders import choose_finder

MOST_PIXELS = 1_000_000
"""Of a webcam picture."""
LONGEST_SMOOTHING_S = 5.0
_MOST_DETECT_EVERY = 100
_TIME_BASE = Fraction(1, 1_000_000)


class LiveFaces:
    """Who is in front of one visitor's camera; not for several threads at once."""

    def __init__(self, recognizer: Recognizer, *, detect_every: int | None = None, smooth_s: float = 0.3) -> None:
        """Begin before the first picture.

        Args:
            recognizer: finds and reads the faces.
            detect_every: search the whole of each N-th picture and follow faces in between; None is five searches a
                second.
            smooth_s: half-life of the smoothing, seconds; 0 for none.

        Raises:
            ValueError: a setting out of its range.
        """
        if detect_every is not None and not 1 <= detect_every <= _MOST_DETECT_EVERY:
            raise ValueError(f"detect_every is {detect_every}, must be 1 to {_MOST_DETECT_EVERY}")
        if not 0 <= smooth_s <= LONGEST_SMOOTHING_S:
            raise ValueError(f"smooth_s is {smooth_s}, must be 0 to {LONGEST_SMOOTHING_S}")
        self._recognizer = recognizer
        self._finder = choose_finder(recognizer, detect_every, has_cuts=False)
        self._smoother = TrackSmoother(smooth_s)
        self._frames = 0

    def read(self, jpeg: bytes, time_s: float) -> dict[str, Any]:
        """Read the faces of the next picture.

        Args:
            jpeg: a picture file, at most `MOST_PIXELS`.
            time_s: when it was taken, seconds; later than the one before.

        Returns:
            `width` and `height` of the picture in px; `faces`, the largest first, each with `track` (its number), `box`
            (x0 y0 x1 y1 in px), `label`, `uncertain` and `probs` (smoothed, in the order of the model's labels); and
            `read_ms`, how long that took.

        Raises:
            ImageDecodeError: it is no picture, or too large.
            ModelError: the device failed.
        """
        begun_s = time.perf_counter()
        image = read_image(jpeg, max_pixels=MOST_PIXELS, name="webcam")
        frame = VideoFrame(image, self._frames, round(time_s / _TIME_BASE), _TIME_BASE)
        self._frames += 1
        (found,) = self._finder.find([frame])
        (faces,) = self._recognizer.classify([image], [found.detections], ["webcam"])
        probs = self._smoother.update(found.track_ids, faces.probs, time_s)
        uncertain_below = self._recognizer.contract.uncertain_below
        boxes = faces.detections.boxes.tolist()
        rows = [
            {
                "track": int(track),
                "box": [round(value, 1) for value in box],
                "label": faces.labels[int(row.argmax())],
                "uncertain": bool(row.max() < uncertain_below),
                "probs": [round(value, 4) for value in row.tolist()],
            }
            for track, box, row in zip(found.track_ids.tolist(), boxes, probs, strict=True)
        ]
        rows = [rows[i] for i in np.argsort(-_areas(faces.detections.boxes), kind="stable").tolist()]
        return {
            "width": faces.width,
            "height": faces.height,
            "faces": rows,
            "read_ms": round(1000 * (time.perf_counter() - begun_s), 1),
        }


def _areas(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.float32)
