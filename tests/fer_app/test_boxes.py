from __future__ import annotations

import numpy as np
import pytest

from fer_app.boxes import box_areas, moved, overlaps, pairwise_iou, squared, suppress, undominated


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    low = rng.uniform(-10, 60, (n, 2))
    return np.concatenate([low, low + rng.uniform(1, 40, (n, 2))], axis=1).astype(np.float32)


def slow_overlap(a, b, overlap, extra):
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    inside = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return inside / (min(areas) if overlap == "smaller" else sum(areas) - inside)


def slow_suppress(boxes, confidence, threshold, overlap, extra):
    boxes = boxes.astype(float).tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -confidence[i]):
        if all(slow_overlap(boxes[i], boxes[j], overlap, extra) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("overlap", ["union", "smaller"])
@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("n", [0, 1, 2, 60, 130])
def test_suppress_equals_the_slow_one(n, extra, overlap):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        boxes, confidence = random_boxes(rng, n), rng.permutation(n).astype(np.float32)
        for threshold in (0.3, 0.7):
            kept = suppress(boxes, confidence, threshold, overlap=overlap, extra_px=extra)
            assert kept.tolist() == slow_suppress(boxes, confidence, threshold, overlap, extra)


def test_a_small_box_inside_a_large_one_goes_only_with_smaller():
    boxes = np.array([[0, 0, 100, 100], [40, 40, 60, 60]], np.float32)
    confidence = np.array([0.8, 0.9], np.float32)
    assert suppress(boxes, confidence, 0.7).tolist() == [1, 0]
    assert suppress(boxes, confidence, 0.7, overlap="smaller").tolist() == [1]


def test_equal_confidence_order():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10]], np.float32)
    confidence = np.array([0.5, 0.5], np.float32)
    assert suppress(boxes, confidence, 0.5).tolist() == [0]
    assert suppress(boxes, confidence, 0.5, overlap="smaller").tolist() == [1]


def test_exactly_the_threshold_stays():
    boxes = np.array([[0, 0, 2, 1], [0, 0, 1, 1]], np.float32)
    assert len(suppress(boxes, np.array([0.9, 0.8], np.float32), 0.5)) == 2


def test_the_inclusive_pixel_counts():
    boxes = np.array([[0, 0, 9, 9], [9, 9, 19, 19]], np.float32)
    assert box_areas(boxes, extra_px=1).tolist() == [100, 121]
    # They share the pixel (9, 9) only when both ends count.
    confidence = np.array([0.9, 0.8], np.float32)
    assert len(suppress(boxes, confidence, 0.0)) == 2
    assert len(suppress(boxes, confidence, 0.0, extra_px=1)) == 1


def test_overlaps_equals_the_slow_one():
    boxes = random_boxes(np.random.default_rng(0), 40)
    for overlap, extra in (("union", 0), ("smaller", 1)):
        expected = [[slow_overlap(x, y, overlap, extra) > 0.4 for y in boxes.tolist()] for x in boxes.tolist()]
        columns = boxes.T
        found = overlaps(columns[:, :, None], columns[:, None], 0.4, overlap=overlap, extra_px=extra)
        assert found.tolist() == expected


def test_who_was_removed_removes_nobody():
    # 0 beats 1 beats 2 beats 3, and 4 is alone.
    assert undominated(5, np.array([0, 1, 2]), np.array([1, 2, 3])).tolist() == [True, False, True, False, True]
    # The same pairs in another order, one of them twice.
    assert undominated(5, np.array([2, 0, 1, 0]), np.array([3, 1, 2, 1])).tolist() == [True, False, True, False, True]
    none = np.zeros(0, np.intp)
    assert undominated(2, none, none).tolist() == [True, True]


def test_pairwise_iou_equals_the_slow_one():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    expected = [[slow_overlap(x, y, "union", 0) for y in b.astype(float)] for x in a.astype(float)]
    np.testing.assert_allclose(pairwise_iou(a, b), expected, atol=1e-5)
    assert pairwise_iou(a[:0], b).shape == (0, 5)
    point = np.zeros((1, 4), np.float32)
    assert pairwise_iou(point, point).tolist() == [[0.0]]


def test_squared_keeps_the_centre_and_the_longer_side():
    boxes = np.array([[0, 0, 10, 4], [3, -5, 5, 5]], np.float32)
    assert squared(boxes).tolist() == [[0, -3, 10, 7], [-1, -5, 9, 5]]


def test_moved_by_shares_of_its_size():
    boxes = np.array([[10, 20, 30, 30]], np.float32)
    offsets = np.array([[0.5, -0.5, 0.0, 1.0]], np.float32)
    assert moved(boxes, offsets).tolist() == [[20, 15, 30, 40]]
    assert moved(boxes, offsets, extra_px=1).tolist() == [[20.5, 14.5, 30, 41]]
