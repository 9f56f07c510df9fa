from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fer_app import Recognizer
from fer_app.errors import ImageDecodeError
from fer_app.ui.live import LiveFaces


@pytest.fixture(scope="module")
def recognizer(tiny_model):
    return Recognizer(tiny_model, device="cpu")


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_a_face_keeps_its_number_and_its_place(recognizer, astronaut) -> None:
    live = LiveFaces(recognizer)
    answers = [live.read(jpeg(np.roll(astronaut, 4 * i, axis=1)), 0.05 * i) for i in range(8)]
    assert [face["track"] for answer in answers for face in answer["faces"]] == [1] * 8
    lefts = [answer["faces"][0]["box"][0] for answer in answers]
    assert lefts[-1] - lefts[0] == pytest.approx(28, abs=6)
    assert (answers[0]["width"], answers[0]["height"]) == (512, 512)
    assert answers[0]["read_ms"] > 0


def test_probabilities_are_smoothed_and_label_and_doubt_are_theirs(recognizer, astronaut) -> None:
    red, green = astronaut.copy(), astronaut.copy()
    red[..., 1:] //= 4
    green[..., [0, 2]] //= 4
    sharp, smooth = LiveFaces(recognizer, smooth_s=0), LiveFaces(recognizer, smooth_s=5)
    for live in (sharp, smooth):
        assert live.read(jpeg(red), 0)["faces"][0]["label"] == "anger"
    changed = [live.read(jpeg(green), 0.05)["faces"][0] for live in (sharp, smooth)]
    assert [face["label"] for face in changed] == ["happiness", "anger"]
    for face in changed:
        assert sum(face["probs"]) == pytest.approx(1, abs=1e-3)


def test_doubt_is_by_the_recognizers_threshold(tiny_model, astronaut) -> None:
    for below in (0.0, 1.0):
        live = LiveFaces(Recognizer(tiny_model, device="cpu", uncertain_below=below))
        assert live.read(jpeg(astronaut), 0)["faces"][0]["uncertain"] == (below == 1.0)


def test_the_largest_face_comes_first(recognizer, astronaut) -> None:
    small = np.asarray(Image.fromarray(astronaut).resize((384, 384)))
    both = np.zeros((512, 896, 3), np.uint8)
    both[:384, :384], both[:, 384:] = small, astronaut
    faces = LiveFaces(recognizer).read(jpeg(both), 0)["faces"]
    assert len(faces) == 2
    assert faces[0]["box"][0] > faces[1]["box"][0]


def test_nobody(recognizer) -> None:
    assert LiveFaces(recognizer).read(jpeg(np.full((480, 640, 3), 90, np.uint8)), 0)["faces"] == []


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0", "large"])
def test_what_is_no_picture_of_a_webcam(recognizer, content) -> None:
    if content == "large":
        content = jpeg(np.zeros((1000, 1001, 3), np.uint8))
    with pytest.raises(ImageDecodeError, match="webcam"):
        LiveFaces(recognizer).read(content, 0)


@pytest.mark.parametrize("setting", [{"detect_every": 0}, {"detect_every": 101}, {"smooth_s": -1}, {"smooth_s": 6}])
def test_settings_out_of_range(recognizer, setting) -> None:
    with pytest.raises(ValueError, match="must be"):
        LiveFaces(recognizer, **setting)
    with pytest.raises(ValueError, match="must be"):
        LiveFaces(recognizer, smooth_s=float("nan"))
