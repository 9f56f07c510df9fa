"""One picture in, its aligned faces out: the detector and the alignment that `fer predict` uses, in the same order.

What is added here is the choice of one face where a data set labels one, and a closer look at small pictures and at
the boxes of labelled faces. No torch in here: worker processes start in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fer_app.alignment import align_faces, alignable
from fer_app.boxes import pairwise_iou
from fer_app.detection import MtcnnDetector
from fer_app.errors import InputError
from fer_app.results import Detections
from training.data.decoding import squeeze

UInt8 = NDArray[np.uint8]
Box = tuple[int, int, int, int]
View = Literal["picture", "closer", "none"]

# Below this a face has hardly more pixels than the detector's last network wants (48), and reaches the picture's edges:
# landmarks come out pixels away from those of an enlarged copy, so such pictures are only looked at enlarged.
TINY_PX: Final = 64
# Up to this a picture may be a tight crop, whose face MTCNN misses because it reaches the edges.
TIGHT_PX: Final = 256
# A face that overlaps a data set's box less is somebody else's.
LEAST_OVERLAP: Final = 0.2

# The closer look: the face's region, 288 px wide, in the middle of a square of 432 px; as `training.measure_template`.
_REGION_PX: Final = 288
_MARGIN: Final = 0.25
_OUTSIDE_GRAY: Final = 127


@dataclass(frozen=True)
class Settings:
    """What decides about the pixels of prepared faces.

    Attributes:
        img_size: side of the crops, px.
        crop: the geometry's name in `fer_app.alignment.TEMPLATES`.
        min_face_px: as the detector takes it; the default is that of `fer predict`.
        min_confidence: faces that the detector is less sure of are no faces.
        closer_look: look again, enlarged, where no face is found in a tight crop or at a data set's box; never with
            `all_faces`, as a picture without a label may well have no face.
        on_missing: what becomes of a picture without a face: it is left out, or taken whole, scaled to the square.
        all_faces: every face of a picture is a sample, without labels; otherwise the one that the label means.
        image_format: of the crops in the shards; both are lossless.

    Raises:
        InputError: `all_faces` and `keep` together.
    """

    img_size: int
    crop: str = "fer48-v1"
    min_face_px: float = 40.0
    min_confidence: float = 0.0
    closer_look: bool = True
    on_missing: Literal["drop", "keep"] = "drop"
    all_faces: bool = False
    image_format: Literal["png", "webp"] = "png"

    def __post_init__(self) -> None:
        if self.all_faces and self.on_missing == "keep":
            raise InputError("every face of a picture is taken: leave out --on-missing keep, or --all-faces")
        object.__setattr__(self, "closer_look", self.closer_look and not self.all_faces)


@dataclass(frozen=True, eq=False)
class FaceCut:
    """One prepared face.

    Attributes:
        crop: uint8, (img_size, img_size, 3), RGB.
        view: where it was found: in the picture as it is, in the closer look, or nowhere (the whole picture is kept).
        found: one face, in px of the picture; None where none was found.
    """

    crop: UInt8
    view: View
    found: Detections | None


class FaceCutter:
    """Finds, chooses and aligns; one thread, on the CPU."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._detector = MtcnnDetector(min_face_px=settings.min_face_px, steady=True, threads=1)
        self._close_detector = MtcnnDetector(min_face_px=_REGION_PX / 2, steady=True, threads=1)

    def cut(self, image: UInt8, box: Box | None = None) -> list[FaceCut]:
        """Return the faces to keep of one picture.

        Args:
            image: uint8, (H, W, 3), RGB.
            box: x0 y0 x1 y1, px, in the picture: where a data set says that the face is; None where it does not.

        Returns:
            With `all_faces` every one, largest first; otherwise one, or none when it is missing and to be dropped.
        """
        view, found = self._find(image, box)
        if len(found):
            crops = align_faces(image, found.landmarks, img_size=self._settings.img_size, crop=self._settings.crop)
            return [FaceCut(crop, view, found[i]) for i, crop in enumerate(crops)]
        if self._settings.on_missing == "drop":
            return []
        x0, y0, x1, y1 = box or (0, 0, image.shape[1], image.shape[0])
        whole = np.ascontiguousarray(image[y0:y1, x0:x1])
        return [FaceCut(squeeze(whole, self._settings.img_size), "none", None)]

    def _find(self, image: UInt8, box: Box | None) -> tuple[View, Detections]:
        height, width = image.shape[:2]
        if self._settings.all_faces:
            return "picture", self._usable(self._detector, image)
        is_tiny = self._settings.closer_look and max(height, width) < TINY_PX
        if not is_tiny:
            found = chosen(self._usable(self._detector, image), (height, width), box)
            if len(found) or not self._settings.closer_look or (box is None and max(height, width) > TIGHT_PX):
                return "picture", found
        region = (0, 0, width, height) if box is None else box
        scene, scale, corner = enlarged(image, region)
        seen = self._usable(self._close_detector, scene)
        offset = np.asarray(corner, np.float32)
        found = Detections(
            boxes=seen.boxes / np.float32(scale) + np.tile(offset, 2),
            confidence=seen.confidence,
            landmarks=seen.landmarks / np.float32(scale) + offset,
        )
        return "closer", chosen(found, (height, width), region)

    def _usable(self, detector: MtcnnDetector, image: UInt8) -> Detections:
        """Detect as the recognizer does: faces that cannot be set upright are none."""
        (found,) = detector.detect([image])
        found = found[alignable(found.landmarks, self._settings.crop)]
        return found[found.confidence >= self._settings.min_confidence]


