"""Our cascade on our ONNX files against facenet-pytorch itself."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
import torch

from export.mtcnn_onnx import BUILDERS, NETWORKS, build_model, main
from fer_app.boxes import pairwise_iou
from fer_app.detection import MtcnnDetector, area_resize
from fer_app.detection.proposals import face_probability
from fer_app.session import open_session

facenet_pytorch = pytest.importorskip("facenet_pytorch", reason="facenet-pytorch comes with the extra [export]")

# Ours name the subject's left and right, MTCNN the picture's.
TO_MTCNN_ORDER = [1, 0, 2, 4, 3]
SHAPES = {"pnet": [(1, 12, 12), (2, 57, 83), (1, 100, 31)], "rnet": [(1, 24, 24), (17, 24, 24)], "onet": [(3, 48, 48)]}


def resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def scene(name: str, astronaut: np.ndarray) -> np.ndarray:
    match name.split():
        case ["scaled", side]:
            return resized(astronaut, int(side), int(side))
        case ["stretched"]:
            return resized(astronaut, 701, 449)
        case ["turned", degrees]:
            matrix = cv2.getRotationMatrix2D((256, 256), float(degrees), 1.0)
            return cv2.warpAffine(astronaut, matrix, (512, 512))
        case ["mirrored"]:
            return astronaut[:, ::-1].copy()
        case ["gray"]:
            return np.repeat(astronaut.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
        case ["cut"]:
            return astronaut[90:300, 215:480].copy()
        case ["suit"]:
            return astronaut[230:].copy()
        case ["rows", seed]:
            return rows_of_faces(int(seed), astronaut)
        case ["noise", seed]:
            return np.random.default_rng(int(seed)).integers(0, 256, (211, 307, 3), np.uint8)
    crowd = np.random.default_rng(0).integers(60, 120, (720, 1280, 3), np.uint8)
    for side, x, y in ((512, 0, 0), (300, 520, 20), (256, 900, 30), (200, 530, 400), (160, 800, 380), (128, 1100, 500)):
        crowd[y : y + side, x : x + side] = resized(astronaut, side, side)
    return crowd


def rows_of_faces(seed: int, astronaut: np.ndarray) -> np.ndarray:
    """21 faces of random sizes, darker and brighter, mirrored or not, with noise: 480 x 854 px."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (480, 854, 3), np.uint8)
    for row in range(3):
        for column in range(7):
            side = int(rng.integers(70, 120))
            face = resized(astronaut[30:260, 110:340], side, side)[:, :: rng.choice([-1, 1])]
            y, x = row * 160 + int(rng.integers(0, 160 - side)), column * 122 + int(rng.integers(0, 122 - side))
            face = face * rng.uniform(0.6, 1.1) + rng.normal(0, rng.uniform(0, 12), face.shape)
            picture[y : y + side, x : x + side] = face.clip(0, 255)
    return picture


SCENES = [
    *("scaled 96", "scaled 200", "scaled 512", "scaled 1000", "stretched", "turned -30", "turned 20", "turned 180"),
    *("mirrored", "gray", "cut", "suit", "crowd", "rows 1", "rows 2", "rows 3", "noise 1", "noise 2"),
]


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    """Beside other processes torch's threads wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=[20, 40])
def detectors(request):
    theirs = facenet_pytorch.MTCNN(min_face_size=request.param, keep_all=True, post_process=False)
    return theirs, MtcnnDetector(min_face_px=request.param)


@pytest.mark.parametrize("name", SCENES)
def test_same_faces_as_facenet_pytorch(detectors, astronaut, name):
    compare(*detectors, scene(name, astronaut))


@pytest.mark.parametrize("name", ["stretched", "crowd"])
def test_the_same_where_pictures_are_taken_in_parts(detectors, astronaut, name, monkeypatch):
    monkeypatch.setattr(area_resize, "WHOLE_PIXELS", 1000)
    monkeypatch.setattr(area_resize, "BAND_PIXELS", 50_000)
    monkeypatch.setattr(detectors[1], "_pnet", detectors[1]._pnet._replace(portion=20_000))
    compare(*detectors, scene(name, astronaut))


def compare(theirs, ours, picture):
    boxes, probs, landmarks = theirs.detect(picture, landmarks=True)
    (found,) = ours.detect([picture])
    if boxes is None:
        assert len(found) == 0
        return
    assert len(found) == len(boxes)
    partner = pairwise_iou(np.asarray(boxes, np.float32), found.boxes).argmax(axis=1)
    assert sorted(partner) == list(range(len(boxes)))
    np.testing.assert_allclose(found.boxes[partner], boxes.astype(np.float32), atol=0.1, rtol=0)
    mtcnn_landmarks = found.landmarks[partner][:, TO_MTCNN_ORDER]
    np.testing.assert_allclose(mtcnn_landmarks, landmarks.astype(np.float32), atol=0.1, rtol=0)
    np.testing.assert_allclose(found.confidence[partner], probs.astype(np.float32), atol=1e-3, rtol=0)


def test_the_scenes_hold_what_they_should(detectors, astronaut):
    # Otherwise the comparison above could agree on nothing.
    _, ours = detectors
    names = ("scaled 512", "suit", "crowd", "rows 1", "rows 2", "rows 3")
    counts = {name: len(ours.detect([scene(name, astronaut)])[0]) for name in names}
    assert counts["scaled 512"] == 1
    assert counts["suit"] == 0
    assert counts["crowd"] >= 5
    assert min(counts[f"rows {seed}"] for seed in (1, 2, 3)) >= 15


def test_a_batch_gives_what_each_picture_gives(detectors, astronaut):
    names = ["rows 1", "suit", "rows 2", "scaled 200", "rows 3"]
    theirs, ours = detectors
    for name, found in zip(names, ours.detect([scene(name, astronaut) for name in names]), strict=True):
        boxes, probs = theirs.detect(scene(name, astronaut))
        assert len(found) == (0 if boxes is None else len(boxes))
        if boxes is not None:
            order, expected = np.lexsort(found.boxes.T), np.lexsort(boxes.astype(np.float32).T)
            np.testing.assert_allclose(found.boxes[order], boxes[expected].astype(np.float32), atol=0.1, rtol=0)
            np.testing.assert_allclose(found.confidence[order], probs[expected].astype(np.float32), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_computes_what_torch_does(name):
    session = open_session(build_model(name).SerializeToString(), device="cpu")
    network = NETWORKS[name]().eval()
    for batch, height, width in SHAPES[name]:
        images = np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            normalised = torch.from_numpy((images - 127.5) / 128)
            boxes, *landmarks, probs = (value.numpy() for value in network(normalised))
        (values,) = session.run({"images": images})
        np.testing.assert_allclose(face_probability(values[:, 0]), probs[:, 1], atol=1e-5, rtol=0)
        np.testing.assert_allclose(values[:, 1:], np.concatenate([boxes, *landmarks], axis=1), atol=1e-5, rtol=0)


def test_the_bundled_files_are_what_the_exporter_writes(tmp_path, repository):
    assert main([str(tmp_path)]) == 0
    for name in BUILDERS:
        bundled = onnx.load(repository / "fer_app" / "weights" / "mtcnn" / f"{name}.onnx")
        fresh = onnx.load(tmp_path / f"{name}.onnx")
        assert fresh.graph == bundled.graph
        assert {entry.key: entry.value for entry in bundled.metadata_props}["source"].startswith(
            "facenet-pytorch 2.5.3"
        )


def test_the_exporter_wants_a_folder(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
