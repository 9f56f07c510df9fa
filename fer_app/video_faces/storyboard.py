"""The clearest moments of each expression in a video, with the faces cut out, chosen while it is read."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.anonymise import anonymised
from fer_app.results import NO_TRACK, Faces

TILE_PX = 224
# Of each expression; one that is better takes the place of the worst.
MAX_MOMENTS = 3
# Two of the same person that are closer than that show the same.
APART_S = 3.0
# Less than that is not clearly shown, whatever the model calls uncertain.
_LEAST_PROB = 0.5
# The crop is so much larger than the box: the whole head, and a bit of where it is.
_CROP_RATIO = 1.7


class Moment(NamedTuple):
    """A face at its clearest.

    Attributes:
        label: the expression.
        prob: its probability, smoothed where that is on.
        time_s: when, seconds.
        track_id: of the face.
        rank: what decides between two moments of one expression; larger is better.
        crop: uint8, (TILE_PX, TILE_PX, 3), RGB.
    """

    label: str
    prob: float
    time_s: float
    track_id: int
    rank: tuple[bool, float, float]
    crop: npt.NDArray[np.uint8]


class Storyboard:
    """Takes a video frame by frame and keeps the best few moments of each expression.

    A face counts for its most probable expression, if the smoothed and the raw probabilities agree on it, neither
    is uncertain, and it has half the probability or more. Faces without a quality flag come first, then the most
    probable ones by whole per cent, then those that the detector is surest of. The best moment of an expression is
    always held; among the others, one is given up for a better one of the same person within `APART_S`.
    """

    def __init__(self, labels: tuple[str, ...], uncertain_below: float, *, blur: bool = False) -> None:
        """Begin a video.

        Args:
            labels: the model's.
            uncertain_below: the recognizer's threshold.
            blur: make the faces unrecognisable in what is kept.
        """
        self._least_prob, self._blur = max(uncertain_below, _LEAST_PROB), blur
        self._moments: dict[str, list[Moment]] = {label: [] for label in labels}

    def add(self, image: npt.NDArray[np.uint8], faces: Faces, unseen: npt.NDArray[np.float32] | None = None) -> None:
        """Take the next frame.

        Args:
            image: uint8, (H, W, 3), RGB, without anything drawn in.
            faces: what was found in it.
            unseen: float32, (M, 4), boxes that `blur` hides too, px.
        """
        probs = faces.probs if faces.smoothed_probs is None else faces.smoothed_probs
        shown: npt.NDArray[np.uint8] | None = None
        for i, k in enumerate(probs.argmax(axis=1).tolist()):
            prob, label = float(probs[i, k]), faces.labels[k]
            if faces.uncertain[i] or int(faces.top[i]) != k or prob < self._least_prob:
                continue
            track = NO_TRACK if faces.track_ids is None else int(faces.track_ids[i])
            confidence = float(np.nan_to_num(faces.detections.confidence[i]))
            rank = (not faces.quality[i], round(prob, 2), confidence)
            time_s = faces.time_s or 0.0
            if not self._has_room(label, track, time_s, rank):
                continue
            if shown is None:
                boxes = faces.detections.boxes
                hidden = boxes if unseen is None else np.concatenate([boxes, unseen])
                shown = anonymised(image, hidden) if self._blur else image
            crop = _square_crop(shown, faces.detections.boxes[i])
            self._keep(Moment(label, prob, time_s, track, rank, crop))

    def result(self) -> list[Moment]:
        """Give the moments: by expression in the model's order but neutral last, and the best first."""
        found = [moment for moments in self._moments.values() for moment in moments]
        return sorted(found, key=lambda moment: moment.label == "neutral")

    def _has_room(self, label: str, track: int, time_s: float, rank: tuple[bool, float, float]) -> bool:
        """Whether a moment would be kept: better than those near it, and than the worst where there are enough."""
        held = self._moments[label]
        near = [moment for moment in held if _are_near(moment, track, time_s)]
        if near:
            return all(rank > moment.rank for moment in near)
        return len(held) < MAX_MOMENTS or rank > held[-1].rank

    def _keep(self, new: Moment) -> None:
        held = [moment for moment in self._moments[new.label] if not _are_near(moment, new.track_id, new.time_s)]
        held = sorted([*held, new], key=lambda moment: moment.rank, reverse=True)
        self._moments[new.label] = held[:MAX_MOMENTS]


def _are_near(moment: Moment, track: int, time_s: float) -> bool:
    return moment.track_id == track and abs(moment.time_s - time_s) < APART_S


def _square_crop(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Cut out a face with its surroundings: a square around the box, moved into the picture where it reaches out."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box.astype(float).tolist()
    side = max(1, min(round(max(x1 - x0, y1 - y0) * _CROP_RATIO), height, width))
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    top = min(max(round((y0 + y1 - side) / 2), 0), height - side)
    part = np.ascontiguousarray(image[top : top + side, left : left + side])
    method = cv2.INTER_AREA if side > TILE_PX else cv2.INTER_CUBIC
    resized = cv2.resize(part, (TILE_PX, TILE_PX), interpolation=method)
    return np.asarray(resized, np.uint8)
