"""Results as a video gives them, made without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fer_app.labels import LABELS
from fer_app.results import Detections, Faces


def made_faces(
    time_s: float,
    tracks: Sequence[int],
    probs: Sequence[Sequence[float]] | np.ndarray,
    *,
    boxes: Sequence[Sequence[float]] | None = None,
    confidence: float = 1.0,
    **changes: Any,
) -> Faces:
    """Faces of one frame of 200 x 100 px."""
    n = len(tracks)
    found = Detections(
        np.array([[10, 10, 50, 60]] * n if boxes is None else boxes, np.float32).reshape(n, 4),
        np.full(n, confidence, np.float32),
        np.full((n, 5, 2), np.nan, np.float32),
    )
    values: dict[str, Any] = {
        "source": "clip.mp4",
        "width": 200,
        "height": 100,
        "detections": found,
        "probs": np.asarray(probs, np.float32).reshape(n, len(LABELS)),
        "labels": LABELS,
        "uncertain": np.zeros(n, bool),
        "quality": ((),) * n,
        "frame_index": 0,
        "time_s": time_s,
        "track_ids": np.array(tracks, np.int64),
    }
    return Faces(**(values | changes))


def showing(label: str, prob: float = 1.0) -> np.ndarray:
    """The probabilities of a face: one label, the others evenly."""
    probs = np.full(len(LABELS), (1 - prob) / (len(LABELS) - 1))
    probs[LABELS.index(label)] = prob
    return probs