def chosen(found: Detections, size_hw: tuple[int, int], box: Box | None) -> Detections:
    """Choose the face that a label means.

    Args:
        found: the faces of one picture.
        size_hw: height and width of the picture, px.
        box: where the data set says that the face is.

    Returns:
        One face, or none: the one that overlaps the box most, if by `LEAST_OVERLAP` or more. Without a box the largest,
        areas falling from the full one in the picture's middle to nothing in its corners.
    """
    if not len(found):
        return found
    if box is not None:
        overlap = pairwise_iou(found.boxes, np.array([box], np.float32))[:, 0]
        best = int(overlap.argmax())
        return found[best] if overlap[best] >= LEAST_OVERLAP else found[np.zeros(0, np.intp)]
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    middle = np.array([size_hw[1], size_hw[0]], np.float32) / 2
    nearness = 1 - np.linalg.norm((low + high) / 2 - middle, axis=1) / np.linalg.norm(middle)
    return found[int(((high - low).prod(axis=1) * nearness).argmax())]


def enlarged(image: UInt8, region: Box) -> tuple[UInt8, float, tuple[int, int]]:
    """Show a region with a quarter of its longer side around it, gray beyond the picture, at a size that MTCNN likes.

    Args:
        image: uint8, (H, W, 3).
        region: x0 y0 x1 y1, px, in the picture.

    Returns:
        The scene, uint8 (h, w, 3); px of the scene in a px of the picture; the picture's x y at the scene's corner.
    """
    x0, y0, x1, y1 = region
    longer = max(x1 - x0, y1 - y0)
    around = max(1, round(_MARGIN * longer))
    left, top, right, bottom = x0 - around, y0 - around, x1 + around, y1 + around
    scene = np.full((bottom - top, right - left, 3), _OUTSIDE_GRAY, np.uint8)
    seen = image[max(top, 0) : bottom, max(left, 0) : right]
    down, along = max(-top, 0), max(-left, 0)
    scene[down : down + seen.shape[0], along : along + seen.shape[1]] = seen
    scale = _REGION_PX / longer
    size_wh = (max(1, round(scene.shape[1] * scale)), max(1, round(scene.shape[0] * scale)))
    how = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(scene, size_wh, interpolation=how), np.uint8), scale, (left, top)


def clipped(box: Box, size_hw: tuple[int, int]) -> Box | None:
    """Return the part of a box that lies in a picture of this height and width; None where none does."""
    x0, x1 = (min(max(edge, 0), size_hw[1]) for edge in (box[0], box[2]))
    y0, y1 = (min(max(edge, 0), size_hw[0]) for edge in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None
