"""Flags on faces whose expression a classifier can be expected to misread.

The flags say what is wrong with the pixels, before anything is classified; they change no result. Each is one measured
quantity against one threshold, and the thresholds are where the training data (FERPlus Valid) ends: faces unlike
anything that a model was trained on.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from fer_app.results import LANDMARKS, Detections

FLAGS = ("tiny", "blurred", "dark", "turned")

# Training crops are 48 px: below that a face holds fewer pixels than any that a model has learnt from.
TINY_BELOW_PX = 48
# Sharpness is measured at the size that a model sees: blur that vanishes when a large face is scaled down does no harm.
SHARPNESS_SIDE_PX = 48
# FERPlus Valid lies between 0.18 and 3 (1st percentile 0.29). A sharp portrait scores 0.7 and falls to 0.1 under a
# Gaussian blur of 1 px at 48 px, where eyelids and lips merge.
BLURRED_BELOW = 0.1
# On the 0..255 scale of luma. The darkest faces of FERPlus Valid, all legible, reach 75 in their brightest tenth.
DARK_BELOW = 60.0
# A nose tip stands out by about half the distance between the eyes, so this is a yaw of about 40 degrees, where the far
# half of the face begins to disappear. 3% of the faces in FERPlus Valid lie beyond it.
TURNED_ABOVE = 0.4

# The tight middle of a box: its rim is hair and background.
_RIM_SHARE = 0.1


def face_quality(
    image: npt.NDArray[np.uint8],
    detections: Detections,
    *,
    tiny_below_px: float = TINY_BELOW_PX,
    blurred_below: float = BLURRED_BELOW,
    dark_below: float = DARK_BELOW,
    turned_above: float = TURNED_ABOVE,
) -> tuple[tuple[str, ...], ...]:
    """Return for each face the flags that apply, in the order of `FLAGS`.

    Args:
        image: uint8, (H, W, 3), RGB: the picture that the detections are of.
        detections: N faces. A face without landmarks is never `turned`; of a box outside the picture only its size
            and its landmarks are judged.
        tiny_below_px: `tiny` when the shorter side of the box is less, in px.
        blurred_below: `blurred` when `sharpness` is less.
        dark_below: `dark` when `brightness` is less, 0..255.
        turned_above: `turned` when `yaw_ratio` is more. Rolled faces are not turned: alignment sets them upright.
    """
    sizes = (detections.boxes[:, 2:] - detections.boxes[:, :2]).min(axis=1, initial=np.inf)
    turned = yaw_ratio(detections.landmarks) > turned_above
    flags = []
    for box, size, is_turned in zip(detections.boxes, sizes, turned, strict=True):
        luma = _face_luma(image, box)
        judged = luma.size > 0
        holds = (
            size < tiny_below_px,
            judged and sharpness(luma) < blurred_below,
            judged and brightness(luma) < dark_below,
            is_turned,
        )
        flags.append(tuple(flag for flag, applies in zip(FLAGS, holds, strict=True) if applies))
    return tuple(flags)


def sharpness(luma: npt.NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian over the variance of the luma, at the size that a classifier sees.

    The variance of the Laplacian (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548) grows with the contrast of
    the picture; dividing by the variance keeps a dark or hazy face from counting as blurred. A face smaller than
    `SHARPNESS_SIDE_PX` is measured as it is: scaled up, every small face would be blurred.

    Args:
        luma: uint8, (h, w): a face.
    """
    scale = SHARPNESS_SIDE_PX / min(luma.shape)
    if scale < 1:
        size = (max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale)))
        luma = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.uint8)
    values = luma.astype(np.float32)
    # The one avoids dividing by nothing: an evenly coloured crop is without detail, not sharp.
    return float(cv2.Laplacian(values, cv2.CV_32F).var() / (values.var() + 1))


def brightness(luma: npt.NDArray[np.uint8]) -> float:
    """Return the level, 0..255, that a tenth of the face exceeds.

    Not the mean, which is as low for dark skin in good light as for any skin in the dark: lit skin of every colour has
    highlights.

    Args:
        luma: uint8, (h, w): a face.
    """
    return float(np.percentile(luma, 90))


def yaw_ratio(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return how far the nose lies off the middle line of eyes and mouth, over the width between them.

    About 0 from the front, half the tangent of the yaw to either side; the same at any scale, place and roll.

    Args:
        landmarks: float32, (N, 5, 2), px, in the order of `fer_app.results.LANDMARKS`.

    Returns:
        float64, (N,); NaN for a face without landmarks.
    """
    points = dict(zip(LANDMARKS, np.moveaxis(landmarks.astype(np.float64), 1, 0), strict=True))
    across = (points["left_eye"] - points["right_eye"] + points["left_mouth"] - points["right_mouth"]) / 2
    pairs = [points[name] for name in LANDMARKS if name != "nose"]
    off_centre = points["nose"] - sum(pairs) / len(pairs)
    # The projection on `across`, in units of its length; a profile's width of nearly 0 gives a large ratio.
    squared_width = np.maximum((across * across).sum(axis=1), np.finfo(np.float32).eps)
    return np.asarray(np.abs((off_centre * across).sum(axis=1)) / squared_width, np.float64)


def _face_luma(image: npt.NDArray[np.uint8], box: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the luma of the middle of a box, cut to the picture: uint8, (h, w), empty for a box outside it."""
    rim = (box[2:] - box[:2]) * _RIM_SHARE
    x0, y0 = np.maximum(np.floor(box[:2] + rim), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(box[2:] - rim), (image.shape[1], image.shape[0])).astype(int)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0), np.uint8)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY), np.uint8)
