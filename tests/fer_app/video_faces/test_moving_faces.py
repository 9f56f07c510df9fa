"""Faces that move, grow, turn, come, go and cross: who is who, where, and when, in whole videos."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest
from tests.fer_app.video.conftest import make_clip

from fer_app.recognizer import Recognizer
from fer_app.video_faces import OutputPaths, Settings, Wanted, annotate_video

UInt8 = npt.NDArray[np.uint8]
# 29.97 frames a second.
NTSC = Fraction(1001, 30000)
WIDE, HIGH = 640, 360


class Head(NamedTuple):
    """Where a copy of the portrait's head is: the middle of its face, side of the copy in px, degrees, colour."""

    x: float
    y: float
    side: float = 200
    angle: float = 0
    tint: tuple[float, float, float] = (1, 1, 1)


class Row(NamedTuple):
    """What the table says of a face."""

    time_s: float
    track: int
    x: float
    y: float
    height: float


# Without the suit, in whose folds detection sees a face now and then; the face is 0.46 of it high.
HEAD, MIDDLE, FACE_HIGH = (slice(5, 245), slice(105, 345)), (119, 112), 0.46


def picture(portrait: UInt8, heads: Sequence[Head], size: tuple[int, int] = (WIDE, HIGH)) -> UInt8:
    """Copies of the head, the first below the others, on gray: uint8, (H, W, 3), RGB."""
    image = np.full((size[1], size[0], 3), 110, np.uint8)
    head = portrait[HEAD]
    for one in heads:
        to = cv2.getRotationMatrix2D(MIDDLE, one.angle, one.side / len(head))
        to[:, 2] += np.array([one.x, one.y]) - MIDDLE
        copy = cv2.warpAffine((head * np.array(one.tint)).clip(0, 255).astype(np.uint8), to, size)
        there = cv2.warpAffine(np.full(head.shape[:2], 255, np.uint8), to, size) > 250
        image[there] = copy[there]
    return image


@pytest.fixture(scope="module")
def recognizer(tiny_model: Path) -> Recognizer:
    return Recognizer(tiny_model, device="cpu")


@pytest.fixture
def annotated(recognizer: Recognizer, tmp_path: Path) -> Callable[..., dict[int, list[Row]]]:
    """Annotate a video of 29.97 pictures a second; gives the faces of each frame."""

    def run(pictures: Sequence[UInt8], detect_every: int | None = None, **what: Any) -> dict[int, list[Row]]:
        height, width = pictures[0].shape[:2]
        times = [i * NTSC.numerator for i in range(len(pictures))]
        what = {"times": times, "time_base": Fraction(1, NTSC.denominator), "size": (width, height)} | what
        clip = make_clip(tmp_path / "clip.mp4", pictures=pictures, **what)
        paths = OutputPaths(tmp_path, "out", Wanted())
        summary = annotate_video(recognizer, str(clip), paths, Settings(detect_every=detect_every))
        assert summary["complete"]
        assert summary["frames"] == len(pictures)
        frames: dict[int, list[Row]] = defaultdict(list)
        with paths.rows[0].open(newline="") as file:
            for row in csv.DictReader(file):
                frames[int(row["frame_index"])] += [_row(row)] if row["face"] else []
        assert list(frames) == list(range(len(pictures)))
        assert summary["faces"] == sum(map(len, frames.values()))
        return frames

    return run


def _row(row: dict[str, str]) -> Row:
    x0, y0, x1, y1 = (float(row[f"box_{name}"]) for name in ("x0", "y0", "x1", "y1"))
    return Row(float(row["time_s"]), int(row["track_id"]), (x0 + x1) / 2, (y0 + y1) / 2, y1 - y0)


WAYS: dict[str, Callable[[int], Head]] = {
    "moves": lambda i: Head(120 + 16 * i, 180 + 60 * np.sin(i / 4)),
    "grows": lambda i: Head(320, 180, 110 * 1.045**i),
    "shrinks": lambda i: Head(320, 180, 330 / 1.045**i),
    "turns": lambda i: Head(320, 180, 240, 35 * np.sin(i / 4)),
}


