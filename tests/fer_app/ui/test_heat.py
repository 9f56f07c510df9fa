from __future__ import annotations

import numpy as np
import pytest

from fer_app import Recognizer
from fer_app.ui.heat import heat_picture, speaking_for
from fer_app.ui.photo import show_photos


def test_what_a_patch_says_to_all_labels_alike_counts_for_none() -> None:
    evidence = np.zeros((3, 2, 2), np.float32)
    evidence[1, 0, 0] = 6  # speaks for label 1
    evidence[0, 1, 1] = 3  # speaks for label 0, and so against 1
    loud = evidence + np.array([[100, 0], [0, -50]], np.float32)
    for given in (evidence, loud):
        patches = speaking_for(given, 1)
        assert patches[0, 0] == pytest.approx(1)
        assert patches[1, 1] == pytest.approx(-0.25)
        assert patches[0, 1] == patches[1, 0] == 0
    assert not speaking_for(np.ones((3, 2, 2), np.float32), 1).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_for_are_orange_and_those_against_blue(channels) -> None:
    crop = np.full((48, 48, channels), 128, np.uint8)
    picture = heat_picture(crop, np.array([[1, 0], [0, -1]], np.float32))
    assert picture.shape == (144, 144, 3)
    (red, _, blue), (red2, _, blue2) = picture[10, 10].astype(int), picture[130, 130].astype(int)
    assert red > blue + 50
    assert blue2 > red2 + 50
    assert picture[10, 130].tolist() == [128] * 3
    assert np.array_equal(picture[0, 0], picture[71, 71])  # one patch, one colour


def test_it_is_shown_where_the_network_tells(tiny_model, astronaut_path, tmp_path) -> None:
    telling = Recognizer("default", device="cpu", precision="fp32")
    assert "evidence" in telling.classifier.outputs
    html = show_photos(telling, [str(astronaut_path)], tmp_path)
    assert "Patches of face 1 that spoke for happiness" in html
    silent = Recognizer(tiny_model, device="cpu")
    assert "Patches of face" not in show_photos(silent, [str(astronaut_path)], tmp_path)
