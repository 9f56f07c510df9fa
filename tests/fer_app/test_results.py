from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_app.results import LANDMARKS, NO_TRACK, Detections, Faces

KEYS = [
    "schema_version",
    "source",
    "frame_index",
    "time_s",
    "track_id",
    "face",
    "box",
    "landmarks",
    "detection_confidence",
    "label",
    "uncertain",
    "quality",
    "probs",
]


def detections(n: int) -> Detections:
    corner = np.arange(n, dtype=np.float32)[:, None] * 10
    boxes = np.concatenate([corner, corner + 1, corner + 20, corner + 31], axis=1)
    landmarks = np.arange(n * 10, dtype=np.float32).reshape(n, 5, 2)
    return Detections(boxes, np.linspace(0.5, 1, n, dtype=np.float32), landmarks)


def faces(n: int, **changes: Any) -> Faces:
    probs = np.tile(np.array([[0.1, 0.7, 0.2]], np.float32), (n, 1))
    values: dict[str, Any] = {
        "source": "photo.jpg",
        "width": 640,
        "height": 480,
        "detections": detections(n),
        "probs": probs,
        "labels": ("neutral", "happiness", "surprise"),
        "uncertain": np.zeros(n, bool),
        "quality": ((),) * n,
    }
    return Faces(**(values | changes))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", np.zeros((2, 5)), r"boxes must have shape \(2, 4\), got \(2, 5\)"),
        ("boxes", 3.0, "boxes must be an array"),
        ("boxes", np.array([["a"] * 4] * 2), "boxes must hold real numbers"),
        ("boxes", [[0, 0, 1, np.nan]] * 2, "boxes has values that are not finite"),
        ("boxes", [[0, 0, 1, 1], [5, 5, 4, 9]], "boxes has a box without area"),
        ("confidence", np.zeros((2, 1)), r"confidence must have shape \(2,\), got \(2, 1\)"),
        ("confidence", [0.5, 1.5], "confidence has values outside"),
        ("confidence", [0.5, -np.inf], "confidence has values outside"),
        ("landmarks", np.zeros((2, 10)), r"landmarks must have shape \(2, 5, 2\)"),
        ("landmarks", np.full((2, 5, 2), np.inf), "landmarks has a face"),
    ],
)
def test_detections_refuse_what_does_not_fit(field: str, value: Any, message: str) -> None:
    good = detections(2)
    columns = {"boxes": good.boxes, "confidence": good.confidence, "landmarks": good.landmarks, field: value}
    with pytest.raises(ValueError, match=message):
        Detections(**columns)


def test_half_missing_landmarks_are_refused() -> None:
    good = detections(2)
    landmarks = good.landmarks.copy()
    landmarks[1, 3] = np.nan
    with pytest.raises(ValueError, match="neither finite throughout nor NaN throughout"):
        Detections(good.boxes, good.confidence, landmarks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probs": np.full((2, 4), 0.25)}, r"probs must have shape \(2, 3\), got \(2, 4\)"),
        ({"probs": np.full((2, 3), 0.5)}, "probs has a row that does not sum to 1"),
        ({"probs": np.full((2, 3), np.nan)}, "probs has values outside"),
        ({"probs": [[-0.5, 0.5, 1.0]] * 2}, "probs has values outside"),
        ({"labels": ("a", "b", "a")}, "labels must be distinct"),
        ({"uncertain": np.zeros(3, bool)}, r"uncertain must have shape \(2,\), got \(3,\)"),
        ({"uncertain": np.zeros(2)}, "uncertain must have dtype bool, got float64"),
        ({"quality": ((),)}, "quality has 1 entries for 2 faces"),
        ({"track_ids": np.array([1.0, 2.0])}, "track_ids must have dtype int64"),
        ({"width": 0}, "width and height"),
        ({"frame_index": -1}, "frame_index"),
        ({"time_s": float("nan")}, "time_s"),
    ],
)
def test_faces_refuse_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        faces(2, **changes)


def test_columns_become_float32() -> None:
    found = Detections([[0, 0, 1, 1]], [1.0], np.zeros((1, 5, 2)))  # type: ignore[arg-type]
    assert {found.boxes.dtype, found.confidence.dtype, found.landmarks.dtype} == {np.dtype(np.float32)}


@given(st.integers(0, 6), st.data())
def test_indexing_picks_the_same_rows_of_every_column(n: int, data: st.DataObject) -> None:
    found = detections(n)
    mask = data.draw(hnp.arrays(np.bool_, n))
    for index in (mask, np.flatnonzero(mask), slice(None, None, 2)):
        part = found[index]
        np.testing.assert_array_equal(part.boxes, found.boxes[index])
        np.testing.assert_array_equal(part.confidence, found.confidence[index])
        np.testing.assert_array_equal(part.landmarks, found.landmarks[index])


def test_an_integer_index_keeps_the_axis() -> None:
    found = detections(3)
    assert len(found[-1]) == 1
    np.testing.assert_array_equal(found[-1].boxes, found.boxes[2:])
    with pytest.raises(IndexError, match="face 3 of 3"):
        found[3]


def test_a_record_has_the_public_keys_in_order_and_plain_values() -> None:
    result = faces(
        2, quality=((), ("tiny", "dark")), uncertain=np.array([False, True]), track_ids=np.array([7, NO_TRACK])
    )
    first, second = result.records()
    assert list(first) == KEYS
    assert first["schema_version"] == 1
    assert first["source"] == "photo.jpg"
    assert first["frame_index"] is None
    assert first["time_s"] is None
    assert (first["track_id"], second["track_id"]) == (7, None)
    assert (first["face"], second["face"]) == (0, 1)
    assert second["box"] == {"x0": 10.0, "y0": 11.0, "x1": 30.0, "y1": 41.0}
    assert list(first["landmarks"]) == list(LANDMARKS)
    assert first["landmarks"]["nose"] == [4.0, 5.0]
    assert first["label"] == "happiness"
    assert (first["uncertain"], second["uncertain"]) == (False, True)
    assert (first["quality"], second["quality"]) == ([], ["tiny", "dark"])
    # float32's 0.1 is 0.10000000149...: the record carries what was meant.
    assert first["probs"] == {"neutral": 0.1, "happiness": 0.7, "surprise": 0.2}
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_no_face_is_one_record() -> None:
    (record,) = faces(0, frame_index=3, time_s=0.125).records()
    assert list(record) == KEYS
    assert record["quality"] == []
    given_values = {"schema_version": 1, "source": "photo.jpg", "frame_index": 3, "time_s": 0.125, "quality": []}
    assert {key: value for key, value in record.items() if value is not None} == given_values


def test_whole_picture_has_a_box_and_nothing_else() -> None:
    result = faces(1, detections=Detections.whole_picture(640, 480))
    (record,) = result.records()
    assert record["box"] == {"x0": 0.0, "y0": 0.0, "x1": 640.0, "y1": 480.0}
    assert record["landmarks"] is None
    assert record["detection_confidence"] is None
    assert record["label"] == "happiness"


def test_top_and_label_are_the_argmax() -> None:
    probs = np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], np.float32)
    result = faces(2, probs=probs)
    assert result.top.tolist() == [2, 0]
    assert [result.label(0), result.label(1)] == ["surprise", "neutral"]
    assert len(result) == 2
    assert faces(0).top.shape == (0,)
