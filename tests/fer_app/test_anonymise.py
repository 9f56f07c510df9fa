from __future__ import annotations

import numpy as np

from fer_app.anonymise import anonymised

BOXES = np.array([[181, 62, 268, 172]], np.float32)


def test_the_face_is_gone_and_the_rest_is_as_it_was(astronaut: np.ndarray) -> None:
    before = astronaut.copy()
    hidden = anonymised(astronaut, BOXES)
    np.testing.assert_array_equal(astronaut, before)
    np.testing.assert_array_equal(hidden[:, 320:], before[:, 320:])
    np.testing.assert_array_equal(hidden[220:], before[220:])
    # Of what a face is recognised by, its edges, hardly anything is left.
    detail = [np.abs(np.diff(image[62:172, 181:268].astype(int), axis=1)).mean() for image in (before, hidden)]
    assert detail[1] < detail[0] / 4


def test_boxes_beyond_the_picture_and_overlapping_ones(astronaut: np.ndarray) -> None:
    outside = np.array([[-300, -300, -200, -200], [-30, -30, 40, 40], [500, 500, 900, 900]], np.float32)
    assert (anonymised(astronaut, outside)[:30, :30] != astronaut[:30, :30]).any()
    # A small wrong box inside a large one must not bring back what that hides.
    within = np.array([[210, 100, 220, 110]], np.float32)
    both = anonymised(astronaut, np.concatenate([BOXES, within]))
    np.testing.assert_array_equal(both, anonymised(astronaut, BOXES))


def test_no_boxes(astronaut: np.ndarray) -> None:
    np.testing.assert_array_equal(anonymised(astronaut, np.zeros((0, 4), np.float32)), astronaut)
