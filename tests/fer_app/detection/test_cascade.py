from __future__ import annotations

import numpy as np
import pytest

from fer_app.detection import cascade
from fer_app.detection.area_resize import Frame


def test_pyramid_covers_faces_from_the_smallest_to_the_shorter_side():
    scales = cascade.pyramid_scales(480, 640, 40)
    assert scales[0] == pytest.approx(0.3)
    np.testing.assert_allclose(np.divide(scales[1:], scales[:-1]), 0.709)
    # The 12 px window at the last scale is at most the whole shorter side, and one more step would exceed it.
    assert 12 / scales[-1] <= 480 < 12 / (scales[-1] * 0.709)
    assert cascade.pyramid_scales(39, 1000, 40) == []
    assert len(cascade.pyramid_scales(40, 1000, 40)) == 1


def test_crop_rectangles_start_one_pixel_early_and_are_clipped():
    boxes = np.array([[10.9, 20.1, 30.9, 40.1], [-5.5, -0.5, 700, 500], [650, 10, 700, 60]], np.float32)
    rectangles = cascade.crop_rectangles(boxes, 480, 640)
    assert rectangles.tolist() == [[9, 19, 30, 40], [0, 0, 640, 480], [649, 9, 640, 60]]


def test_suppression_is_within_a_frame():
    box = np.array([[0, 0, 10, 10]], np.float32)
    candidates = cascade.Candidates(
        np.repeat(box, 4, axis=0), np.array([0.7, 0.8, 0.9, 0.6], np.float32), np.array([0, 1, 1, 3])
    )
    assert candidates.suppressed(0.5).tolist() == [0, 2, 3]


def test_an_invisible_candidate_is_dropped_and_the_rest_keep_their_results():
    frames = [Frame(np.full((50, 60, 3), value, np.uint8)) for value in (10, 200)]
    n = 2 * cascade.CROPS_PER_RUN + 5
    boxes = np.tile(np.array([[5, 5, 20, 20]], np.float32), (n, 1))
    boxes += np.arange(n, dtype=np.float32)[:, None] * 0.01
    boxes[7] = [100, 5, 120, 20]
    candidates = cascade.Candidates(boxes, np.zeros(n, np.float32), np.arange(n) % 2)
    runs = []

    def brightness_is_face(crops):
        runs.append(len(crops))
        return [(crops.mean(axis=(1, 2, 3)) > 0).astype(np.float32), np.zeros((len(crops), 4), np.float32)]

    refined = cascade.refine(brightness_is_face, frames, candidates, 0.5)
    assert runs == [64, 64, 4]
    # The boxes of the bright frame overlap each other: one is left.
    assert refined.frames.tolist() == [1]


def test_no_candidates_still_have_columns():
    def network(crops):
        n = len(crops)
        return [np.zeros(n, np.float32), np.zeros((n, 4), np.float32), np.zeros((n, 10), np.float32)]

    nothing = cascade.Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp))
    faces, landmarks = cascade.finish(network, [], nothing, 0.5)
    assert faces.boxes.shape == (0, 4)
    assert landmarks.shape == (0, 5, 2)
