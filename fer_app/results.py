"""What detection and recognition return: validated columns of NumPy arrays, one row a face.

`Detections` is what a detector found in one picture; `Faces` adds what the classifier said. Both refuse arrays that do
not fit together when they are made, so everything downstream (drawing, sinks, tracking) can trust the shapes.
`Faces.records` is the public JSON format; `docs/formats.md` documents it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Index = int | slice | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]

SCHEMA_VERSION = 1
# The subject's left and right: `left_eye` is on the right-hand side of a picture of an upright face.
LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
NO_TRACK = -1

# What one JSON number carries: a hundredth of a pixel and a millionth of probability are below every measurement
# error here, and more digits would be float32's noise.
_PX_DIGITS = 2
_PROB_DIGITS = 6
_PROBS_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Detections:
    """The N faces that were found in one picture.

    Attributes:
        boxes: float32, (N, 4), x0 y0 x1 y1 in px of the picture; finite, x1 > x0 and y1 > y0. A box may reach beyond
            the picture's edge.
        confidence: float32, (N,), the detector's probability of a face, 0..1; NaN where no detector looked.
        landmarks: float32, (N, 5, 2), x y in px of the picture, in the order of `LANDMARKS`; all NaN for a face
            without landmarks.

    Raises:
        ValueError: a column has the wrong shape or impossible values; the message names it.
    """

    boxes: Float32
    confidence: Float32
    landmarks: Float32

    def __post_init__(self) -> None:
        n = _row_count("boxes", self.boxes)
        for name, shape in (("boxes", (n, 4)), ("confidence", (n,)), ("landmarks", (n, len(LANDMARKS), 2))):
            object.__setattr__(self, name, _float32(name, getattr(self, name), shape))
        if not np.isfinite(self.boxes).all():
            raise ValueError("boxes has values that are not finite")
        if (self.boxes[:, 2:] <= self.boxes[:, :2]).any():
            raise ValueError("boxes has a box without area; each row is x0 y0 x1 y1 with x1 > x0 and y1 > y0")
        if ((self.confidence < 0) | (self.confidence > 1)).any():
            raise ValueError("confidence has values outside 0..1")
        missing = np.isnan(self.landmarks).all(axis=(1, 2))
        if not np.isfinite(self.landmarks[~missing]).all():
            raise ValueError("landmarks has a face that is neither finite throughout nor NaN throughout")

    @classmethod
    def empty(cls) -> Self:
        """Return the detections of a picture without a face."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            confidence=np.zeros((0,), np.float32),
            landmarks=np.zeros((0, len(LANDMARKS), 2), np.float32),
        )

    @classmethod
    def whole_picture(cls, width: int, height: int) -> Self:
        """Return the one 'detection' of a picture that is a face crop already: its box, nothing else known.

        Args:
            width: of the picture, in px.
            height: of the picture, in px.
        """
        return cls(
            boxes=np.array([[0, 0, width, height]], np.float32),
            confidence=np.full((1,), np.nan, np.float32),
            landmarks=np.full((1, len(LANDMARKS), 2), np.nan, np.float32),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Index) -> Self:
        """Return some of the faces, as detections again; an integer keeps the leading axis (one face)."""
        rows = _rows(index, len(self))
        return type(self)(boxes=self.boxes[rows], confidence=self.confidence[rows], landmarks=self.landmarks[rows])


