"""`fer data prepare`: what it writes, and that it is what serving sees."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_app.classifier import OnnxClassifier
from fer_app.contract import Contract
from fer_app.errors import DatasetError, InputError
from fer_app.image_io import write_image
from fer_app.labels import LABELS
from fer_app.model_store import resolve_model
from fer_app.recognizer import Recognizer
from tests.training.data.prepare_runs import crop, members, run, write_photos
from tests.training.miniature import write_mini_affectnet_tables, write_mini_ferplus, write_mini_raf_db
from training.data.datasets import load
from training.data.general import load_images
from training.data.locate import locate
from training.data.prepare import prepare
from training.data.prepare_faces import Settings
from training.data.prepare_source import list_pictures
from training.report import Report

SILENT = Report(None)


@pytest.fixture
def photos(tmp_path, astronaut):
    return write_photos(tmp_path / "photos", astronaut, 6)


@pytest.fixture
def labelled(tmp_path, astronaut):
    """Photos in two class folders, 6 each; one of each has no face, one is damaged."""
    for name in ("glad", "bored"):
        write_photos(tmp_path / "own" / name, astronaut, 6)
    (tmp_path / "own" / "glad" / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    return tmp_path / "own"


class Recorder:
    """A classifier that keeps the crops it is given."""

    device = "cpu"

    def __init__(self, img_size):
        self.contract = Contract(labels=LABELS, img_size=img_size, mean=(0.5,) * 3, std=(0.5,) * 3, crop="fer48-v1")
        self.crops = []

    def probs(self, crops):
        self.crops += list(crops)
        return np.full((len(crops), len(LABELS)), 1 / len(LABELS), np.float32)

    logits = probs


@pytest.mark.parametrize(("img_size", "image_format"), [(48, "png"), (112, "webp")])
def test_crops_are_bit_for_bit_those_that_serving_makes(photos, tmp_path, img_size, image_format):
    out = tmp_path / "out"
    run(photos, "-o", out, "--all-faces", "--img-size", img_size, "--format", image_format, "--workers", 1)
    prepared = [crop(content) for name, content in members(out).items() if name.endswith(image_format)]
    recorder = Recorder(img_size)
    recognizer = Recognizer(recorder, device="cpu")
    for path in [*sorted(photos.glob("*.png")), *sorted((photos / "deeper").glob("*.png"))]:
        recognizer.predict(path)
    assert len(prepared) == len(recorder.crops) == 6
    for ours, served in zip(prepared, recorder.crops, strict=True):
        np.testing.assert_array_equal(ours, served)


def test_members_follow_webdataset_and_say_where_the_face_was(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, "-o", out, "--all-faces", "--workers", 1)
    found = members(out)
    keys = sorted({name.split(".")[0] for name in found})
    assert sorted(found) == sorted(f"{key}.{suffix}" for key in keys for suffix in ("json", "png"))
    record = json.loads(found["faces-00000001-001.json"])
    assert list(record) == [
        "name",
        "split",
        "dev",
        "label",
        "targets",
        "view",
        "detection_confidence",
        "box",
        "landmarks",
    ]
    assert record["name"] == "photo.02.png"
    assert (record["split"], record["dev"], record["label"], record["targets"]) == ("faces", False, None, None)
    assert record["view"] == "picture"
    assert 0.9 < record["detection_confidence"] <= 1
    assert 340 < record["box"]["x0"] < record["landmarks"]["right_eye"][0] < record["landmarks"]["left_eye"][0]
    with (out / "missing.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["split", "name", "what"],
            ["faces", "photo.00.png", "no face found, dropped"],
            ["faces", "deeper/photo.03.png", "no face found, dropped"],
        ]


def test_faces_without_labels_are_general_photos(photos, tmp_path):
    out = tmp_path / "out"
    run(photos, "-o", out, "--all-faces", "--workers", 1, "--shard-size", 2)
    found = locate([out])
    assert found.faces is None
    assert found.photos == (out / "faces-000000.tar", out / "faces-000001.tar", out / "faces-000002.tar")
    images = load_images(found.photos, 48, "rgb")
    assert len(images) == 6
    np.testing.assert_array_equal(
        images.images[0].permute(1, 2, 0).numpy(), crop(members(out)["faces-00000001-000.png"])
    )


def test_labels_splits_and_counts(labelled, tmp_path):
    out = tmp_path / "out"
    result = run(labelled, "-o", out, "--workers", 1, "--shard-size", 3, status=1)
    header = json.loads((out / "prepared.json").read_text())
    assert header["class_names"] == ["bored", "glad"]
    train, valid = header["splits"]["train"], header["splits"]["valid"]
    whole = {key: train[key] + valid[key] for key in train if isinstance(train[key], int)}
    assert whole == {
        "pictures": 13,
        "faces": 8,
        "found": 8,
        "found_closer": 0,
        "kept_whole": 0,
        "dropped": 4,
        "unreadable": 1,
    }
    assert train["per_class"]["glad"] + valid["per_class"]["glad"] == 4
    assert sum(shard["faces"] for shard in train["shards"]) == train["faces"]
    assert "broken.jpg: damaged" in (out / "missing.csv").read_text()
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["pictures", "train", "valid"]
    assert not (out / "reports").exists()
    assert not (out / "preparing.json").exists()
    source = {name for split in ("train", "valid") for name in list_names(labelled, split)}
    for split in ("train", "valid"):
        faces = load(out, split, img_size=48, color_mode="rgb")
        assert len(faces) == header["splits"][split]["faces"]
        assert set(faces.names) <= source
        for name, target in zip(faces.names, faces.targets, strict=True):
            assert faces.class_names[int(target.argmax())] == Path(name).parts[0]


def list_names(root, split):
    return [picture.name for picture in list_pictures(root).parts[split]]


def test_a_picture_without_a_face_may_be_kept(labelled, tmp_path):
    (labelled / "glad" / "broken.jpg").unlink()
    out = tmp_path / "out"
    run(labelled, "-o", out, "--workers", 1, "--on-missing", "keep", "--img-size", 32)
    header = json.loads((out / "prepared.json").read_text())
    assert sum(split["kept_whole"] for split in header["splits"].values()) == 4
    assert sum(split["faces"] for split in header["splits"].values()) == 12
    kept = [json.loads(content) for name, content in members(out).items() if name.endswith(".json")]
    kept = [record for record in kept if record["view"] == "none"]
    assert len(kept) == 4
    assert all(record["box"] is record["landmarks"] is record["detection_confidence"] is None for record in kept)
    assert (out / "missing.csv").read_text().count("kept whole") == 4


def test_dev_is_the_same_pictures_as_in_the_source(tmp_path):
    for base in (write_mini_ferplus(tmp_path / "plus", 12), write_mini_raf_db(tmp_path / "raf", 10)):
        out = tmp_path / f"out-{base.name}"
        settings = Settings(img_size=32, on_missing="keep")
        prepare(list_pictures(base, splits=["train"]), out, settings, report=SILENT)
        for split in ("train-main", "dev"):
            theirs = load(base, split, img_size=32, color_mode="gray")
            ours = load(out, split, img_size=32, color_mode="gray")
            assert ours.names == theirs.names
            assert (ours.targets == theirs.targets).all()


def test_whole_photos_of_raf_db_are_taken_with_their_boxes(tmp_path, astronaut):
    base = write_mini_raf_db(tmp_path, 1)
    scene = np.full((512, 1024, 3), 90, np.uint8)
    scene[:, :512] = astronaut
    scene[100:484, 600:984] = cv2.resize(astronaut, (384, 384), interpolation=cv2.INTER_AREA)
    for line in (base / "EmoLabel" / "list_patition_label.txt").read_text().splitlines():
        name = line.split()[0]
        for folder in ("Image/original", "Annotation/boundingbox"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        write_image(base / "Image" / "original" / name, scene)
        (base / "Annotation" / "boundingbox" / f"{Path(name).stem}_boundingbox.txt").write_text("730.0 145 800.5 230\n")
    result = run(base, "-o", tmp_path / "out", "--split", "test", "--workers", 1)
    assert "whole photos in Image/original" in result.stderr
    records = [json.loads(content) for name, content in members(tmp_path / "out").items() if name.endswith(".json")]
    assert [record["name"] for record in records] == [f"test_{i:05d}_aligned.jpg" for i in range(1, 8)]
    assert all(record["box"]["x0"] > 700 for record in records)
    (base / "Annotation" / "boundingbox" / "test_00003_boundingbox.txt").write_text("1 2 3")
    with pytest.raises(DatasetError, match=r"test_00003_boundingbox.txt is no box"):
        list_pictures(base)


def test_a_box_outside_its_picture_is_told(tmp_path):
    base = write_mini_affectnet_tables(tmp_path, 1)
    table = base / "training.csv"
    table.write_text(table.read_text().replace(",10,20,48,48,", ",500,20,48,48,", 1))
    run(base, "-o", tmp_path / "out", "--on-missing", "keep", "--workers", 1, status=1)
    assert "box [500, 20, 548, 68] is not in the picture (80 x 90 px)" in (tmp_path / "out" / "missing.csv").read_text()
    assert len(load(tmp_path / "out", "train", img_size=48, color_mode="gray")) == 7


def test_what_cannot_be_prepared(photos, labelled, tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        run(tmp_path / "nowhere", "-o", tmp_path / "out")
    with pytest.raises(DatasetError, match="without labels, pass --all-faces"):
        run(photos, "-o", tmp_path / "out")
    with pytest.raises(DatasetError, match="has no test here; it has train, valid"):
        run(labelled, "-o", tmp_path / "out", "--split", "test")
    with pytest.raises(DatasetError, match="leave out --split"):
        run(photos, "-o", tmp_path / "out", "--all-faces", "--split", "train")
    with pytest.raises(InputError, match="leave out --on-missing keep"):
        run(photos, "-o", tmp_path / "out", "--all-faces", "--on-missing", "keep")
    run(photos, "-o", tmp_path / "out", "--all-faces", "--workers", 1)
    with pytest.raises(DatasetError, match="is prepared already"):
        run(tmp_path / "out", "-o", tmp_path / "again", "--all-faces")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no pictures"):
        run(tmp_path / "empty", "-o", tmp_path / "other", "--all-faces")
    write_image(tmp_path / "empty" / "wall.png", np.full((100, 100, 3), 90, np.uint8))
    with pytest.raises(DatasetError, match="no face was found"):
        run(tmp_path / "empty", "-o", tmp_path / "other", "--all-faces")


@pytest.mark.parametrize("wrong", [("--on-missing", "maybe"), ("--format", "jpg"), ("--img-size", "8")])
def test_usage(photos, tmp_path, wrong):
    run(photos, "-o", tmp_path / "out", *wrong, status=2)
    assert not (tmp_path / "out").exists()


def test_the_size_is_the_bundled_models_unless_given(photos, tmp_path):
    run(photos, "-o", tmp_path / "out", "--all-faces", "--workers", 1)
    model = OnnxClassifier(resolve_model(), device="cpu").contract
    crops = [crop(content) for name, content in members(tmp_path / "out").items() if name.endswith(".png")]
    assert {picture.shape for picture in crops} == {(model.img_size, model.img_size, 3)}
