"""Which patches of a face spoke for its label, as a picture over the crop that the network saw."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

# For, and against: distinct with every common colour blindness, as in `fer_app.annotate`.
_FOR, _AGAINST = np.array([230, 159, 0], np.float32), np.array([0, 114, 178], np.float32)
_STRONGEST = 0.65
_SIDE_PX = 144


def speaking_for(evidence: npt.NDArray[np.float32], label: int) -> npt.NDArray[np.float32]:
    """Tell how much each patch spoke for a label, rather than for the others.

    What a patch adds to all labels alike changes no probability, so the mean over the labels is taken away.

    Args:
        evidence: float32, (K, h, w), of one face, as `fer_app.classifier.OnnxClassifier.evidence` gives it.
        label: index of the label.

    Returns:
        float32, (h, w), 1 where the strongest patch spoke for it, or -1 where it spoke against it; 0 is neither.
    """
    relative = evidence[label] - evidence.mean(axis=0)
    return np.asarray(relative / max(float(np.abs(relative).max()), 1e-12), np.float32)


def heat_picture(crop: npt.NDArray[np.uint8], patches: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Colour a crop: orange where a patch spoke for the label, blue where it spoke against it.

    Args:
        crop: uint8, (H, W, 1) or (H, W, 3), RGB.
        patches: float32, (h, w), from -1 to 1.

    Returns:
        uint8, (144, 144, 3), RGB; the patches keep their edges, because nothing is known between them.
    """
    wh = (_SIDE_PX, _SIDE_PX)
    gray = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2).astype(np.float32)
    face = cv2.resize(gray, wh, interpolation=cv2.INTER_LINEAR)
    strength = cv2.resize(patches, wh, interpolation=cv2.INTER_NEAREST)[..., None]
    colour = np.where(strength > 0, _FOR, _AGAINST)
    share = np.abs(strength) * _STRONGEST
    return np.rint(face * (1 - share) + colour * share).clip(0, 255).astype(np.uint8)
