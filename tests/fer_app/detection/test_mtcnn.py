from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fer_app.boxes import pairwise_iou
from fer_app.detection import MtcnnDetector, area_resize, mtcnn
from fer_app.errors import InputError, ProviderUnavailableError
from fer_app.results import LANDMARKS

# Around the astronaut's face, from hairline to chin and cheek to cheek, drawn by hand.
FACE = np.array([[177, 70, 271, 178]], np.float32)


@pytest.fixture(scope="module")
def detector() -> MtcnnDetector:
    return MtcnnDetector()


def crowd(astronaut: np.ndarray) -> np.ndarray:
    """A 720 x 1280 scene with four faces of different sizes."""
    scene = np.full((720, 1280, 3), 90, np.uint8)
    for side, x, y in ((512, 20, 100), (320, 560, 30), (256, 640, 400), (200, 1000, 200)):
        scene[y : y + side, x : x + side] = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA)
    return scene


def same(a, b):
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
    np.testing.assert_allclose(a.landmarks, b.landmarks, atol=1e-2)
    np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)


def test_finds_the_astronaut(detector, astronaut):
    (found,) = detector.detect([astronaut])
    assert len(found) == 1
    assert pairwise_iou(found.boxes, FACE).item() > 0.7
    assert found.confidence.item() > 0.99
    x0, y0, x1, y1 = found.boxes[0]
    assert (found.landmarks[0] > [x0, y0]).all()
    assert (found.landmarks[0] < [x1, y1]).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_left_is_the_subjects(detector, astronaut, mirrored):
    (found,) = detector.detect([astronaut[:, ::-1] if mirrored else astronaut])
    at = dict(zip(LANDMARKS, found.landmarks[0], strict=True))
    assert at["left_eye"][0] > at["nose"][0] > at["right_eye"][0]
    assert at["left_mouth"][0] > at["right_mouth"][0]
    assert at["left_eye"][1] < at["nose"][1] < at["left_mouth"][1]
    assert at["right_eye"][1] < at["nose"][1] < at["right_mouth"][1]


def test_a_batch_of_different_sizes_equals_one_by_one(detector, astronaut):
    small = cv2.resize(astronaut, (300, 200), interpolation=cv2.INTER_AREA)
    blank = np.zeros((512, 512, 3), np.uint8)
    pictures = [astronaut, small, blank, crowd(astronaut), astronaut[:, ::-1]]
    batch = detector.detect(pictures)
    assert [len(found) for found in batch] == [1, 1, 0, 4, 1]
    for found, picture in zip(batch, pictures, strict=True):
        same(found, detector.detect([picture])[0])


@pytest.mark.parametrize("rows", [7, 40])
def test_in_parts_as_in_one_piece(monkeypatch, detector, astronaut, rows):
    """What bounds the memory of large pictures changes nothing."""
    pictures = [crowd(astronaut), crowd(astronaut)[:, ::-1], astronaut[1:, :501]]
    expected = detector.detect(pictures)
    monkeypatch.setattr(area_resize, "WHOLE_PIXELS", 10_000)
    monkeypatch.setattr(area_resize, "BAND_PIXELS", 10_000)
    shapes = []
    network = detector._pnet.network
    pnet = mtcnn.Stage(lambda images: shapes.append(images.shape) or network(images), rows * 384)
    monkeypatch.setattr(detector, "_pnet", pnet)
    for ours, theirs in zip(detector.detect(pictures), expected, strict=True):
        same(ours, theirs)
    # Two rows of output at the least, seen through a window of 12; several frames at once where they are small.
    assert max(height for _, _, height, width in shapes if width == 385) <= max(12, rows)
    assert max(shape[0] for shape in shapes) == 2


def test_any_number_of_threads_finds_the_same(astronaut):
    pictures = [crowd(astronaut), astronaut]
    expected = MtcnnDetector(threads=1).detect(pictures)
    for threads in (2, 5):
        for ours, theirs in zip(MtcnnDetector(threads=threads).detect(pictures), expected, strict=True):
            same(ours, theirs)


def test_many_pictures_are_taken_in_groups(monkeypatch, detector, astronaut):
    pictures = [astronaut, astronaut[:, ::-1], crowd(astronaut), astronaut[:200, :300], astronaut]
    expected = [detector.detect([picture])[0] for picture in pictures]
    monkeypatch.setattr(mtcnn, "_PIXELS_AT_ONCE", 2 * 512 * 512)
    groups = []
    together = detector._detect_together
    monkeypatch.setattr(detector, "_detect_together", lambda images: groups.append(len(images)) or together(images))
    for ours, theirs in zip(detector.detect(pictures), expected, strict=True):
        same(ours, theirs)
    assert groups == [2, 1, 1, 1] or groups == [2, 1, 2]


