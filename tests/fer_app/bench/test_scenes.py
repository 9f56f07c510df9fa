from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest

from fer_app.bench import scenes
from fer_app.bench.scenes import made_scenes, own_scenes
from fer_app.detection import MtcnnDetector
from fer_app.errors import InputError


def test_made_scenes_have_the_faces_that_they_say():
    made = made_scenes()
    assert [scene.name for scene in made] == ["640 x 480", "1280 x 720", "1280 x 720", "1920 x 1080"]
    found = MtcnnDetector().detect([scene.image for scene in made])
    assert [len(one) for one in found] == [1, 1, 8, 32]
    for scene, again in zip(made, made_scenes(), strict=True):
        width, height = map(int, scene.name.split(" x "))
        assert scene.image.shape == (height, width, 3)
        assert scene.file == again.file
        decoded = cv2.imdecode(np.frombuffer(scene.file, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert np.abs(decoded.astype(int) - scene.image).mean() < 1


def test_the_portrait_is_the_one_in_examples(astronaut):
    """And its suit is orange, not blue."""
    portrait = scenes.read_image(scenes.PORTRAIT)
    assert np.abs(portrait.astype(int) - astronaut[0:320, 90:390]).mean() < 3


def test_own_pictures(astronaut_path, tmp_path):
    for name in ("b.jpg", "a.jpg"):
        shutil.copy(astronaut_path, tmp_path / name)
    assert [scene.name for scene in own_scenes([str(tmp_path)])] == ["a.jpg", "b.jpg"]
    (one,) = own_scenes([str(astronaut_path)])
    assert one.file == astronaut_path.read_bytes()
    assert one.image.shape == (512, 512, 3)


def test_own_pictures_that_cannot_be(tmp_path, astronaut_path):
    with pytest.raises(InputError, match=r"^0 pictures"):
        own_scenes([str(tmp_path)])
    with pytest.raises(InputError, match=r"nothing\.jpg"):
        own_scenes([str(tmp_path / "nothing.jpg")])
    (tmp_path / "bad.jpg").write_text("bad")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        own_scenes([str(tmp_path)])
    with pytest.raises(InputError, match=r"17 pictures .* 1 to 16"):
        own_scenes([str(astronaut_path)] * 17)
