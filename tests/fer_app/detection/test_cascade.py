from __future__ import annotations

import numpy as np
import pytest

from fer_app.detection import cascade
from fer_app.detection.area_resize import Frame
from fer_app.detection.proposals import Crew, Stage


def test_crop_rectangles_start_one_pixel_early_and_are_clipped():
    boxes = np.array([[10.9, 20.1, 30.9, 40.1], [-5.5, -0.5, 700, 500], [650, 10, 700, 60]], np.float32)
    rectangles = cascade.crop_rectangles(boxes, np.full(3, 480), np.full(3, 640))
    assert rectangles.tolist() == [[9, 19, 30, 40], [0, 0, 640, 480], [649, 9, 640, 60]]


def test_suppression_is_within_a_frame():
    box = np.array([[0, 0, 10, 10]], np.float32)
    candidates = cascade.Candidates(
        np.repeat(box, 4, axis=0), np.array([0.7, 0.8, 0.9, 0.6], np.float32), np.array([0, 1, 1, 3])
    )
    assert candidates.suppressed(0.5).tolist() == [0, 2, 3]


def values_of(probs, columns):
    """What a network returns when it is as sure of a face as `probs` says."""
    logits = np.log(np.maximum(probs, 1e-6) / np.maximum(1 - probs, 1e-6))
    return np.concatenate([logits[:, None], np.zeros((len(probs), columns))], axis=1).astype(np.float32)


@pytest.mark.parametrize("crew", [Crew(), Crew(3)])
def test_an_invisible_candidate_is_dropped_and_the_rest_keep_their_results(crew):
    frames = [Frame(np.full((50, 60, 3), value, np.uint8)) for value in (10, 200)]
    n = 2 * 64 + 5
    boxes = np.tile(np.array([[5, 5, 20, 20]], np.float32), (n, 1))
    boxes += np.arange(n, dtype=np.float32)[:, None] * 0.01
    boxes[7] = [100, 5, 120, 20]
    candidates = cascade.Candidates(boxes, np.zeros(n, np.float32), np.sort(np.arange(n) % 2))
    runs = []

    def brightness_is_face(crops):
        runs.append(len(crops))
        return values_of(crops.mean(axis=(1, 2, 3)) / 255, 4)

    refined = cascade.refine(Stage(brightness_is_face, 64), frames, candidates, 0.5, crew)
    assert sum(runs) == n - 1
    assert max(runs) - min(runs) <= 1
    assert len(runs) == 3
    # The boxes of the bright frame overlap each other: one is left.
    assert refined.frames.tolist() == [1]
    assert refined.probs == pytest.approx(200 / 255, abs=1e-5)


@pytest.mark.parametrize("portion", [1, 2, 4, 100])
def test_every_candidate_gets_what_the_network_says_about_its_crop(portion):
    """The crops are cut in another order than that of the candidates, over the edges of frames."""
    rng = np.random.default_rng(0)
    frames = [Frame(rng.integers(0, 256, (300 + i, 320 - i, 3), np.uint8)) for i in range(4)]
    # None touches another, so none is suppressed.
    places = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2)[rng.permutation(36)[:23]] * 50
    boxes = np.concatenate([places + 2, places + 30], axis=1).astype(np.float32)
    numbers = np.sort(rng.integers(0, 4, 23))
    numbers[numbers == 2] = 3

    def network(crops):
        values = values_of(crops.mean(axis=(1, 2, 3)) / 255, 14)
        values[:, 5:] = crops[:, 0, :10, 3] / 255
        return values

    candidates = cascade.Candidates(boxes, np.zeros(23, np.float32), numbers)
    faces, landmarks = cascade.finish(Stage(network, portion), frames, candidates, 0.1)
    assert len(faces.boxes) == 23
    for box, prob, number, points in zip(*faces, landmarks, strict=True):
        x0, y0, x1, y1 = box.astype(int).tolist()
        (crop,) = frames[number].crops(np.array([[x0 - 1, y0 - 1, x1, y1]]), 48)
        assert prob == pytest.approx(crop.mean() / 255, abs=1e-5)
        expected = crop[0, :10, 3].reshape(2, 5).T / 255 * 29 + box[:2] - 1
        np.testing.assert_allclose(points, expected, atol=1e-3)


def test_no_candidates_still_have_columns():
    nothing = cascade.Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.intp))
    network = Stage(lambda crops: values_of(np.zeros(len(crops)), 14), 8)
    faces, landmarks = cascade.finish(network, [], nothing, 0.5)
    assert faces.boxes.shape == (0, 4)
    assert landmarks.shape == (0, 5, 2)


def test_steady_landmarks_are_the_mean_over_squares_around_each_face():
    """Of a network that always names the place a quarter to the right and three quarters down in what it sees."""
    frames = [Frame(np.zeros((200, 300, 3), np.uint8)) for _ in range(2)]
    boxes = np.array([[100, 100, 140, 140], [10, 20, 40, 60], [-40, 100, 40, 180], [400, 100, 440, 140]], np.float32)
    faces = cascade.Candidates(boxes, np.ones(4, np.float32), np.array([0, 0, 1, 1]))

    def network(crops):
        return np.repeat([[9, 0, 0, 0, 0, *[0.25] * 5, *[0.75] * 5]], len(crops), axis=0).astype(np.float32)

    before = np.full((4, 5, 2), 7, np.float32)
    landmarks = cascade.steadied(Stage(network, 3), frames, faces, before)
    assert (landmarks == landmarks[:, :1]).all()
    # The squares are 0.96 times the longer side; the middle of their middles is the box's. Crops are of whole
    # pixels and begin one early.
    np.testing.assert_allclose(landmarks[:2, 0], [[110.4, 129.6], [15.4, 49.6]], atol=1.5)
    # Of a face that is cut in half the network sees some 38 px, those that are in the picture.
    np.testing.assert_allclose(landmarks[2, 0], [9.6, 159.2], atol=1.5)
    assert (landmarks[3] == 7).all()
