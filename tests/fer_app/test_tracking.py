from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fer_app.results import Detections
from fer_app.tracking import CutDetector, FaceTracker

FPS = 30.0
# Where a face is at a time: centre x, centre y, side; None when it cannot be seen.
Path = Callable[[float], tuple[float, float, float] | None]


def found(*faces: tuple[float, float, float] | None, jitter: np.random.Generator | None = None) -> Detections:
    there = [face for face in faces if face is not None]
    boxes = np.array([[x - s / 2, y - s / 2, x + s / 2, y + s / 2] for x, y, s in there], np.float32).reshape(-1, 4)
    if jitter is not None:
        boxes += jitter.normal(0, 2, boxes.shape).astype(np.float32)
    return Detections(
        boxes,
        np.ones(len(there), np.float32),
        np.zeros((len(there), 5, 2), np.float32) if there else np.zeros((0, 5, 2)),
    )


def followed(
    paths: list[Path], seconds: float, *, fps: float = FPS, jitter: bool = True, tracker: FaceTracker | None = None
) -> Iterator[tuple[float, list[int | None]]]:
    """For every frame its time and the number of each face, None where it cannot be seen; the order is shuffled."""
    tracker = tracker or FaceTracker()
    random = np.random.default_rng(0)
    for frame in range(int(seconds * fps)):
        places = [path(frame / fps) for path in paths]
        order = random.permutation([i for i, place in enumerate(places) if place is not None])
        ids = tracker.update(found(*(places[i] for i in order), jitter=random if jitter else None), frame / fps)
        numbers: list[int | None] = [None] * len(paths)
        for i, number in zip(order, ids.tolist(), strict=True):
            numbers[i] = number
        yield frame / fps, numbers


def numbers_of(frames: Iterator[tuple[float, list[int | None]]], face: int) -> set[int]:
    return {number for _, numbers in frames if (number := numbers[face]) is not None}


def hidden(path: Path, begin_s: float, end_s: float) -> Path:
    return lambda t: None if begin_s <= t < end_s else path(t)


def test_numbers_begin_at_one_and_stay_while_two_pass_each_other() -> None:
    frames = list(followed([lambda t: (100 + 300 * t, 200, 100), lambda t: (1000 - 200 * t, 230, 80)], 3))
    assert {numbers_of(iter(frames), 0).pop(), numbers_of(iter(frames), 1).pop()} == {1, 2}
    assert len(numbers_of(iter(frames), 0)) == len(numbers_of(iter(frames), 1)) == 1


def test_numbers_stay_when_one_passes_behind_the_other() -> None:
    # They meet at 1.8 s; the one behind is not found for half a second.
    behind = hidden(lambda t: (100 + 300 * t, 200, 100), 1.55, 2.05)
    frames = list(followed([behind, lambda t: (1000 - 200 * t, 215, 90)], 3))
    assert [numbers_of(iter(frames), i) for i in (0, 1)] in ([{1}, {2}], [{2}, {1}])


@pytest.mark.parametrize("speed", [0, 200, 500])
def test_half_a_second_behind_something(speed: float) -> None:
    frames = list(followed([hidden(lambda t: (200 + speed * t, 300, 120), 1.0, 1.5)], 2.5))
    assert numbers_of(iter(frames), 0) == {1}


def test_a_face_that_shrinks_while_it_is_covered_is_the_same_after() -> None:
    def path(t: float) -> tuple[float, float, float] | None:
        shrunk = 130 - 150 * (t - 0.8) if 0.8 < t < 1.0 else 130
        return None if 1.0 <= t < 1.4 else (300 + 100 * t, 250 - (130 - shrunk) / 2, shrunk)

    assert numbers_of(followed([path], 2), 0) == {1}


def test_who_comes_back_late_is_somebody_new() -> None:
    assert numbers_of(followed([hidden(lambda t: (300, 300, 100), 1.0, 2.2)], 3), 0) == {1, 2}
    tracker = FaceTracker(max_gap_s=2)
    assert numbers_of(followed([hidden(lambda t: (300, 300, 100), 1.0, 2.2)], 3, tracker=tracker), 0) == {1}


def test_reset_makes_everybody_new_and_no_number_comes_twice() -> None:
    tracker = FaceTracker()
    assert tracker.update(found((100, 100, 50), (300, 100, 50)), 0.0).tolist() == [1, 2]
    tracker.reset()
    assert tracker.update(found((100, 100, 50), (300, 100, 50)), 0.04).tolist() == [3, 4]


def test_a_jump_of_most_of_the_size_is_taken_up_and_one_across_the_picture_is_not() -> None:
    tracker = FaceTracker()
    tracker.update(found((100, 100, 50)), 0.0)
    assert tracker.update(found((148, 100, 50)), 0.2).tolist() == [1]
    assert tracker.update(found((400, 100, 50)), 0.4).tolist() == [2]


def test_another_size_at_the_same_distance_is_somebody_else() -> None:
    tracker = FaceTracker()
    tracker.update(found((100, 100, 50)), 0.0)
    assert tracker.update(found((130, 100, 20)), 0.2).tolist() == [2]


def test_one_frame_in_three_seconds_is_enough_for_a_face_that_stays() -> None:
    assert numbers_of(followed([lambda t: (300, 300, 100)], 30, fps=1 / 3), 0) == {1}


def test_unseen_faces_are_where_they_should_be() -> None:
    tracker = FaceTracker()
    for frame in range(10):
        tracker.update(found((100 + 10 * frame, 100, 50)), frame / FPS)
    tracker.update(found(), 10 / FPS)
    np.testing.assert_allclose(tracker.unseen(10 / FPS), [[175, 75, 225, 125]], atol=2)
    tracker.update(found(), 10 / FPS + 1.5)
    assert tracker.unseen(10 / FPS + 1.5).shape == (0, 4)


def test_no_faces_and_many_faces() -> None:
    tracker = FaceTracker()
    assert tracker.update(Detections.empty(), 0.0).shape == (0,)
    grid = [(60.0 * (i % 10) + 40, 60.0 * (i // 10) + 40, 50.0) for i in range(60)]
    assert tracker.update(found(*grid), 0.1).tolist() == list(range(1, 61))
    moved = [(x + 12, y, s) for x, y, s in grid]
    assert tracker.update(found(*moved[::-1]), 0.15).tolist() == list(range(60, 0, -1))


def textured(seed: int, shift: int = 0, scale: int = 1) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 255, (9, 40, 3), dtype=np.uint8)
    whole = np.kron(blocks, np.ones((40 * scale, 40 * scale, 1), np.uint8))
    return whole[:, shift * scale : (shift + 640) * scale]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_cuts(scale: int) -> None:
    cuts = CutDetector()
    shots = [textured(1, 2 * i, scale) for i in range(10)] + [textured(2, 2 * i, scale) for i in range(10)]
    assert [i for i, image in enumerate(shots) if cuts.is_cut(image)] == [10]


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_camera_that_turns_fast_is_no_cut(scale: int) -> None:
    cuts = CutDetector()
    assert [i for i in range(17) if cuts.is_cut(textured(1, 3 * i * i, scale))] == []
