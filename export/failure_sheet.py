"""One portrait, spoilt in several ways, and what the whole program makes of each: found or not, label, probability.

The portrait is the one that comes with the package (`fer_app.bench.scenes`), never a face of a data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_app.bench.scenes import PORTRAIT
from fer_app.classifier import OnnxClassifier
from fer_app.image_io import read_image
from fer_app.recognizer import Recognizer
from training.plots import draw_faces

UInt8 = NDArray[np.uint8]
_SIDE_PX = 300
_ROOM = 2.2  # times the height of the face
_COVER = 128


class Answer(NamedTuple):
    """What the program says of one picture.

    Attributes:
        change: what was done to the portrait.
        picture: uint8, (H, W, 3), RGB.
        label: the most probable; empty where no face was found.
        probability: of the label.
        notes: `uncertain` and the quality flags.
    """

    change: str
    picture: UInt8
    label: str
    probability: float
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        """The answer in words."""
        return (
            ", ".join([f"{self.label} {100 * self.probability:.0f} %", *self.notes]) if self.label else "no face found"
        )


def ask(model: Path) -> list[Answer]:
    """Read the portrait and its changes as `fer predict` does, with its own settings, on the CPU.

    Args:
        model: an ONNX classifier.
    """
    recognizer = Recognizer(OnnxClassifier(model, device="cpu"), device="cpu")
    photo = read_image(PORTRAIT)
    (face,) = recognizer.detect([photo])
    portrait = _square(photo, face.boxes[0])
    (found,) = recognizer.detect([portrait])
    answers = []
    for change, picture in _changes(portrait, found.boxes[0], found.landmarks[0]):
        faces = recognizer.predict(picture)
        if len(faces) == 0:
            answers.append(Answer(change, picture, "", 0.0, ()))
            continue
        notes = (*(["uncertain"] * bool(faces.uncertain[0])), *faces.quality[0])
        answers.append(Answer(change, picture, faces.label(0), float(faces.probs[0].max()), notes))
    return answers


def draw_answers(answers: list[Answer], path: Path, *, title: str) -> None:
    """Draw all pictures with their answers into one.

    Raises:
        InputError: the picture cannot be written.
    """
    captions = [(answer.change, answer.words.replace(", ", ",\n")) for answer in answers]
    draw_faces(np.stack([answer.picture for answer in answers]), captions, path, title=title)


def _square(photo: UInt8, box: NDArray[np.float32]) -> UInt8:
    """Cut a square about a face, with room around it, and scale it."""
    side = min(*photo.shape[:2], round(_ROOM * float(box[3] - box[1])))
    top, left = (
        round(min(max(0.0, float(middle) - side / 2), size - side))
        for middle, size in zip(((box[1] + box[3]) / 2, (box[0] + box[2]) / 2), photo.shape[:2], strict=True)
    )
    cut = photo[top : top + side, left : left + side]
    return np.asarray(cv2.resize(cut, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA), np.uint8)


def _changes(image: UInt8, box: NDArray[np.float32], landmarks: NDArray[np.float32]) -> Iterator[tuple[str, UInt8]]:
    """Give the portrait as it is, then every change with its name; box and landmarks are of its face, px."""
    face_px = float(box[3] - box[1])
    yield "as it is", image
    yield "mirrored", np.ascontiguousarray(image[:, ::-1])
    yield "a fifth as bright", (image * 0.2).astype(np.uint8)
    yield "a twentieth as bright", (image * 0.05).astype(np.uint8)
    yield "three times as bright", np.minimum(image * 3.0, 255).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0.0, 50.0, image.shape)
    yield "noise, sigma 50 of 255", (image + noise).clip(0, 255).astype(np.uint8)
    for share in (0.03, 0.06):
        blurred = cv2.GaussianBlur(image, (0, 0), share * face_px)
        yield f"blur, {100 * share:.0f} % of the face", np.asarray(blurred, np.uint8)
    for size_px in (24, 16):
        scale = size_px / face_px
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        yield f"shrunk to {size_px} px and back", np.asarray(cv2.resize(small, image.shape[1::-1]), np.uint8)
    middle = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
    for degrees in (45, 90, 180):
        way = cv2.getRotationMatrix2D(middle, degrees, 1.0)
        turned = cv2.warpAffine(image, way, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT_101)
        yield f"turned by {degrees} degrees", np.asarray(turned, np.uint8)
    (_, eyes_y), (_, nose_y), (_, mouth_y) = landmarks[:2].mean(axis=0), landmarks[2], landmarks[3:].mean(axis=0)
    reach = 0.45 * (mouth_y - eyes_y)
    yield "eyes covered", _cover(image, box[0], eyes_y - reach, box[2], eyes_y + reach)
    yield "mouth covered", _cover(image, box[0], (nose_y + mouth_y) / 2, box[2], box[3])
    yield "one half covered", _cover(image, box[0], box[1], landmarks[2, 0], box[3])


def _cover(image: UInt8, left: float, top: float, right: float, bottom: float) -> UInt8:
    changed = image.copy()
    changed[max(0, round(float(top))) : round(float(bottom)), max(0, round(float(left))) : round(float(right))] = _COVER
    return changed
