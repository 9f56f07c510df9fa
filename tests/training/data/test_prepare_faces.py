"""One picture in, its aligned faces out."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fer_app.results import Detections
from training.data.prepare_faces import LEAST_OVERLAP, FaceCutter, Settings, chosen, clipped, enlarged

FACE = (177, 58, 272, 176)  # where it lies in the portrait, with 4 px around


def detections(*boxes):
    n = len(boxes)
    return Detections(
        boxes=np.array(boxes, np.float32).reshape(n, 4),
        confidence=np.full(n, 0.9, np.float32),
        landmarks=np.zeros((n, 5, 2), np.float32),
    )


@pytest.fixture(scope="module")
def cutter():
    return FaceCutter(Settings(img_size=48, on_missing="keep"))


@pytest.fixture
def two_faces(astronaut):
    """A large face on the left, one of three quarters on the right."""
    scene = np.full((512, 900, 3), 90, np.uint8)
    scene[:, :512] = astronaut
    scene[100:484, 516:900] = cv2.resize(astronaut, (384, 384), interpolation=cv2.INTER_AREA)
    return scene


def test_the_largest_face_is_chosen_and_the_most_central_among_equals():
    size_hw = (100, 200)
    large, small = [10, 10, 60, 60], [90, 40, 110, 60]
    assert chosen(detections(small, large), size_hw, None).boxes.tolist() == [large]
    left, central = [0, 0, 20, 20], [95, 45, 115, 65]
    assert chosen(detections(left, central), size_hw, None).boxes.tolist() == [central]
    assert len(chosen(detections(), size_hw, None)) == 0


def test_a_set_s_box_decides_and_somebody_else_s_face_is_none():
    large, small = [0, 0, 100, 100], [150, 0, 190, 40]
    found = detections(large, small)
    assert chosen(found, (200, 200), (148, 2, 188, 42)).boxes.tolist() == [small]
    assert len(chosen(found, (200, 200), (100, 100, 180, 180))) == 0
    side = 100 * np.sqrt(LEAST_OVERLAP)
    for inner, n in ((side + 1, 1), (side - 1, 0)):
        assert len(chosen(detections(large), (200, 200), (0, 0, int(inner + 0.5), int(inner + 0.5)))) == n


def test_the_box_takes_the_face_that_is_meant(cutter, two_faces):
    (largest,) = cutter.cut(two_faces)
    assert largest.found.boxes[0, 0] < 512
    (meant,) = cutter.cut(two_faces, (640, 140, 720, 240))
    assert meant.view == "picture"
    assert meant.found.boxes[0, 0] > 600
    assert meant.crop.shape == (48, 48, 3)


def test_the_closer_look_finds_what_tight_crops_hide(astronaut):
    x0, y0, x1, y1 = FACE
    tight = cv2.resize(astronaut[y0:y1, x0:x1], (48, 56), interpolation=cv2.INTER_AREA)
    without = FaceCutter(Settings(img_size=48, closer_look=False))
    assert all(cut.view == "picture" for cut in without.cut(tight))
    (near,) = FaceCutter(Settings(img_size=48)).cut(tight)
    assert near.view == "closer"
    # The landmarks come back in px of the tight picture: the same crop as of the whole photo, but for its sharpness.
    (far,) = FaceCutter(Settings(img_size=48)).cut(astronaut)
    scale = np.array([48, 56]) / [x1 - x0, y1 - y0]
    expected = (far.found.landmarks[0] - [x0, y0]) * scale
    assert np.abs(near.found.landmarks[0] - expected).max() < 2
    inner = slice(8, 40)
    assert np.abs(near.crop[inner, inner].astype(int) - far.crop[inner, inner]).mean() < 15


def test_the_closer_look_is_for_tight_crops_and_boxes_alone(monkeypatch):
    empty = np.full((300, 300, 3), 128, np.uint8)
    seen = []
    spied = FaceCutter(Settings(img_size=48))
    detect = spied._close_detector.detect
    monkeypatch.setattr(spied._close_detector, "detect", lambda images: seen.append(images[0].shape) or detect(images))
    assert spied.cut(empty) == []
    assert seen == []
    assert spied.cut(empty, (10, 10, 110, 110)) == []
    assert spied.cut(empty[:200, :256]) == []
    assert seen == [(432, 432, 3), (369, 432, 3)]
    assert Settings(img_size=48).closer_look
    assert not Settings(img_size=48, all_faces=True).closer_look


def test_a_kept_picture_is_the_set_s_box_scaled(cutter):
    image = np.full((300, 400, 3), 10, np.uint8)
    image[50:150, 100:200] = 200
    (whole,) = cutter.cut(image)
    (part,) = cutter.cut(image, (100, 50, 200, 150))
    assert whole.view == part.view == "none"
    assert whole.found is None
    assert (whole.crop == 10).any()
    assert (whole.crop == 200).any()
    assert (part.crop == 200).all()
    assert part.crop.shape == (48, 48, 3)


def test_less_sure_faces_are_none(astronaut):
    assert len(FaceCutter(Settings(img_size=112, min_confidence=0.9, all_faces=True)).cut(astronaut)) == 1
    assert FaceCutter(Settings(img_size=112, min_confidence=1.0, all_faces=True)).cut(astronaut) == []


def test_enlarged_keeps_places():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:40] = 255
    scene, scale, (left, top) = enlarged(image, (20, 0, 60, 40))
    assert scene.shape == (432, 432, 3)
    assert (left, top) == (10, -10)
    assert scene[0, 0, 0] == 127
    y, x = np.nonzero(scene[..., 0] > 191)[:2]
    assert x.min() / scale + left == pytest.approx(30, abs=0.2)
    assert (y.max() + 1) / scale + top == pytest.approx(20, abs=0.2)


def test_boxes_are_cut_to_the_picture():
    assert clipped((-5, 2, 30, 90), (50, 20)) == (0, 2, 20, 50)
    assert clipped((25, 2, 30, 90), (50, 20)) is None
    assert clipped((5, 5, 5, 9), (50, 20)) is None
