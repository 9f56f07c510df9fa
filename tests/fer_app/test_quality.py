from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_app.quality import FLAGS, TURNED_ABOVE, face_quality, yaw_ratio
from fer_app.results import Detections

UInt8 = npt.NDArray[np.uint8]

# Where MTCNN finds the face of the portrait, and its landmarks (subject's left eye first).
BOX = np.array([181.1, 62.1, 267.8, 172.1], np.float32)
POINTS = np.array([[246.9, 103.7], [205.1, 101.7], [224.8, 128.9], [245.4, 141.8], [201.8, 139.2]], np.float32)


def portrait(scale: float = 1.0, landmarks: npt.NDArray[np.float32] = POINTS) -> Detections:
    return Detections(BOX[None] * scale, np.ones(1, np.float32), landmarks[None] * scale)


def resized(image: UInt8, scale: float) -> UInt8:
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=how), np.uint8)


def test_a_good_portrait_has_no_flag(astronaut: UInt8) -> None:
    assert face_quality(astronaut, portrait()) == ((),)


@pytest.mark.parametrize("scale", [0.6, 1.5, 3])
def test_nor_at_another_size(astronaut: UInt8, scale: float) -> None:
    assert face_quality(resized(astronaut, scale), portrait(scale)) == ((),)


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.5])
def test_a_small_sharp_face_is_tiny_and_not_blurred(astronaut: UInt8, scale: float) -> None:
    assert face_quality(resized(astronaut, scale), portrait(scale)) == (("tiny",),)


@pytest.mark.parametrize("sigma", [2.5, 4, 8])
def test_a_blurred_portrait(astronaut: UInt8, sigma: float) -> None:
    blurred = np.asarray(cv2.GaussianBlur(astronaut, (0, 0), sigma), np.uint8)
    assert face_quality(blurred, portrait()) == (("blurred",),)


def test_blur_that_vanishes_at_the_classifiers_size_does_not_count(astronaut: UInt8) -> None:
    large = np.asarray(cv2.GaussianBlur(resized(astronaut, 4), (0, 0), 2.5), np.uint8)
    assert face_quality(large, portrait(4)) == ((),)


def test_a_blown_up_thumbnail_is_blurred(astronaut: UInt8) -> None:
    blown_up = resized(resized(astronaut, 0.15), 1 / 0.15)
    assert face_quality(blown_up, portrait(blown_up.shape[0] / 512)) == (("blurred",),)


def test_a_dark_portrait_is_dark_but_not_blurred(astronaut: UInt8) -> None:
    assert face_quality((astronaut * 0.15).astype(np.uint8), portrait()) == (("dark",),)


def test_dark_skin_in_good_light_is_not_dark(astronaut: UInt8) -> None:
    """A mean luma of 70, with highlights: what FERPlus's well-lit faces of dark skin measure."""
    assert face_quality((astronaut * 0.42).astype(np.uint8), portrait()) == ((),)


def test_thresholds_can_be_set(astronaut: UInt8) -> None:
    flags = face_quality(astronaut, portrait(), tiny_below_px=100, blurred_below=9, dark_below=256, turned_above=-1)
    assert flags == (FLAGS,)


def head(yaw_degrees: float, roll_degrees: float = 0.0, pitch_degrees: float = 0.0) -> npt.NDArray[np.float32]:
    """Landmarks of a head in three dimensions (in eye distances, x to the subject's left, y down, z to the camera)."""
    points = np.array([[0.5, 0, 0], [-0.5, 0, 0], [0, 0.6, 0.55], [0.38, 1.05, 0.15], [-0.38, 1.05, 0.15]])
    yaw, roll, pitch = np.deg2rad([yaw_degrees, roll_degrees, pitch_degrees])
    turn_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    turn_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    seen = points @ (turn_z @ turn_x @ turn_y).T
    return np.asarray(seen[:, :2] * 40 + 220, np.float32)


@given(st.floats(-22, 22), st.floats(-180, 180), st.floats(-20, 20))
def test_a_rolled_nodding_head_is_not_turned(yaw: float, roll: float, pitch: float) -> None:
    assert yaw_ratio(head(yaw, roll, pitch)[None])[0] < TURNED_ABOVE


@given(st.floats(55, 85), st.sampled_from([-1, 1]), st.floats(-180, 180))
def test_a_strongly_turned_head_is_turned(yaw: float, side: int, roll: float) -> None:
    assert yaw_ratio(head(side * yaw, roll)[None])[0] > TURNED_ABOVE


@given(st.floats(0, 60), st.floats(-180, 180), st.floats(0.1, 10))
def test_the_ratio_depends_on_neither_side_roll_nor_scale(yaw: float, roll: float, scale: float) -> None:
    expected = yaw_ratio(head(yaw)[None])
    np.testing.assert_allclose(yaw_ratio(head(-yaw)[None]), expected, atol=1e-3)
    np.testing.assert_allclose(yaw_ratio(head(yaw, roll)[None] * np.float32(scale)), expected, atol=1e-3)


def test_turned_is_flagged(astronaut: UInt8) -> None:
    assert face_quality(astronaut, portrait(landmarks=head(60))) == (("turned",),)


def test_landmarks_in_one_point_do_not_divide_by_zero(astronaut: UInt8) -> None:
    assert face_quality(astronaut, portrait(landmarks=np.full((5, 2), 200, np.float32))) == ((),)


def test_without_landmarks_nothing_is_turned(astronaut: UInt8) -> None:
    assert face_quality(astronaut, Detections.whole_picture(512, 512)) == ((),)


def test_faces_are_judged_one_by_one_and_outside_boxes_by_size(astronaut: UInt8) -> None:
    boxes = np.stack([BOX, np.array([-90, -90, -20, -20]), np.array([500, 500, 540, 600])]).astype(np.float32)
    nothing = np.full((3, 5, 2), np.nan, np.float32)
    found = Detections(boxes, np.ones(3, np.float32), nothing)
    flags = face_quality(astronaut, found)
    assert flags[0] == ()
    assert flags[1] == ()
    assert "tiny" in flags[2]
    assert face_quality(astronaut, Detections.empty()) == ()