@dataclass(frozen=True, eq=False, kw_only=True)
class Faces:
    """The N faces of one picture or frame with their expressions.

    Attributes:
        source: where the picture came from: a path as the user wrote it, or a name for one in memory.
        width: of the picture, in px.
        height: of the picture, in px.
        detections: N faces.
        probs: float32, (N, K), each row sums to 1.
        labels: the K class names, in the order of the columns of `probs`.
        uncertain: bool, (N,), the largest probability is below the threshold, which is the model's or was asked for.
        quality: for each face the flags of `fer_app.quality` that apply; empty for a good one.
        frame_index: 0-based number of the frame; None for a still picture.
        time_s: presentation time of the frame, in seconds; None for a still picture.
        track_ids: int64, (N,), the same number while a face can be followed, `NO_TRACK` for one that has none;
            None when nothing is tracked.
        smoothed_probs: float32, (N, K), `probs` smoothed over time, each row sums to 1; None when nothing is smoothed.

    Raises:
        ValueError: the columns do not fit together; the message names the field.
    """

    source: str
    width: int
    height: int
    detections: Detections
    probs: Float32
    labels: tuple[str, ...]
    uncertain: npt.NDArray[np.bool_]
    quality: tuple[tuple[str, ...], ...]
    frame_index: int | None = None
    time_s: float | None = None
    track_ids: npt.NDArray[np.int64] | None = None
    smoothed_probs: Float32 | None = None

    def __post_init__(self) -> None:
        n = len(self.detections)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "quality", tuple(tuple(flags) for flags in self.quality))
        object.__setattr__(self, "probs", _probs("probs", self.probs, (n, len(self.labels))))
        if self.smoothed_probs is not None:
            object.__setattr__(self, "smoothed_probs", _probs("smoothed_probs", self.smoothed_probs, self.probs.shape))
        object.__setattr__(self, "uncertain", _exact("uncertain", self.uncertain, (n,), np.bool_))
        if self.track_ids is not None:
            object.__setattr__(self, "track_ids", _exact("track_ids", self.track_ids, (n,), np.int64))
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct names and at least one, got {self.labels}")
        if len(self.quality) != n:
            raise ValueError(f"quality has {len(self.quality)} entries for {n} faces")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width and height must be at least 1 px, got {self.width} x {self.height}")
        if self.frame_index is not None and self.frame_index < 0:
            raise ValueError(f"frame_index must not be negative, got {self.frame_index}")
        if self.time_s is not None and not math.isfinite(self.time_s):
            raise ValueError(f"time_s must be finite, got {self.time_s}")

    def __len__(self) -> int:
        return len(self.detections)

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """Index of each face's most probable class: int64, (N,)."""
        return np.asarray(self.probs.argmax(axis=1), np.int64)

    def label(self, index: int) -> str:
        """Return the most probable class of one face.

        Args:
            index: the face's 0-based number in this picture.
        """
        return self.labels[int(self.probs[index].argmax())]

    def candidates(self, index: int) -> tuple[int, int]:
        """Return the two most probable classes of one face, as numbers of their columns.

        Of equal ones the first wins, as in `label`. Where there is only one class, it comes twice.

        Args:
            index: the face's 0-based number in this picture.
        """
        ranked = np.argsort(-self.probs[index], kind="stable").tolist()
        return ranked[0], ranked[min(1, len(ranked) - 1)]

    def records(self) -> list[dict[str, Any]]:
        """Return one dictionary a face in the public JSON format; exactly one, with `face` None, when there is none.

        Values are plain Python (no NumPy), coordinates rounded to 0.01 px and probabilities to 1e-6; what is not
        known is None, never NaN.
        """
        if len(self) == 0:
            return [self._record(None)]
        return [self._record(i) for i in range(len(self))]

    def _record(self, i: int | None) -> dict[str, Any]:
        record: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "frame_index": self.frame_index,
            "time_s": self.time_s,
            "track_id": None,
            "face": i,
            "box": None,
            "landmarks": None,
            "detection_confidence": None,
            "label": None,
            "uncertain": None,
            "quality": [],
            "probs": None,
        }
        if self.smoothed_probs is not None:
            record["smoothed_probs"] = None
        if i is None:
            return record
        found = self.detections
        if self.track_ids is not None and self.track_ids[i] != NO_TRACK:
            record["track_id"] = int(self.track_ids[i])
        record["box"] = dict(zip(("x0", "y0", "x1", "y1"), _rounded(found.boxes[i], _PX_DIGITS), strict=True))
        if not np.isnan(found.landmarks[i]).any():
            points = [_rounded(point, _PX_DIGITS) for point in found.landmarks[i]]
            record["landmarks"] = dict(zip(LANDMARKS, points, strict=True))
        if not np.isnan(found.confidence[i]):
            record["detection_confidence"] = _rounded(found.confidence[i : i + 1], _PROB_DIGITS)[0]
        record["label"] = self.label(i)
        record["uncertain"] = bool(self.uncertain[i])
        record["quality"] = list(self.quality[i])
        record["probs"] = dict(zip(self.labels, _rounded(self.probs[i], _PROB_DIGITS), strict=True))
        if self.smoothed_probs is not None:
            smoothed = _rounded(self.smoothed_probs[i], _PROB_DIGITS)
            record["smoothed_probs"] = dict(zip(self.labels, smoothed, strict=True))
        return record


def _rounded(values: Float32, digits: int) -> list[float]:
    # Through float64: rounding a float32 and then widening it would bring the noise digits back. Adding 0.0 turns
    # -0.0 into 0.0.
    return [round(value, digits) + 0.0 for value in values.astype(np.float64).tolist()]


def _row_count(name: str, values: Any) -> int:
    shape = np.shape(values)
    if not shape:
        raise ValueError(f"{name} must be an array with one row a face, got a single value")
    return int(shape[0])


def _check_shape(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")


def _float32(name: str, values: Any, shape: tuple[int, ...]) -> Float32:
    """Return `values` as float32 (no copy when they are), or say which field is wrong and how."""
    array = np.asarray(values)
    _check_shape(name, array, shape)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array.astype(np.float32, copy=False)


def _probs(name: str, values: Any, shape: tuple[int, ...]) -> Float32:
    """Return `values` as float32, or say why they are no probabilities."""
    probs = _float32(name, values, shape)
    # Written so that NaN fails it.
    if not ((probs >= 0) & (probs <= 1)).all():
        raise ValueError(f"{name} has values outside 0..1")
    if (np.abs(probs.sum(axis=1) - 1) > _PROBS_SUM_TOLERANCE).any():
        raise ValueError(f"{name} has a row that does not sum to 1")
    return probs


def _exact(name: str, values: Any, shape: tuple[int, ...], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return `values` as an array whose kind must be `dtype`'s: 0.7 is no truth value and 2.5 no track number."""
    array = np.asarray(values) if np.size(values) else np.zeros(np.shape(values), dtype)
    _check_shape(name, array, shape)
    if array.dtype.kind != np.dtype(dtype).kind:
        raise ValueError(f"{name} must have dtype {np.dtype(dtype)}, got {array.dtype}")
    return array.astype(dtype, copy=False)


def _rows(index: Index, n: int) -> slice | npt.NDArray[Any]:
    if isinstance(index, int | np.integer):
        if not -n <= index < n:
            raise IndexError(f"face {index} of {n}")
        return np.array([int(index)])
    return index