@pytest.mark.skipif(os.name != "posix", reason="the peak of memory is asked for as POSIX has it")
def test_a_large_picture_takes_little_memory_beside_itself(repository):
    code = """
import resource, sys
import cv2, numpy as np
from fer_app.detection import MtcnnDetector
detector = MtcnnDetector(threads=1)
picture = np.asarray(cv2.resize(cv2.imread(sys.argv[1]), (5000, 4000)))
detector.detect([picture[:600, :800]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(detector.detect([picture])[0]) == 1
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print((after - before) * unit / picture.nbytes)
"""
    picture = str(repository / "examples" / "astronaut.jpg")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, picture], capture_output=True, text=True, check=True, env=environment
    )
    # An integral image alone would be 4 times the picture.
    assert float(done.stdout) < 4


@pytest.fixture(scope="module")
def steady() -> MtcnnDetector:
    return MtcnnDetector(steady=True)


def test_steady_landmarks_move_less_when_a_picture_is_shown_otherwise(detector, steady, astronaut):
    """In another light, one colour, half as large, moved by some pixels: landmarks in px of the picture as it was."""
    shown = [(np.ascontiguousarray(astronaut[y:, x:]), [x, y], 1) for x, y in ((0, 0), (3, 5), (11, 2), (6, 13))]
    shown += [(np.repeat(astronaut[..., :1], 3, axis=2), [0, 0], 1), (astronaut // 2, [0, 0], 1)]
    shown += [(cv2.resize(astronaut, None, fx=f, fy=f, interpolation=cv2.INTER_AREA), [0, 0], f) for f in (0.5, 0.8)]

    def scatter(finder: MtcnnDetector) -> float:
        found = finder.detect([picture for picture, _, _ in shown])
        places = [one.landmarks[0] / scale + from_ for one, (_, from_, scale) in zip(found, shown, strict=True)]
        return float(np.std(places, axis=0).mean())

    assert scatter(steady) < 0.8 * scatter(detector)


def test_steady_faces_are_the_same_and_stay_apart(detector, steady, astronaut):
    pictures = [crowd(astronaut), np.zeros((200, 200, 3), np.uint8), astronaut]
    for ours, plain, picture in zip(steady.detect(pictures), detector.detect(pictures), pictures, strict=True):
        assert ours.boxes.tolist() == plain.boxes.tolist()
        assert ours.confidence.tolist() == plain.confidence.tolist()
        same(ours, steady.detect([picture])[0])
        sides = (plain.boxes[:, 2:] - plain.boxes[:, :2]).max(axis=1)
        moved = np.linalg.norm(ours.landmarks - plain.landmarks, axis=2).mean(axis=1)
        assert (moved < 0.06 * sides).all()
        assert (moved > 0).all()


@pytest.mark.parametrize(("top", "bottom", "left"), [(0, 155, 0), (90, 512, 0), (0, 512, 200), (0, 150, 190)])
def test_landmarks_of_a_face_at_the_edge_stay_on_it(detector, steady, astronaut, top, bottom, left):
    shown = np.ascontiguousarray(astronaut[top:bottom, left:])
    whole = detector.detect([astronaut])[0].landmarks[0] - [left, top]
    inside = ((whole >= 0) & (whole < [shown.shape[1], shown.shape[0]])).all(axis=1)
    assert inside.sum() >= 3

    def off_px(finder: MtcnnDetector) -> float:
        return float(np.linalg.norm(finder.detect([shown])[0].landmarks[0] - whole, axis=1)[inside].mean())

    # The eyes are 42 px apart. The cascade alone takes the part that is seen for the whole.
    assert off_px(steady) < 16
    assert off_px(steady) < 0.7 * off_px(detector)


@pytest.mark.parametrize(("left", "differ"), [(0, False), (180, True)])
def test_a_face_that_is_followed_is_steady_at_the_edge(detector, steady, astronaut, left, differ):
    picture = np.ascontiguousarray(astronaut[:, left:])
    expected = detector.detect([picture])[0].boxes + np.float32(4)
    ours, plain = steady.follow(picture, expected), detector.follow(picture, expected)
    assert ours.boxes.tolist() == plain.boxes.tolist()
    assert (ours.landmarks != plain.landmarks).any() == differ


def test_largest_first_and_max_faces_keeps_the_largest(detector, astronaut):
    scene = crowd(astronaut)
    (everyone,) = detector.detect([scene])
    areas = (everyone.boxes[:, 2:] - everyone.boxes[:, :2]).prod(axis=1)
    assert len(everyone) == 4
    assert (np.diff(areas) < 0).all()
    (two,) = MtcnnDetector(max_faces=2).detect([scene])
    same(two, everyone[:2])


def test_min_face_px_leaves_small_faces_out(astronaut):
    scene = crowd(astronaut)
    (large,) = MtcnnDetector(min_face_px=150).detect([scene])
    assert len(large) == 1
    assert large.boxes[0, 0] < 512


def test_thresholds_are_used(astronaut):
    (none,) = MtcnnDetector(thresholds=(0.6, 0.7, 1.0)).detect([astronaut])
    assert len(none) == 0


@pytest.mark.parametrize("shape", [(1, 1), (11, 300), (39, 39), (300, 20)])
def test_smaller_than_the_smallest_face(detector, shape):
    (found,) = detector.detect([np.full((*shape, 3), 128, np.uint8)])
    assert len(found) == 0


def test_no_pictures(detector):
    assert detector.detect([]) == []


def test_memory_layout_does_not_matter(detector, astronaut):
    (expected,) = detector.detect([astronaut])
    backwards = astronaut[:, :, ::-1].copy()[:, :, ::-1]
    fortran = np.asfortranarray(astronaut)
    window = np.pad(astronaut, ((5, 3), (2, 9), (0, 0)))[5:-3, 2:-9]
    for view in (backwards, fortran, window):
        assert not view.flags.c_contiguous
        same(detector.detect([view])[0], expected)
    astronaut.flags.writeable = False
    same(detector.detect([astronaut])[0], expected)


def faceless_pictures(astronaut: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 640).astype(np.uint8)
    blocks = astronaut.reshape(32, 16, 32, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
    scrambled = rng.permutation(blocks).reshape(32, 32, 16, 16, 3).swapaxes(1, 2).reshape(512, 512, 3)
    return {
        "black": np.zeros((480, 640, 3), np.uint8),
        "white": np.full((480, 640, 3), 255, np.uint8),
        "noise": rng.integers(0, 256, (480, 640, 3), np.uint8),
        "coarse noise": cv2.resize(rng.integers(0, 256, (30, 40, 3), np.uint8), (640, 480)),
        "gradient": np.broadcast_to(ramp[None, :, None], (480, 640, 3)),
        "checkers": np.kron(np.indices((15, 20)).sum(axis=0) % 2, np.ones((32, 32)))[..., None]
        .repeat(3, 2)
        .astype(np.uint8)
        * 255,
        "suit and helmet": astronaut[230:],
        "shuttle": astronaut[:, 300:],
        "scrambled": scrambled,
    }


FACELESS = (
    "black",
    "white",
    "noise",
    "coarse noise",
    "gradient",
    "checkers",
    "suit and helmet",
    "shuttle",
    "scrambled",
)


@pytest.mark.parametrize("name", FACELESS)
def test_no_face_where_there_is_none(detector, astronaut, name):
    (found,) = detector.detect([faceless_pictures(astronaut)[name]])
    assert len(found) == 0


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((50, 50), np.uint8),
        np.zeros((50, 50, 4), np.uint8),
        np.zeros((50, 50, 3), np.float32),
        np.zeros((0, 50, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(detector, bad):
    with pytest.raises(InputError, match="picture 1"):
        detector.detect([np.zeros((50, 50, 3), np.uint8), bad])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_face_px", 11),
        ("min_face_px", float("nan")),
        ("max_faces", 0),
        ("thresholds", (0.6, 0.7)),
        ("thresholds", (0.6, 0.7, 1.1)),
    ],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=setting):
        MtcnnDetector(**{setting: value})


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ProviderUnavailableError):
        MtcnnDetector(device="cuda")


def test_follow_finds_each_face_again_from_about_its_place(detector, astronaut):
    scene = crowd(astronaut)
    (found,) = detector.detect([scene])
    size = found.boxes[:, 2:] - found.boxes[:, :2]
    shift = np.concatenate([size, size], axis=1) * np.float32([[0.12, -0.1, 0.12, -0.1]])
    again = detector.follow(scene, found.boxes + shift)
    assert len(again) == 4
    assert np.diag(pairwise_iou(found.boxes, found.boxes + shift)).max() < 0.7
    assert np.diag(pairwise_iou(found.boxes, again.boxes)).min() > 0.8
    assert np.abs(again.landmarks - found.landmarks).max() < 0.1 * size.min()
    one = detector.follow(scene, found.boxes[2:3])
    assert len(one) == 1
    assert pairwise_iou(one.boxes, found.boxes[2:3]).item() > 0.8


def test_follow_finds_nothing_where_nobody_is_and_one_face_once(detector, astronaut):
    scene = crowd(astronaut)
    (found,) = detector.detect([scene])
    empty = np.array([[1150, 550, 1250, 700], [-500, -500, -400, -380], [1270, 700, 1400, 900]], np.float32)
    assert len(detector.follow(scene, empty)) == 0
    assert len(detector.follow(scene, np.zeros((0, 4), np.float32))) == 0
    twice = np.concatenate([found.boxes[:1], found.boxes[:1] + np.float32(9)])
    assert len(detector.follow(scene, twice)) == 1


def test_follow_looks_at_the_same_pixels_as_detect(monkeypatch, detector, astronaut):
    """However much of the picture is summed up for it."""
    scene = crowd(astronaut)
    boxes = detector.detect([scene])[0].boxes
    expected = detector.follow(scene, boxes)
    monkeypatch.setattr(area_resize, "BAND_PIXELS", 10_000)
    same(detector.follow(scene, boxes), expected)
    monkeypatch.setattr(mtcnn, "Frame", lambda image, whole=True: area_resize.Frame(image))
    same(detector.follow(scene, boxes), expected)


def test_follow_refuses_what_is_no_picture(detector):
    with pytest.raises(InputError, match="picture 0 is float32"):
        detector.follow(np.zeros((9, 9, 3), np.float32), np.zeros((0, 4), np.float32))
