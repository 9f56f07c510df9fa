from __future__ import annotations

import itertools
import math
import threading
import time

import numpy as np
import pytest

from fer_app.boxes import suppress
from fer_app.detection import proposals
from fer_app.detection.area_resize import Frame, area_resize, integral_image
from fer_app.detection.proposals import Crew, Stage, face_probability, find_proposals, pyramid_scales


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_a_crew_returns_everything_in_order(size, count):
    workers = set()

    def square(x):
        workers.add(threading.get_ident())
        time.sleep(0.001)
        return x * x

    assert Crew(size).each(square, range(count)) == [x * x for x in range(count)]
    assert len(workers) <= min(size, count)
    if size > 1 and count == 40:
        assert len(workers) > 1


def test_a_crew_hands_on_an_error_of_anybody():
    for bad in range(12):
        with pytest.raises(ZeroDivisionError):
            Crew(3).each(lambda x, bad=bad: 1 / (x - bad), range(12))


def test_pyramid_covers_faces_from_the_smallest_to_the_shorter_side():
    scales = pyramid_scales(480, 640, 40)
    assert scales[0] == pytest.approx(0.3)
    np.testing.assert_allclose(np.divide(scales[1:], scales[:-1]), 0.709)
    # The 12 px window at the last scale is at most the whole shorter side, and one more step would exceed it.
    assert 12 / scales[-1] <= 480 < 12 / (scales[-1] * 0.709)
    assert pyramid_scales(39, 1000, 40) == []
    assert len(pyramid_scales(40, 1000, 40)) == 1


def test_probability_is_that_of_softmax_and_never_overflows():
    logits = np.array([-200, -3, 0, 0.5, 20, 200], np.float32)
    expected = [1 / (1 + math.exp(-float(logit))) for logit in logits]
    np.testing.assert_allclose(face_probability(logits), expected, rtol=1e-6, atol=1e-30)
    assert face_probability(logits).dtype == np.float32


