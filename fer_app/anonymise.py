"""Make faces unrecognisable before anything else is done with a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

# So many patches of one colour are left across a face: nobody recognises it, and there is nothing to compute it from.
_PATCHES = 6
# A box ends at the chin and the eyebrows; so much of its size is added on each side.
_MARGIN = 0.3


def anonymised(image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return a copy of a picture in which every box and its surroundings are a few smooth patches of colour.

    Args:
        image: uint8, (H, W, 3), RGB; left as it is.
        boxes: float32, (N, 4), x0 y0 x1 y1 in px; they may reach beyond the picture.

    Returns:
        uint8, (H, W, 3), RGB.
    """
    hidden = image.copy()
    extent = np.array([image.shape[1], image.shape[0]])
    sizes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    # The largest last: the finer patches of a small box must not show a part of a large face.
    for box in boxes[np.argsort(sizes)].astype(np.float64):
        margin = (box[2:] - box[:2]) * _MARGIN
        x0, y0 = np.clip(np.floor(box[:2] - margin), 0, extent).astype(int)
        x1, y1 = np.clip(np.ceil(box[2:] + margin), 0, extent).astype(int)
        if x0 >= x1 or y0 >= y1:
            continue
        # From the picture as it was: overlapping boxes must not mix what one of them has hidden.
        part = np.ascontiguousarray(image[y0:y1, x0:x1])
        patches_wh = (min(_PATCHES, x1 - x0), min(_PATCHES, y1 - y0))
        few = cv2.resize(part, patches_wh, interpolation=cv2.INTER_AREA)
        hidden[y0:y1, x0:x1] = cv2.resize(few, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    return hidden