@pytest.mark.parametrize("detect_every", [None, 1])
@pytest.mark.parametrize("way", WAYS)
def test_a_face_is_one_person_wherever_it_goes(
    way: str, detect_every: int | None, annotated: Callable[..., Any], astronaut: UInt8, tmp_path: Path
) -> None:
    heads = [WAYS[way](i) for i in range(26)]
    frames = annotated([picture(astronaut, [head]) for head in heads], detect_every)
    for number, head in enumerate(heads):
        (row,) = frames[number]
        assert row.track == 1
        assert row.time_s == pytest.approx(float(number * NTSC), abs=1e-6)
        assert np.hypot(row.x - head.x, row.y - head.y) < 0.1 * head.side
        assert row.height == pytest.approx(FACE_HIGH * head.side, rel=0.25)
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert shown == [i * NTSC for i in range(26)]


def test_who_comes_is_noticed_in_time_and_who_goes_at_once(annotated: Callable[..., Any], astronaut: UInt8) -> None:
    pictures = [picture(astronaut, [Head(-120 + 22 * i, 180)]) for i in range(40)]
    every, following = annotated(pictures, 1), annotated(pictures)
    (first, *_, last), *_ = here = [[i for i, rows in frames.items() if rows] for frames in (every, following)]
    assert 3 < first < last < 36
    for there in here:
        assert there == list(range(there[0], there[-1] + 1))
    # A search of all of a frame is due every 0.2 s.
    assert 0 <= here[1][0] - first <= 6
    assert abs(here[1][-1] - last) <= 1
    assert {row.track for frames in (every, following) for rows in frames.values() for row in rows} == {1}


@pytest.mark.parametrize("detect_every", [None, 1])
def test_two_that_cross_keep_their_numbers(
    detect_every: int | None, annotated: Callable[..., Any], astronaut: UInt8
) -> None:
    behind = [Head(560 - 11 * i, 170, 150, tint=(0.75, 0.85, 1.2)) for i in range(44)]
    before = [Head(90 + 9 * i, 195, 220, tint=(1.1, 0.95, 0.8)) for i in range(44)]
    frames = annotated([picture(astronaut, pair) for pair in zip(behind, before, strict=True)], detect_every)
    counts = [len(frames[i]) for i in range(44)]
    assert counts[0] == counts[-1] == 2
    # One hides the other for a while.
    assert 5 < counts.count(1) < 25
    assert set(counts) == {1, 2}
    numbers: dict[str, set[int]] = {"behind": set(), "before": set()}
    for i, rows in frames.items():
        for row in rows:
            near = {name: abs(row.x - heads[i].x) for name, heads in (("behind", behind), ("before", before))}
            if max(near.values()) > 60:
                numbers[min(near, key=lambda name: near[name])].add(row.track)
    assert sorted(map(sorted, numbers.values())) == [[1], [2]]


def test_sixty_faces_are_sixty_rows_a_frame(annotated: Callable[..., Any], astronaut: UInt8) -> None:
    places = [(64 + 128 * (k % 10), 62 + 120 * (k // 10)) for k in range(60)]
    pictures = [
        picture(astronaut, [Head(x + 5 * np.sin(i + x), y + 3 * i, 116) for x, y in places], (1280, 720))
        for i in range(3)
    ]
    frames = annotated(pictures)
    assert [len(frames[i]) for i in range(3)] == [60] * 3
    for i in range(3):
        assert {row.track for row in frames[i]} == set(range(1, 61))
    first = {row.track: row for row in frames[0]}
    assert all(np.hypot(row.x - first[row.track].x, row.y - first[row.track].y) < 25 for row in frames[2])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_video_of_a_phone_held_upright(
    rotation: int, annotated: Callable[..., Any], astronaut: UInt8, tmp_path: Path
) -> None:
    upright = [picture(astronaut, [Head(120 + 4 * i, 250, 220)], (360, 480)) for i in range(8)]
    # As the sensor gives them: the player turns them by `rotation`, counter-clockwise.
    frames = annotated([np.ascontiguousarray(np.rot90(one, -rotation // 90)) for one in upright], rotation=rotation)
    for i in range(8):
        (row,) = frames[i]
        assert (row.x, row.y) == (pytest.approx(120 + 4 * i, abs=15), pytest.approx(250, abs=15))
    with av.open(str(tmp_path / "out.mp4")) as container:
        shown = list(container.decode(video=0))
    assert {(frame.width, frame.height, frame.rotation) for frame in shown} == {(360, 480, 0)}
    # The corner is far from what was drawn.
    assert np.abs(shown[0].to_ndarray(format="rgb24")[:40].astype(int) - upright[0][:40]).mean() < 6