def fake_pnet(pixels: np.ndarray) -> np.ndarray:
    """Like P-Net in shape and in what a cell sees, but every window with a bright corner is a face of some kind."""
    rows, columns = (-(-(side - 10) // 2) for side in pixels.shape[2:])
    cells = [pixels[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i, j in ((0, 0), (1, 2), (9, 10))]
    cells = [np.pad(cell, [(0, 0)] * 2 + [(0, rows - cell.shape[2]), (0, columns - cell.shape[3])]) for cell in cells]
    logit = (cells[0].sum(axis=1, keepdims=True) - 400) / 80
    return np.concatenate([logit, cells[0][:, :1] / 500, cells[1] / 500], axis=1).astype(np.float32)


def slow_proposals(picture: np.ndarray, min_face_px: float, threshold: float) -> tuple[np.ndarray, ...]:
    """facenet-pytorch's way: suppression at 0.5 within a level, then at 0.7 among what is left of all."""
    height, width = picture.shape[:2]
    boxes, probs, offsets = [], [], []
    for scale in pyramid_scales(height, width, min_face_px):
        size = int(height * scale + 1), int(width * scale + 1)
        values = fake_pnet(area_resize(integral_image(picture), size)[None])[0]
        level_probs = face_probability(values[0])
        row, column = np.nonzero(level_probs >= threshold)
        cell = np.stack([column, row], axis=1).astype(np.float32) * 2
        level = np.hstack([np.floor((cell + 1) / np.float32(scale)), np.floor((cell + 12) / np.float32(scale))])
        kept = suppress(level, level_probs[row, column], 0.5)
        boxes.append(level[kept])
        probs.append(level_probs[row, column][kept])
        offsets.append(values[1:, row, column].T[kept])
    boxes, probs, offsets = map(np.concatenate, (boxes, probs, offsets))
    kept = suppress(boxes, probs, 0.7)
    assert len(kept) == len(boxes) > 2
    return boxes[kept], probs[kept], offsets[kept]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("min_face_px", [12, 13.3, 20, 31.7])
@pytest.mark.parametrize("portion", [100, 3000, 10**6])
def test_proposals_equal_the_slow_ones(min_face_px, portion):
    """Whatever is run together: strips, levels, several frames, frames of several sizes, several workers."""
    pictures = [noise(0, 90, 120), noise(1, 70, 61), noise(2, 90, 120), noise(3, 90, 120), noise(4, 10, 10)]
    # Equal probabilities, which are taken in the order of rows.
    pictures[3][20:60, 30:100] = 255
    frames = [Frame(picture) for picture in pictures]
    for crew in (Crew(), Crew(3)):
        found = find_proposals(Stage(fake_pnet, portion), frames, min_face_px, 0.6, crew)
        assert (np.diff(found.frames) >= 0).all()
        assert not (found.frames == 4).any()
        for number, picture in enumerate(pictures[:4]):
            one = found.take(found.frames == number)
            boxes, probs, offsets = slow_proposals(picture, min_face_px, 0.6)
            np.testing.assert_array_equal(one.boxes, boxes)
            np.testing.assert_allclose(one.probs, probs, rtol=1e-6)
            np.testing.assert_allclose(one.offsets, offsets, rtol=1e-6)


@pytest.mark.parametrize("min_face_px", np.arange(12, 21, 0.37))
def test_every_pair_that_overlaps_is_seen(min_face_px):
    """All cells are windows here, and how their edges are rounded differs with the size."""
    picture = noise(5, 80, 70)
    boxes, probs, _ = slow_proposals(picture, min_face_px, 0.0)
    found = find_proposals(Stage(fake_pnet, 10**6), [Frame(picture)], min_face_px, 0.0)
    np.testing.assert_array_equal(found.boxes, boxes)
    np.testing.assert_allclose(found.probs, probs, rtol=1e-6)


@pytest.mark.parametrize(("logit", "passes"), [(-5e-4, False), (5e-4, True)])
def test_almost_the_threshold_is_not_enough(logit, passes):
    values = np.zeros((1, 5, 1, 1), np.float32)
    values[:, 0] = math.log(0.6 / 0.4) + logit
    found = find_proposals(Stage(lambda _: values, 1000), [Frame(noise(0, 12, 12))], 12, 0.6)
    assert len(found.probs) == passes


@pytest.mark.parametrize(("threshold", "passes"), [(0.0, True), (0.5, True), (0.51, False), (1.0, False)])
def test_a_threshold_is_a_least_probability(threshold, passes):
    undecided = Stage(lambda pixels: np.zeros((len(pixels), 5, 1, 1), np.float32), 1000)
    assert len(find_proposals(undecided, [Frame(noise(0, 12, 12))], 12, threshold).probs) == passes


def test_certainty_reaches_a_threshold_of_one():
    certain = Stage(lambda pixels: np.full((len(pixels), 5, 1, 1), 30, np.float32), 1000)
    assert len(find_proposals(certain, [Frame(noise(0, 12, 12))], 12, 1.0).probs) == 1


def test_no_frame_and_no_level():
    for frames in ([], [Frame(noise(0, 11, 50))]):
        found = find_proposals(Stage(fake_pnet, 1000), frames, 12, 0.6)
        assert found.boxes.shape == (0, 4)
        assert found.offsets.shape == (0, 4)


def test_strips_of_a_level_are_about_equal_and_overlap_by_ten_rows():
    level = proposals.Level(0.5, (433, 769), np.arange(3), 0)
    strips = list(proposals._strips(level, 2**16))
    assert [strip.members for strip in strips] == [range(i, i + 1) for i in range(3) for _ in range(6)]
    one = strips[:6]
    assert one[0].start == 0
    assert one[-1].stop == 433
    assert all(a.stop - b.start == 10 for a, b in itertools.pairwise(one))
    heights = [strip.stop - strip.start for strip in one]
    assert max(heights) * 769 <= 2**16
    assert min(heights) > 0.8 * max(heights)
