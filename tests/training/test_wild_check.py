from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from fer_app.image_io import read_image
from fer_app.recognizer import Recognizer
from training import wild_check
from training.wild_changes import MIRRORED, crop_changes, picture_changes
from training.wild_check import accuracies, compared, failures, read_portrait, read_scenes
from training.wild_scenes import SIZES, scenes_of


@pytest.fixture(scope="module")
def portrait_crops(repository) -> np.ndarray:
    """Five times the bundled portrait as a gray 48 px crop."""
    photo = read_image(repository / "examples" / "astronaut.jpg")
    face = cv2.resize(cv2.cvtColor(photo[40:200, 145:305], cv2.COLOR_RGB2GRAY), (48, 48), interpolation=cv2.INTER_AREA)
    return np.repeat(face[None], 5, axis=0).astype(np.uint8)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer(device="cpu")


def test_scenes_are_the_same_again_and_hold_every_size_and_face_once():
    crops = np.random.default_rng(0).integers(0, 256, (7, 48, 48), np.uint8)
    first, again = list(scenes_of(crops)), list(scenes_of(crops))
    assert [scene.numbers.tolist() for scene in first] == [[0, 1, 2, 3, 4], [5, 6]]
    assert sorted(first[0].sizes) == sorted(SIZES)
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image, other.image)
    other_seed = next(scenes_of(crops, seed=1))
    assert not np.array_equal(first[0].image, other_seed.image)


def test_a_pasted_face_lies_where_its_placement_says(portrait_crops):
    scene = next(scenes_of(portrait_crops))
    side = 48
    for size, placement in zip(scene.sizes, scene.placements, strict=True):
        assert np.sqrt(np.linalg.det(placement[:, :2])) * side == pytest.approx(size)
        shift = placement[:, 2] + placement[:, :2] @ [0.5, 0.5] - 0.5
        matrix = np.column_stack([placement[:, :2], shift])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        back = cv2.warpAffine(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), matrix, (side, side), flags=flags)
        own = portrait_crops[0][8:-8, 8:-8].ravel()
        assert np.corrcoef(back[8:-8, 8:-8].ravel(), own)[0, 1] > 0.9


def test_changes_of_a_crop_do_what_they_say():
    image = np.random.default_rng(0).integers(20, 180, (48, 48, 3), np.uint8)
    changed = {change.name: change.apply(image) for change in crop_changes(48)}
    assert np.array_equal(changed["mirrored"], image[:, ::-1])
    assert changed["shown at 40 px"].shape == (40, 40, 3)
    assert changed["shown at 200 px"].shape == (200, 200, 3)
    assert np.ptp(changed["gray"].astype(int), axis=2).max() == 0
    assert np.array_equal(changed["warm light"][..., 0], image[..., 0])
    assert changed["warm light"][..., 2].mean() < 0.65 * image[..., 2].mean()
    assert changed["half as bright"].mean() == pytest.approx(image.mean() / 2, abs=0.5)


def test_the_pipeline_finds_the_faces_of_a_scene_also_mirrored_and_enlarged(portrait_crops, recognizer):
    scenes = list(scenes_of(portrait_crops))
    base = read_scenes(recognizer, scenes, 5, 48)
    assert (base.labels >= 0).sum() >= 4
    found = base.labels >= 0
    # One face in five sizes and turns: the served crop lies alike in all.
    assert base.offsets[found].std(axis=0)[0] < 0.12
    assert base.offsets[found].std(axis=0)[1:3].max() < 2
    assert base.offsets[found].std(axis=0)[3] < 5
    double = next(change for change in picture_changes() if change.name == "double size")
    for change in (MIRRORED, double):
        changed = read_scenes(recognizer, scenes, 5, 48, change)
        assert (changed.labels >= 0).sum() >= 4
        assert np.isnan(changed.offsets).all()


def test_counts_take_only_faces_that_are_found_in_both():
    reference, labels = np.array([1, 1, 2, -1]), np.array([1, 2, -1, 3])
    row = compared(reference, labels, np.array([False, True, False, False]))
    assert row == {
        "faces": 2,
        "changed_percent": 50.0,
        "changed_of_clear_percent": 0.0,
        "changes_that_were_close_percent": 100.0,
    }
    row = accuracies(np.array([1, 1, 2]), np.array([1, 0, -1]), np.array([1, 1, 2]))
    assert (row["found_percent"], row["crop_accuracy"], row["pipeline_accuracy"]) == (66.67, 100.0, 50.0)
    assert row["lost_points"] == 50.0


def test_each_bound_is_told_when_it_does_not_hold():
    good = {"changed_percent": 4.9, "bounded": True}
    measured = {
        "accuracy": {"all": {"lost_points": 1.9}},
        "crop_changes": {"gray": good, "mirrored": {"changed_percent": 9.0, "bounded": False}},
        "picture_changes": {"gray": good},
        "portrait": {"as it is": ["happiness", 0.9], "gray": ["happiness", 0.8]},
    }
    assert failures(measured) == []
    measured["accuracy"]["all"]["lost_points"] = 2.1
    measured["picture_changes"]["gray"] = {"changed_percent": 5.1, "bounded": True}
    measured["portrait"]["gray"] = None
    assert len(failures(measured)) == 3


def test_the_bundled_portrait_is_happy_in_every_colour_and_size(recognizer, astronaut_path):
    answers = read_portrait(recognizer, astronaut_path)
    assert len(answers) == 1 + len(picture_changes())
    assert {answer and answer[0] for answer in answers.values()} == {"happiness"}


def test_the_command_reads_a_set_and_writes_json_and_a_scene(monkeypatch, capsys, mini_ferplus, tiny_model, tmp_path):
    scene = tmp_path / "scene.png"
    words = [
        "wild_check",
        str(tiny_model),
        "--data",
        str(mini_ferplus),
        "--limit",
        "10",
        "--scene",
        str(scene),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", words)
    code = wild_check.main()
    measured = json.loads(capsys.readouterr().out)
    assert code == bool(measured["failures"])
    assert measured["accuracy"]["all"]["faces"] == 10
    assert read_image(scene).shape == (448, 720, 3)


@pytest.mark.data
def test_the_bundled_model_reads_real_faces_in_scenes_as_in_crops(ferplus_dir, monkeypatch, capsys, repository):
    model = repository / "fer_app" / "weights" / "mimic_hybrid_ferplus.onnx"
    monkeypatch.setattr(sys, "argv", ["wild_check", str(model), "--data", str(ferplus_dir), "--json", "--limit", "600"])
    wild_check.main()
    measured = json.loads(capsys.readouterr().out)
    everything = measured["accuracy"]["all"]
    assert everything["found_percent"] > 85
    assert everything["lost_points"] < 2 * wild_check.MOST_LOST_POINTS  # twice: these are 600 faces
