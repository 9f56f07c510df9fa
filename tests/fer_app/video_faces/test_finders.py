"""Faces that are followed between two searches of the whole frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer_app.boxes import pairwise_iou
from fer_app.recognizer import Recognizer
from fer_app.results import Detections
from fer_app.video import VideoFrame
from fer_app.video_faces import Settings
from fer_app.video_faces.finders import EveryFrameFinder, FollowingFinder, choose_finder

GRAY = np.full((90, 160, 3), 128, np.uint8)
WHITE = np.full((90, 160, 3), 250, np.uint8)
FACE = (20.0, 20.0, 60.0, 70.0)
OTHER = (100.0, 20.0, 140.0, 70.0)


def at(*boxes: tuple[float, float, float, float]) -> Detections:
    landmarks = np.array([[(0.7, 0.4), (0.3, 0.4), (0.5, 0.6), (0.65, 0.8), (0.35, 0.8)]], np.float32)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    size = corners[:, None, 2:] - corners[:, None, :2]
    return Detections(corners, np.ones(len(boxes), np.float32), corners[:, None, :2] + landmarks * size)


class Scripted:
    """Stands for a recognizer: what it finds is given, and what it was asked for is noted."""

    def __init__(self, there: Sequence[Detections], followed: dict[int, Detections] | None = None) -> None:
        self.there, self.unlike = there, followed or {}
        self.frame, self.asked = 0, ""

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.asked += "D" * len(images)
        return [self.there[self.frame]] * len(images)

    def follow(self, image: np.ndarray, expected: np.ndarray) -> Detections:
        self.asked += "f"
        return self.unlike.get(self.frame, self.there[self.frame])


def frames(times: Sequence[float], images: dict[int, np.ndarray] | None = None) -> Iterator[VideoFrame]:
    for number, time in enumerate(times):
        yield VideoFrame((images or {}).get(number, GRAY), number, round(time * 1000), Fraction(1, 1000), 1)


def asked(recognizer: Scripted, finder: FollowingFinder, given: Iterator[VideoFrame]) -> list[str]:
    """For each frame what was asked for: D a search of the whole, f following."""
    each = []
    for number, frame in enumerate(given):
        recognizer.frame, recognizer.asked = number, ""
        (found,) = finder.find([frame])
        assert found.frame is frame
        assert len(found.track_ids) == len(found.detections)
        each.append(recognizer.asked)
    return each


def following(recognizer: Scripted, detect_every: int | None = None) -> FollowingFinder:
    target: Any = recognizer
    return FollowingFinder(target, detect_every)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [(30, "DfffffDfffffD"), (25, "DffffDffffDff"), (10, "DfDfDfDfDfDfD"), (5, "DDDDDDDDDDDDD"), (1, "DDDDDDDDDDDDD")],
)
def test_a_search_is_due_by_time(fps: int, expected: str) -> None:
    recognizer = Scripted([at(FACE)] * 13)
    finder = following(recognizer)
    assert "".join(asked(recognizer, finder, frames([i / fps for i in range(13)]))) == expected
    assert finder.searched == expected.count("D")


def test_a_search_is_due_after_so_many_frames_at_any_rate() -> None:
    recognizer = Scripted([at(FACE)] * 8)
    times = [0, 0.01, 0.5, 0.51, 3.0, 3.5, 3.6, 3.7]
    assert asked(recognizer, following(recognizer, 4), frames(times)) == list("DfffDfff")
    assert asked(recognizer, following(recognizer, 1), frames(times)) == list("DDDDDDDD")


def test_a_face_that_is_not_found_again_is_searched_for_at_once() -> None:
    there = [at(FACE, OTHER)] * 3 + [at(FACE)] * 6
    recognizer = Scripted(there)
    # In frame 3 one is missing; that search counts, so that the next one is due later.
    each = asked(recognizer, following(recognizer, 5), frames([i / 30 for i in range(9)]))
    assert each == ["D", "f", "f", "fD", "f", "f", "f", "f", "D"]


def test_something_else_that_is_found_is_not_the_face() -> None:
    recognizer = Scripted([at(FACE)] * 4, followed={2: at(OTHER)})
    assert asked(recognizer, following(recognizer, 9), frames([i / 30 for i in range(4)])) == ["D", "f", "fD", "f"]


def test_where_nobody_is_nothing_is_looked_for_until_a_search_is_due() -> None:
    recognizer = Scripted([at()] * 4 + [at(FACE)] * 5)
    each = asked(recognizer, following(recognizer, 3), frames([i / 30 for i in range(9)]))
    assert each == ["D", "", "", "D", "", "", "D", "f", "f"]


def test_a_cut_is_searched_and_everybody_is_new() -> None:
    recognizer = Scripted([at(FACE)] * 6)
    finder = following(recognizer, 50)
    numbers = []
    images = dict.fromkeys((3, 4, 5), WHITE)
    for number, frame in enumerate(frames([i / 30 for i in range(6)], images)):
        recognizer.frame = number
        numbers += finder.find([frame])[0].track_ids.tolist()
    assert recognizer.asked == "DffDff"
    assert numbers == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("detect_every", [None, 1])
def test_a_camera_has_no_cuts(detect_every: int | None) -> None:
    finder = choose_finder(Scripted([at(FACE)] * 5), detect_every, has_cuts=False)  # type: ignore[arg-type]
    given = frames([0, 0.1, 0.2, 0.3], {2: WHITE, 3: WHITE})
    assert [finder.find([frame])[0].track_ids.tolist() for frame in given] == [[1]] * 4


def test_blurring_searches_every_frame_unless_told_otherwise() -> None:
    recognizer: Any = Scripted([])
    chosen = [choose_finder(recognizer, settings.search_every) for settings in (Settings(), Settings(blur=True))]
    assert [type(finder) for finder in chosen] == [FollowingFinder, EveryFrameFinder]
    assert Settings(blur=True, detect_every=7).search_every == 7
    assert isinstance(choose_finder(recognizer, 1), EveryFrameFinder)


def moving(astronaut: np.ndarray, count: int) -> Iterator[VideoFrame]:
    """The portrait on its way through the picture, coming nearer and tilting to and fro."""
    for number in range(count):
        t = number / 30
        scale = 0.5 + 0.15 * np.sin(1.5 * t)
        turn = cv2.getRotationMatrix2D((224, 120), 12 * np.sin(2.5 * t), scale)
        turn[:, 2] += (150 + 120 * np.sin(2 * t) - 224 + 200, 60 + 40 * np.cos(3 * t) + 60)
        image = cv2.warpAffine(astronaut, turn, (640, 360), flags=cv2.INTER_AREA, borderValue=(90, 90, 90))
        yield VideoFrame(np.asarray(image, np.uint8), number, number, Fraction(1, 30), 1)


def test_a_real_face_is_followed_where_a_search_finds_it(tiny_model: Path, astronaut: np.ndarray) -> None:
    recognizer = Recognizer(tiny_model, device="cpu")
    given = list(moving(astronaut, 60))
    every, some = EveryFrameFinder(recognizer), FollowingFinder(recognizer)
    searched, followed = every.find(given), some.find(given)
    assert [len(found.detections) for found in searched] == [1] * 60
    assert [found.track_ids.tolist() for found in followed] == [[1]] * 60
    assert every.searched == 60
    assert some.searched == 10
    ious = [
        pairwise_iou(a.detections.boxes, b.detections.boxes).item() for a, b in zip(searched, followed, strict=True)
    ]
    assert min(ious) > 0.75
    assert np.mean(ious) > 0.9
    sides = np.array([np.ptp(found.detections.boxes[0, [0, 2]]) for found in searched])
    apart = [
        np.linalg.norm(a.detections.landmarks - b.detections.landmarks, axis=-1).max()
        for a, b in zip(searched, followed, strict=True)
    ]
    assert max(apart / sides) < 0.08
